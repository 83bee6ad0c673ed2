package tunnel

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/sallyport-dev/sallyport/internal/splice"
	"github.com/sallyport-dev/sallyport/internal/wire"
)

// abort ends a connection so that the other end can tell it from one that was
// done: a torn answer must not pass for a short one.
func abort(c net.Conn) {
	if r, ok := c.(interface{ Reset() error }); ok {
		_ = r.Reset() // it is over, whatever this says
		return
	}
	_ = c.Close() // the same
}

// streamConn is a stream in the hands of an http.Transport.
type streamConn struct {
	wire.Stream
	opened *atomic.Int64
	once   sync.Once
}

func newStreamConn(c wire.Stream, opened *atomic.Int64) *streamConn {
	opened.Add(1)
	return &streamConn{Stream: c, opened: opened}
}

func (c *streamConn) Close() error {
	c.once.Do(func() { c.opened.Add(-1) })
	return c.Stream.Close()
}

// splicedConn is an agent's connection that another replica passed on.
type splicedConn struct {
	wire.Stream
	remote net.Addr
}

func newSplicedConn(c wire.Stream, addr string) net.Conn {
	if ap, err := netip.ParseAddrPort(addr); err == nil {
		return &splicedConn{Stream: c, remote: net.TCPAddrFromAddrPort(ap)}
	}
	return c
}

func (c *splicedConn) RemoteAddr() net.Addr { return c.remote }

// join copies both ways until both directions have ended, or one has failed;
// then both connections are over. Each copied piece is reported to passed, with
// whether it went from a to b.
func join(pools *splice.Pools, a, b net.Conn, passed func(fromA bool)) {
	back := make(chan struct{})
	go func() { // this function waits for it
		defer close(back)
		oneWay(pools, a, b, func() { passed(false) })
	}()
	oneWay(pools, b, a, func() { passed(true) })
	<-back
	_ = a.Close() // both directions are over
	_ = b.Close() // the same
}

// oneWay copies src to dst until src ends, which dst is told. A failure on either
// side ends both.
func oneWay(pools *splice.Pools, dst, src net.Conn, passed func()) {
	if pools.Copy(dst, src, passed) != nil {
		abort(dst)
		abort(src)
	}
}
