package wire

import (
	"container/list"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Stream is one of a session's streams. Its methods may be called from several
// goroutines, also those that end what others wait in.
type Stream interface {
	net.Conn
	// CloseWrite ends this direction: the other end reads io.EOF after what was
	// written.
	CloseWrite() error
	// Reset ends both directions at once: what was written and not sent yet is lost,
	// and the other end reads an error after what came, where Close would have it read
	// io.EOF. It is how who passes a stream on says that it broke off.
	Reset() error
}

// maxOut is how much a stream takes in before it is sent: one batch can be filled
// while another is sent.
const maxOut = 2 * batchSize

// stream implements Stream. All fields are guarded by the session's mutex.
type stream struct {
	s  *Session
	id uint32

	writers  sync.Mutex // one Write at a time; held while it waits
	writable sync.Cond
	out      buffer
	credit   int64 // what the other end still takes
	writeErr error // nothing goes out any more
	finished bool  // CloseWrite or Close was called

	readable   sync.Cond
	in         buffer
	allowed    int64 // what the other end may still send
	window     int64 // what allowed and in.len() together go up to
	reserved   int64 // part of window that is paid for
	epoch      time.Time
	epochRead  int64
	eof        bool
	readErr    error // what Read ends with once in is empty
	readClosed bool  // Close was called

	// What is to be said on it, and whether it waits to say it.
	openDue, finDue, stopDue bool
	finSent, stopped         bool
	resetDue                 uint8
	increment                uint32
	inControl, inData        bool

	readDeadline, writeDeadline deadline

	unaccepted *list.Element
}

func (s *Session) newStream(id uint32) *stream {
	st := &stream{s: s, id: id, credit: firstWindow, allowed: firstWindow, window: firstWindow, epoch: time.Now()}
	st.readable.L, st.writable.L = &s.mu, &s.mu
	st.readDeadline.wake, st.writeDeadline.wake = &st.readable, &st.writable
	s.streams[id] = st
	return st
}

// Read implements net.Conn. What came before the stream or the session ended is
// read first.
func (st *stream) Read(p []byte) (int, error) {
	s := st.s
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case st.readClosed:
			return 0, net.ErrClosed
		case st.readDeadline.passed:
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		case st.in.len() > 0:
			n := st.in.read(p)
			st.consumed(n)
			return n, nil
		case st.eof:
			return 0, io.EOF
		case st.readErr != nil:
			return 0, st.readErr
		}
		st.readable.Wait()
	}
}

// Write implements net.Conn. It has returned when p is buffered, not when it is sent.
func (st *stream) Write(p []byte) (int, error) {
	st.writers.Lock()
	defer st.writers.Unlock()
	s := st.s
	s.mu.Lock()
	defer s.mu.Unlock()
	total := 0
	for {
		switch {
		case st.finished:
			return total, net.ErrClosed
		case st.writeErr != nil:
			return total, st.writeErr
		case s.closing:
			return total, errClosed
		case st.writeDeadline.passed:
			return total, os.ErrDeadlineExceeded
		}
		if n := min(len(p)-total, maxOut-st.out.len()); n > 0 {
			st.out.write(p[total : total+n])
			total += n
			s.takeTurn(st)
			s.sendNow()
		}
		if total == len(p) {
			return total, nil
		}
		if st.out.len() == 0 || st.writeErr != nil || st.finished || s.closing || st.writeDeadline.passed {
			continue // sendNow let go of the mutex, and nobody wakes who does not wait yet
		}
		st.writable.Wait()
	}
}

// CloseWrite implements Stream.
func (st *stream) CloseWrite() error {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	if st.writeErr != nil {
		return st.writeErr
	}
	st.closeWrite()
	return nil
}

func (st *stream) closeWrite() {
	if st.finished {
		return
	}
	st.finished = true
	st.writable.Broadcast()
	if st.writeErr != nil {
		return
	}
	st.finDue = true
	if st.out.len() == 0 {
		st.s.queueControl(st)
	}
}

// Close ends both directions. What was written before is still sent; the other
// end's writes fail from now on.
func (st *stream) Close() error {
	s := st.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.readClosed {
		return nil
	}
	st.readClosed = true
	s.release(st)
	st.readable.Broadcast()
	st.readDeadline.stop()
	st.closeWrite()
	if !st.eof && st.readErr == nil {
		st.stopDue = true
		s.queueControl(st)
	}
	s.settle(st)
	return nil
}

// Reset implements Stream.
func (st *stream) Reset() error {
	s := st.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.streams[st.id] == st && st.resetDue == 0 { // else it is over already
		st.reset(resetAborted, net.ErrClosed)
	}
	return nil
}

// release gives back what was paid for what came in.
func (s *Session) release(st *stream) {
	delete(s.unread, st)
	n := int64(st.in.drop()) + st.reserved
	st.reserved = 0
	if s.err == nil {
		s.memory.give(n)
	}
}

// failWrite ends this end's direction with err.
func (st *stream) failWrite(err error) {
	if st.writeErr == nil && !st.finSent {
		st.writeErr = err
		st.finDue = false
		st.out.drop()
	}
	st.writable.Broadcast()
}

// fail ends both directions with err. What came in can still be read.
func (st *stream) fail(err error) {
	st.failWrite(err)
	if st.readErr == nil && !st.eof {
		st.readErr = err
	}
	st.readable.Broadcast()
}

// reset ends both directions at both ends.
func (st *stream) reset(why uint8, err error) {
	st.fail(err)
	st.s.release(st)
	st.finDue, st.stopDue = false, false
	st.resetDue = why
	st.s.queueControl(st)
}

// evict drops what waits to be read, and with it the stream, if that has not ended
// yet. Its reader must not take the loss for an end, even if the end has come.
func (st *stream) evict() {
	if st.in.len() > 0 {
		st.eof, st.readErr = false, ErrMemory
	}
	if st.s.streams[st.id] == st {
		st.reset(resetMemory, ErrMemory)
		return
	}
	st.s.release(st)
	st.readable.Broadcast()
}

// settle forgets st once both directions are over and all is said.
func (s *Session) settle(st *stream) {
	sent := st.finSent || st.writeErr != nil
	received := st.eof || st.readErr != nil || st.stopped
	if sent && received && !st.openDue && !st.stopDue && st.resetDue == 0 {
		s.forget(st)
	}
}

// forget frees the stream's place. Who holds the stream reads what came.
func (s *Session) forget(st *stream) {
	if s.streams[st.id] != st {
		return
	}
	delete(s.streams, st.id)
	if st.in.len() > 0 && !st.readClosed {
		s.unread[st] = struct{}{}
	}
	s.memory.give(st.reserved)
	st.reserved = 0
	st.writeDeadline.stop()
	if st.unaccepted != nil && st.in.len() == 0 && st.readErr != nil {
		s.waiting.Remove(st.unaccepted) // nobody needs to see it
		st.unaccepted = nil
	}
	if st.id%2 == s.ours {
		s.opened--
		s.slots.Signal()
	} else {
		s.accepted--
	}
}

func (st *stream) LocalAddr() net.Addr  { return st.s.conn.LocalAddr() }
func (st *stream) RemoteAddr() net.Addr { return st.s.conn.RemoteAddr() }

// SetDeadline implements net.Conn.
func (st *stream) SetDeadline(t time.Time) error {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	st.readDeadline.set(st, t)
	st.writeDeadline.set(st, t)
	return nil
}

// SetReadDeadline implements net.Conn.
func (st *stream) SetReadDeadline(t time.Time) error {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	st.readDeadline.set(st, t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (st *stream) SetWriteDeadline(t time.Time) error {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	st.writeDeadline.set(st, t)
	return nil
}

// deadline wakes who waits when it passes.
type deadline struct {
	wake   *sync.Cond
	passed bool
	timer  *time.Timer
	round  uint64 // a timer of an earlier round has nothing to say
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.round++
}

func (d *deadline) set(st *stream, t time.Time) {
	d.stop()
	d.passed = false
	if t.IsZero() || st.readClosed {
		return
	}
	left := time.Until(t)
	if left <= 0 {
		d.passed = true
		d.wake.Broadcast()
		return
	}
	round := d.round
	d.timer = time.AfterFunc(left, func() {
		st.s.mu.Lock()
		defer st.s.mu.Unlock()
		if d.round == round {
			d.passed = true
			d.wake.Broadcast()
		}
	})
}
