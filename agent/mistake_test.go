package agent

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/wire"
)

// mistakes has some replicas say that they don't know any agent; none: all do.
func (f *fake) mistakes(ids ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onHello = func(r *replica) *wire.Refused {
		if len(ids) > 0 && !slices.Contains(ids, r.id) {
			return nil
		}
		return &wire.Refused{Code: api.CodeUnauthenticated, Message: "the certificate has expired"}
	}
}

func (f *fake) mended() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onHello = nil
}

func (f *fake) cutAll() {
	for _, tun := range f.open() {
		tun.conn.Close()
	}
}

// Replicas that are mistaken about an agent, by their clock or by old CAs, cost it a
// few minutes and not its identity, whether it could join anew or not.
func TestReplicasThatAreMistakenCostNoIdentity(t *testing.T) {
	for name, tokenless := range map[string]bool{"with a token that is spent": false, "without a token": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := newFake(t, "r1", "r2", "r3")
				f.uses, f.lifetime = 1, 14*time.Hour
				o := options(f)
				store := &crashStore{}
				o.Store = store
				a := start(t, o)
				pass(30 * time.Second)
				if tokenless {
					a.end(t)
					o.Token = ""
					a = start(t, o)
					pass(30 * time.Second)
				}
				for range 2 {
					f.mistakes()
					f.cutAll()
					pass(20 * time.Minute)
					if ok, why := a.Ready(); ok || tokenless && !strings.Contains(why, "no token to join anew: give --token ('tctl nodes add --roles=kube --kube-clusters=cookie' makes one)") || !tokenless && !strings.Contains(why, "can't join") {
						t.Error(ok, why)
					}
					f.mended()
					dials := f.dialled()
					pass(6 * time.Minute)
					if ok, why := a.Ready(); !ok || len(f.up()) != 2 || f.locked() > 0 || f.known() != 1 {
						t.Errorf("%v %s, %v, %d locks, %d identities, %d dials", ok, why, f.up(), f.locked(), f.known(), f.dialled()-dials)
					}
				}
				pass(5 * time.Hour) // it renews as ever
				if got := store.last().inUse(); got == nil || got.Generation < 2 || len(f.up()) < 2 {
					t.Errorf("%+v, %v", got, f.up())
				}
				a.end(t)
				f.close()
			})
		})
	}
}

// The identity that is tried again is never an older one, also when the mistake is
// made about a certificate that was just renewed.
func TestAMistakeAboutARenewedCertificateLocksNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake(t, "r1", "r2")
		f.uses, f.lifetime = 1, 70*time.Minute
		store := &crashStore{}
		store.after = func(_ int, s State) {
			if describeState(s) == "1/2" { // the moment before its first use
				f.mu.Lock()
				tunnels := append(slices.Clone(f.replicas[0].tunnels), f.replicas[1].tunnels...)
				f.mu.Unlock()
				f.mistakes()
				for _, tun := range tunnels {
					tun.conn.Close()
				}
			}
		}
		o := options(f)
		o.Store = store
		a := start(t, o)
		pass(30 * time.Minute)
		if ok, _ := a.Ready(); ok {
			t.Error("it was to be refused")
		}
		f.mended()
		pass(10 * time.Minute)
		if ok, why := a.Ready(); !ok || f.locked() > 0 || !strings.HasPrefix(f.admitted()[2], "2/") { // two of the first, and none after
			t.Errorf("%v %s, %d locks, %v", ok, why, f.locked(), f.admitted())
		}
		a.end(t)
		f.close()
	})
}

// As long as a replica serves the agent, another's mistake spends no token.
func TestOneMistakenReplicaOfSeveralCausesNoJoin(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake(t, "r1", "r2", "r3")
		a := start(t, options(f))
		pass(30 * time.Second)
		f.mistakes("r2")
		f.kill("r3")
		for range 20 {
			pass(time.Minute)
			for _, tun := range f.open() {
				if tun.replica.id == "r2" {
					tun.conn.Close()
				}
			}
		}
		if up := f.up(); !slices.Equal(up, []string{"r1"}) || f.joined() != 1 {
			t.Errorf("%v, %d joins", up, f.joined())
		}
		f.mended()
		pass(31 * time.Second)
		if up := f.up(); len(up) != 2 || f.joined() != 1 {
			t.Errorf("%v, %d joins", up, f.joined())
		}
		a.end(t)
		f.close()
	})
}

// Replicas that refuse every identity they give don't have it join in a loop.
func TestIdentitiesThatAreRefusedAtOnceAreNotJoinedInALoop(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake(t, "r1")
		f.mistakes()
		a := start(t, options(f))
		pass(30 * time.Minute)
		if n := f.joined(); n > 32 {
			t.Errorf("%d joins in half an hour", n)
		}
		f.mended()
		pass(6 * time.Minute)
		if ok, why := a.Ready(); !ok {
			t.Error(why)
		}
		a.end(t)
		f.close()
	})
}

// A tunnel that is cut as soon as it was up does not bring forward what a replica, or
// an administrator, is to be waited for.
func TestACutTunnelDoesNotShortenAWait(t *testing.T) {
	for name, refused := range map[string]*wire.Refused{
		"locked":      {Code: api.CodeForbidden, Message: "the agent is locked"},
		"retry after": {Code: api.CodeUnavailable, Message: "full", RetryAfter: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := newFake(t, "r1", "r2")
				f.onHello = func(*replica) *wire.Refused {
					if len(f.up()) > 0 {
						return refused
					}
					return nil
				}
				a := start(t, options(f))
				pass(3 * time.Second)
				if up := f.up(); len(up) != 1 {
					t.Error(up)
				}
				f.cutAll()
				dials := f.dialled()
				pass(50 * time.Second)
				if n := f.dialled() - dials; n > 0 {
					t.Errorf("%d dials meanwhile", n)
				}
				a.end(t)
				f.close()
			})
		})
	}
}
