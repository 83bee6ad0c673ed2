package server

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth/authapi"
)

// auditBounds are how many may look at the audit log at a time, which reads a lot from
// disk and may keep a core busy. Pages and API share them; the socket, by which one finds
// out what is wrong, has none.
type auditBounds struct {
	calls    *turns // searches, until the answer is read; most of them wait for news
	looks    *turns // those that look just now
	exports  *turns
	verifies *turns // those that are asked for: each replica verifies one at a time
}

func newAuditBounds() auditBounds {
	return auditBounds{
		calls:    newTurns("searches of the audit log", 8, 64, 2*time.Second),
		looks:    newTurns("searches of the audit log", 2, 4, 10*time.Second),
		exports:  newTurns("exports of the audit log", 2, 4, 2*time.Second),
		verifies: newTurns("verifications of the audit log", 1, 4, 2*time.Second),
	}
}

// turns bounds how many do something at a time, of one user and in all.
type turns struct {
	what         string
	perUser, all int
	patience     time.Duration // how long to wait for a turn

	mu      sync.Mutex
	users   map[string]int
	used    int
	changed chan struct{} // closed when a turn has ended
}

func newTurns(what string, perUser, all int, patience time.Duration) *turns {
	return &turns{what: what, perUser: perUser, all: all, patience: patience, users: map[string]int{}, changed: make(chan struct{})}
}

// begin waits for a user's turn, which lasts until end is called. Whoever leaves a
// search and begins another must not be refused because the first has yet to notice.
func (t *turns) begin(ctx context.Context, user string) (end func(), err error) {
	late := time.NewTimer(t.patience)
	defer late.Stop()
	for {
		changed, err := t.take(user)
		if err == nil {
			return sync.OnceFunc(func() { t.end(user) }), nil
		}
		select {
		case <-changed:
		case <-late.C:
			return nil, err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// take takes a turn, or says why there is none and what to wait for.
func (t *turns) take(user string) (changed <-chan struct{}, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.users[user] >= t.perUser:
		return t.changed, api.Errorf(api.CodeRateLimited, "%d %s of yours are under way, maybe in another window: wait until one has ended, then try again", t.users[user], t.what)
	case t.used >= t.all:
		return t.changed, api.Errorf(api.CodeRateLimited, "%d %s are under way on this replica, and it does no more at a time: wait a moment, then try again", t.used, t.what)
	}
	t.users[user]++
	t.used++
	return nil, nil //nolint:nilnil // nothing to wait for
}

func (t *turns) end(user string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.used--
	if t.users[user]--; t.users[user] == 0 {
		delete(t.users, user)
	}
	close(t.changed)
	t.changed = make(chan struct{})
}

// beginFor is begin for the caller of the API.
func (t *turns) beginFor(ctx context.Context) (end func(), err error) {
	c := authapi.CallerFrom(ctx)
	if c.Admin || c.Identity == nil {
		return func() {}, nil
	}
	return t.begin(ctx, c.Identity.User)
}

const (
	// readFor is how long a client may take to read a piece of an answer. Whoever reads
	// nothing would otherwise hold an answer in memory for ever, and a turn.
	readFor = 30 * time.Second
	// readPiece is so much that a slow line takes it in that time.
	readPiece = 32 << 10
)

// pieces writes an answer piece by piece, each within a time of its own.
type pieces struct {
	http.ResponseWriter
	control *http.ResponseController
	readFor time.Duration
}

func newPieces(w http.ResponseWriter, readFor time.Duration) *pieces {
	return &pieces{w, http.NewResponseController(w), readFor}
}

func (p *pieces) Unwrap() http.ResponseWriter { return p.ResponseWriter }

func (p *pieces) Write(b []byte) (n int, err error) {
	for {
		piece := b[n:min(len(b), n+readPiece)]
		p.begin()
		m, err := p.ResponseWriter.Write(piece)
		if n += m; err != nil || n == len(b) {
			p.pause()
			return n, err
		}
	}
}

func (p *pieces) FlushError() error {
	p.begin()
	defer p.pause()
	return p.control.Flush()
}

// begin sets the deadline. A server that can't is not one of ours.
func (p *pieces) begin() { _ = p.control.SetWriteDeadline(time.Now().Add(p.readFor)) }

// pause takes it away: the next piece may be long in coming.
func (p *pieces) pause() { _ = p.control.SetWriteDeadline(time.Time{}) }
