package wire

import (
	"encoding/binary"
	"errors"
	"sync"
	"time"
)

const (
	batchSize = 32 << 10 // one Write of the connection has so much at most
	// maxRefused bounds the refusals that wait to be sent. Whoever does not read them
	// and asks for more is no agent of ours. It is far above what an end that opens
	// streams and gives them up at once can do while this one waits for a processor.
	maxRefused = 64 << 10
)

// outgoing is what waits to be sent: pings and pongs first, then what streams have
// to say about themselves, in order (an opened stream's first frame is among these,
// so numbers go up), then data, a frame per stream and turn.
type outgoing struct {
	wake    sync.Cond
	asleep  bool
	busy    bool      // somebody is in the connection's Write,
	since   time.Time // since then
	refused []uint32  // streams
	control ring
	data    ring
}

func (o *outgoing) empty(p *pinger) bool {
	return len(p.pongs) == 0 && !p.due && len(o.refused) == 0 && o.control.n == 0 && o.data.n == 0
}

// ring is a queue of streams, each in it once at most.
type ring struct {
	streams []*stream // a circle, n of them from first on
	first   int
	n       int
}

func (r *ring) push(st *stream) {
	if r.n == len(r.streams) {
		bigger := make([]*stream, max(4, 2*r.n))
		for i := range r.n {
			bigger[i] = r.streams[(r.first+i)%r.n]
		}
		r.streams, r.first = bigger, 0
	}
	r.streams[(r.first+r.n)%len(r.streams)] = st
	r.n++
}

func (r *ring) pop() *stream {
	st := r.streams[r.first]
	r.streams[r.first] = nil
	r.first = (r.first + 1) % len(r.streams)
	r.n--
	return st
}

func (s *Session) wakeSender() {
	if s.out.asleep && !s.out.busy { // who is busy looks again
		s.out.asleep = false
		s.out.wake.Signal()
	}
}

func (s *Session) queueControl(st *stream) {
	if !st.inControl {
		st.inControl = true
		s.out.control.push(st)
		s.wakeSender()
	}
}

// queueData has st take part in the turns, if it has something to send and may.
func (s *Session) queueData(st *stream) {
	if s.takeTurn(st) {
		s.wakeSender()
	}
}

func (s *Session) takeTurn(st *stream) bool {
	if !st.inData && !st.openDue && st.out.len() > 0 && st.credit > 0 {
		st.inData = true
		s.out.data.push(st)
		return true
	}
	return false
}

var batches = sync.Pool{New: func() any { return new([batchSize]byte) }}

// send writes what nobody else does.
func (s *Session) send() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.err == nil {
		if nothing := s.out.empty(&s.ping); s.out.busy || nothing {
			if s.closing && !s.out.busy {
				close(s.drained)
				return
			}
			s.out.asleep = true
			s.out.wake.Wait()
			s.out.asleep = false
			continue
		}
		s.writeBatch()
	}
}

// sendNow has whoever writes to a stream also send it, if the connection is free:
// that saves a change of goroutines. It may then wait for the connection, for one
// batch at most, as long as any stream would.
func (s *Session) sendNow() {
	if !s.out.busy && s.err == nil && !s.out.empty(&s.ping) {
		s.writeBatch()
		if !s.out.empty(&s.ping) || s.closing {
			s.wakeSender()
		}
	}
}

// writeBatch sends what is next. It lets go of the mutex meanwhile.
func (s *Session) writeBatch() {
	buf, _ := batches.Get().(*[batchSize]byte)
	batch := s.fill(buf[:0])
	s.out.busy, s.out.since = true, time.Now()
	s.mu.Unlock()
	_, err := s.conn.Write(batch)
	batches.Put(buf)
	if err != nil {
		s.end(broken(err))
	}
	s.mu.Lock()
	s.out.busy = false
}

// fill appends to b what is sent next, up to b's capacity.
func (s *Session) fill(b []byte) []byte {
	b = s.fillPings(b)
	const frame = headerSize + maxFrame
	room := func(n int) bool { return cap(b)-len(b) >= n }
	for len(s.out.refused) > 0 && room(headerSize) {
		b = appendHeader(b, kindReset, resetRefused, 0, s.out.refused[0])
		s.out.refused = s.out.refused[1:]
	}
	if len(s.out.refused) == 0 {
		s.out.refused = nil
	}
	for s.out.control.n > 0 && room(frame+2*headerSize+4) {
		st := s.out.control.pop()
		st.inControl = false
		b = st.appendControl(b)
		s.settle(st)
	}
	for s.out.data.n > 0 && room(frame) {
		st := s.out.data.pop()
		st.inData = false
		b = st.appendData(b)
		s.takeTurn(st)
		s.settle(st)
	}
	return b
}

// appendControl appends what st has to say beside data.
func (st *stream) appendControl(b []byte) []byte {
	if st.resetDue != 0 {
		if !st.openDue {
			b = appendHeader(b, kindReset, st.resetDue, 0, st.id)
		}
		st.resetDue, st.openDue = 0, false
		return b
	}
	if st.openDue || st.finDue && st.out.len() == 0 {
		b = st.appendData(b)
	}
	if st.increment > 0 && !st.stopDue && !st.stopped {
		b = appendHeader(b, kindWindow, 0, 4, st.id)
		b = binary.BigEndian.AppendUint32(b, st.increment)
		st.increment = 0
	}
	if st.stopDue {
		st.stopDue, st.stopped = false, true
		b = appendHeader(b, kindStop, 0, 0, st.id)
	}
	st.s.takeTurn(st)
	return b
}

// appendData appends a frame of data, empty if there is none.
func (st *stream) appendData(b []byte) []byte {
	if st.writeErr != nil && !st.openDue {
		return b // stopped or reset meanwhile
	}
	n := min(st.out.len(), int(st.credit), maxFrame)
	var flags uint8
	if st.openDue {
		flags |= flagOpen
		st.openDue = false
	}
	if st.finDue && n == st.out.len() {
		flags |= flagFin
		st.finDue, st.finSent = false, true
	}
	b = appendHeader(b, kindData, flags, n, st.id)
	b = b[:len(b)+st.out.read(b[len(b):len(b)+n])]
	st.credit -= int64(n)
	if n > 0 {
		st.writable.Signal()
	}
	return b
}

// refuse says that a stream is not wanted.
func (s *Session) refuse(id uint32) error {
	if len(s.out.refused) >= maxRefused {
		return errors.New("it opens streams and does not read that they are refused")
	}
	s.out.refused = append(s.out.refused, id)
	s.wakeSender()
	return nil
}
