package tests

import (
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// Row 24 of reliability: the authority's connections come to replicas at random, three
// for each challenge, and none finds one that does not know the answer.
//
// The certificates live for a second, so that handshakes order the next at once.
func TestACMEChallengesAtRandomReplicas(t *testing.T) {
	t.Parallel()
	a := startACME(t, testbed.PebbleOptions{Validity: 2 * time.Second, Impatient: true, NoRenewalInfo: true}, false)
	a.resolve(t, here, clusterName, publicName)
	ctx := within(t, 30*time.Second+time.Duration(*acmeChallenges)*5*time.Second)
	start := time.Now()
	done := make(chan struct{})
	var mu sync.Mutex
	handshakes, own := 0, 0
	var users sync.WaitGroup
	for i := range 4 {
		users.Go(func() {
			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			for {
				s, err := a.handshake(ctx, a.users[0].Addr(), []string{clusterName, publicName}[i%2])
				mu.Lock()
				handshakes++
				if err != nil && t.Context().Err() == nil {
					t.Error(err)
				} else if err == nil && !s.public { // the new one was over when its turn came
					own++
				}
				mu.Unlock()
				select {
				case <-done:
					return
				case <-ctx.Done():
					return
				case <-tick.C:
				}
			}
		})
	}
	defer users.Wait()
	err := testbed.Until(ctx, "the challenges", func() error {
		if valid, _ := a.pebble.Validations(); valid < *acmeChallenges {
			return errTooFew(valid)
		}
		return nil
	})
	took := time.Since(start)
	close(done)
	users.Wait()
	valid, invalid := a.pebble.Validations()
	var at [3]int
	for i, r := range a.Replicas {
		at[i] = a.alpn[0].Served(r.ListenAddr())
	}
	t.Logf("%d of %d challenges answered in %v, by %v connections to the three replicas; %d orders, %d certificates; %d handshakes, %d of which got the host CA's",
		valid, valid+invalid, took, at, len(a.orders("")), a.pebble.Issued(), handshakes, own)
	if err != nil || invalid != 0 {
		t.Errorf("%d challenges failed: %v", invalid, err)
	}
	for i, n := range at {
		if n == 0 {
			t.Errorf("the authority never came to %s", a.Replicas[i].Name)
		}
	}
}
