package testbed

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// echoServer answers every line with its name and the line.
func echoServer(t *testing.T, name string) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for lines := bufio.NewScanner(c); lines.Scan(); {
					fmt.Fprintf(c, "%s %s\n", name, lines.Text())
				}
			}()
		}
	}()
	return l.Addr().String()
}

type caller struct {
	net.Conn
	r *bufio.Reader
}

func call(t *testing.T, addr string) caller {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return caller{c, bufio.NewReader(c)}
}

func (c caller) say(limit time.Duration, word string) (string, error) {
	_ = c.SetDeadline(time.Now().Add(limit))
	if _, err := fmt.Fprintln(c, word); err != nil {
		return "", err
	}
	return c.r.ReadString('\n')
}

func TestRelay(t *testing.T) {
	a, b := echoServer(t, "a"), echoServer(t, "b")
	r := StartRelay(t, a, b)
	answer := func(c caller, want string) {
		t.Helper()
		if got, err := c.say(5*time.Second, "x"); got != want+" x\n" || err != nil {
			t.Errorf("got %q, %v, want %s", got, err, want)
		}
	}
	silent := func(c caller) {
		t.Helper()
		if got, err := c.say(200*time.Millisecond, "x"); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %q, %v, want silence", got, err)
		}
	}
	first, second := call(t, r.Addr()), call(t, r.Addr())
	one, err := first.say(5*time.Second, "x")
	if err != nil {
		t.Fatal(err)
	}
	if two, err := second.say(5*time.Second, "x"); err != nil || two == one {
		t.Errorf("both connections lead to %q (%v)", one, err)
	}
	if one == "b x\n" {
		first, second = second, first
	}
	r.Pin(b)
	for range 3 {
		answer(call(t, r.Addr()), "b")
	}
	r.Blackhole(b)
	swallowed := call(t, r.Addr())
	silent(second)
	silent(swallowed)
	answer(first, "a")
	if r.Conns(b) != 0 || r.Conns(a) != 1 {
		t.Errorf("connections: %d and %d, %s", r.Conns(a), r.Conns(b), r)
	}
	r.Heal(b)
	silent(swallowed)
	answer(call(t, r.Addr()), "b")

	r.Pin("")
	r.DropIdle(100 * time.Millisecond)
	_ = first.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := first.r.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("an idle connection: %v", err)
	}
}

func TestRelayPassesDeadBackendsOver(t *testing.T) {
	alive := echoServer(t, "alive")
	ports, err := ReservePorts() // where nobody listens
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ports.Release)
	dead := ports.Addr(0)
	r := StartRelay(t, dead, alive)
	for range 4 {
		if got, err := call(t, r.Addr()).say(5*time.Second, "x"); got != "alive x\n" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
	}
	r.Pin(dead)
	if got, err := call(t, r.Addr()).say(5*time.Second, "x"); err == nil {
		t.Errorf("pinned to a dead backend: got %q", got)
	}
}

func TestRelayByChance(t *testing.T) {
	a, b := echoServer(t, "a"), echoServer(t, "b")
	r := StartRelay(t, a, b)
	r.Shuffle()
	same, last := 0, ""
	for range 40 {
		answer, err := call(t, r.Addr()).say(Patience, "x")
		if err != nil {
			t.Fatal(err)
		}
		if answer == last {
			same++
		}
		last = answer
	}
	// In turn it would never be the same; by chance it is always so once in 2^38.
	if same == 0 || same == 39 || r.Served(a)+r.Served(b) != 40 {
		t.Errorf("%d of 40 connections lead where the last one did; served %d and %d", same, r.Served(a), r.Served(b))
	}
}
