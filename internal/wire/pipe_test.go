package wire

import (
	"io"
	"net"
	"sync"
	"time"
)

// pipe is a connection in memory with a delay and a rate, for tests in which time
// is made up. Like TCP it takes what it has room for: what is in flight.
type pipe struct {
	net.Conn // none: what a session doesn't use
	out, in  *direction
}

// direction is one way of a pipe.
type direction struct {
	delay time.Duration
	rate  float64 // bytes per second, 0: without bounds

	mu     sync.Mutex
	cond   sync.Cond
	queue  []packet
	free   time.Time // when the next byte can go out
	closed bool
	black  bool // what is written from now on vanishes
	full   bool // what is written from now on waits for ever
}

type packet struct {
	due time.Time
	b   []byte
}

func newPipe(rtt time.Duration, rate float64) (a, b *pipe) {
	there, back := &direction{delay: rtt / 2, rate: rate}, &direction{delay: rtt / 2, rate: rate}
	there.cond.L, back.cond.L = &there.mu, &back.mu
	return &pipe{out: there, in: back}, &pipe{out: back, in: there}
}

func (p *pipe) LocalAddr() net.Addr  { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }
func (p *pipe) RemoteAddr() net.Addr { return p.LocalAddr() }

func (p *pipe) Write(b []byte) (int, error) {
	d := p.out
	d.mu.Lock()
	for d.full && !d.closed {
		d.cond.Wait()
	}
	now := time.Now()
	if d.free.Before(now) {
		d.free = now
	}
	if d.rate > 0 {
		d.free = d.free.Add(time.Duration(float64(len(b)) / d.rate * 1e9))
	}
	wait := d.free.Sub(now)
	d.mu.Unlock()
	if wait > 0 {
		time.Sleep(wait) // made-up time
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return 0, net.ErrClosed
	}
	if !d.black {
		d.queue = append(d.queue, packet{time.Now().Add(d.delay), append([]byte(nil), b...)})
		d.cond.Broadcast()
	}
	return len(b), nil
}

func (p *pipe) Read(b []byte) (int, error) {
	d := p.in
	d.mu.Lock()
	defer d.mu.Unlock()
	for {
		if len(d.queue) == 0 {
			if d.closed {
				return 0, io.EOF
			}
			d.cond.Wait()
			continue
		}
		if wait := time.Until(d.queue[0].due); wait > 0 && !d.closed {
			d.mu.Unlock()
			time.Sleep(wait) // made-up time
			d.mu.Lock()
			continue
		}
		n := copy(b, d.queue[0].b)
		if d.queue[0].b = d.queue[0].b[n:]; len(d.queue[0].b) == 0 {
			d.queue = d.queue[1:]
		}
		return n, nil
	}
}

func (p *pipe) Close() error {
	for _, d := range []*direction{p.out, p.in} {
		d.mu.Lock()
		d.closed = true
		d.cond.Broadcast()
		d.mu.Unlock()
	}
	return nil
}

func (d *direction) set(f func(*direction)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(d)
	d.cond.Broadcast()
}
