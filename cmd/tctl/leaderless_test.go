package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

// R3-3: status of a replica without a majority looked well but for one line of many.
func TestStatusSaysFirstThatNobodyLeads(t *testing.T) {
	const (
		todo      = "What to do  ask another replica ('tctl status' there): if it has a leader, this one is cut off: mend its network, recover nothing. If none has, bring replicas back until 2 run and reach each other at their peer addresses: the cluster then goes on by itself and has lost nothing. Only if they are gone for good: 'tctl cluster recover', whose --help says what is lost then"
		meanwhile = "Meanwhile   nobody can log in through this replica, nothing can be changed through it, no certificate is ordered by it; "
	)
	status := func(since time.Duration, alive ...bool) api.Status {
		s := api.Status{
			ClusterName: "tele.example.com", ServerID: "id-0", State: "follower", Ready: true,
			Staleness: api.Duration(since), MaxStale: api.Duration(15 * time.Minute),
		}
		for i, up := range alive {
			id := "id-" + string(rune('0'+i))
			s.Servers = append(s.Servers, api.Server{ID: id, Addr: id + ":7443", Voter: true, Alive: up})
		}
		return s
	}
	with := func(s api.Status, change func(*api.Status)) api.Status { change(&s); return s }
	lost := status(48*time.Second, true, false, false)
	const lostFault = "Fault       no leader for 48s: of 3 voting replicas 1 can be reached from here, and it takes 2; not id-1 (id-1:7443), id-2 (id-2:7443)"
	for name, tc := range map[string]struct {
		status api.Status
		want   []string // what comes before Cluster
		ready  string
	}{
		"a leader":                  {with(lost, func(s *api.Status) { s.LeaderID = "id-1" }), nil, "yes"},
		"no cluster yet":            {api.Status{State: "starting", Reason: "alone"}, nil, "no: alone"},
		"the disk is what is wrong": {with(lost, func(s *api.Status) { s.State, s.Reason = "fenced", "its disk is full" }), nil, "yes, but its disk is full"},
		"the majority is lost": {lost, []string{
			lostFault, todo,
			meanwhile + "requests to Kubernetes of who is logged in go on for another 14m (--max-stale=15m), as long as the session of each lasts; then all are refused, and streams cut",
		}, `yes, but see "Fault"`},
		"for too long": {with(status(18*time.Minute, true, false, false), func(s *api.Status) { s.Ready, s.Reason = false, "no contact with a leader for 18m0s" }), []string{
			strings.Replace(lostFault, "48s", "18m", 1), todo,
			meanwhile + "this replica refuses every request to Kubernetes, because it can't know who was locked out since (--max-stale=15m is over)",
		}, "no: no contact with a leader for 18m0s"},
		"since it started": {with(lost, func(s *api.Status) { s.Ready, s.Reason = false, "no leader is known" }), []string{
			lostFault, todo, meanwhile + "this replica serves nobody until it has caught up with a leader",
		}, "no: no leader is known"},
		"with a strict audit log": {with(lost, func(s *api.Status) { s.Audit = &api.AuditStatus{Policy: api.AuditStrict} }), []string{
			lostFault, todo, meanwhile + "--audit-policy=strict refuses new requests to Kubernetes, and what runs is cut after --max-stale",
		}, `yes, but see "Fault"`},
		"strict": {with(lost, func(s *api.Status) {
			s.MaxStale, s.Ready, s.Reason = 0, false, "no contact with a leader for 48s"
		}), []string{
			lostFault, todo,
			meanwhile + "this replica refuses every request to Kubernetes, because it can't know who was locked out since (--max-stale=0 is over)",
		}, "no: no contact with a leader for 48s"},
		"strict, for a moment": {with(status(500*time.Millisecond, true, true, true), func(s *api.Status) { s.MaxStale = 0 }), []string{
			"Fault       no leader for 1s: one is being elected, or has just died (3 of 3 voting replicas count as up)",
			"What to do  wait some seconds and look again",
			meanwhile + "requests to Kubernetes of who is logged in go on for another 1s (--max-stale=0), as long as the session of each lasts; then all are refused, and streams cut",
		}, `yes, but see "Fault"`},
		"Raft does not run": {with(status(48*time.Second), func(s *api.Status) { s.State, s.ClusterID = "starting", "id" }), []string{
			"Fault       no leader for 48s: Raft does not run on this replica: it starts, or takes long to stop, for a recovery",
			"What to do  wait, and look again; if that lasts for minutes, restart this replica",
			meanwhile + "requests to Kubernetes of who is logged in go on for another 14m (--max-stale=15m), as long as the session of each lasts; then all are refused, and streams cut",
		}, `yes, but see "Fault"`},
		"Raft has not run for long": {with(status(time.Second), func(s *api.Status) { s.State, s.ClusterID, s.Ready, s.Reason = "starting", "id", false, "starting" }), nil, "no: starting"},
		"an election": {status(1200*time.Millisecond, true, true, true), []string{
			"Fault       no leader for 1s: one is being elected, or has just died (3 of 3 voting replicas count as up)",
			"What to do  wait some seconds and look again",
			meanwhile + "requests to Kubernetes of who is logged in go on for another 14m (--max-stale=15m), as long as the session of each lasts; then all are refused, and streams cut",
		}, `yes, but see "Fault"`},
		"they don't reach each other": {status(9*time.Second, true, true, false), []string{
			"Fault       no leader for 9s, though 2 of 3 voting replicas count as up from here; not id-2 (id-2:7443)",
			"What to do  ask another replica ('tctl status' there): if it has a leader, this one is cut off: mend its network, recover nothing. If none has, see that 2 of them reach each other at their peer addresses, and what their logs say; one that has just died counts as up for some seconds more",
			meanwhile + "requests to Kubernetes of who is logged in go on for another 14m (--max-stale=15m), as long as the session of each lasts; then all are refused, and streams cut",
		}, `yes, but see "Fault"`},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			printStatus(&cliapp.Call{Stdout: &out}, &tc.status, nil)
			before, after, _ := strings.Cut(out.String(), "Cluster     ")
			if d := cmp.Diff(tc.want, strings.Split(strings.TrimSuffix(before, "\n"), "\n")); d != "" && (before != "" || tc.want != nil) {
				t.Error(d)
			}
			if want := "\nReady       " + tc.ready + "\n"; !strings.Contains(after, want) {
				t.Errorf("no %q in\n%s", want, after)
			}
		})
	}
}
