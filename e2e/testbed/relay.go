package testbed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Relay is a load balancer and a bad network in one: it forwards TCP
// connections to backends, and falls silent, forgets idle connections or sends
// everybody to one backend when a test says so.
//
// What it can't do is drop packets: a connection that it has swallowed is
// acknowledged by the kernel and answered by nobody, for ever. To who waits for
// an answer that is the same.
type Relay struct {
	listener net.Listener
	ctx      context.Context // ends with Stop; dials run under it
	cancel   context.CancelFunc
	wg       sync.WaitGroup

	mu       sync.Mutex
	backends []string
	next     int
	random   bool
	pinned   string
	silent   map[string]bool
	idle     time.Duration
	conns    map[*relayed]struct{}
	served   map[string]int
}

// relayed is one connection, and where it leads.
type relayed struct {
	client, server net.Conn
	backend        string

	mu      sync.Mutex
	silent  bool // for ever: what a blackhole ate does not come back
	touched time.Time
}

// NewRelay listens at addr and shares connections out among the backends in turn.
func NewRelay(addr string, backends ...string) (*Relay, error) {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &Relay{listener: l, ctx: ctx, cancel: cancel, backends: backends, silent: map[string]bool{}, conns: map[*relayed]struct{}{}, served: map[string]int{}}
	r.wg.Go(r.accept)
	r.wg.Go(r.reap)
	return r, nil
}

// StartRelay is NewRelay at a port of its own, until the test ends.
func StartRelay(tb TB, backends ...string) *Relay {
	tb.Helper()
	ports, err := ReservePorts()
	if err != nil {
		tb.Fatalf("%v", err)
	}
	r, err := NewRelay(ports.Addr(0), backends...)
	if err != nil {
		ports.Release()
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(func() { r.Stop(); ports.Release() })
	return r
}

// Addr is where the relay listens.
func (r *Relay) Addr() string { return r.listener.Addr().String() }

// Pin sends new connections to one backend alone, and to nobody while it is down; with "" all are used in turn again.
func (r *Relay) Pin(backend string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pinned = backend
}

// Shuffle sends each new connection to a backend by chance, not in turn.
func (r *Relay) Shuffle() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.random = true
}

// Served is how many connections a backend has had.
func (r *Relay) Served(backend string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.served[backend]
}

// Blackhole swallows whatever is said on connections with a backend, those that
// are there and those to come, in both directions, without a word.
func (r *Relay) Blackhole(backend string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.silent[backend] = true
	for c := range r.conns {
		if c.backend == backend {
			c.mu.Lock()
			c.silent = true
			c.mu.Unlock()
		}
	}
}

// Heal ends a blackhole for new connections. Those that it swallowed stay silent.
func (r *Relay) Heal(backend string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.silent, backend)
}

// DropIdle closes connections over which nothing went for so long, as load balancers do; 0: never.
func (r *Relay) DropIdle(after time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.idle = after
}

// Conns is how many connections lead to a backend and are not swallowed.
func (r *Relay) Conns(backend string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		c.mu.Lock()
		if c.backend == backend && !c.silent {
			n++
		}
		c.mu.Unlock()
	}
	return n
}

// Cut closes all connections.
func (r *Relay) Cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		c.close()
	}
}

// Stop closes the listener and all connections, and waits for the end of both.
func (r *Relay) Stop() {
	r.cancel()
	r.listener.Close()
	r.Cut()
	r.wg.Wait()
}

func (r *Relay) accept() {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			if r.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			continue // one connection that went away too soon is no reason to stop
		}
		r.wg.Go(func() { r.serve(client) })
	}
}

// choose says which backends a new connection may lead to, the best first.
func (r *Relay) choose() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pinned != "" {
		return []string{r.pinned}
	}
	if r.random {
		r.next = rand.IntN(len(r.backends))
	}
	var order []string
	for i := range r.backends {
		order = append(order, r.backends[(r.next+i)%len(r.backends)])
	}
	r.next++
	return order
}

func (r *Relay) serve(client net.Conn) {
	defer client.Close()
	for _, backend := range r.choose() {
		server, err := (&net.Dialer{Timeout: 2 * time.Second}).DialContext(r.ctx, "tcp", backend)
		if err != nil {
			continue // a balancer's health check would have known
		}
		c := &relayed{client: client, server: server, backend: backend, touched: time.Now()}
		r.mu.Lock()
		stopped := r.ctx.Err() != nil
		c.silent = r.silent[backend]
		r.conns[c] = struct{}{}
		r.served[backend]++
		r.mu.Unlock()
		if stopped { // Cut has not seen it
			c.close()
		}
		c.run()
		r.mu.Lock()
		delete(r.conns, c)
		r.mu.Unlock()
		return
	}
}

func (c *relayed) close() {
	c.client.Close()
	c.server.Close()
}

// run copies both ways until both have ended.
func (c *relayed) run() {
	defer c.close()
	var both sync.WaitGroup
	both.Go(func() { c.copy(c.server, c.client) })
	both.Go(func() { c.copy(c.client, c.server) })
	both.Wait()
}

func (c *relayed) copy(to, from net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		c.mu.Lock()
		silent := c.silent
		c.touched = time.Now()
		c.mu.Unlock()
		if n > 0 && !silent {
			if _, err := to.Write(buf[:n]); err != nil {
				c.close()
				return
			}
		}
		switch {
		case err == nil:
		case silent:
			return // nobody is told: the other end finds out by itself
		case errors.Is(err, io.EOF):
			_ = to.(*net.TCPConn).CloseWrite()
			return
		default:
			c.close()
			return
		}
	}
}

// reap closes what was idle too long.
func (r *Relay) reap() {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-tick.C:
		}
		r.mu.Lock()
		for c := range r.conns {
			c.mu.Lock()
			if r.idle > 0 && time.Since(c.touched) > r.idle {
				c.close()
			}
			c.mu.Unlock()
		}
		r.mu.Unlock()
	}
}

// String says where connections lead.
func (r *Relay) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	count := map[string]int{}
	for c := range r.conns {
		count[c.backend]++
	}
	return fmt.Sprintf("relay %s: connections %v, silent %v, pinned %q", r.listener.Addr(), count, r.silent, r.pinned)
}
