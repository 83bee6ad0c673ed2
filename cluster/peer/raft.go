package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// raftLayer makes Raft transports' stream layers out of the port. A layer is
// opened per Raft instance: recovery stops Raft and starts it anew in the
// same process.
type raftLayer struct {
	port    *Port
	current chan *queue // holds the open layer, if any
}

func newRaftLayer(p *Port) *raftLayer {
	return &raftLayer{port: p, current: make(chan *queue, 1)}
}

func (l *raftLayer) offer(c *conn) error {
	select {
	case q := <-l.current:
		l.current <- q
		return q.offer(c)
	default:
		_ = c.Close() // takes it off the books
		return passing{errors.New("no Raft runs here yet")}
	}
}

// RaftLayer opens the stream layer for one Raft instance. The one before must
// be closed.
func (p *Port) RaftLayer() (raft.StreamLayer, error) {
	q := newQueue(raftAddr(Address(p.opts.ServerID, p.opts.Advertise)))
	select {
	case p.raft.current <- q:
		return &streamLayer{queue: q, port: p}, nil
	default:
		return nil, errors.New("a Raft instance holds the peer port already")
	}
}

type streamLayer struct {
	*queue
	port *Port
}

// Dial reaches the server that address (id@host:port) names, or none: the
// name is resolved and the server's id verified at every call. A fence ends it.
func (s *streamLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	id, addr, ok := SplitAddress(string(address))
	if !ok {
		return nil, fmt.Errorf("dial %q: not of the form id@host:port", address)
	}
	s.port.mu.Lock()
	unfenced := s.port.unfenced
	s.port.mu.Unlock()
	if unfenced.Err() != nil {
		return nil, context.Cause(unfenced)
	}
	ctx, cancel := context.WithTimeout(unfenced, timeout)
	defer cancel()
	c, err := s.port.dial(ctx, protoRaft, Target{ID: id, Addr: addr})
	if err != nil && unfenced.Err() != nil {
		return nil, context.Cause(unfenced)
	}
	return c, err
}

func (s *streamLayer) Close() error {
	err := s.queue.Close()
	select {
	case q := <-s.port.raft.current:
		if q != s.queue {
			s.port.raft.current <- q
		}
	default:
	}
	s.port.closeRaft()
	return err
}

// Fence closes all Raft connections, ends dials that are under way and refuses new
// ones, both ways, until Unfence. Who is refused is told the reason.
func (p *Port) Fence(reason string) {
	fence := passing{fmt.Errorf("fenced off Raft: %.200s", reason)} // an answer has 512 bytes
	p.mu.Lock()
	p.fence = fence
	p.cutDials(fence)
	p.mu.Unlock()
	p.closeRaft()
}

// Unfence lets Raft connect again.
func (p *Port) Unfence() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fence != nil {
		p.fence = nil
		p.unfenced, p.cutDials = context.WithCancelCause(p.ctx)
	}
}

func (p *Port) closeRaft() {
	p.mu.Lock()
	var conns []*conn
	for c := range p.conns {
		if c.proto == protoRaft {
			conns = append(conns, c)
		}
	}
	p.mu.Unlock()
	for _, c := range conns {
		_ = c.SetDeadline(time.Now()) // wake readers and writers at once: Close sends an alert first
	}
	closeAll(conns)
}

// closeAll closes connections side by side: some may lead to machines without power.
func closeAll(conns []*conn) {
	var wg sync.WaitGroup
	for _, c := range conns {
		wg.Go(func() { _ = c.Close() }) // cut off: nobody waits for what was on the way
	}
	wg.Wait()
}

// raftAddr is the address that Raft takes for its own.
type raftAddr string

func (raftAddr) Network() string  { return "tcp" }
func (a raftAddr) String() string { return string(a) }
