package wire

import (
	"bytes"
	"encoding/binary"
	"io"
	"math"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// said is a connection whose other end says so much, and hears all.
type said struct {
	net.Conn
	r      *bytes.Reader
	closed chan struct{}
	once   sync.Once
	keep   bool // open after all is said
}

func says(b []byte, keep bool) *said {
	return &said{r: bytes.NewReader(b), closed: make(chan struct{}), keep: keep}
}

func (c *said) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if err == io.EOF && c.keep {
		<-c.closed
	}
	return n, err
}
func (c *said) Write(p []byte) (int, error) { return len(p), nil }
func (c *said) LocalAddr() net.Addr         { return &net.UnixAddr{} }
func (c *said) RemoteAddr() net.Addr        { return &net.UnixAddr{} }
func (c *said) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

// frames are built one after the other.
type frames []byte

func (f frames) data(id uint32, flags uint8, payload string) frames {
	return append(appendHeader(f, kindData, flags, len(payload), id), payload...)
}

func (f frames) window(id, n uint32) frames {
	return binary.BigEndian.AppendUint32(appendHeader(f, kindWindow, 0, 4, id), n)
}

func (f frames) other(k kind, id uint32) frames { return appendHeader(f, k, 0, 0, id) }

func (f frames) ping(k kind, n uint64) frames {
	return binary.BigEndian.AppendUint64(appendHeader(f, k, 0, 8, 0), n)
}

func TestBreachesEndTheSession(t *testing.T) {
	full := strings.Repeat("x", maxFrame)
	var overrun frames
	overrun = overrun.data(1, flagOpen, "")
	for range firstWindow/maxFrame + 1 {
		overrun = overrun.data(1, 0, full)
	}
	var many frames
	for i := range uint32(maxRefused + batchSize) {
		many = many.data(2*i+1, flagOpen, "")
	}
	for name, c := range map[string]struct {
		sent frames
		says string
	}{
		"another protocol":           {frames("GET / HTTP/1.1\r\n\r\n"), "unknown kind 71"},
		"yamux":                      {frames(make([]byte, 12)), "unknown kind 0"},
		"a frame that is too large":  {appendHeader(nil, kindData, flagOpen, maxFrame+1, 1), "at most"},
		"data beyond the window":     {overrun, "whose window has"},
		"a stream of ours":           {frames(nil).data(2, flagOpen, ""), "opened stream 2"},
		"a stream twice":             {frames(nil).data(1, flagOpen, "").data(1, flagOpen, ""), "opened stream 1, after 1"},
		"a stream out of order":      {frames(nil).data(5, flagOpen, "").data(3, flagOpen, ""), "opened stream 3, after 5"},
		"data on no stream":          {frames(nil).data(7, 0, "x"), "never opened"},
		"data on stream 0":           {frames(nil).data(0, flagOpen, "x"), "on no stream"},
		"data after the end":         {frames(nil).data(1, flagOpen|flagFin, "x").data(1, 0, "x"), "after its end"},
		"a window on no stream":      {frames(nil).window(9, 1), "never opened"},
		"a window that overflows":    {frames(nil).data(1, flagOpen, "").window(1, math.MaxUint32), "a window of"},
		"a reset on no stream":       {frames(nil).other(kindReset, 9), "never opened"},
		"a stop on no stream":        {frames(nil).other(kindStop, 8), "never opened"},
		"a ping on a stream":         {append(appendHeader(nil, kindPing, 0, 8, 1), make([]byte, 8)...), "a ping on stream 1"},
		"a short ping":               {appendHeader(nil, kindPing, 0, 0, 0), "with 0 bytes"},
		"a long window":              {appendHeader(nil, kindWindow, 0, 400, 1), "with 400 bytes"},
		"refusals that nobody reads": {many, "does not read that they are refused"},
	} {
		t.Run(name, func(t *testing.T) {
			conn := says(c.sent, true)
			var o Options
			if strings.HasPrefix(name, "refusals") {
				o.MaxStreams = 1
				conn.Conn = nil
			}
			var s *Session
			var err error
			if o.MaxStreams == 1 {
				s, err = Server(&unread{conn}, o)
			} else {
				s, err = Server(conn, o)
			}
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			select {
			case <-s.Done():
			case <-time.After(10 * time.Second):
				t.Fatal("the session goes on")
			}
			if err := s.Err(); !strings.Contains(err.Error(), "broke the tunnel's protocol") || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v; want %q", err, c.says)
			}
		})
	}
}

// unread is a connection whose other end reads nothing.
type unread struct{ *said }

func (c *unread) Write(p []byte) (int, error) {
	<-c.closed
	return 0, net.ErrClosed
}

// What a peer may say without harm, though no end of ours would.
func TestOddPeersAreBorne(t *testing.T) {
	odd := frames(nil).
		ping(kindPong, 77).              // never asked
		data(1, flagOpen|flagFin, "x").  // over at once,
		window(1, 1).other(kindStop, 1). // and from both sides
		other(kindReset, 1).window(1, 1).data(1, 0, "to nobody").
		data(3, flagOpen|0x80, "a flag of the future").
		other(kindReset, 3).other(kindReset, 3)
	for i := range uint64(100) {
		odd = odd.ping(kindPing, i)
	}
	conn := says(odd, true)
	s, err := Server(conn, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	eventually(t, "all is read", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.lastPeer == 3 && len(s.streams) == 0
	})
	st, err := s.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(st); string(b) != "x" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	st.Close()
	if err := s.Err(); err != nil {
		t.Error(err)
	}
}

// A window's worth of bytes costs no more memory in frames of one byte.
func TestSmallFramesDoNotMultiplyMemory(t *testing.T) {
	var b buffer
	const n = 64 << 10
	for range n {
		c := newChunk(1)
		c.w = copy(c.buf, "x")
		b.take(c)
	}
	held := 0
	for c := b.head; c != nil; c = c.next {
		held += len(c.buf)
	}
	if held > 2*n {
		t.Errorf("%d bytes for %d", held, n)
	}
	if m := b.drop(); m != n {
		t.Errorf("%d bytes were in it", m)
	}
}

func FuzzBuffer(f *testing.F) {
	f.Add([]byte{1, 200, 3, 255, 9, 0, 80})
	f.Fuzz(func(t *testing.T, steps []byte) {
		var b buffer
		var want []byte
		for i, step := range steps {
			n := int(step) * 97
			piece := bytes.Repeat([]byte{byte(i)}, n)
			switch step % 3 {
			case 0:
				b.write(piece)
				want = append(want, piece...)
			case 1:
				n = min(n, largeChunk)
				c := newChunk(n)
				c.w = copy(c.buf, piece[:n])
				b.take(c)
				want = append(want, piece[:n]...)
			case 2:
				have := make([]byte, n)
				m := b.read(have)
				if m != min(n, len(want)) || !bytes.Equal(have[:m], want[:m]) {
					t.Fatalf("step %d: other bytes", i)
				}
				want = want[m:]
			}
			if b.len() != len(want) {
				t.Fatalf("step %d: %d bytes, want %d", i, b.len(), len(want))
			}
		}
		b.drop()
	})
}

// Whatever the other end says: no panic, no memory beyond the budget, and an end.
func FuzzSession(f *testing.F) {
	f.Add([]byte(frames(nil).data(1, flagOpen, "hello").data(1, flagFin, "").ping(kindPing, 1)))
	f.Add([]byte(frames(nil).data(1, flagOpen, "a").data(3, flagOpen, "b").window(3, 5).other(kindStop, 1).other(kindReset, 3)))
	f.Add([]byte(frames(nil).ping(kindPong, 1).data(1, flagOpen|flagFin, "x").window(1, 1<<20).other(kindStop, 1).data(1, 0, "y")))
	f.Add([]byte(frames(nil).data(2, 0, "an answer").window(2, 100).data(2, flagFin, "").other(kindStop, 2)))
	f.Add([]byte(frames(nil).data(2, flagFin, "x").other(kindReset, 2).data(2, 0, "late")))
	f.Add([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	var many frames
	for i := range uint32(40) {
		many = many.data(2*i+1, flagOpen, strings.Repeat("x", 4000))
	}
	f.Add([]byte(many))
	f.Fuzz(func(t *testing.T, b []byte) {
		const memory = 64 << 10
		s, err := Server(says(b, false), Options{Memory: memory, MaxStreams: 16})
		if err != nil {
			t.Fatal(err)
		}
		var users sync.WaitGroup
		users.Go(func() { // streams of ours, which it may answer
			for range 2 {
				st, err := s.Open(t.Context())
				if err != nil {
					return
				}
				users.Go(func() {
					_, _ = st.Write([]byte("hello"))
					_, _ = io.Copy(io.Discard, struct{ io.Reader }{st})
					_ = st.Close()
				})
			}
		})
		users.Go(func() {
			for i := 0; ; i++ {
				st, err := s.Accept()
				if err != nil {
					return
				}
				users.Go(func() { // some read, some do not
					if i%2 == 0 {
						_, _ = io.Copy(st, struct{ io.Reader }{st})
					}
					if m := s.Memory(); m > memory {
						t.Errorf("%d bytes are held, at most %d", m, memory)
					}
					_ = st.Close()
				})
			}
		})
		<-s.Done()
		_ = s.Close()
		users.Wait()
		if len(s.streams) != 0 || s.waiting.Len() > 16 {
			t.Errorf("%d streams, %d to be accepted are left", len(s.streams), s.waiting.Len())
		}
	})
}
