package server

import (
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/audit"
)

// auditBehindFor is how many lines a replica may be behind before it is worth a
// sentence: those that came while it was asked.
const auditBehindFor = 1000

// auditStatus is how audit does on this replica.
func (s *Server) auditStatus() *api.AuditStatus {
	st, events := s.journalState(), s.events.Stats()
	out := &api.AuditStatus{
		Policy: s.opts.AuditPolicy, First: st.First, Number: st.Last, Bytes: st.Bytes, Files: st.Files,
		Queued: events.Queued, SpoolBytes: events.SpoolBytes, SpoolLimit: events.SpoolLimit, Lost: events.Lost, Refused: events.Refused,
	}
	for _, name := range st.Aside {
		out.SetAside = append(out.SetAside, "log/"+name)
	}
	m, err := s.records.manifest()
	if err != nil {
		out.Problem = err.Error()
		return out
	}
	out.Hash = hex.EncodeToString(m.Head.Hash[:])
	out.Behind = auditBehind(st, m.Head)
	out.Forwarders = s.auth.Forwarders.Status(m.Head.Number)
	out.Problem = auditProblem(*out, st, events, time.Now())
	if lost := s.lost.Load(); lost != nil {
		out.Problem += fmt.Sprintf("; no replica has the lines %d to %d: they are given up at %s, unless a replica that has them comes back",
			lost.from, lost.floor.First-1, lost.until.UTC().Format("15:04:05 UTC"))
		out.Problem = strings.TrimPrefix(out.Problem, "; ")
	}
	return out
}

// auditBehind is how many lines the cluster has and a replica's files lack.
func auditBehind(st audit.JournalState, head audit.Head) uint64 {
	behind := uint64(0)
	if head.Number > st.Last {
		behind = head.Number - st.Last
	}
	if gap := st.Gap; gap != nil && gap.To <= st.Last { // otherwise it was counted
		behind += gap.To - gap.From + 1 - min(gap.Have, gap.To-gap.From+1)
	}
	return behind
}

// auditProblem is what is wrong, the worst first, in a sentence for people; "":
// nothing.
func auditProblem(is api.AuditStatus, st audit.JournalState, events audit.EmitterStats, now time.Time) string {
	var parts []string
	if events.Lost > 0 {
		parts = append(parts, fmt.Sprintf("%d events could be kept nowhere and are lost since this replica started", events.Lost))
	}
	if st.Err != nil {
		parts = append(parts, fmt.Sprintf("the disk does not take the log: %v", st.Err))
	} else if st.PendingBytes > 0 {
		parts = append(parts, fmt.Sprintf("%s of the log wait for the disk", api.FormatSize(int64(st.PendingBytes))))
	}
	if st.KeepErr != nil {
		parts = append(parts, fmt.Sprintf("this replica's files are not all that they should be: %v", st.KeepErr))
	}
	if !events.FailingSince.IsZero() || events.SpoolBytes > 0 {
		text := "events wait for the cluster"
		if !events.FailingSince.IsZero() {
			text = fmt.Sprintf("events can't reach the cluster since %s", events.FailingSince.UTC().Format("15:04:05 UTC"))
			if d := now.Sub(events.FailingSince); d > 24*time.Hour {
				text += fmt.Sprintf(", for %s", d.Round(time.Hour))
			}
		}
		if events.SpoolBytes > 0 {
			text += fmt.Sprintf("; %d of them (%s) are in the spool, which holds %s", events.SpoolEvents, api.FormatSize(events.SpoolBytes), api.FormatSize(events.SpoolLimit))
		}
		if events.LastError != "" {
			text += ": " + events.LastError
		}
		parts = append(parts, text)
	}
	switch gap := st.Gap; {
	case gap != nil && len(gap.Lacking) > 0:
		parts = append(parts, fmt.Sprintf("fetching the lines %d to %d from other replicas; %s lack them, too", gap.From, gap.To, strings.Join(gap.Lacking, ", ")))
	case gap != nil:
		parts = append(parts, fmt.Sprintf("fetching the lines %d to %d from other replicas", gap.From, gap.To))
	case is.Behind > auditBehindFor:
		parts = append(parts, fmt.Sprintf("%d lines behind the cluster", is.Behind))
	}
	return strings.Join(parts, "; ")
}

// noLeaderFor is how long a strict replica goes on without a leader: events that are
// taken meanwhile may never leave this disk.
const noLeaderFor = 3 * time.Second

// admit says why a strict replica takes no new requests. It is asked for each of
// them, so it costs next to nothing while all is well.
func (s *Server) admit() error {
	if err := s.events.Admit(); err != nil {
		return err
	}
	// A replica whose disk is fenced off hears from no leader, and leads no longer.
	if age := s.node.Staleness(); age > noLeaderFor {
		return api.Errorf(api.CodeUnavailable, "this replica has heard from no leader for %s, so that no event would reach the cluster's audit log, and --audit-policy=%s demands it: try another replica, or see 'tctl status'",
			age.Round(time.Second), api.AuditStrict)
	}
	return nil
}

// auditAdmission is what the proxy asks; nil: it need not.
func (s *Server) auditAdmission() func() error {
	if s.opts.AuditPolicy != api.AuditStrict {
		return nil
	}
	return s.admit
}

// auditCollector shows how audit does.
type auditCollector struct {
	server *Server
	values []auditMetric

	behind, failing *prometheus.Desc // of forwarders
}

type auditMetric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	of   func(*api.AuditStatus, audit.EmitterStats) float64
}

func (s *Server) auditCollector() prometheus.Collector {
	metric := func(kind prometheus.ValueType, name, help string, of func(*api.AuditStatus, audit.EmitterStats) float64) auditMetric {
		return auditMetric{prometheus.NewDesc("sallyport_audit_"+name, help, nil, nil), kind, of}
	}
	gauge, counter := prometheus.GaugeValue, prometheus.CounterValue
	type st = *api.AuditStatus
	type ev = audit.EmitterStats
	return &auditCollector{
		server: s,
		values: []auditMetric{
			metric(gauge, "journal_number", "Number of the last line in this replica's audit log.", func(a st, _ ev) float64 { return float64(a.Number) }),
			metric(gauge, "journal_behind_lines", "Lines that the cluster has and this replica's files lack.", func(a st, _ ev) float64 { return float64(a.Behind) }),
			metric(gauge, "journal_bytes", "Bytes of the audit log on this replica's disk.", func(a st, _ ev) float64 { return float64(a.Bytes) }),
			metric(gauge, "journal_files", "Files of the audit log on this replica's disk.", func(a st, _ ev) float64 { return float64(a.Files) }),
			metric(gauge, "journal_pending_bytes", "Lines of events.log that wait for the disk.", func(_ st, _ ev) float64 { return float64(s.journal.Pending()) }),
			metric(gauge, "events_queued", "Request events in memory.", func(a st, _ ev) float64 { return float64(a.Queued) }),
			metric(gauge, "spool_bytes", "Events on this replica's disk that the cluster has not taken yet.", func(a st, _ ev) float64 { return float64(a.SpoolBytes) }),
			metric(gauge, "spool_events", "Number of events in sallyport_audit_spool_bytes.", func(_ st, e ev) float64 { return float64(e.SpoolEvents) }),
			metric(gauge, "spool_limit_bytes", "Bound of sallyport_audit_spool_bytes; beyond it events are lost.", func(a st, _ ev) float64 { return float64(a.SpoolLimit) }),
			metric(gauge, "emitter_failing", "1 while request events can't reach the cluster.", func(_ st, e ev) float64 { return oneIf(!e.FailingSince.IsZero()) }),
			metric(counter, "events_sent_total", "Request events that the cluster has taken.", func(_ st, e ev) float64 { return float64(e.Sent) }),
			metric(counter, "events_lost_total", "Request events that could be kept nowhere.", func(_ st, e ev) float64 { return float64(e.Lost) }),
			metric(counter, "events_refused_total", "Request events that the cluster will never take.", func(_ st, e ev) float64 { return float64(e.Refused) }),
		},
		behind:  prometheus.NewDesc("sallyport_audit_forwarder_behind_lines", "Lines of the audit log that a forwarder's receiver has not taken yet.", []string{"name"}, nil),
		failing: prometheus.NewDesc("sallyport_audit_forwarder_failing", "1 while a forwarder's receiver takes nothing.", []string{"name"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *auditCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range c.values {
		ch <- m.desc
	}
	ch <- c.behind
	ch <- c.failing
}

// Collect implements prometheus.Collector.
func (c *auditCollector) Collect(ch chan<- prometheus.Metric) {
	is, events := c.server.auditStatus(), c.server.events.Stats()
	for _, m := range c.values {
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, m.of(is, events))
	}
	for _, f := range is.Forwarders {
		ch <- prometheus.MustNewConstMetric(c.behind, prometheus.GaugeValue, float64(f.Behind), f.Name)
		ch <- prometheus.MustNewConstMetric(c.failing, prometheus.GaugeValue, oneIf(!f.Failing.IsZero()), f.Name)
	}
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
