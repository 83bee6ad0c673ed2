package auth

import (
	"context"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// maxTurnsWaiting is how many slowed logins wait for their turn. With the
// longest delay the last one is answered within half a minute.
const maxTurnsWaiting = 4

// turns lets what is slowed through one at a time. A delay alone slows nobody
// who guesses from many networks at once: the delays would run side by side.
// Each replica has its own turns, so that guesses run as many at a time as there
// are replicas.
type turns struct {
	mu   sync.Mutex
	keys map[string]*turn // those that somebody has or waits for
}

type turn struct {
	token chan struct{} // holds one while somebody has the turn
	n     int           // who has it and who waits
}

func newTurns() *turns { return &turns{keys: map[string]*turn{}} }

// errNoTurn is the answer when too many wait.
func errNoTurn() error {
	return api.Errorf(api.CodeRateLimited, "too many logins of this user at this moment: try again in a few seconds")
}

// take waits for the turn of a key, which release gives back; errNoTurn if too
// many wait already.
func (t *turns) take(ctx context.Context, key string) (release func(), err error) {
	t.mu.Lock()
	k := t.keys[key]
	if k == nil {
		k = &turn{token: make(chan struct{}, 1)}
		t.keys[key] = k
	}
	if k.n > maxTurnsWaiting {
		t.mu.Unlock()
		return nil, errNoTurn()
	}
	k.n++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if k.n--; k.n == 0 {
			delete(t.keys, key)
		}
	}
	select {
	case k.token <- struct{}{}:
		return func() { <-k.token; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, errGivenUp(ctx)
	}
}

func errGivenUp(ctx context.Context) error {
	return api.Errorf(api.CodeUnavailable, "the login was given up while it waited: %w", context.Cause(ctx))
}

// wait passes a delay in the turn.
func wait(ctx context.Context, delay time.Duration) error {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return errGivenUp(ctx)
	}
}

const (
	quietFor = time.Minute
	maxQuiet = 4096
)

// quiet keeps refusals that cost nothing from filling the log: of one key, at
// most one a minute is told, with the number of those since the last. (The
// number of the last minute stays untold if nobody tries again.)
type quiet struct {
	mu   sync.Mutex
	seen *recent[string, untold]
}

type untold struct {
	n    int
	told time.Time
}

func newQuiet() *quiet { return &quiet{seen: newRecent[string, untold](maxQuiet)} }

// count counts a refusal, and says how many to tell of now; 0: none.
func (q *quiet) count(key string, now time.Time) int { return q.add(key, 1, now) }

// add is count for several.
func (q *quiet) add(key string, n int, now time.Time) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	u := q.seen.get(key, func() *untold { return &untold{} })
	u.n += n
	if !u.told.IsZero() && now.Sub(u.told) < quietFor {
		return 0
	}
	n = u.n
	u.n, u.told = 0, now
	return n
}
