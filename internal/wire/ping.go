package wire

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"time"
)

const (
	maxPongs = 16 // that wait to be sent; who asks more often gets no answer to the rest
	// rttAge: of the pings of so long the fastest is the round trip; others waited
	// for data.
	rttAge = 30 * time.Second
	// rttEvery is how often growing windows ask for another.
	rttEvery = 50 * time.Millisecond
)

// pinger asks whether the other end is there, and how far away it is.
type pinger struct {
	tick  *time.Timer
	asked time.Time // the unanswered question that silence is counted from; zero: none

	due     bool // a ping is to be sent
	last    uint64
	sent    map[uint64]*probe
	waiters []*probe // for the ping that is due
	pongs   []uint64

	answered    time.Time     // the last one
	rtt         time.Duration // 0: not known yet
	best, older time.Duration // the fastest since began, and in the rttAge before
	began       time.Time
}

// probe is somebody who waits for a pong.
type probe struct {
	since time.Time
	sent  time.Time
	more  []*probe
	done  chan time.Duration
}

func (s *Session) startPings() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ping.sent = make(map[uint64]*probe, 1)
	s.ask()
	s.ping.tick = time.AfterFunc(s.o.PingEvery, s.onTick)
}

func (s *Session) endPings() { s.ping.tick.Stop() }

// ask has a ping sent.
func (s *Session) ask() {
	s.ping.due = true
	if s.ping.asked.IsZero() {
		s.ping.asked = time.Now()
	}
	s.wakeSender()
}

// onTick ends the session if nothing came for too long since a question, or if the
// connection has not taken what it was given for so long; otherwise it asks.
func (s *Session) onTick() {
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return
	}
	s.loops.Add(1) // the loops run: they end after err is set
	defer s.loops.Done()
	now := time.Now()
	if err := s.silence(now); err != nil {
		s.mu.Unlock()
		s.end(err)
		return
	}
	if !s.ping.due && len(s.ping.sent) < maxPongs {
		s.ask()
	}
	// Again when the next ping is due, or when patience ends, whichever is earlier.
	wait := s.o.PingEvery
	if since := s.silentSince(); !since.IsZero() {
		wait = min(wait, max(time.Millisecond, since.Add(s.o.PingTimeout).Sub(now)))
	}
	if s.out.busy {
		wait = min(wait, max(time.Millisecond, s.out.since.Add(s.o.PingTimeout).Sub(now)))
	}
	s.ping.tick.Reset(wait)
	s.mu.Unlock()
}

// silentSince is when the silence began, zero if nothing was asked.
func (s *Session) silentSince() time.Time {
	if s.ping.asked.IsZero() {
		return time.Time{}
	}
	if heard := s.LastHeard(); heard.After(s.ping.asked) {
		return heard
	}
	return s.ping.asked
}

func (s *Session) silence(now time.Time) error {
	if since := s.silentSince(); !since.IsZero() && now.Sub(since) >= s.o.PingTimeout {
		return fmt.Errorf("nothing came from the other end for %v: %w", now.Sub(s.LastHeard()).Round(time.Millisecond), os.ErrDeadlineExceeded)
	}
	if w := s.out.since; s.out.busy && now.Sub(w) >= s.o.PingTimeout {
		return fmt.Errorf("the other end took nothing for %v: %w", now.Sub(w).Round(time.Millisecond), os.ErrDeadlineExceeded)
	}
	return nil
}

// fillPings appends pongs, and the ping that is due.
func (s *Session) fillPings(b []byte) []byte {
	p := &s.ping
	for _, id := range p.pongs {
		b = appendHeader(b, kindPong, 0, 8, 0)
		b = binary.BigEndian.AppendUint64(b, id)
	}
	p.pongs = p.pongs[:0]
	if p.due {
		p.due = false
		p.last++
		p.sent[p.last] = &probe{sent: time.Now(), more: p.waiters}
		p.waiters = nil
		b = appendHeader(b, kindPing, 0, 8, 0)
		b = binary.BigEndian.AppendUint64(b, p.last)
	}
	return b
}

func (s *Session) receivePing(id uint64) {
	if len(s.ping.pongs) < maxPongs {
		s.ping.pongs = append(s.ping.pongs, id)
		s.wakeSender()
	}
}

func (s *Session) receivePong(id uint64) {
	p := &s.ping
	sent := p.sent[id]
	if sent == nil {
		return // not asked, or answered already
	}
	now := time.Now()
	for i, other := range p.sent { // pongs come in order: what is older was dropped
		if i <= id {
			for _, w := range other.more {
				w.done <- now.Sub(w.since)
			}
			delete(p.sent, i)
		}
	}
	if len(p.sent) == 0 && !p.due {
		p.asked = time.Time{}
	} else {
		p.asked = now
	}
	p.measured(now, max(1, now.Sub(sent.sent)))
}

func (p *pinger) measured(now time.Time, rtt time.Duration) {
	p.answered = now
	if p.best == 0 || now.Sub(p.began) > rttAge {
		p.older, p.best, p.began = p.best, rtt, now
	}
	p.best = min(p.best, rtt)
	if p.rtt = p.best; p.older > 0 {
		p.rtt = min(p.rtt, p.older)
	}
}

// Ping measures the round trip, and what pings wait for here before they are sent.
// It waits for PingTimeout at most.
func (s *Session) Ping(ctx context.Context) (time.Duration, error) {
	s.mu.Lock()
	if err := s.usable(); err != nil {
		s.mu.Unlock()
		return 0, err
	}
	p := &probe{since: time.Now(), done: make(chan time.Duration, 1)}
	s.ping.waiters = append(s.ping.waiters, p)
	s.ask()
	s.mu.Unlock()
	patience := time.NewTimer(s.o.PingTimeout)
	defer patience.Stop()
	select {
	case rtt := <-p.done:
		return rtt, nil
	case <-s.done:
		return 0, s.Err()
	case <-ctx.Done():
		return 0, fmt.Errorf("ping: %w", ctx.Err())
	case <-patience.C: // it says other things and does not answer
		return 0, fmt.Errorf("ping: no answer within %v: %w", s.o.PingTimeout, os.ErrDeadlineExceeded)
	}
}

// RTT is the shortest round trip of the last pings, 0 before the first is answered.
func (s *Session) RTT() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ping.rtt
}
