package agent

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/wire"
)

func TestJoinsAndHoldsTunnelsToTwoReplicas(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake(t, "r1", "r2", "r3")
		a := start(t, options(f))
		pass(5 * time.Second)
		up := f.up()
		if len(up) != 2 || up[0] == up[1] {
			t.Errorf("tunnels to %v", up)
		}
		if ok, why := a.Ready(); !ok {
			t.Error(why)
		}
		if f.joined() != 1 || f.joinedAs()[0].Name != "pod-1" || f.joinedAs()[0].Version != "1.2.3" || !slices.Equal(f.joinedAs()[0].KubeClusters, []string{"cookie"}) {
			t.Errorf("%+v", f.joinedAs())
		}
		for _, tun := range f.open() {
			if diff := cmp.Diff([]wire.Cluster{{Name: "cookie", Health: api.HealthHealthy}}, tun.hello.Clusters); diff != "" {
				t.Error(diff)
			}
			c := tun.client()
			req, _ := http.NewRequest(http.MethodGet, "http://cookie/api?x=1", nil)
			req.Header.Set("Impersonate-User", "alice")
			res, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			b, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if string(b) != "GET /api?x=1 as alice" {
				t.Errorf("%s", b)
			}
			c.CloseIdleConnections()
		}
		if strings.Contains(a.log.String(), testToken) {
			t.Error("the token is in the log")
		}
		a.end(t)
		if up := f.up(); len(up) > 0 {
			t.Errorf("still open: %v", up)
		}
		f.close()
	})
}

func TestOneReplicaOneTunnel(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake(t, "r1")
		a := start(t, options(f))
		pass(time.Minute)
		if up := f.up(); !slices.Equal(up, []string{"r1"}) || f.dialled() > 3 {
			t.Errorf("%v, %d dials", up, f.dialled())
		}
		// Another one comes: a tunnel to it is opened without any being asked for.
		f.mu.Lock()
		f.replicas = append(f.replicas, &replica{fake: f, id: "r2"})
		f.mu.Unlock()
		for _, tun := range f.open() {
			tun.say(wire.Message{Members: &wire.Members{Members: []string{"r1", "r2"}}})
		}
		pass(10 * time.Second)
		if up := f.up(); !slices.Equal(up, []string{"r1", "r2"}) {
			t.Errorf("%v", up)
		}
		a.end(t)
		f.close()
	})
}

// Reliability row 17: no RST tells of a network that drops everything.
func TestABlackholeIsFoundAndReplacedWithin20Seconds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake(t, "r1", "r2", "r3")
		a := start(t, options(f))
		pass(time.Minute)
		before := f.open()
		if len(before) != 2 {
			t.Fatal(f.up())
		}
		lost := before[0]
		lost.conn.blackhole()
		begin := time.Now()
		for {
			fresh := 0
			for _, tun := range f.open() {
				if tun != lost && !tun.closed {
					fresh++
				}
			}
			if fresh == 2 {
				break
			}
			if time.Since(begin) > 20*time.Second {
				t.Errorf("not replaced: %v", f.up())
				break
			}
			pass(100 * time.Millisecond)
		}
		t.Logf("replaced after %s", time.Since(begin))
		a.end(t)
		f.close()
	})
}

// Reliability row 16: a load balancer that pins an agent to one replica.
func TestBehindABalancerThatPins(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake(t, "r1", "r2", "r3")
		f.route = func() *replica { return f.replicas[0] }
		a := start(t, options(f))
		pass(10 * time.Second)
		up := f.up()
		if len(up) != 2 || up[0] != "r1" || up[1] == "r1" {
			t.Errorf("%v", up)
		}
		spliced := 0
		for _, tun := range f.open() {
			if tun.spliced {
				spliced++
			}
		}
		// The join, the first tunnel, five tries to reach another replica, the one by name.
		if n := len(a.log.lines("tunnel up")); n != 2 {
			t.Errorf("told of %d tunnels", n)
		}
		if spliced != 1 || f.dialled() != 8 {
			t.Errorf("%d spliced, %d dials", spliced, f.dialled())
		}
		pass(time.Hour)
		if f.dialled() != 8 {
			t.Errorf("%d dials an hour later", f.dialled())
		}
		a.end(t)
		f.close()
	})
}

// Reliability rows 16 and 18.
func TestAReplicaThatIsKilledIsReplacedAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake(t, "r1", "r2", "r3")
		a := start(t, options(f))
		pass(time.Minute)
		dead := f.up()[0]
		f.kill(dead)
		pass(1500 * time.Millisecond)
		up := f.up()
		if len(up) != 2 || slices.Contains(up, dead) || up[0] == up[1] {
			t.Errorf("%s was killed: %v", dead, up)
		}
		if got := a.lost.Load(); got != 1 {
			t.Errorf("%d reconnects", got)
		}
		a.end(t)
		f.close()
	})
}

// Members may be dead for long. Looking for them must neither touch the tunnel that
// there is, nor keep the agent from one of them that comes back.
func TestAReplicaThatComesBackIsFoundWithinTheBackoff(t *testing.T) {
	for name, pins := range map[string]bool{"behind a balancer that pins": true, "behind one that does not": false} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := newFake(t, "r1", "r2", "r3", "r4", "r5")
				f.lagging = true
				if pins {
					f.route = func() *replica { return f.replicas[0] }
				}
				a := start(t, options(f))
				pass(time.Minute)
				for _, id := range []string{"r2", "r3", "r4", "r5"} {
					f.kill(id)
				}
				pass(10 * time.Second)
				for _, id := range []string{"r2", "r3", "r4", "r5", "r2"} {
					dials := f.dialled()
					pass(20 * time.Minute)
					if n := f.dialled() - dials; n > 20*5*5 {
						t.Errorf("%d dials in 20 minutes", n)
					}
					live := f.open()
					if len(live) != 1 || live[0].replica.id != "r1" {
						t.Fatal(f.up())
					}
					f.mu.Lock()
					f.replica(id).down = false
					f.mu.Unlock()
					pass(32 * time.Second)
					if up := f.up(); !slices.Equal(up, []string{"r1", id}) || live[0].closed {
						t.Errorf("%v, half a minute after %s came back", up, id)
					}
					f.kill(id)
					pass(10 * time.Second)
				}
				if n := a.lost.Load(); n > 7 {
					t.Errorf("%d tunnels were lost", n)
				}
				a.end(t)
				f.close()
			})
		})
	}
}

// Reliability row 18: first another tunnel, then the old one is let go; what is
// open in it goes on.
func TestMoveOpensAnotherFirstAndDrains(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake(t, "r1", "r2", "r3")
		o := options(f)
		release := make(chan struct{})
		o.Clusters[0].Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.(http.Flusher).Flush()
			<-release
			io.WriteString(w, "whole")
		})
		a := start(t, o)
		pass(time.Minute)
		old := f.open()[0]
		c := old.client()
		req, _ := http.NewRequest(http.MethodGet, "http://cookie/watch", nil)
		req.Header.Set("Impersonate-User", "alice")
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		id := old.replica.id
		f.mu.Lock()
		f.onHello = func(r *replica) *wire.Refused { // as one that is about to stop
			if r.id == id {
				return &wire.Refused{Code: api.CodeUnavailable, Message: "stopping", RetryAfter: time.Second}
			}
			return nil
		}
		f.mu.Unlock()
		old.say(wire.Message{Move: &wire.Move{Within: 2 * time.Second}})
		low := 3
		for range 150 {
			pass(100 * time.Millisecond)
			low = min(low, len(f.up()))
		}
		if up := f.up(); low < 2 || len(up) != 3 {
			t.Errorf("at least %d tunnels, now %v", low, up)
		}
		close(release)
		if b, err := io.ReadAll(res.Body); string(b) != "whole" || err != nil {
			t.Errorf("%q, %v", b, err)
		}
		res.Body.Close()
		c.CloseIdleConnections()
		pass(5 * time.Second)
		if up := f.up(); len(up) != 2 || slices.Contains(up, id) {
			t.Errorf("%s was to be left: %v", id, up)
		}
		if a.lost.Load() != 0 {
			t.Error("a move counts as a loss")
		}
		a.end(t)
		f.close()
	})
}

// A replica alone that restarts: its tunnel stays until it ends.
func TestMoveWithNowhereToGo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake(t, "r1")
		a := start(t, options(f))
		pass(time.Minute)
		f.mu.Lock()
		f.onHello = func(*replica) *wire.Refused {
			return &wire.Refused{Code: api.CodeUnavailable, Message: "stopping", RetryAfter: time.Second}
		}
		dials := f.dials
		f.mu.Unlock()
		f.open()[0].say(wire.Message{Move: &wire.Move{}})
		pass(time.Minute)
		if up := f.up(); len(up) != 1 {
			t.Errorf("%v", up)
		}
		if n := f.dialled() - dials; n > 15 {
			t.Errorf("%d dials in a minute", n)
		}
		f.kill("r1")
		f.mu.Lock()
		f.replicas[0].down, f.onHello = false, nil
		f.mu.Unlock()
		pass(40 * time.Second)
		if up := f.up(); len(up) != 1 {
			t.Errorf("%v", up)
		}
		a.end(t)
		f.close()
	})
}

// Reliability row 21: all agents at once must not come back at once, nor sooner
// than they are asked to.
func TestBackoffHasJitterAndAFloor(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake(t, "r1", "r2")
		a := start(t, options(f))
		pass(time.Minute)
		f.mu.Lock()
		f.onHello = func(*replica) *wire.Refused {
			return &wire.Refused{Code: api.CodeUnavailable, Message: "busy", RetryAfter: 20 * time.Second}
		}
		f.mu.Unlock()
		for _, tun := range f.open() {
			tun.conn.Close()
		}
		pass(time.Second)
		f.mu.Lock()
		dials := f.dials
		f.mu.Unlock()
		pass(18 * time.Second)
		if f.dialled() != dials {
			t.Errorf("%d dials within RetryAfter", f.dialled()-dials)
		}
		if ok, why := a.Ready(); ok || !strings.Contains(why, "busy") {
			t.Error(ok, why)
		}
		pass(10 * time.Minute)
		if n := f.dialled() - dials; n < 10 || n > 35 {
			t.Errorf("%d dials in ten minutes", n)
		}
		if n := len(a.log.lines("takes no tunnel now")); n < 1 || n > 4 {
			t.Errorf("told %d times in ten minutes", n)
		}
		f.mu.Lock()
		f.onHello = nil
		f.mu.Unlock()
		pass(time.Minute)
		if up := f.up(); len(up) != 2 {
			t.Errorf("%v", up)
		}
		a.end(t)
		f.close()
	})
}

// Somebody on the way who cuts each tunnel as it comes up causes no storm.
func TestTunnelsThatAreCutAtOnceAreNotDialledInALoop(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake(t, "r1")
		a := start(t, options(f))
		for range 600 {
			for _, tun := range f.open() {
				tun.conn.Close()
			}
			pass(100 * time.Millisecond)
		}
		if f.dialled() > 40 {
			t.Errorf("%d dials in a minute", f.dialled())
		}
		a.end(t)
		f.close()
	})
}

// Two tunnels that end together are one mishap: what is behind it is over in a second.
func TestTunnelsThatEndTogetherCountOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake(t, "r1", "r2", "r3")
		a := start(t, options(f))
		pass(time.Minute)
		for range 3 {
			for _, tun := range f.open() {
				tun.conn.Close()
			}
			pass(5 * time.Second)
			if up := f.up(); len(up) != 2 {
				t.Errorf("%v", up)
			}
		}
		a.end(t)
		f.close()
	})
}

func TestRefusals(t *testing.T) {
	for _, test := range []struct {
		name   string
		token  bool
		refuse wire.Refused
		remove bool
		joins  int
		ready  string // reason, "": ready
		dials  [2]int // least and most, in ten minutes
	}{
		{name: "locked", token: true, refuse: wire.Refused{Code: api.CodeForbidden, Message: "it is locked"}, joins: 1, ready: "it is locked", dials: [2]int{2, 20}},
		{name: "removed, with a token", token: true, remove: true, joins: 2, dials: [2]int{3, 7}},
		{name: "removed, without a token", remove: true, joins: 1, ready: "Sallyport does not know this agent any more (no such agent), and it has no token to join anew: give --token", dials: [2]int{2, 10}},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := newFake(t, "r1", "r2")
				o := options(f)
				o.Store = &MemoryStore{}
				a := start(t, o)
				pass(30 * time.Second)
				if !test.token {
					a.end(t)
					o.Token = ""
					a = start(t, o)
					pass(30 * time.Second)
				}
				f.mu.Lock()
				if test.remove {
					clear(f.records)
				} else {
					f.onHello = func(*replica) *wire.Refused { return &test.refuse }
				}
				dials := f.dials
				f.mu.Unlock()
				for _, tun := range f.open() {
					tun.conn.Close()
				}
				pass(10 * time.Minute)
				if n := f.dialled() - dials; n < test.dials[0] || n > test.dials[1] {
					t.Errorf("%d dials", n)
				}
				if f.joined() != test.joins {
					t.Errorf("%d joins", f.joined())
				}
				if ok, why := a.Ready(); ok != (test.ready == "") || !strings.Contains(why, test.ready) {
					t.Errorf("%v: %s", ok, why)
				}
				a.end(t)
				f.close()
			})
		})
	}
}

func TestACertificateOfAReplacedCAJoinsAnew(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake(t, "r1")
		o := options(f)
		o.Store = &MemoryStore{}
		a := start(t, o)
		pass(30 * time.Second)
		a.end(t)
		f.mu.Lock()
		f.agentCA = newAuthority(t, "agent CA, the second")
		f.mu.Unlock()
		a = start(t, o)
		pass(30 * time.Second)
		if ok, why := a.Ready(); !ok || f.joined() != 2 {
			t.Errorf("%v %s, %d joins", ok, why, f.joined())
		}
		a.end(t)
		f.close()
	})
}

func TestStopWaitsForWhatIsOpenAndNoLonger(t *testing.T) {
	for name, test := range map[string]struct {
		takes, drain time.Duration
		whole        bool
		most         time.Duration
	}{
		"a request that ends":                  {takes: 10 * time.Second, whole: true, most: 27 * time.Second},
		"one that does not":                    {takes: time.Hour, most: 27 * time.Second},
		"a long one, and as much time for it":  {takes: 10 * time.Minute, drain: time.Hour, whole: true, most: 11 * time.Minute},
		"one that is longer than the time set": {takes: 10 * time.Second, drain: 5 * time.Second, most: 7 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := newFake(t, "r1")
				o := options(f)
				o.DrainTimeout = test.drain
				o.Clusters[0].Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.(http.Flusher).Flush()
					timer := time.NewTimer(test.takes)
					defer timer.Stop()
					select {
					case <-timer.C:
						io.WriteString(w, "whole")
					case <-r.Context().Done():
					}
				})
				a := start(t, o)
				pass(30 * time.Second)
				tun := f.open()[0]
				c := tun.client()
				req, _ := http.NewRequest(http.MethodGet, "http://cookie/", nil)
				req.Header.Set("Impersonate-User", "alice")
				res, err := c.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				begin := time.Now()
				a.stop()
				b, _ := io.ReadAll(res.Body)
				res.Body.Close()
				c.CloseIdleConnections()
				if (string(b) == "whole") != test.whole {
					t.Errorf("%q", b)
				}
				a.end(t)
				if took := time.Since(begin); took > test.most {
					t.Errorf("stopping took %s", took)
				}
				if n := len(tun.status); n == 0 || len(tun.status[n-1].Clusters) > 0 {
					t.Errorf("no goodbye: %+v", tun.status)
				}
				f.close()
			})
		})
	}
}
