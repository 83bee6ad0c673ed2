package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
)

// Who passes a stream on must be able to say that it broke off: a torn answer is not
// a short one.
func TestAResetIsNoCleanEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		c, err := Client(near, Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		s, err := Server(far, Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		mine, err := c.Open(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(mine, "half an ans"); err != nil {
			t.Fatal(err)
		}
		theirs, err := s.Accept()
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for range 2 { // a second time is no harm
			if err := mine.Reset(); err != nil {
				t.Fatal(err)
			}
		}
		got, err := io.ReadAll(theirs)
		if string(got) != "half an ans" || !errors.Is(err, ErrStopped) {
			t.Errorf("the other end reads %q, %v", got, err)
		}
		if _, err := theirs.Write([]byte("x")); err == nil {
			t.Error("the other end can still write")
		}
		if _, err := mine.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("this end reads %v", err)
		}
		if _, err := mine.Write([]byte("x")); err == nil {
			t.Error("this end can still write")
		}
		_ = mine.Close()
		_ = theirs.Close()
		synctest.Wait()
		if n := c.Streams() + s.Streams(); n != 0 {
			t.Errorf("%d streams are left", n)
		}
	})
}

// brokenPipe takes pings, and fails under whatever is more.
type brokenPipe struct{ net.Conn }

func (brokenPipe) Write(p []byte) (int, error) {
	if len(p) > 100 {
		return 0, io.ErrClosedPipe
	}
	return len(p), nil
}

// A Write that sends by itself must see that the session ended meanwhile: nobody
// wakes it any more.
func TestAWriteEndsWithTheSessionThatItFindsBroken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		c, err := Client(brokenPipe{near}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		st, err := c.Open(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, err := io.WriteString(st, strings.Repeat("x", 1<<20)); err == nil {
			t.Error("a broken connection took a megabyte")
		}
	})
}

// What was dropped for want of memory is missed by its reader, whatever the other
// end, which can't know yet, says of an end.
func TestWhatMemoryDroppedNeverLooksDone(t *testing.T) {
	for range 30 {
		c, s := sessions(t, Options{Memory: 100 << 10})
		st, p := pair(t, c, s)
		// The reset may come while it writes, or after.
		if _, err := p.Write(make([]byte, 150<<10)); err != nil && !errors.Is(err, ErrMemory) {
			t.Fatal(err)
		}
		if err := p.CloseWrite(); err != nil && !errors.Is(err, ErrMemory) {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, st); err == nil && n < 150<<10 {
			t.Fatalf("%d of %d bytes, and a clean end", n, 150<<10)
		}
	}
}

// Streams that the other end has reset, and whose bytes nobody reads, take the memory
// of none that live.
func TestEndedStreamsThatNobodyReadsStarveNoOther(t *testing.T) {
	c, s := sessions(t, Options{Memory: 1 << 20})
	for range 5 {
		st, p := pair(t, c, s)
		if _, err := p.Write(make([]byte, 200<<10)); err != nil {
			t.Fatal(err)
		}
		if _, err := st.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the bytes to come", func() bool { return c.Memory() >= 200<<10-1 })
		if err := p.Reset(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the reset to come", func() bool { return c.Streams() == 0 })
	st, p := pair(t, c, s)
	want := 200 << 10
	if _, err := p.Write(make([]byte, want)); err != nil {
		t.Fatal(err)
	}
	if err := p.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, st); err != nil || n != int64(want) {
		t.Errorf("%d of %d bytes: %v", n, want, err)
	}
}

// What a stream hoards is dropped before an answer that is complete and smaller.
func TestAHoarderIsDroppedBeforeASmallerAnswerThatIsDone(t *testing.T) {
	c, s := sessions(t, Options{Memory: 500 << 10})
	send := func(p *stream, n int, held int64) {
		t.Helper()
		if _, err := p.Write(make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the bytes to come", func() bool { return c.Memory() == held })
	}
	answer, p := pair(t, c, s)
	send(p, 100<<10, 100<<10)
	if err := p.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := answer.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it ended", func() bool { return c.Streams() == 0 })
	hoarder, p := pair(t, c, s)
	send(p, 256<<10, 356<<10)
	more, p := pair(t, c, s)
	send(p, 200<<10, 300<<10)
	if _, err := io.ReadFull(more, make([]byte, 200<<10)); err != nil {
		t.Errorf("the one that took the room: %v", err)
	}
	if n, err := io.Copy(io.Discard, answer); err != nil || n != 100<<10 {
		t.Errorf("the answer: %d bytes, %v", n, err)
	}
	if _, err := hoarder.Read(make([]byte, 1)); !errors.Is(err, ErrMemory) {
		t.Errorf("the hoarder: %v", err)
	}
}

// pair opens a stream at c, and accepts it at s.
func pair(t *testing.T, c, s *Session) (*stream, *stream) {
	t.Helper()
	st, err := c.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	p, err := s.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return st.(*stream), p.(*stream)
}
