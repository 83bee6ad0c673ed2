package tunnel

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport-dev/sallyport/internal/wire"
)

const (
	openTimeout    = 2 * time.Second // where all streams of a tunnel are taken; less than headerTimeout, within which a peer answers
	probeAfter     = 2 * time.Second // of silence while somebody waits
	probeTimeout   = 3 * time.Second
	idleStream     = time.Minute
	maxIdleStreams = 32
	maxHeaderBytes = 256 << 10 // of an answer: an agent may be hostile
)

// route is one way to an agent: its tunnel to this replica, or a link to a
// replica that has one.
type route struct {
	t     *Tunnels
	agent string
	own   *tunnel // or
	link  *link

	// Guarded by Tunnels.mu:
	since    time.Time                // when this process of the agent came, to whichever replica
	instance string                   // of the process; "": of an agent that does not say
	started  time.Time                // when the process did
	others   []process                // of a link: that have the identity, too
	clusters map[string]clusterStatus // replaced, never changed
	gone     bool

	active  atomic.Int64 // requests and upgraded streams under way
	plain   lazyTransport
	upgrade lazyTransport
}

// lazyTransport speaks HTTP/1.1 over streams of a route. Most of thousands of
// agents are idle, and need none.
type lazyTransport struct {
	once sync.Once
	ptr  atomic.Pointer[http.Transport]
}

func (r *route) transport(upgrade bool) *http.Transport {
	lazy := &r.plain
	if upgrade {
		lazy = &r.upgrade
	}
	lazy.once.Do(func() {
		protocols := new(http.Protocols)
		protocols.SetHTTP1(true)
		lazy.ptr.Store(&http.Transport{
			Proxy:                  nil, // a tunnel leads to one place
			DialContext:            r.dial,
			Protocols:              protocols,
			DisableCompression:     true, // what the client accepts is passed on, and so is the answer
			DisableKeepAlives:      upgrade,
			MaxIdleConnsPerHost:    maxIdleStreams,
			IdleConnTimeout:        idleStream,
			MaxResponseHeaderBytes: maxHeaderBytes,
			ExpectContinueTimeout:  time.Second,
		})
	})
	return lazy.ptr.Load()
}

// openError marks a stream that could not be opened: nothing was sent on it.
type openError struct{ err error }

// full reports whether that tunnels carry as many streams as they can is why a request
// was not sent: nothing is wrong with the agent then.
func full(err error) bool {
	return errors.Is(err, wire.ErrFull) || errors.Is(err, wire.ErrRefused) || errors.Is(err, errFull)
}

func (e *openError) Error() string { return "open a stream: " + e.err.Error() }
func (e *openError) Unwrap() error { return e.err }

// dial is what the transports call; the address is for HTTP's sake.
func (r *route) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	var c wire.Stream
	var err error
	if r.own != nil {
		c, err = r.own.open(ctx)
	} else {
		c, err = r.link.open(ctx, header{Agent: r.agent})
	}
	if err != nil {
		return nil, &openError{err}
	}
	return newStreamConn(c, &r.t.metrics.streams), nil
}

// close lets go of streams that carry nothing. Those in use end by themselves.
func (r *route) close() {
	for _, lazy := range []*lazyTransport{&r.plain, &r.upgrade} {
		if tr := lazy.ptr.Load(); tr != nil {
			tr.CloseIdleConnections()
		}
	}
}

// doubtful reports whether another way is better if there is one: the agent or
// the replica is about to go, nothing was heard for two pings, or the agent may
// have come by mistake. Under Tunnels.mu.
func (r *route) doubtful(now time.Time) bool {
	if r.own != nil {
		return r.own.onProbation(now) || now.Sub(r.own.sess.LastHeard()) > 2*agentPingEvery+time.Second
	}
	return r.link.moving || now.Sub(r.link.sess.LastHeard()) > 2*heartbeat+heartbeat/2
}
