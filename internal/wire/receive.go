package wire

import (
	"encoding/binary"
	"fmt"
	"time"
)

const (
	// firstWindow is what may be sent on a new stream before its reader has said
	// anything: a usual list in one round trip.
	firstWindow = 256 << 10
	// maxWindow is bandwidth times delay of 5 Gbit/s over 50 ms.
	maxWindow = 32 << 20
	// maxCredit is more than any end of ours gives.
	maxCredit = 1 << 30
	// leastRTT: below this it is goroutines, not the network, that credit waits for.
	leastRTT = 2 * time.Millisecond
	// coolAfter: a window that was hardly used for so long shrinks.
	coolAfter = 10 * time.Second
)

// receive reads frames. It never waits for a stream's reader, nor for the sender.
func (s *Session) receive() {
	for {
		if err := s.receiveFrame(); err != nil {
			s.end(err)
			return
		}
	}
}

// read fills p. There is no buffer between it and the connection, because TLS has
// one: an idle session has none of its own.
func (s *Session) read(p []byte) error {
	for len(p) > 0 {
		n, err := s.conn.Read(p)
		if n > 0 {
			s.heard.Store(time.Now().UnixNano())
			p = p[n:]
		}
		if err != nil && len(p) > 0 {
			return broken(err)
		}
	}
	return nil
}

func (s *Session) receiveFrame() error {
	var h header
	if err := s.read(h[:]); err != nil {
		return err
	}
	if err := h.check(); err != nil {
		return breach(err)
	}
	if h.kind() == kindData {
		return s.receiveData(&h)
	}
	var payload [8]byte
	if err := s.read(payload[:h.length()]); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	switch h.kind() {
	case kindPing:
		s.receivePing(binary.BigEndian.Uint64(payload[:]))
		return nil
	case kindPong:
		s.receivePong(binary.BigEndian.Uint64(payload[:]))
		return nil
	default: // of a stream
	}
	st, err := s.known(h.stream())
	if err != nil {
		return breach(err)
	}
	if st == nil {
		return nil // it has ended here already
	}
	switch h.kind() {
	case kindWindow:
		if st.credit += int64(binary.BigEndian.Uint32(payload[:])); st.credit > maxCredit {
			return breach(fmt.Errorf("a window of %d bytes", st.credit))
		}
		s.queueData(st)
	case kindStop:
		st.failWrite(ErrStopped)
		s.settle(st)
	case kindReset:
		reason := ErrStopped
		switch h.flags() {
		case resetRefused:
			reason = ErrRefused
		case resetMemory:
			reason = ErrMemory
		}
		st.fail(reason)
		s.forget(st)
	default: // check let no other pass
	}
	return nil
}

// known is the stream of that number, nil if it has ended. It is an error to speak of
// one that was never opened.
func (s *Session) known(id uint32) (*stream, error) {
	last := s.lastPeer
	if id%2 == s.ours {
		last = s.lastOurs
	}
	if id > last {
		return nil, fmt.Errorf("stream %d was never opened", id)
	}
	return s.streams[id], nil
}

func (s *Session) receiveData(h *header) error {
	n := h.length()
	st, err := s.dataFor(h)
	if err != nil {
		return breach(err)
	}
	c := newChunk(n) // n is bounded by the header's check
	if err := s.read(c.buf[:n]); err != nil {
		c.free()
		return err
	}
	c.w = n
	s.mu.Lock()
	defer s.mu.Unlock()
	wanted := st != nil && n > 0 && s.err == nil && st.readErr == nil && !st.readClosed
	if wanted && s.makeRoom(st, int64(n)) {
		st.allowed -= int64(n)
		st.in.take(c)
		st.readable.Signal()
	} else {
		c.free()
	}
	// What broke off, for want of memory say, has no clean end, even if the sender,
	// who does not know yet, sends one.
	if st != nil && h.flags()&flagFin != 0 && !st.eof && st.readErr == nil {
		st.eof = true
		st.readable.Broadcast()
		s.settle(st)
	}
	return nil
}

// dataFor is the stream that a data frame is for, nil if it is to be thrown away.
func (s *Session) dataFor(h *header) (*stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := h.stream()
	if h.flags()&flagOpen != 0 {
		if id%2 == s.ours || id <= s.lastPeer {
			return nil, fmt.Errorf("it opened stream %d, after %d", id, s.lastPeer)
		}
		s.lastPeer = id
		if s.err != nil || s.closing {
			return nil, nil
		}
		if s.accepted >= s.o.MaxStreams || s.waiting.Len() >= int(s.o.MaxStreams) {
			return nil, s.refuse(id)
		}
		s.accepted++
		st := s.newStream(id)
		st.unaccepted = s.waiting.PushBack(st)
		s.arrivals.Signal()
	}
	st, err := s.known(id)
	if err != nil || st == nil {
		return nil, err
	}
	if st.eof {
		return nil, fmt.Errorf("data on stream %d after its end", id)
	}
	if st.readClosed {
		return st, nil // only to see its end
	}
	if int64(h.length()) > st.allowed {
		return nil, fmt.Errorf("%d bytes on stream %d, whose window has %d", h.length(), id, st.allowed)
	}
	return st, nil
}

// makeRoom pays for n bytes on st, by dropping what waits on the stream on which most
// does if it must: of two with as much, on the one that has ended and only waits for
// its reader. It is false if that was st itself.
func (s *Session) makeRoom(st *stream, n int64) bool {
	for !s.memory.take(n) {
		worst := st
		for _, other := range s.streams {
			if other.in.len() > worst.in.len() {
				worst = other
			}
		}
		ended := false
		for left := range s.unread {
			if most := worst.in.len(); left.in.len() > most || left.in.len() == most && !ended {
				worst, ended = left, true
			}
		}
		worst.evict()
		if worst == st {
			return false
		}
	}
	return true
}

// consumed is called after n bytes were read from st. It lets the other end send more.
func (st *stream) consumed(n int) {
	s := st.s
	if s.err != nil {
		return // and all was given back
	}
	s.memory.give(int64(n))
	if st.in.len() == 0 {
		delete(s.unread, st)
	}
	if st.eof || st.readErr != nil {
		return // no more comes
	}
	st.epochRead += int64(n)
	if age, rtt := time.Since(st.epoch), max(s.ping.rtt, leastRTT); s.ping.rtt > 0 && age >= rtt {
		st.adjust(age, rtt)
		st.epoch, st.epochRead = time.Now(), 0
	}
	waiting := st.allowed + int64(st.in.len())
	// What was reserved for a window that has shrunk is free once the other end has
	// used what it was given.
	if extra := max(st.window, waiting) - firstWindow; extra < st.reserved {
		s.memory.give(st.reserved - extra)
		st.reserved = extra
	}
	if more := st.window - waiting; more >= st.window/4 {
		st.allowed += more
		st.increment += uint32(more) //nolint:gosec // at most maxWindow
		s.queueControl(st)
	}
}

// adjust sets st's window to twice what was read in a round trip, if it is the window
// that is waited for: so much was read, and nothing to speak of is left to read. More
// than that would only queue on the way.
func (st *stream) adjust(age, rtt time.Duration) {
	s := st.s
	want := min(2*int64(float64(st.epochRead)*float64(rtt)/float64(age)), 2*st.window, maxWindow)
	switch {
	case want > st.window && int64(st.in.len()) < st.window/4:
		if !s.memory.grow(want - st.window) {
			return
		}
		st.reserved += want - st.window
		st.window = want
		if !s.ping.due && len(s.ping.sent) == 0 && time.Since(s.ping.answered) > rttEvery {
			s.ask() // the first ping may have met a busy machine
		}
	case age > coolAfter && want < st.window/2:
		st.window = max(firstWindow, st.window/2)
	}
}
