package wire

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Protocol is the ALPN name of a tunnel's connection (RFC 7301), on the public
// port and on the peer port.
const Protocol = "sallyport-tunnel/1"

// Options of a session. The zero value works.
type Options struct {
	// PingEvery is how often the other end is asked whether it is there, 0: 5 s. One
	// from which nothing comes within PingTimeout, 0: 10 s, is gone.
	PingEvery, PingTimeout time.Duration
	// MaxStreams bounds the streams that the other end has open, 0: 4096. More are
	// reset. It also bounds those that this end opens: Open then waits.
	MaxStreams uint32
	// Memory bounds, in bytes, what waits on all streams to be read and what grown
	// windows let come, 0: 64 MiB. When it is full, windows do not grow, and the stream
	// on which most waits is reset.
	Memory int64
	// Shared, if any, bounds the same over several sessions.
	Shared *Budget
}

func (o Options) withDefaults() Options {
	if o.PingEvery <= 0 {
		o.PingEvery = 5 * time.Second
	}
	if o.PingTimeout <= 0 {
		o.PingTimeout = 10 * time.Second
	}
	if o.MaxStreams == 0 {
		o.MaxStreams = 4096
	}
	if o.Memory <= 0 {
		o.Memory = 64 << 20
	}
	return o
}

// lingerClose is how long Close lets go out what was written before.
const lingerClose = time.Second

// Session is many streams over one connection. Either end opens and accepts
// them. All methods may be called from several goroutines.
//
// Two goroutines serve a session, one per direction. Neither waits for whoever
// uses a stream: what comes is buffered as far as the stream's window goes, and what
// goes out is taken from the streams in turn, a frame each.
type Session struct {
	o    Options
	conn net.Conn
	ours uint32 // parity of the streams that this end opens

	heard atomic.Int64  // Unix nanoseconds
	done  chan struct{} // closed when err is set
	loops sync.WaitGroup

	mu       sync.Mutex
	err      error // why the session has ended
	closing  bool  // Close was called
	drained  chan struct{}
	streams  map[uint32]*stream
	unread   map[*stream]struct{} // have ended, and hold what their readers have not read yet
	lastOurs uint32               // highest number so far, 0: none
	lastPeer uint32
	opened   uint32     // live streams that this end opened
	accepted uint32     // and the other
	slots    sync.Cond  // Open waits: opened went down
	arrivals sync.Cond  // Accept waits
	waiting  *list.List // of *stream: not accepted yet
	memory   purse

	out  outgoing // see send.go
	ping pinger   // see ping.go
}

// Client is the session's end that dialled, Server the one that accepted.
// Closing the session closes the connection.
func Client(c net.Conn, o Options) (*Session, error) { return newSession(c, o, 1) }

// Server is the end that accepted the connection.
func Server(c net.Conn, o Options) (*Session, error) { return newSession(c, o, 0) }

func newSession(c net.Conn, o Options, ours uint32) (*Session, error) {
	if c == nil {
		return nil, errors.New("begin a session: no connection")
	}
	s := &Session{
		o: o.withDefaults(), conn: c, ours: ours,
		done: make(chan struct{}), drained: make(chan struct{}),
		streams: map[uint32]*stream{}, unread: map[*stream]struct{}{}, waiting: list.New(),
	}
	s.memory = purse{limit: s.o.Memory, shared: s.o.Shared}
	s.slots.L, s.arrivals.L, s.out.wake.L = &s.mu, &s.mu, &s.mu
	boundUnsent(c)
	s.heard.Store(time.Now().UnixNano())
	s.startPings()
	s.loops.Go(s.send)
	s.loops.Go(s.receive)
	return s, nil
}

// Open opens a stream without waiting for the other end. Only when MaxStreams of
// this end's are open already it waits, until one ends or ctx does.
func (s *Session) Open(ctx context.Context) (Stream, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opened >= s.o.MaxStreams {
		stop := context.AfterFunc(ctx, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.slots.Broadcast()
		})
		defer stop()
	}
	for s.opened >= s.o.MaxStreams && s.usable() == nil && ctx.Err() == nil {
		s.slots.Wait()
	}
	if err := s.usable(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w, %d: %w", ErrFull, s.opened, err)
	}
	id := s.lastOurs + 2
	if s.lastOurs == 0 {
		id = 2 - s.ours
	}
	if id >= math.MaxUint32-1 {
		return nil, errors.New("this session has used up its stream numbers: begin another")
	}
	s.lastOurs = id
	s.opened++
	st := s.newStream(id)
	st.openDue = true
	s.queueControl(st)
	return st, nil
}

// usable is nil until Close is called or the session ends.
func (s *Session) usable() error {
	if s.err == nil && s.closing {
		return errClosed
	}
	return s.err
}

// errClosed is how a session ends that Close was called on.
var errClosed = fmt.Errorf("session: %w", net.ErrClosed)

// Accept waits for the next stream that the other end opens, or the session's end.
func (s *Session) Accept() (Stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.waiting.Len() == 0 && s.usable() == nil {
		s.arrivals.Wait()
	}
	if err := s.usable(); err != nil {
		return nil, err
	}
	st, _ := s.waiting.Remove(s.waiting.Front()).(*stream)
	st.unaccepted = nil
	return st, nil
}

// Streams is how many are open.
func (s *Session) Streams() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.streams)
}

// Memory is how much of Options.Memory is taken.
func (s *Session) Memory() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.memory.held
}

// LastHeard is when bytes last came from the other end.
func (s *Session) LastHeard() time.Time { return time.Unix(0, s.heard.Load()) }

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err says why the session has ended, nil while it has not: it wraps net.ErrClosed
// after Close, io.EOF when the other end closed the connection, and
// os.ErrDeadlineExceeded when nothing came from it any more.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Close sends what was written already (for a second at most), ends the session
// and its streams, closes the connection, and waits for the session's goroutines.
func (s *Session) Close() error {
	s.mu.Lock()
	s.closing = true
	s.arrivals.Broadcast()
	s.slots.Broadcast()
	s.out.wake.Signal()
	s.mu.Unlock()

	linger := time.NewTimer(lingerClose)
	defer linger.Stop()
	select {
	case <-s.drained:
	case <-s.done:
	case <-linger.C:
	}
	s.end(errClosed)
	s.loops.Wait()
	return nil
}

// end ends the session with its first error. It doesn't wait for the loops.
func (s *Session) end(err error) {
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return
	}
	s.err = err
	close(s.done)
	s.endPings()
	for _, st := range s.streams {
		st.fail(err)
	}
	clear(s.streams)
	s.opened, s.accepted = 0, 0
	s.memory.give(s.memory.held)
	s.arrivals.Broadcast()
	s.slots.Broadcast()
	s.out.wake.Broadcast()
	s.mu.Unlock()
	_ = s.conn.Close() // which ends both loops; why, is said already
}

// broken is the error of a connection that failed.
func broken(err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("the other end closed the connection: %w", io.EOF)
	}
	return fmt.Errorf("the connection broke: %w", err)
}

// breach is the error of an other end that doesn't keep to the protocol.
func breach(err error) error {
	return fmt.Errorf("the other end broke the tunnel's protocol: %w", err)
}
