package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

// manyQueued is how many events in memory are worth a line.
const manyQueued = 1000

// shortHash is how many digits of a hash tell two replicas apart for people.
const shortHash = 12

// auditState are the lines of status about audit: always how far the log has come,
// the others where there is something to tell.
func auditState(st *api.Status, now time.Time) (lines [][2]string) {
	s := st.Audit
	if s == nil {
		return nil // an older replica
	}
	add := func(name, format string, args ...any) {
		lines = append(lines, [2]string{name, fmt.Sprintf(format, args...)})
	}
	if s.Number == 0 {
		add("Audit", "no events yet; policy %s", oneLine(s.Policy, mostName))
	} else {
		hash := s.Hash[:min(len(s.Hash), shortHash)]
		add("Audit", "%s, hash %s; %s in %s; policy %s", plural(s.Number, "line"), oneLine(hash, shortHash), api.FormatSize(s.Bytes), plural(uint64(max(0, s.Files)), "file"), oneLine(s.Policy, mostName))
	}
	if s.First > 1 {
		add("Audit from", "line %d; what was before is not kept any more", s.First)
	}
	if s.Problem != "" { // which says what the figures below would
		add("Audit fault", "%s", oneLine(s.Problem, 2*mostWhat))
	} else {
		if s.Behind > 0 {
			add("Audit lacks", "%s, which other replicas have; being fetched", plural(s.Behind, "line"))
		}
		if s.SpoolBytes > 0 || s.Queued >= manyQueued { // some are always on their way
			add("Audit spool", "%s of %s, and %s in memory, wait for the cluster", api.FormatSize(s.SpoolBytes), api.FormatSize(s.SpoolLimit), plural(uint64(max(0, s.Queued)), "event"))
		}
		if s.Lost > 0 {
			add("Audit lost", "%s since the start, for want of room", plural(s.Lost, "event"))
		}
	}
	if s.Refused > 0 {
		add("Not taken", "%s since the start, which the cluster will never take; the replica's log has why", plural(s.Refused, "event"))
	}
	if n := len(s.SetAside); n > 0 {
		text := oneLine(s.SetAside[n-1], mostName)
		if n > 1 {
			text += fmt.Sprintf(" and %d more", n-1)
		}
		add("Set aside", "%s in the data directory: lines from before a loss, for you to keep or to delete", text)
	}
	for i := range s.Forwarders {
		add("Forwarder", "%s", forwarderState(&s.Forwarders[i], st.LeaderID != "", now))
	}
	return lines
}

// forwarderState is how far a forwarder has come, and why no further.
func forwarderState(f *api.ForwarderStatus, led bool, now time.Time) string {
	var parts []string
	if f.Behind > 0 {
		parts = append(parts, plural(f.Behind, "line")+" behind")
	}
	switch {
	case !led:
		parts = append(parts, "nobody sends while there is no leader")
	case !f.Failing.IsZero():
		text := "failing for " + howLong(now.Sub(f.Failing))
		if f.Error != "" {
			text += ": " + oneLine(f.Error, mostWhat)
		}
		parts = append(parts, text)
	case f.Behind == 0:
		parts = append(parts, "up to date")
	}
	text := oneLine(f.Name, mostName) + ": " + strings.Join(parts, ", ")
	if f.Skipped > 0 {
		text += fmt.Sprintf("; %s given up, see 'tctl audit ls --type=audit.forward_skipped'", plural(f.Skipped, "line"))
	}
	return text
}

// howLong is a duration in its largest unit or two, for people.
func howLong(d time.Duration) string {
	const day = 24 * time.Hour
	switch d = max(d, time.Second); {
	case d >= 2*day:
		return fmt.Sprintf("%dd", d/day)
	case d >= time.Minute:
		return cliapp.ShortDuration(d.Truncate(time.Minute))
	}
	return cliapp.ShortDuration(d.Truncate(time.Second))
}
