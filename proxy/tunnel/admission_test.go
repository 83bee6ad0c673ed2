package tunnel

import (
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// A ClientHello needs no certificate: whoever sends 665 a second from one address must
// not take the handshakes from agents elsewhere, and a whole office behind one address
// must still get through. It takes only what nobody else wants.
func TestAFloodFromOneNetworkLeavesHandshakesToOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHandshakes(300)
		flood, office := netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.51.100.0/24")
		var got, there int
		for i := range 30 {
			for range 67 {
				if h.allow(flood, time.Now()) {
					got++
				}
			}
			come := 1
			if i == 20 {
				come = 75 // at once: its share is kept for it
			}
			for range come {
				if h.allow(office, time.Now()) {
					there++
				}
			}
			<-time.After(100 * time.Millisecond)
		}
		if there < 29+75-9 { // a few of those that came with the 75 were over its share
			t.Errorf("%d of %d handshakes of another network", there, 29+75)
		}
		if got > 150+3*300-there {
			t.Errorf("the flood got %d in 3 s, and took what is kept for others", got)
		}
		if n := len(h.share.n); n > 2 {
			t.Errorf("%d networks are remembered", n)
		}
	})
}

// Behind a NAT, or a balancer that hides where its connections come from, all agents
// are one network: it has all handshakes if nobody else wants any.
func TestOneNetworkHasTheHandshakesThatNobodyElseWants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHandshakes(300)
		all := netip.MustParsePrefix("192.0.2.0/24")
		left, begun := 2500, time.Now()
		for left > 0 {
			if h.allow(all, time.Now()) {
				left--
			} else {
				<-time.After(10 * time.Millisecond)
			}
		}
		if took := time.Since(begun); took > 9*time.Second {
			t.Errorf("2,500 agents of one network came back in %v", took)
		}
	})
}

// One agent that is locked, or whose certificate somebody stole, comes as often as it
// likes: it uses up neither the hellos of a replica nor its memory.
func TestAnAgentWithoutATunnelIsBounded(t *testing.T) {
	all := startReplicas(t, "a")
	r := all[0]
	r.gate.refuse = func(Identity) error { return api.Errorf(api.CodeForbidden, "locked") }
	for range maxOfAgentNew {
		r.connect(t, agentID(1))
	}
	eventually(t, "the sessions count", func() bool {
		r.newcomers.mu.Lock()
		defer r.newcomers.mu.Unlock()
		return r.newcomers.here["k"+agentID(1)] == maxOfAgentNew
	})
	if err := <-r.connect(t, agentID(1)).served; err == nil {
		t.Error("one session too many ended without an error")
	}
	r.newcomers.hellos.mu.Lock()
	r.newcomers.hellos.length = time.Hour // on a busy machine, too
	r.newcomers.hellos.mu.Unlock()
	forbidden, later := 0, 0
	for range hellosOfAgent + 3 {
		ag := r.connect(t, agentID(2))
		ag.hello(t, "cookie")
		switch m := ag.hear(t, "refusal", isRefused); m.Refused.Code {
		case api.CodeForbidden:
			forbidden++
		case api.CodeUnavailable:
			later++
		}
		ag.close()
		<-ag.served
	}
	if forbidden != hellosOfAgent || later != 3 {
		t.Errorf("the gate was asked %d times, and %d hellos were sent away", forbidden, later)
	}
}

// A thief's certificate of before, and sessions that say nothing, keep nobody off.
func TestSilentSessionsKeepNoAgentWithAnotherCertificateOff(t *testing.T) {
	r := startReplicas(t, "a")[0]
	r.keySum = "stolen"
	for range maxOfAgentNew {
		r.connect(t, agentID(1))
	}
	eventually(t, "the sessions count", func() bool {
		r.newcomers.mu.Lock()
		defer r.newcomers.mu.Unlock()
		return r.newcomers.here["stolen"] == maxOfAgentNew
	})
	r.keySum = ""
	ag := r.connect(t, agentID(1))
	ag.hello(t, "cookie")
	ag.hear(t, "welcome", isWelcome)
}

// Who has no tunnel yet is a stranger, whatever certificate it has shown.
func TestAnAgentIsNoStrangerOnceItIsAdmitted(t *testing.T) {
	r := startReplicas(t, "a")[0]
	admitted := make(chan struct{}, 2)
	r.admitted = func() { admitted <- struct{}{} }
	ag := r.connect(t, agentID(1))
	select {
	case <-admitted:
		t.Error("before it said hello")
	default:
	}
	ag.hello(t, "cookie")
	ag.hear(t, "welcome", isWelcome)
	<-admitted
	r.newcomers.mu.Lock()
	defer r.newcomers.mu.Unlock()
	if len(r.newcomers.here) != 0 {
		t.Error("an agent with a tunnel counts as one without")
	}
}

// A tunnel that carries all it can is no dead agent: its pods' logs say nothing.
func TestTooManyStreamsAreNamedAsSuch(t *testing.T) {
	all := startReplicas(t, "a", "b")
	a, b := all[0], all[1]
	a.dial(t, agentID(1), "cookie")
	b.knows(t, agentID(1), "a")
	tun := a.ownTunnels(agentID(1))[0]
	for range 4096 {
		if _, err := tun.sess.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for _, r := range all {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			wg.Go(func() {
				up, err := r.Target("cookie")
				if err != nil {
					t.Error(err)
					return
				}
				req, err := http.NewRequestWithContext(t.Context(), method, up.URL.String()+"/api", strings.NewReader("{}"))
				if err != nil {
					t.Error(err)
					return
				}
				res, err := up.Plain.RoundTrip(req)
				if err == nil {
					_ = res.Body.Close()
				}
				if !api.IsCode(err, api.CodeRateLimited) || strings.Contains(err.Error(), "logs") {
					t.Errorf("%s through %s: %v", method, r.opts.ServerID, err)
				}
			})
		}
	}
	wg.Wait()
}
