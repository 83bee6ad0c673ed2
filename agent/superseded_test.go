package agent

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/upstream"
)

// direct is an API server in memory, for bubbles.
type direct struct{ http.Handler }

func (d direct) RoundTrip(r *http.Request) (res *http.Response, err error) {
	defer func() {
		if recover() != nil { // http.ErrAbortHandler
			res, err = nil, errors.New("the connection was closed")
		}
	}()
	if r.Body == nil {
		r.Body = http.NoBody
	}
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	return w.Result(), nil
}

func bubbleSecrets() (*fakeSecrets, func() *SecretStore) {
	s := &fakeSecrets{objects: map[string]map[string]any{}}
	return s, func() *SecretStore {
		return &SecretStore{SecretRef: upstream.SecretRef{Upstream: upstream.Upstream{URL: &url.URL{Scheme: "http", Host: "kube"}, Plain: direct{s}}, Namespace: "agents", Name: "pod-1-identity", Verbs: []string{"get", "create", "update"}}}
	}
}

// cable is an agent's own network, which can be pulled.
type cable struct {
	f      *fake
	pulled atomic.Bool
}

func (c *cable) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if c.pulled.Load() {
		return nil, errors.New("no route to host")
	}
	return c.f.dial(ctx, network, addr)
}

// A pod of a StatefulSet whose node is cut off is deleted by force; its successor has
// the same Secret. The old one comes back.
func TestAPodThatComesBackDoesNotLockItsSuccessor(t *testing.T) {
	for name, successor := range map[string]struct {
		lifetime time.Duration
		removed  bool
		want     string
	}{
		"it has renewed":     {70 * time.Minute, false, "this one has 1): give each agent an identity of its own"},
		"it has joined anew": {7 * 24 * time.Hour, true, "this one is agent "},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := newFake(t, "r1", "r2")
				f.lifetime = successor.lifetime
				_, open := bubbleSecrets()
				net := &cable{f: f}
				o := options(f)
				o.Store, o.Dial = open(), net.dial
				old := start(t, o)
				pass(30 * time.Second)
				net.pulled.Store(true)
				f.cutAll()
				pass(5 * time.Second)
				o.Store, o.Dial = open(), f.dial
				fresh := start(t, o)
				pass(time.Minute)
				if successor.removed {
					f.mu.Lock()
					clear(f.records)
					f.mu.Unlock()
					f.cutAll()
				}
				pass(30 * time.Minute)
				net.pulled.Store(false)
				pass(10 * time.Minute)
				if ok, why := old.Ready(); ok || !strings.Contains(why, "another process uses the identity in Secret agents/pod-1-identity") || !strings.Contains(why, successor.want) {
					t.Error(ok, why)
				}
				if n := len(old.log.lines("opens no more tunnels")); n != 1 {
					t.Errorf("told %d times", n)
				}
				if ok, why := fresh.Ready(); !ok || f.locked() > 0 || len(f.up()) < 2 {
					t.Errorf("%v %s, %d locks, %v", ok, why, f.locked(), f.up())
				}
				old.end(t)
				fresh.end(t)
				f.close()
			})
		})
	}
}

// Two that share a Secret by mistake: the one that renews first has it, and neither
// gets it locked, nor makes the other one's certificate worthless.
func TestTwoAgentsThatShareASecret(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake(t, "r1", "r2")
		f.lifetime = 70 * time.Minute
		_, open := bubbleSecrets()
		o := options(f)
		o.Store = open()
		one := start(t, o)
		pass(30 * time.Second)
		o.Store = open()
		two := start(t, o)
		for range 12 {
			pass(20 * time.Minute)
			if len(f.up()) < 2 || f.locked() > 0 {
				t.Fatalf("%v, %d locks", f.up(), f.locked())
			}
		}
		f.cutAll()
		pass(10 * time.Minute)
		if a, b := one.superseded(), two.superseded(); a == b || f.locked() > 0 || len(f.up()) < 2 {
			t.Errorf("%v, %v, %d locks, %v", a, b, f.locked(), f.up())
		}
		one.end(t)
		two.end(t)
		f.close()
	})
}

func (r *running) superseded() bool { return len(r.log.lines("opens no more tunnels")) > 0 }

// What this process wrote itself is not another's, whatever became of the answer, and
// an API server that is away keeps nobody from dialling.
func TestOurOwnWritesAreNotAnothers(t *testing.T) {
	for name, moment := range map[string]string{"a key": "1/key", "a certificate": "1/2", "the certificate in use": "2/-"} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := newFake(t, "r1", "r2")
				f.lifetime = 70 * time.Minute
				server, open := bubbleSecrets()
				lost := false
				server.losing = func(b []byte) bool {
					s, err := decodeState(b)
					if err != nil || describeState(s) != moment || lost {
						return false
					}
					lost, server.fail = true, http.StatusServiceUnavailable
					return true
				}
				o := options(f)
				o.Store = open()
				a := start(t, o)
				for range 20 {
					pass(2 * time.Minute)
					f.cutAll()
				}
				if ok := lost && !a.superseded(); !ok || f.locked() > 0 {
					t.Errorf("lost %v, superseded %v, %d locks", lost, a.superseded(), f.locked())
				}
				pass(5 * time.Second)
				if up := f.up(); len(up) < 2 {
					t.Errorf("%v", up)
				}
				server.mu.Lock()
				server.fail = 0
				server.mu.Unlock()
				for range 30 {
					pass(2 * time.Minute)
					f.cutAll()
				}
				pass(5 * time.Second)
				if ok, why := a.Ready(); !ok || f.locked() > 0 || f.joined() > 2 || a.superseded() {
					t.Errorf("%v %s, %d locks, %d joins", ok, why, f.locked(), f.joined())
				}
				if last := f.admitted()[len(f.admitted())-1]; strings.HasPrefix(last, "1/") && f.joined() == 1 {
					t.Errorf("it never renewed: %s", last)
				}
				a.end(t)
				f.close()
			})
		})
	}
}

// An API server that can be read and takes no writes, as one without a quorum, is not
// asked again and again at once.
func TestAFrozenAPIServerIsNotFlooded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake(t, "r1", "r2")
		f.lifetime = 70 * time.Minute
		server, open := bubbleSecrets()
		many := false
		server.losing = func(b []byte) bool {
			s, err := decodeState(b)
			if err != nil || describeState(s) != "1/2" || server.frozen {
				return false
			}
			server.frozen, server.asked = true, 0
			return true
		}
		server.flooded = func() { many, server.frozen = true, false } // or time would not go on
		o := options(f)
		o.Store = open()
		a := start(t, o)
		for range 30 {
			pass(2 * time.Minute)
			f.cutAll()
		}
		pass(5 * time.Second)
		server.mu.Lock()
		if many || !server.frozen || server.asked > 200 {
			t.Errorf("flooded %v, frozen %v, asked %d times in an hour", many, server.frozen, server.asked)
		}
		server.frozen, server.losing = false, nil
		server.mu.Unlock()
		if up := f.up(); len(up) < 2 {
			t.Errorf("%v", up)
		}
		for range 20 {
			pass(2 * time.Minute)
			f.cutAll()
		}
		pass(5 * time.Second)
		if ok, why := a.Ready(); !ok || a.superseded() || f.locked() > 0 || f.joined() > 2 {
			t.Errorf("%v %s, superseded %v, %d locks, %d joins", ok, why, a.superseded(), f.locked(), f.joined())
		}
		a.end(t)
		f.close()
	})
}

func TestASecretStoreTellsWhatOthersWrote(t *testing.T) {
	server, open := secretServer(t)
	s, other := open(), open()
	id := someIdentity(t)
	for _, one := range []*SecretStore{s, other} {
		if _, err := one.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, changed, err := s.Changed(t.Context()); changed || err != nil {
		t.Error(changed, err)
	}
	if err := other.Save(t.Context(), State{Current: id}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got, changed, err := s.Changed(t.Context()); !changed || err != nil || !bytes.Equal(got.Current.Cert, id.Cert) {
			t.Error(got, changed, err)
		}
		if err := s.Save(t.Context(), State{Next: &Identity{Key: id.Key}}); !errors.Is(err, ErrForeign) {
			t.Error(err)
		}
	}
	if _, changed, err := other.Changed(t.Context()); changed || err != nil {
		t.Error(changed, err)
	}
	server.mu.Lock()
	clear(server.objects)
	server.mu.Unlock()
	if got, changed, err := other.Changed(t.Context()); !changed || err != nil || got != (State{}) {
		t.Error(got, changed, err)
	}
	server.fail = http.StatusForbidden
	if _, _, err := other.Changed(t.Context()); err == nil {
		t.Error("it knows without asking")
	}
}
