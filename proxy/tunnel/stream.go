package tunnel

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
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

// halfClose says that no more is sent.
func halfClose(c net.Conn) error {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return errors.New("the connection can't be closed by halves")
}

// streamConn is a stream in the hands of an http.Transport.
type streamConn struct {
	net.Conn
	opened *atomic.Int64
	once   sync.Once
}

func newStreamConn(c net.Conn, opened *atomic.Int64) *streamConn {
	opened.Add(1)
	return &streamConn{Conn: c, opened: opened}
}

// CloseWrite passes on the end of one direction of an upgraded stream.
func (c *streamConn) CloseWrite() error { return halfClose(c.Conn) }

func (c *streamConn) Close() error {
	c.once.Do(func() { c.opened.Add(-1) })
	return c.Conn.Close()
}

// splicedConn is an agent's connection that another replica passed on.
type splicedConn struct {
	net.Conn
	remote net.Addr
}

func newSplicedConn(c net.Conn, addr string) net.Conn {
	if ap, err := netip.ParseAddrPort(addr); err == nil {
		return &splicedConn{Conn: c, remote: net.TCPAddrFromAddrPort(ap)}
	}
	return c
}

func (c *splicedConn) RemoteAddr() net.Addr { return c.remote }

// CloseWrite passes on the end of one direction.
func (c *splicedConn) CloseWrite() error { return halfClose(c.Conn) }

const (
	smallBuffer = 2 << 10
	bigBuffer   = 32 << 10
)

// buffers are those of all spliced streams: a small one while little comes, so
// that thousands of idle watches cost little, a big one while much does.
type buffers struct{ small, big sync.Pool }

func newBuffers() *buffers {
	return &buffers{
		small: sync.Pool{New: func() any { return new([smallBuffer]byte) }},
		big:   sync.Pool{New: func() any { return new([bigBuffer]byte) }},
	}
}

// splice copies both ways until both directions have ended, or one has failed;
// then both connections are over. Each copied piece is reported to passed, with
// whether it went from a to b.
func (p *buffers) splice(a, b net.Conn, passed func(fromA bool)) {
	back := make(chan struct{})
	go func() { // this function waits for it
		defer close(back)
		p.oneWay(a, b, func() { passed(false) })
	}()
	p.oneWay(b, a, func() { passed(true) })
	<-back
	_ = a.Close() // both directions are over
	_ = b.Close() // the same
}

// oneWay copies src to dst until src ends, which dst is told. A failure on either
// side ends both.
func (p *buffers) oneWay(dst, src net.Conn, passed func()) {
	err := p.copy(dst, src, passed)
	if err == nil {
		err = halfClose(dst)
	}
	if err != nil {
		abort(dst)
		abort(src)
	}
}

func (p *buffers) copy(dst io.Writer, src io.Reader, passed func()) error {
	small := p.small.Get().(*[smallBuffer]byte)
	defer p.small.Put(small)
	var big *[bigBuffer]byte
	defer func() {
		if big != nil {
			p.big.Put(big)
		}
	}()
	for {
		buf := small[:]
		if big != nil {
			buf = big[:]
		}
		n, err := src.Read(buf)
		if n > 0 {
			passed()
			if _, err := dst.Write(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch {
		case big == nil && n == smallBuffer:
			big = p.big.Get().(*[bigBuffer]byte)
		case big != nil && n < smallBuffer:
			p.big.Put(big)
			big = nil
		}
	}
}
