package server

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// maxHello bounds what is kept of a connection's first bytes, in case they have to
// go to another replica unread: agents say hello in 2 KiB.
const maxHello = 16 << 10

// helloConn keeps what TLS reads of a connection until its ClientHello has said
// whom it is for. One that is for another replica is then taken from TLS and from
// the http.Server that runs it, with the bytes that they have read: neither an alert
// nor a Close of theirs gets through any more.
type helloConn struct {
	net.Conn
	// spliced connections came from another replica, for this one: they go no further.
	spliced bool

	state atomic.Int32
	mu    sync.Mutex // of taking and closing, and of head
	head  []byte
	ahead []byte // read by watch and yet to be read by TLS, which does not read meanwhile
}

// The states of a helloConn.
const (
	helloKept   int32 = iota // bytes are kept
	helloPassed              // no longer: TLS has what it needs, or there were too many
	helloTaken               // by take
	helloClosed
)

var errTaken = errors.New("the connection was taken over")

// hellos hands out helloConns.
type hellos struct {
	net.Listener
	spliced bool
}

func (l hellos) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &helloConn{Conn: c, spliced: l.spliced}, nil
}

func (c *helloConn) Read(p []byte) (int, error) {
	switch c.state.Load() {
	case helloPassed:
		if len(c.ahead) > 0 {
			n := copy(p, c.ahead)
			c.ahead = c.ahead[n:]
			return n, nil
		}
		return c.Conn.Read(p)
	case helloTaken:
		return 0, errTaken
	}
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.Load() == helloKept {
		if c.head = append(c.head, p[:n]...); len(c.head) > maxHello {
			c.passLocked()
		}
	}
	return n, err
}

func (c *helloConn) passLocked() {
	c.head = nil
	c.state.Store(helloPassed)
}

// pass says that TLS may have the connection.
func (c *helloConn) pass() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.Load() == helloKept {
		c.passLocked()
	}
}

// watch calls gone if the other side ends the connection while TLS waits for something
// else than it: only who reads is told. TLS may read again when stop has returned, and
// a deadline has been set anew.
func (c *helloConn) watch(gone func()) (stop func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// A client has nothing to say now. What it says nevertheless is kept.
		var b [1]byte
		n, err := c.Conn.Read(b[:])
		c.ahead = append(c.ahead, b[:n]...)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			gone()
		}
	}()
	return func() {
		_ = c.Conn.SetReadDeadline(time.Unix(1, 0)) // long ago; of a closed connection nobody reads any more
		<-done
	}
}

// take gives the connection under this one, and all that was read of it. False: it
// is closed, or more was said than is kept.
func (c *helloConn) take() (net.Conn, []byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.state.CompareAndSwap(helloKept, helloTaken) {
		return nil, nil, false
	}
	head := c.head
	c.head = nil
	return c.Conn, head, true
}

// NetConn shows the connection beneath, so that its socket can be found and set up.
func (c *helloConn) NetConn() net.Conn { return c.Conn }

func (c *helloConn) taken() bool { return c.state.Load() == helloTaken }

// Write drops the alert of a handshake that failed because it was taken over.
func (c *helloConn) Write(p []byte) (int, error) {
	if c.taken() {
		return 0, errTaken
	}
	return c.Conn.Write(p)
}

// Close leaves a connection that was taken to whoever has it.
func (c *helloConn) Close() error {
	c.mu.Lock()
	if c.taken() {
		c.mu.Unlock()
		return nil
	}
	c.head = nil
	c.state.Store(helloClosed)
	c.mu.Unlock()
	return c.Conn.Close()
}

// The deadlines of a connection that was taken are not http.Server's to set: it may
// do so after take, from where it does not know yet.

func (c *helloConn) SetDeadline(t time.Time) error {
	if c.taken() {
		return errTaken
	}
	return c.Conn.SetDeadline(t)
}

func (c *helloConn) SetReadDeadline(t time.Time) error {
	if c.taken() {
		return errTaken
	}
	return c.Conn.SetReadDeadline(t)
}

func (c *helloConn) SetWriteDeadline(t time.Time) error {
	if c.taken() {
		return errTaken
	}
	return c.Conn.SetWriteDeadline(t)
}
