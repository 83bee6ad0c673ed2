package main

import (
	"net"
	"sync"
	"time"
)

// link relays to address and delays both ways by half a round trip. Without a rate it
// takes whatever comes. With one it takes so many bytes per second; what it has not
// taken waits in the sender's socket.
type link struct {
	net.Listener
	to    string
	delay time.Duration
	rate  float64
	mu    sync.Mutex
	conns []net.Conn
	wg    sync.WaitGroup
}

func newLink(to string, rtt time.Duration, rate float64) (*link, error) {
	ln, err := listen()
	if err != nil {
		return nil, err
	}
	l := &link{Listener: ln, to: to, delay: rtt / 2, rate: rate}
	l.wg.Go(func() {
		for {
			a, err := ln.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", to)
			if err != nil {
				a.Close()
				return
			}
			l.mu.Lock()
			l.conns = append(l.conns, a, b)
			l.mu.Unlock()
			if rate > 0 { // a router has no megabytes of buffer per connection
				for _, c := range []net.Conn{a, b} {
					_ = c.(*net.TCPConn).SetReadBuffer(64 << 10)
				}
			}
			l.wg.Go(func() { l.relay(a, b) })
			l.wg.Go(func() { l.relay(b, a) })
		}
	})
	return l, nil
}

func (l *link) close() {
	l.Close()
	l.mu.Lock()
	for _, c := range l.conns {
		c.Close()
	}
	l.mu.Unlock()
	l.wg.Wait()
}

type packet struct {
	due time.Time
	b   []byte
}

var packets = sync.Pool{New: func() any { return make([]byte, 64<<10) }}

func (l *link) relay(from, to net.Conn) {
	var mu sync.Mutex
	var queue []packet
	wake := make(chan struct{}, 1)
	notify := func() {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
	over := false
	l.wg.Go(func() {
		defer to.Close()
		for {
			mu.Lock()
			batch := queue
			queue = nil
			end := over
			mu.Unlock()
			if len(batch) == 0 {
				if end {
					return
				}
				<-wake
				continue
			}
			for _, p := range batch {
				time.Sleep(time.Until(p.due))
				if _, err := to.Write(p.b); err != nil {
					from.Close()
					return
				}
				packets.Put(p.b[:cap(p.b)]) //nolint:staticcheck // a slice header is small beside 64 KiB
			}
		}
	})
	free := time.Now() // when the wire is
	for {
		b := packets.Get().([]byte)
		n, err := from.Read(b)
		now := time.Now()
		if l.rate > 0 {
			if late := 5 * time.Millisecond; free.Before(now.Add(-late)) {
				free = now.Add(-late) // what sleeping too long has cost
			}
			free = free.Add(time.Duration(float64(n) / l.rate * 1e9))
			if wait := time.Until(free); wait > time.Millisecond {
				time.Sleep(wait)
			}
		}
		mu.Lock()
		if n > 0 {
			queue = append(queue, packet{now.Add(l.delay), b[:n]})
		}
		over = err != nil
		mu.Unlock()
		notify()
		if err != nil {
			return
		}
	}
}
