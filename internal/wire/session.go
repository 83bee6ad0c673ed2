package wire

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-yamux/v5"
)

// Protocol is the ALPN name of a tunnel's connection (RFC 7301), on the public
// port and on the peer port.
const Protocol = "sallyport-tunnel/1"

// Options of a session. The zero value works.
type Options struct {
	// PingEvery is how often the other end is asked whether it is there, 0: 5 s. One
	// that does not answer within PingTimeout, 0: 10 s, is gone.
	PingEvery, PingTimeout time.Duration
	// MaxStreams bounds the streams that the other end opens, 0: 1000.
	MaxStreams uint32
}

// Session is many streams over one connection. Either end opens and accepts
// them; a stream is a net.Conn that also has CloseWrite.
type Session struct {
	mux  *yamux.Session
	conn *heardConn
}

// Client is the session's end that dialled, Server the one that accepted.
// Closing the session closes the connection.
func Client(c net.Conn, o Options) (*Session, error) { return newSession(c, o, yamux.Client) }

// Server is the end that accepted the connection.
func Server(c net.Conn, o Options) (*Session, error) { return newSession(c, o, yamux.Server) }

type start func(net.Conn, *yamux.Config, func() (yamux.MemoryManager, error)) (*yamux.Session, error)

func newSession(c net.Conn, o Options, begin start) (*Session, error) {
	cfg := yamux.DefaultConfig()
	cfg.LogOutput = io.Discard // what ends a session is Err's to say
	cfg.KeepAliveInterval = o.PingEvery
	if cfg.KeepAliveInterval <= 0 {
		cfg.KeepAliveInterval = 5 * time.Second
	}
	cfg.ConnectionWriteTimeout = o.PingTimeout
	if cfg.ConnectionWriteTimeout <= 0 {
		cfg.ConnectionWriteTimeout = 10 * time.Second
	}
	if o.MaxStreams > 0 {
		cfg.MaxIncomingStreams = o.MaxStreams
	}
	cfg.MaxMessageSize = 32 << 10
	conn := &heardConn{Conn: c}
	conn.heard.Store(time.Now().UnixNano())
	mux, err := begin(conn, cfg, nil)
	if err != nil {
		return nil, fmt.Errorf("begin a session: %w", err)
	}
	return &Session{mux: mux, conn: conn}, nil
}

// Open opens a stream without waiting for the other end.
func (s *Session) Open(ctx context.Context) (net.Conn, error) {
	return s.mux.OpenStream(ctx)
}

// Accept waits for the next stream that the other end opens, or the session's end.
func (s *Session) Accept() (net.Conn, error) { return s.mux.AcceptStream() }

// Addr makes a session a net.Listener, for http.Server.
func (s *Session) Addr() net.Addr { return s.mux.Addr() }

// Ping measures the round trip.
func (s *Session) Ping() (time.Duration, error) { return s.mux.Ping() }

// Streams is how many are open.
func (s *Session) Streams() int { return s.mux.NumStreams() }

// LastHeard is when bytes last came from the other end.
func (s *Session) LastHeard() time.Time { return time.Unix(0, s.conn.heard.Load()) }

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.mux.CloseChan() }

// Close ends the session and its streams, and closes the connection.
func (s *Session) Close() error { return s.mux.Close() }

// heardConn notes when something came in.
type heardConn struct {
	net.Conn
	heard atomic.Int64 // Unix nanoseconds
}

func (c *heardConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.heard.Store(time.Now().UnixNano())
	}
	return n, err
}
