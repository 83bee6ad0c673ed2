package agent

import (
	"errors"
	"io"
	"net"
	"sync"
)

// memPipe is a connection in memory, of which either end can be cut off without
// anybody being told.
func memPipe() (client, server *memConn) {
	a, b := net.Pipe()
	hole := &hole{cut: make(chan struct{})}
	return newMemConn(a, hole), newMemConn(b, hole)
}

type hole struct {
	once sync.Once
	cut  chan struct{}
}

type memConn struct {
	net.Conn
	hole   *hole
	closed chan struct{}
	once   sync.Once
}

func newMemConn(c net.Conn, h *hole) *memConn {
	return &memConn{Conn: c, hole: h, closed: make(chan struct{})}
}

// blackhole drops all packets from now on, both ways.
func (c *memConn) blackhole() { c.hole.once.Do(func() { close(c.hole.cut) }) }

func (c *memConn) gone() bool {
	select {
	case <-c.hole.cut:
		return true
	default:
		return false
	}
}

func (c *memConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.gone() {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe) || n > 0 { // the other end's goodbye does not arrive
			<-c.closed
			return 0, net.ErrClosed
		}
	}
	return n, err
}

func (c *memConn) Write(b []byte) (int, error) {
	if c.gone() {
		select {
		case <-c.closed:
			return 0, net.ErrClosed
		default:
			return len(b), nil // into the kernel's buffer, and no further
		}
	}
	return c.Conn.Write(b)
}

func (c *memConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
