package cluster

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// meter counts. It is also what the snapshot policy looks at.
type meter struct {
	elections, clockRefusals       atomic.Uint64
	proposals, failures, ambiguous atomic.Uint64
	entries, items, entryBytes     atomic.Uint64
	appliedEntries, appliedBytes   atomic.Uint64 // since the start
	snapEntries, snapBytes         atomic.Uint64 // since the last snapshot
	snapshots, snapshotFailures    atomic.Uint64
	snapshotDue                    atomic.Pointer[chan struct{}]
}

func (m *meter) applied(entries, bytes int) {
	m.appliedEntries.Add(uint64(entries))                                      //nolint:gosec // not negative
	m.appliedBytes.Add(uint64(bytes))                                          //nolint:gosec // not negative
	e, b := m.snapEntries.Add(uint64(entries)), m.snapBytes.Add(uint64(bytes)) //nolint:gosec // not negative
	if e < snapshotEntries && b < snapshotBytes {
		return
	}
	if ch := m.snapshotDue.Load(); ch != nil {
		select {
		case *ch <- struct{}{}:
		default: // told already
		}
	}
}

func (m *meter) group(items, bytes int) {
	m.entries.Add(1)
	m.items.Add(uint64(items))      //nolint:gosec // not negative
	m.entryBytes.Add(uint64(bytes)) //nolint:gosec // not negative
}

func (m *meter) proposal(err error) {
	m.proposals.Add(1)
	switch {
	case err == nil:
	case api.IsCode(err, api.CodeAmbiguous):
		m.ambiguous.Add(1)
	default:
		m.failures.Add(1)
	}
}

// Collector gives this node's metrics to a Prometheus registry.
func (n *Node) Collector() prometheus.Collector { return collector{n} }

type collector struct{ n *Node }

func (c collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

func (c collector) Collect(ch chan<- prometheus.Metric) {
	put := func(kind prometheus.ValueType, name, help string, v float64) {
		ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("sallyport_cluster_"+name, help, nil, nil), kind, v)
	}
	flag := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	n, m := c.n, c.n.meter
	st := n.Status()
	ready, _ := n.Ready()
	put(prometheus.GaugeValue, "leader", "1 while this replica leads.", flag(st.State == "leader"))
	put(prometheus.GaugeValue, "ready", "1 while this replica is ready.", flag(ready))
	put(prometheus.GaugeValue, "fenced", "1 while the disk does not take writes and Raft is fenced off.", flag(st.State == "fenced"))
	put(prometheus.GaugeValue, "servers", "Servers in the Raft configuration.", float64(len(st.Servers)))
	put(prometheus.GaugeValue, "term", "Raft term.", float64(st.Term))
	put(prometheus.GaugeValue, "commit_index", "Raft commit index.", float64(st.CommitIndex))
	put(prometheus.GaugeValue, "applied_index", "Index of the last applied entry.", float64(st.AppliedIdx))
	put(prometheus.GaugeValue, "staleness_seconds", "Time since the last contact with a leader.", n.Staleness().Seconds())
	put(prometheus.GaugeValue, "clock_offset_seconds", "This replica's clock minus the median of the replicas it reaches.", n.ClockOffset().Seconds())
	for _, x := range []struct {
		name, help string
		v          *atomic.Uint64
	}{
		{"elections_won_total", "Terms led by this replica.", &m.elections},
		{"clock_refusals_total", "Times leadership was handed over because of the clock.", &m.clockRefusals},
		{"proposals_total", "Items proposed on this replica.", &m.proposals},
		{"proposals_failed_total", "Proposals that did nothing.", &m.failures},
		{"proposals_ambiguous_total", "Proposals whose outcome is unknown.", &m.ambiguous},
		{"entries_total", "Log entries written as leader.", &m.entries},
		{"items_total", "Items in those entries.", &m.items},
		{"entry_bytes_total", "Bytes of those entries.", &m.entryBytes},
		{"applied_entries_total", "Log entries applied.", &m.appliedEntries},
		{"applied_bytes_total", "Bytes of the entries applied.", &m.appliedBytes},
		{"snapshots_total", "Snapshots taken.", &m.snapshots},
		{"snapshots_failed_total", "Snapshots that failed.", &m.snapshotFailures},
	} {
		put(prometheus.CounterValue, x.name, x.help, float64(x.v.Load()))
	}
}
