package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/wire"
)

func TestAWelcomeSaysWhereElseToGo(t *testing.T) {
	all := startReplicas(t, "a", "b")
	ag := all[0].connect(t, agentID(1))
	ag.hello(t, "cookie")
	m := ag.hear(t, "welcome", isWelcome)
	want := &wire.Welcome{ServerID: "a", Members: []string{"a", "b"}, Generation: 7}
	if diff := cmp.Diff(want, m.Welcome); diff != "" {
		t.Errorf("welcome (-want +got):\n%s", diff)
	}
	all[0].all.start(t, "c", nil)
	m = ag.hear(t, "the new member", func(m wire.Message) bool { return m.Members != nil })
	if diff := cmp.Diff([]string{"a", "b", "c"}, m.Members.Members); diff != "" {
		t.Errorf("members (-want +got):\n%s", diff)
	}
}

// threats.md, compromised agent: what it says beyond its right ends its tunnel.
func TestAnAgentThatGoesTooFarIsCut(t *testing.T) {
	hello := func(names ...string) wire.Message {
		h := &wire.Hello{}
		for _, n := range names {
			h.Clusters = append(h.Clusters, wire.Cluster{Name: n})
		}
		return wire.Message{Hello: h}
	}
	status := func(names ...string) wire.Message {
		return wire.Message{Status: &wire.Status{Clusters: hello(names...).Hello.Clusters}}
	}
	many := make([]string, api.MaxAgentClusters+1)
	for i := range many {
		many[i] = fmt.Sprintf("c%d", i)
	}
	say := func(messages ...wire.Message) func(*testing.T, *agent) {
		return func(t *testing.T, ag *agent) {
			var err error
			if ag.control, err = ag.sess.Open(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, m := range messages {
				ag.say(t, m)
			}
		}
	}
	for _, tc := range []struct {
		name string
		do   func(*testing.T, *agent)
		code api.Code // of what it is told; "": it is told nothing
		err  string
	}{
		{"a cluster it did not join for", say(hello("cookie", "prod")), api.CodeForbidden, "prod"},
		{"the same later", say(hello("cookie"), status("prod")), api.CodeForbidden, "prod"},
		{"no name of a cluster", say(hello("x-\x00")), api.CodeInvalid, "name"},
		{"a cluster twice", say(hello("cookie", "cookie")), api.CodeInvalid, "twice"},
		{"too many clusters", say(hello(many...)), api.CodeTooLarge, "at most"},
		{"no hello first", say(status("cookie")), "", "no hello"},
		{"a second hello", say(hello("cookie"), hello("cookie")), api.CodeInvalid, "not an agent's to say"},
		{"a replica's words", say(hello("cookie"), wire.Message{Move: &wire.Move{}}), api.CodeInvalid, "not an agent's to say"},
		{"a flood", say(append([]wire.Message{hello("cookie")}, slices.Repeat([]wire.Message{status("cookie")}, messageBurst+50)...)...), api.CodeRateLimited, "floods"},
		{"a second stream", func(t *testing.T, ag *agent) {
			say(hello("cookie"))(t, ag)
			ag.hear(t, "welcome", isWelcome)
			if c, err := ag.sess.Open(t.Context()); err == nil {
				_, _ = io.WriteString(c, "GET / HTTP/1.1\r\n\r\n")
			}
		}, "", "second stream"},
		{"garbage on the stream", func(t *testing.T, ag *agent) {
			say()(t, ag)
			_, _ = io.WriteString(ag.control, "GET / HTTP/1.1\r\n\r\n")
		}, "", "no hello"},
		{"garbage in place of a session", func(_ *testing.T, ag *agent) {
			_, _ = io.WriteString(ag.hole, strings.Repeat("garbage ", 100))
		}, "", "went away"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := startPiped(t, "a")[0]
			ag := r.connect(t, agentID(1))
			done := make(chan *wire.Refused, 1)
			go func() { // the agent reads all along
				var told *wire.Refused
				defer func() { done <- told }()
				tc.do(t, ag)
				if ag.control == nil {
					return
				}
				_ = ag.control.SetReadDeadline(time.Now().Add(patience))
				for {
					m, err := wire.ReadMessage(ag.control)
					if err != nil {
						return
					}
					if m.Refused != nil {
						told = m.Refused
						_ = ag.sess.Close()
						return
					}
				}
			}()
			err := <-ag.served
			told := <-done
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("ServeAgent: %v, want %q", err, tc.err)
			}
			switch {
			case tc.code == "" && told != nil:
				t.Errorf("it was told %+v", told)
			case tc.code != "" && (told == nil || told.Code != tc.code):
				t.Errorf("it was told %+v, want %s", told, tc.code)
			}
			if len(r.Replicas()) != 0 || len(r.Statuses()) != 0 {
				t.Errorf("it is still known: %v, %v", r.Replicas(), r.Statuses())
			}
		})
	}
}

func TestAnAgentThatSaysNothingIsCut(t *testing.T) {
	for name, open := range map[string]bool{"no stream": false, "an empty stream": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ag := startPiped(t, "a")[0].connect(t, agentID(1))
				if open {
					if _, err := ag.sess.Open(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				start := time.Now()
				if err := <-ag.served; err == nil {
					t.Error("no reason is given")
				}
				if took := time.Since(start); took > helloTimeout+2*farewell {
					t.Errorf("it was cut after %v", took)
				}
			})
		})
	}
}

func TestTheGatesRefusalReachesTheAgent(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want wire.Refused
	}{
		{api.Errorf(api.CodeForbidden, "locked"), wire.Refused{Code: api.CodeForbidden, Message: "locked"}},
		{api.Errorf(api.CodeUnauthenticated, "removed"), wire.Refused{Code: api.CodeUnauthenticated, Message: "removed"}},
		{api.Errorf(api.CodeUnavailable, "no leader"), wire.Refused{Code: api.CodeUnavailable, Message: "no leader", RetryAfter: minRetryAfter}},
		{errors.New("secret path"), wire.Refused{Code: api.CodeUnavailable, Message: "the replica can't tell: see its log", RetryAfter: minRetryAfter}},
	} {
		// An agent whose certificate is worth nothing has no id, and is told as well.
		for id, refuse := range map[string]func(*replica){
			agentID(1): func(r *replica) { r.gate.refuse = func(Identity) error { return tc.err } },
			"":         func(r *replica) { r.verified = tc.err },
		} {
			r := startPiped(t, "a")[0]
			refuse(r)
			ag := r.connect(t, id)
			ag.hello(t, "cookie")
			m := ag.hear(t, "refusal", isRefused)
			if diff := cmp.Diff(tc.want, *m.Refused); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if err := <-ag.served; !errors.Is(err, tc.err) {
				t.Errorf("ServeAgent: %v, want %v", err, tc.err)
			}
			if asked := len(r.gate.hellos); asked > 0 && id == "" {
				t.Errorf("the Gate was asked %d times about nobody", asked)
			}
		}
	}
}

// A locked agent: its streams are cut within a second, here and across the hop,
// whether it hangs up or not, and it learns why.
func TestALostRightCutsTheTunnel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := startPiped(t, "a", "b")
		ag := all[0].dial(t, agentID(1), "cookie")
		all[1].knows(t, agentID(1), "a")
		var streams []io.ReadWriteCloser
		for _, r := range all {
			stream, err := r.upgrade(t.Context(), "cookie")
			if err != nil {
				t.Fatal(err)
			}
			defer stream.Close()
			streams = append(streams, stream)
		}
		start := time.Now()
		all[0].gate.grant(agentID(1)).lost <- api.Errorf(api.CodeForbidden, "this agent is locked")
		if m := ag.hear(t, "refusal", isRefused); m.Refused.Code != api.CodeForbidden || m.Refused.Message != "this agent is locked" {
			t.Errorf("told %+v", m.Refused)
		}
		if _, err := all[0].Target("cookie"); err == nil && all[0].pick("cookie", nil) != nil {
			t.Error("new requests still go to it")
		}
		for _, stream := range streams {
			if _, err := io.Copy(io.Discard, stream); err == nil {
				t.Error("the stream ended as if in good order")
			}
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("it took %v", took)
		}
		if err := <-ag.served; !api.IsCode(err, api.CodeForbidden) {
			t.Errorf("ServeAgent: %v", err)
		}
	})
}

// An agent that does not read cannot put off its end.
func TestALostRightCutsAnAgentThatDoesNotRead(t *testing.T) {
	for _, full := range []bool{false, true} {
		t.Run(fmt.Sprintf("connection full: %v", full), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := startPiped(t, "a")[0]
				ag := r.dial(t, agentID(1), "cookie")
				synctest.Wait()
				if full {
					ag.hole.stall()
				} else {
					ag.hole.swallow()
				}
				start := time.Now()
				r.gate.grant(agentID(1)).lost <- api.Errorf(api.CodeForbidden, "locked")
				<-ag.served
				if took := time.Since(start); took > time.Second {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

// reliability.md, 18: first it tells them to go, then it waits.
func TestMoveTellsAgentsAndPeersAndKeepsStreams(t *testing.T) {
	all := startReplicas(t, "a", "b", "c")
	a, b, c := all[0], all[1], all[2]
	ag := a.dial(t, agentID(1), "cookie")
	c.knows(t, agentID(1), "a")
	stream, err := c.upgrade(t.Context(), "cookie")
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	other := b.dial(t, agentID(2), "cake")

	a.Move(t.Context())
	if m := ag.hear(t, "move", func(m wire.Message) bool { return m.Move != nil }); m.Move.Within <= 0 {
		t.Errorf("move within %v", m.Move.Within)
	}
	m := other.hear(t, "members without the one that stops", func(m wire.Message) bool { return m.Members != nil })
	if diff := cmp.Diff([]string{"b", "c"}, m.Members.Members); diff != "" {
		t.Errorf("members (-want +got):\n%s", diff)
	}
	late := a.connect(t, agentID(3))
	late.hello(t, "cookie")
	if r := late.hear(t, "refusal", isRefused).Refused; r.Code != api.CodeUnavailable || r.RetryAfter <= 0 {
		t.Errorf("a new agent is told %+v", r)
	}

	ag.requests.Store(0)
	elsewhere := b.dial(t, agentID(1), "cookie") // as it was told
	eventually(t, "c knows where the agent went, and that a stops", func() bool {
		c.mu.RLock()
		defer c.mu.RUnlock()
		return len(c.routes.kubes["cookie"].routes) == 2 && c.peers.links["a"].moving
	})
	for range 20 {
		c.get(t, "cookie", "/")
	}
	if n, moved := ag.requests.Load(), elsewhere.requests.Load(); n != 0 || moved != 20 {
		t.Errorf("%d requests went to the replica that stops, %d elsewhere", n, moved)
	}
	if _, err := io.WriteString(stream, "still here"); err != nil {
		t.Error(err)
	}
	got := make([]byte, 10)
	if _, err := io.ReadFull(stream, got); err != nil {
		t.Errorf("the open stream was cut: %v", err)
	}
}

// While an agent moves it may hold several tunnels to one replica, up to a bound;
// the newest takes the requests.
func TestAnAgentsOldestTunnelsAreDropped(t *testing.T) {
	r := startPiped(t, "a")[0]
	var all []*agent
	for range maxOfAgent + 1 {
		all = append(all, r.dial(t, agentID(1), "cookie"))
	}
	if m := all[0].hear(t, "refusal", isRefused); m.Refused.Code != api.CodeUnavailable {
		t.Errorf("the oldest is told %+v", m.Refused)
	}
	<-all[0].served
	r.mu.RLock()
	n := len(r.own[agentID(1)].tunnels)
	r.mu.RUnlock()
	if n != maxOfAgent {
		t.Errorf("%d tunnels, want %d", n, maxOfAgent)
	}
	if got := r.Statuses()["cookie"].Agents; got != 1 {
		t.Errorf("%d agents", got)
	}
	r.get(t, "cookie", "/")
	for i, ag := range all[1:] {
		ag.close()
		<-ag.served
		if gone := i == maxOfAgent-1; r.holds(agentID(1)) == gone {
			t.Errorf("after the end of %d tunnels: held %v", i+2, !gone)
		}
	}
}

func TestAnAgentWithoutAnIDIsRefused(t *testing.T) {
	r := startPiped(t, "a")[0]
	for _, id := range []string{"", "../../x", strings.Repeat("A", 32)} {
		if err := <-r.connect(t, id).served; err == nil {
			t.Errorf("%q is served", id)
		}
	}
}

// An agent that goes away while the Gate thinks does not keep it busy.
func TestTheGateIsLeftWhenTheAgentGoes(t *testing.T) {
	r := startPiped(t, "a")[0]
	asked := make(chan struct{})
	r.gate.wait = func(ctx context.Context) {
		close(asked)
		<-ctx.Done()
	}
	ag := r.connect(t, agentID(1))
	ag.hello(t, "cookie")
	<-asked
	start := time.Now()
	_ = ag.sess.Close()
	<-ag.served
	if took := time.Since(start); took >= admitTimeout {
		t.Errorf("it took %v", took)
	}
}

func TestRenewalIsAskedOfTheGateAndBounded(t *testing.T) {
	r := startPiped(t, "a")[0]
	ag := r.dial(t, agentID(1), "cookie")
	ask := func(key string) *wire.Renewed {
		ag.say(t, wire.Message{Renew: &wire.Renew{PublicKey: []byte(key)}})
		return ag.hear(t, "renewed", func(m wire.Message) bool { return m.Renewed != nil }).Renewed
	}
	if diff := cmp.Diff(&wire.Renewed{Cert: []byte("cert of k"), Generation: 8}, ask("k")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := ask("bad"); got.Refused == nil || got.Refused.Code != api.CodeForbidden {
		t.Errorf("%+v, want forbidden", got)
	}
	if got := ask(strings.Repeat("k", maxPublicKeyLen+1)); got.Refused == nil || got.Refused.Code != api.CodeInvalid {
		t.Errorf("%+v, want invalid", got)
	}
	if got := ask("k"); got.Refused == nil || got.Refused.Code != api.CodeRateLimited || got.Refused.RetryAfter <= 0 {
		t.Errorf("%+v, want rate_limited", got)
	}
	if r.gate.renews != 2 {
		t.Errorf("the gate was asked %d times", r.gate.renews)
	}
}

// reliability.md, 21: thousands come back at once; each is told when to come again,
// later and later, and the hellos that are judged stay few.
func TestAHerdIsToldToComeBackInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdmission(100, rand.Float64)
		var admitted int
		var longest time.Duration
		for range 2000 {
			end, retryAfter := a.begin(time.Now())
			if end != nil {
				admitted++
				end()
				continue
			}
			if retryAfter < minRetryAfter || retryAfter > maxRetryAfter {
				t.Fatalf("come again in %v", retryAfter)
			}
			longest = max(longest, retryAfter)
		}
		if admitted != 100 {
			t.Errorf("%d of 2000 were admitted at once, want 100", admitted)
		}
		if longest < 15*time.Second {
			t.Errorf("the last is told to come in %v: 1900 wait, 100 a second", longest)
		}
		<-time.After(20 * time.Second)
		a.begin(time.Now())
		for range 100 {
			a.begin(time.Now())
		}
		if _, retryAfter := a.begin(time.Now()); retryAfter > 2*time.Second {
			t.Errorf("when the herd is through, one is told to come in %v", retryAfter)
		}
	})
}

func TestABusyReplicaTakesNoMoreHandshakesAndHellos(t *testing.T) {
	c := &cluster{byID: make(map[string]*replica), pipes: true}
	r := c.start(t, "a", func(o *Options) { o.HelloRate = 0.01 })
	if !r.AdmitHandshake(netip.Prefix{}) || r.AdmitHandshake(netip.Prefix{}) {
		t.Error("want one handshake and no more")
	}
	r.dial(t, agentID(1), "cookie")
	ag := r.connect(t, agentID(2))
	ag.hello(t, "cookie")
	if m := ag.hear(t, "refusal", isRefused); m.Refused.Code != api.CodeUnavailable || m.Refused.RetryAfter < minRetryAfter {
		t.Errorf("told %+v", m.Refused)
	}
	if len(r.gate.hellos) != 1 {
		t.Errorf("the gate was asked %d times", len(r.gate.hellos))
	}
}

func TestCloseEndsAllAndWaits(t *testing.T) {
	all := startReplicas(t, "a", "b")
	ag := all[0].dial(t, agentID(1), "cookie")
	all[1].knows(t, agentID(1), "a")
	stream, err := all[1].upgrade(t.Context(), "cookie")
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if err := all[0].Close(); err != nil {
		t.Fatal(err)
	}
	<-ag.served
	if _, err := io.Copy(io.Discard, stream); err == nil {
		t.Error("the stream ended as if in good order")
	}
	late := all[0].connect(t, agentID(2))
	if err := <-late.served; !api.IsCode(err, api.CodeUnavailable) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := all[0].request(context.Background(), http.MethodGet, "cookie", "/", nil); !api.IsCode(err, api.CodeUnavailable) {
		t.Errorf("a request after Close: %v", err)
	}
}

func TestMetricsCount(t *testing.T) {
	all := startReplicas(t, "a", "b")
	all[0].dial(t, agentID(1), "cookie")
	all[1].knows(t, agentID(1), "a")
	all[0].get(t, "cookie", "/")
	all[1].get(t, "cookie", "/")
	all[1].get(t, "cookie", "/")
	all[0].gate.refuse = func(Identity) error { return api.Errorf(api.CodeForbidden, "no") }
	refused := all[0].connect(t, agentID(2))
	refused.hello(t, "cookie")
	refused.hear(t, "refusal", isRefused)
	<-refused.served
	want := []map[string]float64{
		{"sallyport_tunnels": 1, "sallyport_tunnel_links": 1, "sallyport_tunnel_refused_total forbidden": 1, "sallyport_tunnel_requests_total own": 1, "sallyport_tunnel_requests_total hop": 0, "sallyport_tunnel_retries_total": 0},
		{"sallyport_tunnels": 0, "sallyport_tunnel_links": 1, "sallyport_tunnel_requests_total own": 0, "sallyport_tunnel_requests_total hop": 2, "sallyport_tunnel_retries_total": 0},
	}
	for i, r := range all {
		reg := prometheus.NewPedanticRegistry()
		if err := reg.Register(r.Collector()); err != nil {
			t.Fatal(err)
		}
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := make(map[string]float64)
		for _, f := range families {
			for _, m := range f.GetMetric() {
				name := f.GetName()
				for _, l := range m.GetLabel() {
					name += " " + l.GetValue()
				}
				if !strings.HasSuffix(name, "streams") { // idle ones stay for a while
					got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
				}
			}
		}
		if diff := cmp.Diff(want[i], got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", r.id, diff)
		}
	}
}
