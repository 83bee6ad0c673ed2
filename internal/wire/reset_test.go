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
