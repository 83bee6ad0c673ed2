package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// cutGrace is what a request that is cut has left to tell the client why, if
// its answer has not begun.
const cutGrace = 250 * time.Millisecond

// flight is a request under way. It is linked into its grant from begin to
// finish, and only there can it be cut.
type flight struct {
	grant      *grant
	prev, next *flight

	cancel context.CancelCauseFunc // the request to the API server
	ctl    *http.ResponseController
	watch  bool // may end early and cleanly: its client asks again

	reason atomic.Pointer[error] // why it was cut
}

// cut ends the flight from another goroutine, whatever it is doing: waiting for
// the API server, reading the client's body, or writing to a client that does
// not read. It is called with the grant's lock held and does not block.
func (f *flight) cut(why error) {
	if !f.reason.CompareAndSwap(nil, &why) {
		return
	}
	f.cancel(why)
	now := time.Now()                             // the network's clock, not Options.Clock
	_ = f.ctl.SetReadDeadline(now)                // unsupported by test recorders only
	_ = f.ctl.SetWriteDeadline(now.Add(cutGrace)) // the same
}

// cutReason is why the flight was cut, or nil.
func (f *flight) cutReason() error {
	if p := f.reason.Load(); p != nil {
		return *p
	}
	return nil
}

// drain ends a watch as if the API server had: its client asks again, elsewhere.
func (f *flight) drain() {
	if f.watch {
		f.cancel(errDrained)
	}
}

// guardedBody is the client's body as the transport sees it: closing it does
// nothing (the server owns the body, and its Close may wait for the client), and
// reading it after the handler has returned fails.
type guardedBody struct {
	body   io.Reader
	closed atomic.Bool
	failed atomic.Bool // the client's fault
}

func (b *guardedBody) Read(p []byte) (int, error) {
	if b.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := b.body.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.failed.Store(true)
	}
	return n, err
}

func (b *guardedBody) Close() error {
	b.closed.Store(true)
	return nil
}
