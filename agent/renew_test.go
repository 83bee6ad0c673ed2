package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/wire"
)

// crashStore keeps all that was ever saved, and can end the process at a save: the
// agent that crashed saves nothing any more and dials nobody.
type crashStore struct {
	mu     sync.Mutex
	states []State
	fail   func(n int, s State) error // before save number n
	after  func(n int, s State)       // it was saved
}

func (c *crashStore) String() string { return "test" }

func (c *crashStore) Load(context.Context) (State, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.states) == 0 {
		return State{}, nil
	}
	// Through the encoding, as from a disk.
	b, err := encodeState(c.states[len(c.states)-1])
	if err != nil {
		return State{}, err
	}
	return decodeState(b)
}

func (c *crashStore) saved() []State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.states)
}

func (c *crashStore) last() State {
	all := c.saved()
	return all[len(all)-1]
}

func (c *crashStore) Save(_ context.Context, s State) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fail != nil {
		if err := c.fail(len(c.states), s); err != nil {
			return err
		}
	}
	c.states = append(c.states, s)
	if c.after != nil {
		c.after(len(c.states), s)
	}
	return nil
}

func describeState(s State) string {
	one := func(id *Identity) string {
		switch {
		case id == nil:
			return "-"
		case len(id.Cert) == 0:
			return "key"
		}
		return fmt.Sprint(id.Generation)
	}
	return one(s.Current) + "/" + one(s.Next)
}

func TestRenewsAndMovesItsTunnelsToTheNewCertificate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake(t, "r1", "r2", "r3")
		f.lifetime = 70 * time.Minute
		store := &crashStore{}
		o := options(f)
		o.Store = store
		a := start(t, o)
		low, begin := 2, time.Now()
		pass(30 * time.Second)
		for time.Since(begin) < 80*time.Minute { // longer than any certificate lives
			pass(time.Second)
			low = min(low, len(f.up()))
		}
		if f.locked() > 0 || low < 2 || f.joined() != 1 {
			t.Errorf("%d locks, at least %d tunnels, %d joins", f.locked(), low, f.joined())
		}
		var saved []string
		for _, s := range store.saved() {
			saved = append(saved, describeState(s))
		}
		want := []string{"-/key", "1/-", "1/key", "1/2", "2/-", "2/key", "2/3", "3/-"}
		if len(saved) < len(want) || !slices.Equal(saved[:len(want)], want) {
			t.Errorf("saved %v", saved)
		}
		// No Hello is older than one before it.
		last := ""
		for _, h := range f.admitted() {
			gen, _, _ := strings.Cut(h, "/")
			if len(gen) == len(last) && gen < last {
				t.Errorf("%v", f.admitted())
				break
			}
			last = gen
		}
		for _, s := range store.saved() {
			if s.Next != nil && len(s.Next.Cert) == 0 && s.Current != nil && string(s.Next.Key) == string(s.Current.Key) {
				t.Error("a renewal without a new key")
			}
		}
		a.end(t)
		f.close()
	})
}

// Threats row "agent re-issue", from the innocent's side: whenever an agent crashes
// around a renewal, the next start is neither locked out nor has to join anew.
func TestACrashAtAnyPointOfARenewalHarmsNobody(t *testing.T) {
	for _, point := range []string{
		"before the key is saved", "after the key is saved", "the request is at the replica", "the answer is lost",
		"before the certificate is saved", "after the certificate is saved", "the first use is at the replica", "before it is saved as current", "after it is saved as current",
	} {
		t.Run(point, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := newFake(t, "r1", "r2")
				f.lifetime = 70 * time.Minute
				store := &crashStore{}
				crashed := make(chan struct{})
				var once sync.Once
				crash := func() { once.Do(func() { close(crashed) }) }
				is := func(s State, want string) bool { return describeState(s) == want }
				store.fail = func(_ int, s State) error {
					if point == "before the key is saved" && is(s, "1/key") || point == "before the certificate is saved" && is(s, "1/2") ||
						point == "before it is saved as current" && is(s, "2/-") {
						crash()
					}
					select {
					case <-crashed:
						return errors.New("crashed")
					default:
						return nil
					}
				}
				store.after = func(_ int, s State) {
					if point == "after the key is saved" && is(s, "1/key") || point == "after the certificate is saved" && is(s, "1/2") ||
						point == "after it is saved as current" && is(s, "2/-") {
						crash()
					}
				}
				f.onRenew = func(string, []byte) {
					if point == "the request is at the replica" || point == "the answer is lost" {
						crash()
					}
				}
				o := options(f)
				o.Store = store
				dial := o.Dial
				a := start(t, o)
				pass(30 * time.Second)
				if point == "the first use is at the replica" {
					f.mu.Lock()
					f.onHello = func(*replica) *wire.Refused { // of the new certificate: no other is dialled
						crash()
						return nil
					}
					f.mu.Unlock()
				}
				select {
				case <-crashed:
				case <-time.After(40 * time.Minute):
					t.Fatal("no renewal came to that point")
				}
				// The process is gone: its connections end, and it does nothing more.
				for _, tun := range f.open() {
					tun.conn.Close()
				}
				a.stop()
				<-a.done
				store.mu.Lock()
				store.fail, store.after = nil, nil
				store.mu.Unlock()
				f.mu.Lock()
				f.onHello, f.onRenew = nil, nil
				f.mu.Unlock()

				o.Dial = dial
				a = start(t, o)
				pass(40 * time.Minute) // and renews again
				if ok, why := a.Ready(); !ok || f.locked() > 0 || f.joined() != 1 {
					t.Errorf("ready %v (%s), %d locks, %d joins", ok, why, f.locked(), f.joined())
				}
				if s := store.last(); s.inUse().Generation < 2 {
					t.Errorf("it never renewed: %s", describeState(s))
				}
				a.end(t)
				f.close()
			})
		})
	}
}

// A Hello that nobody answered may arrive late. None may once the next certificate
// was used: it would look like a thief's.
func TestALateHelloDoesNotLockTheInnocent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake(t, "r1", "r2", "r3")
		f.lifetime = 70 * time.Minute
		late := 40 * time.Second // longer than the agent waits for an answer
		held := 0
		a := start(t, options(f))
		pass(30 * time.Second)
		f.mu.Lock()
		f.onHello = func(*replica) *wire.Refused {
			f.mu.Lock()
			held++
			hold := held%2 == 1
			f.mu.Unlock()
			if hold { // every second one sits in a network that is down
				time.Sleep(late)
			}
			return nil
		}
		f.mu.Unlock()
		// Tunnels come and go, so that there are dials around each renewal.
		for range 60 {
			pass(time.Minute)
			if open := f.open(); len(open) > 1 {
				open[0].conn.Close()
			}
		}
		f.mu.Lock()
		n := held
		f.mu.Unlock()
		if f.locked() > 0 || n < 30 {
			t.Errorf("%d locks, %d hellos", f.locked(), n)
		}
		renewed := false
		f.mu.Lock()
		for _, r := range f.records {
			renewed = renewed || r.generation > 1
		}
		f.mu.Unlock()
		if !renewed {
			t.Error("it never renewed")
		}
		a.end(t)
		pass(time.Minute) // what is held
		f.close()
	})
}

// A request to renew that comes late, from before a crash, changes nothing.
func TestALateRenewalAsksWithTheSameKey(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake(t, "r1")
		f.lifetime = 70 * time.Minute
		f.mute = true // no answers: it asks again and again
		var mu sync.Mutex
		var keys []string
		store := &crashStore{after: func(_ int, s State) {
			mu.Lock()
			defer mu.Unlock()
			if describeState(s) == "1/key" {
				keys = append(keys, string(s.Next.Key))
			}
		}}
		o := options(f)
		o.Store = store
		for range 3 {
			a := start(t, o)
			pass(21 * time.Minute)
			a.end(t)
		}
		if len(keys) != 1 {
			t.Errorf("%d keys were made", len(keys))
		}
		f.close()
	})
}

func TestRenewalGoesOnTryingAndExpiryJoinsAnew(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake(t, "r1")
		f.lifetime = 3 * time.Hour
		f.mute = true
		a := start(t, options(f))
		pass(2 * time.Hour)
		if n := len(a.log.lines("could not be renewed")); n < 2 || n > 20 {
			t.Errorf("told %d times", n)
		}
		pass(2 * time.Hour)
		if ok, why := a.Ready(); !ok || f.joined() != 2 {
			t.Errorf("%v (%s), %d joins", ok, why, f.joined())
		}
		a.end(t)
		f.close()
	})
}

// A store that can't be written costs no use of the token, and no identity.
func TestAStoreThatFailsSpendsNoToken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake(t, "r1")
		f.lifetime = 70 * time.Minute
		broken := true
		store := &crashStore{fail: func(int, State) error {
			if broken {
				return errors.New("disk full")
			}
			return nil
		}}
		o := options(f)
		o.Store = store
		a := start(t, o)
		pass(5 * time.Minute)
		if ok, why := a.Ready(); ok || !strings.Contains(why, "disk full") || f.joined() > 0 {
			t.Errorf("%v (%s), %d joins", ok, why, f.joined())
		}
		store.mu.Lock()
		broken = false
		store.mu.Unlock()
		pass(time.Minute)
		store.mu.Lock()
		broken = true // around the renewal
		store.mu.Unlock()
		pass(30 * time.Minute)
		store.mu.Lock()
		broken = false
		store.mu.Unlock()
		pass(40 * time.Minute)
		if ok, why := a.Ready(); !ok || f.locked() > 0 || f.joined() != 1 || store.last().inUse().Generation < 2 {
			t.Errorf("%v (%s), %d locks, %d joins", ok, why, f.locked(), f.joined())
		}
		a.end(t)
		f.close()
	})
}

// The API server that keeps the identity may be started after us.
func TestAStoreThatIsAwayIsWaitedFor(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake(t, "r1")
		var mu sync.Mutex
		away := api.Errorf(api.CodeUnavailable, "connection refused")
		o := options(f)
		o.Store = loadStore{&MemoryStore{}, func() error {
			mu.Lock()
			defer mu.Unlock()
			if away != nil {
				return away
			}
			return nil
		}}
		a := start(t, o)
		pass(5 * time.Minute)
		if ok, why := a.Ready(); ok || !strings.Contains(why, "the identity can't be read: connection refused") {
			t.Error(ok, why)
		}
		mu.Lock()
		away = nil
		mu.Unlock()
		pass(time.Minute)
		if ok, why := a.Ready(); !ok {
			t.Error(why)
		}
		a.end(t)
		o.Store = loadStore{&MemoryStore{}, func() error { return errors.New("it is damaged") }}
		a = start(t, o)
		if err := <-a.done; err == nil || err.Error() != "it is damaged" {
			t.Error(err)
		}
		f.close()
	})
}

type loadStore struct {
	*MemoryStore
	fail func() error
}

func (s loadStore) Load(ctx context.Context) (State, error) {
	if err := s.fail(); err != nil {
		return State{}, err
	}
	return s.MemoryStore.Load(ctx)
}

func TestServingOtherClustersJoinsAnew(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake(t, "r1")
		o := options(f)
		o.Store = &MemoryStore{}
		a := start(t, o)
		pass(10 * time.Second)
		a.end(t)
		o.Clusters = append(slices.Clone(o.Clusters), Cluster{Name: "other", Handler: o.Clusters[0].Handler})
		a = start(t, o)
		pass(10 * time.Second)
		if ok, why := a.Ready(); !ok || f.joined() != 2 {
			t.Errorf("%v (%s), %d joins", ok, why, f.joined())
		}
		a.end(t)
		f.close()
	})
}

// reliability.md, quorum loss: the store was put back to before the last renewals.
func TestAStoreThatWasPutBackKnowsTheAgent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake(t, "r1", "r2")
		f.lifetime = 70 * time.Minute
		a := start(t, options(f))
		pass(time.Minute)
		f.mu.Lock()
		before := map[string]record{}
		for id, rec := range f.records {
			before[id] = *rec
		}
		f.mu.Unlock()
		pass(2 * time.Hour)
		f.mu.Lock()
		for id, rec := range before {
			f.records[id] = &rec
		}
		f.mu.Unlock()
		for range 2 {
			f.cutAll()
			pass(2 * time.Hour)
			if ok, why := a.Ready(); !ok || f.locked() > 0 || f.joined() != 1 {
				t.Errorf("%v (%s), %d locks, %d joins", ok, why, f.locked(), f.joined())
			}
		}
		a.end(t)
		f.close()
	})
}
