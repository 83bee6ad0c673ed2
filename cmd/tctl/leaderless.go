package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

const (
	// electing is how long the choice of a leader may take before it is odd: half a
	// second as a rule.
	electing = 5 * time.Second
	// mostNamed bounds how many replicas one line names.
	mostNamed = 8
)

// elsewhere comes first: what is cut off looks, from itself, as if all others were down.
const elsewhere = "ask another replica ('tctl status' there): if it has a leader, this one is cut off: mend its network, recover nothing. If none has, "

// leaderless are the first lines of status when nobody leads: what is wrong, what to do,
// and what goes on meanwhile.
func leaderless(s *api.Status) [][2]string {
	voters, alive, down := 0, 0, []string(nil)
	for i := range s.Servers {
		srv := &s.Servers[i]
		switch {
		case !srv.Voter:
		case srv.Alive:
			voters, alive = voters+1, alive+1
		default:
			voters++
			down = append(down, fmt.Sprintf("%s (%s)", oneLine(srv.ID, mostName), oneLine(srv.Addr, 2*mostName)))
		}
	}
	// Without a cluster there is nobody to miss; and a replica that is fenced off from its
	// disk has said what is wrong.
	since := time.Duration(s.Staleness)
	stopped := s.State == "starting" && s.ClusterID != "" && since >= electing
	if s.LeaderID != "" || voters == 0 && !stopped || s.State == "fenced" {
		return nil
	}
	lines := leaderFault(since, voters, alive, down)
	return append(lines, [2]string{"Meanwhile", "nobody can log in through this replica, nothing can be changed through it, no certificate is ordered by it; " + whatGoesOn(s)})
}

func leaderFault(since time.Duration, voters, alive int, down []string) [][2]string {
	majority := voters/2 + 1
	ago := howLong(since)
	missing := ""
	if n := len(down); n > 0 {
		more := ""
		if n > mostNamed {
			down, more = down[:mostNamed], fmt.Sprintf(" and %d more", n-mostNamed)
		}
		missing = "; not " + strings.Join(down, ", ") + more
	}
	fault := func(text string, args ...any) [2]string { return [2]string{"Fault", fmt.Sprintf(text, args...)} }
	todo := func(text string, args ...any) [2]string { return [2]string{"What to do", fmt.Sprintf(text, args...)} }
	switch {
	case voters == 0:
		return [][2]string{
			fault("no leader for %s: Raft does not run on this replica: it starts, or takes long to stop, for a recovery", ago),
			todo("wait, and look again; if that lasts for minutes, restart this replica"),
		}
	case alive < majority:
		return [][2]string{
			fault("no leader for %s: of %d voting replicas %d can be reached from here, and it takes %d%s", ago, voters, alive, majority, missing),
			todo(elsewhere+"bring replicas back until %d run and reach each other at their peer addresses: the cluster then goes on by itself and has lost nothing. Only if they are gone for good: 'tctl cluster recover', whose --help says what is lost then", majority),
		}
	case since < electing:
		return [][2]string{
			fault("no leader for %s: one is being elected, or has just died (%d of %d voting replicas count as up%s)", ago, alive, voters, missing),
			todo("wait some seconds and look again"),
		}
	default:
		return [][2]string{
			fault("no leader for %s, though %d of %d voting replicas count as up from here%s", ago, alive, voters, missing),
			todo(elsewhere+"see that %d of them reach each other at their peer addresses, and what their logs say; one that has just died counts as up for some seconds more", majority),
		}
	}
}

// whatGoesOn says who is served without a leader, and for how long.
func whatGoesOn(s *api.Status) string {
	since, limit, option := time.Duration(s.Staleness), time.Duration(s.MaxStale), "0"
	if limit > 0 {
		option = howLong(limit)
	}
	limit = max(limit, time.Second) // no less if strict: a follower in touch does not hear from its leader at this very moment
	switch {
	case s.Audit != nil && s.Audit.Policy == api.AuditStrict:
		return "--audit-policy=strict refuses new requests to Kubernetes, and what runs is cut after --max-stale"
	case since > limit:
		return fmt.Sprintf("this replica refuses every request to Kubernetes, because it can't know who was locked out since (--max-stale=%s is over)", option)
	case !s.Ready:
		return "this replica serves nobody until it has caught up with a leader"
	}
	return fmt.Sprintf("requests to Kubernetes of who is logged in go on for another %s (--max-stale=%s), as long as the session of each lasts; then all are refused, and streams cut", howLong(limit-since), option)
}
