package tunnel

import (
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/wire"
)

// come is a whole agent's tunnel that says this hello.
func (r *replica) come(t testing.TB, id string, h wire.Hello) *agent {
	t.Helper()
	a := r.connect(t, id)
	var err error
	if a.control, err = a.sess.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.say(t, wire.Message{Hello: &h})
	a.hear(t, "welcome", isWelcome)
	a.serve(t)
	eventually(t, "the tunnel is known", func() bool { return r.holds(id) })
	return a
}

// hello is one for the cluster cookie.
func hello(instance string, started time.Time, labels map[string]string, cas ...string) wire.Hello {
	return wire.Hello{Instance: instance, Started: started, Clusters: []wire.Cluster{{Name: "cookie", Health: api.HealthHealthy, Labels: labels, CAs: cas}}}
}

// Labels decide who gets in: they are those of the agents that are there, whoever of
// them spoke last, and every replica finds the same.
func TestLabelsAreThoseOfTheAgentThatStartedLast(t *testing.T) {
	all := startReplicas(t, "a", "b")
	a, b := all[0], all[1]
	begun := time.Now().Add(-time.Hour).UTC()
	prod, dev := map[string]string{"env": "prod"}, map[string]string{"env": "dev"}
	expect := func(what string, want Labels) {
		t.Helper()
		for _, r := range all {
			eventually(t, r.id+": "+what, func() bool { return cmp.Equal(want, r.Labels()["cookie"]) })
		}
	}
	differ := func(want string) {
		t.Helper()
		for _, r := range all {
			eventually(t, r.id+" tells people "+want, func() bool { s := r.Status("cookie"); return s.Reason == want && s.Health == api.HealthHealthy })
		}
	}
	last := a.come(t, agentID(1), hello("p1", begun.Add(time.Minute), prod))
	expect("one agent", Labels{agentID(1), begun.Add(time.Minute), prod, nil})
	first := b.come(t, agentID(2), hello("p2", begun, nil))
	expect("one that started before, and comes later", Labels{agentID(1), begun.Add(time.Minute), prod, []string{agentID(2)}})
	differ("its agents say different labels")
	first.say(t, wire.Message{Status: &wire.Status{Clusters: hello("", begun, prod).Clusters}})
	expect("they agree", Labels{agentID(1), begun.Add(time.Minute), prod, nil})
	differ("")
	first.say(t, wire.Message{Status: &wire.Status{Clusters: hello("", begun, map[string]string{"env\x00": "x"}).Clusters}})
	third := a.come(t, agentID(3), hello("p3", begun.Add(time.Minute), dev)) // a tie goes by id
	expect("one without labels that can be says none", Labels{agentID(1), begun.Add(time.Minute), prod, []string{agentID(3)}})
	last.close()
	expect("the last to start went, with its labels", Labels{agentID(3), begun.Add(time.Minute), dev, nil})
	third.say(t, wire.Message{Status: &wire.Status{}})
	for _, r := range all {
		eventually(t, "nobody says any", func() bool { return len(r.Labels()) == 0 })
	}
	a.come(t, agentID(4), hello("p4", time.Now().Add(24*time.Hour), dev))
	if s := a.Labels()["cookie"]; time.Until(s.Started) > 0 {
		t.Errorf("started in the future: %v", s.Started)
	}
}

// What an agent says of labels and CAs is bounded, or its table entry would end links.
func TestLabelsAndCAsAreBounded(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("<", 200) // six times as long in JSON
	big := map[string]string{"k": long, "l": long, "m": long}
	var clusters []wire.Cluster
	for i := range api.MaxAgentClusters {
		clusters = append(clusters, wire.Cluster{Name: fmt.Sprintf("c%d", i), Labels: big})
	}
	statuses, err := cleanClusters(clusters, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if statuses[0].Mute || !statuses[api.MaxAgentClusters-1].Mute || statuses[api.MaxAgentClusters-1].Labels != nil {
		t.Errorf("%+v … %+v", statuses[0], statuses[api.MaxAgentClusters-1])
	}
	sum := strings.Repeat("a1", 32)
	for _, c := range []struct {
		said []string
		want int
	}{
		{[]string{sum}, 1},
		{slices.Repeat([]string{sum}, wire.MaxClusterCAs), wire.MaxClusterCAs},
		{slices.Repeat([]string{sum}, wire.MaxClusterCAs+1), 0},
		{[]string{sum, strings.ToUpper(sum)}, 0},
		{[]string{sum[1:]}, 0},
	} {
		if got := cleanStatus(clusterStatus{CAs: c.said}, time.Now()).CAs; len(got) != c.want {
			t.Errorf("%q: %q", c.said, got)
		}
	}
}

func TestSameCluster(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b []string
		want bool
	}{
		{nil, nil, true},
		{[]string{"1"}, nil, true},
		{nil, []string{"1"}, true},
		{[]string{"1"}, []string{"1"}, true},
		{[]string{"1"}, []string{"1", "2"}, true}, // a CA is being replaced
		{[]string{"1", "2"}, []string{"2", "3"}, true},
		{[]string{"1"}, []string{"2"}, false},
	} {
		if got := sameCluster(c.a, c.b); got != c.want {
			t.Errorf("%q, %q: %v", c.a, c.b, got)
		}
	}
}

// Two clusters under one name: the likeliest slip with a token that is good for
// years. Requests go to the one that was there first, through whichever replica.
func TestAgentsOfAnotherAPIServerAreNotUsed(t *testing.T) {
	log := &lines{}
	all := startLogged(t, false, log)
	a, b := all[0], all[1]
	now := time.Now()
	ca1, ca2, ca3 := strings.Repeat("1", 64), strings.Repeat("2", 64), strings.Repeat("3", 64)
	a.come(t, agentID(9), hello("p9", now, nil)) // nothing is known of its API server
	b.knows(t, agentID(9), "a")
	first := a.come(t, agentID(2), hello("p2", now, map[string]string{"env": "dev"}, ca1))
	b.knows(t, agentID(2), "a")
	other := b.come(t, agentID(1), hello("p1", now.Add(-time.Second), map[string]string{"env": "prod"}, ca2))
	a.knows(t, agentID(1), "b")
	b.come(t, agentID(3), hello("p3", now, map[string]string{"env": "dev"}, ca1, ca3)) // its CA is being replaced
	a.knows(t, agentID(3), "b")
	for _, r := range all {
		for range 40 {
			if got := r.get(t, "cookie", "/x"); strings.HasPrefix(got, "1 ") {
				t.Fatalf("%s sends a request to the agent of another cluster: %s", r.id, got)
			}
		}
		s := r.Status("cookie")
		if s.Health != api.HealthUnhealthy || !strings.Contains(s.Reason, "different API servers") || !strings.Contains(s.Reason, "--kube-cluster-name") || s.Agents != 4 {
			t.Errorf("%s: %+v", r.id, s)
		}
		if got := r.Labels()["cookie"]; got.Labels["env"] != "dev" || slices.Contains(got.Others, agentID(1)) {
			t.Errorf("%s: it has a say in labels: %+v", r.id, got)
		}
	}
	eventually(t, "each replica says so once, and whom it does not use", func() bool {
		return log.count("unused=["+agentID(1)+"]") == 2
	})
	// The first opens another tunnel, before the old one goes: it is still the first.
	renewed := b.come(t, agentID(2), hello("p2", now, map[string]string{"env": "dev"}, ca1))
	a.knows(t, agentID(2), "b")
	first.close()
	eventually(t, "the old tunnel is gone", func() bool { return !b.route(agentID(2), "a") && !a.holds(agentID(2)) })
	for _, r := range all {
		for range 20 {
			if got := r.get(t, "cookie", "/x"); strings.HasPrefix(got, "1 ") {
				t.Fatalf("%s: after a renewal the other counts: %s", r.id, got)
			}
		}
	}
	renewed.close()
	other.close()
	for _, r := range all {
		eventually(t, r.id+": they agree again", func() bool { return r.Status("cookie").Health == api.HealthHealthy })
	}
	if n := log.count("different API servers"); n != 2 {
		t.Errorf("said %d times", n)
	}
}

// A log that is full for a moment is told later.
func TestASplitIsToldOfEvenIfTheLogWasFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &lines{}
		all := startLogged(t, true, log)
		for _, r := range all {
			for range 4 {
				r.complaints.ReserveN(time.Now(), 20)
			}
		}
		for i := range 2 {
			all[0].come(t, agentID(i+1), hello("p", time.Now(), nil, strings.Repeat(strconv.Itoa(i), 64)))
		}
		<-time.After(10 * time.Second)
		if n := log.count("different API servers"); n != 0 {
			t.Errorf("said %d times to a log that is full", n)
		}
		<-time.After(time.Minute)
		if n := log.count("different API servers"); n != len(all) {
			t.Errorf("said %d times", n)
		}
	})
}

func (r *replica) route(id, holder string) bool { return slices.Contains(r.Replicas()[id], holder) }

// Two processes with one identity, such as a copied data directory, are told of long
// before one of them renews it and locks the other out.
func TestTwoProcessesOfOneIdentityAreFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &lines{}
		all := startLogged(t, true, log)
		a, b := all[0], all[1]
		now := time.Now()
		a.come(t, agentID(1), hello("p1", now, nil))
		b.come(t, agentID(1), hello("p1", now, nil)) // one process, two tunnels
		a.come(t, agentID(2), hello("p2", now, nil))
		old := a.come(t, agentID(3), hello("p3", now, nil))
		both := func(want ...string) {
			t.Helper()
			for _, r := range all {
				if d := cmp.Diff(want, r.Duplicates()); d != "" {
					t.Errorf("%s: %s", r.id, d)
				}
			}
		}
		<-time.After(2 * duplicateAfter)
		both()
		b.come(t, agentID(2), hello("copy", now, nil))
		a.come(t, agentID(3), hello("p4", now, nil)) // takes the place of the other
		a.come(t, agentID(4), hello("p5", now, nil))
		a.come(t, agentID(4), hello("p6", now, nil)) // both at one replica
		<-time.After(duplicateAfter / 2)
		both()
		old.close()
		<-time.After(duplicateAfter)
		both(agentID(2), agentID(4))
		<-time.After(duplicateAfter)
		synctest.Wait()
		if n := log.count("two processes use one agent's identity"); n != 4 {
			t.Errorf("said %d times by 2 replicas of 2 agents", n)
		}
		for _, r := range all {
			r.stop()
		}
	})
}

// startLogged starts two replicas with one log.
func startLogged(t testing.TB, pipes bool, log *lines) []*replica {
	t.Helper()
	c := &cluster{byID: make(map[string]*replica), pipes: pipes}
	logged := func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(log, nil)) }
	all := []*replica{c.add(t, "a", logged), c.add(t, "b", logged)}
	for _, r := range all {
		r.run(t)
	}
	eventually(t, "the link between the replicas is up", func() bool { return all[0].linked() == 1 && all[1].linked() == 1 })
	return all
}

// lines are those of a log.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) count(what string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		if strings.Contains(line, what) {
			n++
		}
	}
	return n
}
