package auth

import (
	"context"
	"crypto/rand"
	"testing"
	"testing/synctest"

	"github.com/sallyport-dev/sallyport/internal/api"
)

func TestQueueOfDerivationsIsBoundedAndGivesUpWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := newPasswords(&base{rand: rand.Reader}, nil, PasswordOptions{MemoryKiB: 8, Iterations: 1, Concurrency: 1, Queue: 2})
		if err != nil {
			t.Fatal(err)
		}
		p.slots <- struct{}{} // a derivation that takes long
		p.waiting.Add(1)
		ctx, cancel := context.WithCancel(t.Context())
		results := make(chan error, 2)
		for range 2 {
			go func() {
				_, err := p.derive(ctx, "x", p.params, p.dummy.salt, hashBytes, nil)
				results <- err
			}()
		}
		synctest.Wait()
		if _, err := p.derive(ctx, "x", p.params, p.dummy.salt, hashBytes, nil); !api.IsCode(err, api.CodeRateLimited) {
			t.Error("the third in a queue of two:", err)
		}
		cancel()
		for range 2 {
			if err := <-results; !api.IsCode(err, api.CodeUnavailable) {
				t.Error("a client that went away still waits:", err)
			}
		}
		<-p.slots
		p.waiting.Add(-1)
		if _, err := p.derive(t.Context(), "x", p.params, p.dummy.salt, hashBytes, nil); err != nil || p.waiting.Load() != 0 {
			t.Error(err, p.waiting.Load())
		}
	})
}
