package wire

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// piped are two ends of a session over a pipe. The caller closes them.
func piped(t *testing.T, rtt time.Duration, rate float64, o Options) (client, server *Session, c, s *pipe) {
	t.Helper()
	c, s = newPipe(rtt, rate)
	client, err := Client(c, o)
	if err != nil {
		t.Fatal(err)
	}
	if server, err = Server(s, o); err != nil {
		t.Fatal(err)
	}
	return client, server, c, s
}

// reliability.md row 17: a blackhole, from which no reset comes.
func TestBothEndsFindABlackholeWithin20Seconds(t *testing.T) {
	vanish := func(d *direction) { d.black = true }
	for _, c := range []struct {
		name        string
		there, back func(*direction)
		bulk        bool
	}{
		{name: "both ways, idle", there: vanish, back: vanish},
		{name: "both ways, in bulk", there: vanish, back: vanish, bulk: true},
		{name: "one way", there: vanish, back: func(*direction) {}},
		{name: "the other way", there: func(*direction) {}, back: vanish},
		{name: "full buffers", there: func(d *direction) { d.full = true }, back: func(d *direction) { d.full = true }, bulk: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server, there, back := piped(t, 50*time.Millisecond, 1e6, Options{})
				go discard(server)
				if c.bulk {
					st, err := client.Open(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					go func() {
						for b := make([]byte, 32<<10); ; {
							if _, err := st.Write(b); err != nil {
								return
							}
						}
					}()
				}
				time.Sleep(7 * time.Second)
				if err := errors.Join(client.Err(), server.Err()); err != nil {
					t.Fatalf("ended before: %v", err)
				}
				start := time.Now()
				there.out.set(c.there)
				back.out.set(c.back)
				<-client.Done()
				<-server.Done()
				if d := time.Since(start); d > 20*time.Second {
					t.Errorf("found after %v", d)
				}
				if !errors.Is(client.Err(), os.ErrDeadlineExceeded) && !errors.Is(server.Err(), os.ErrDeadlineExceeded) {
					t.Errorf("ended by %v and %v", client.Err(), server.Err())
				}
				client.Close()
				server.Close()
			})
		})
	}
}

// discard reads all that comes.
func discard(s *Session) {
	for {
		st, err := s.Accept()
		if err != nil {
			return
		}
		go func() {
			_, _ = io.Copy(io.Discard, struct{ io.Reader }{st})
			st.Close()
		}()
	}
}

func TestAnIdleSessionLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server, _, _ := piped(t, 300*time.Millisecond, 0, Options{})
		time.Sleep(time.Hour)
		if err := errors.Join(client.Err(), server.Err()); err != nil {
			t.Error(err)
		}
		if d := time.Since(client.LastHeard()); d > 5*time.Second {
			t.Errorf("last heard %v ago", d)
		}
		if rtt := client.RTT(); rtt != 300*time.Millisecond {
			t.Errorf("round trip %v", rtt)
		}
		client.Close()
		server.Close()
	})
}

// performance.md row 6.
func TestWindowsGrowToBandwidthTimesDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size, rate = 20 << 20, 50e6
		client, server, _, _ := piped(t, 50*time.Millisecond, rate, Options{})
		st, err := client.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for b := make([]byte, 64<<10); ; {
				if _, err := st.Write(b); err != nil {
					return
				}
			}
		}()
		in, err := server.Accept()
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		if _, err := io.CopyN(io.Discard, in, size/2); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(begun); d > time.Second {
			t.Errorf("growing took %v", d)
		}
		start := time.Now()
		if _, err := io.CopyN(io.Discard, in, size); err != nil {
			t.Fatal(err)
		}
		wire := time.Duration(size / rate * 1e9)
		if d := time.Since(start); d > wire*10/9 {
			t.Errorf("%v, the wire alone needs %v", d, wire)
		}
		server.mu.Lock()
		if w := in.(*stream).window; w > 6<<20 {
			t.Errorf("the window has grown to %d MiB: bandwidth × delay is 2.5 MB", w>>20)
		}
		server.mu.Unlock()

		// Meanwhile pings and other streams wait for no more than a few frames.
		var pings []time.Duration
		go func() { _, _ = io.Copy(io.Discard, struct{ io.Reader }{in}) }()
		for range 50 {
			d, err := client.Ping(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			pings = append(pings, d)
		}
		if worst := slices.Max(pings) - 50*time.Millisecond; worst > 2*time.Millisecond {
			t.Errorf("a ping in bulk took %v more than the round trip", worst)
		}
		client.Close()
		server.Close()
	})
}

func TestTurnsAreFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server, _, _ := piped(t, 10*time.Millisecond, 10e6, Options{})
		go discard(server)
		for range 20 { // that write all they can
			st, err := client.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				for b := make([]byte, 1<<20); ; {
					if _, err := st.Write(b); err != nil {
						return
					}
				}
			}()
		}
		time.Sleep(2 * time.Second)
		st, err := client.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := st.Write(make([]byte, 4<<10)); err != nil {
			t.Fatal(err)
		}
		_ = st.CloseWrite()
		if _, err := st.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		// One turn of twenty frames, and a batch that was on its way.
		if d, turn := time.Since(start)-10*time.Millisecond, time.Duration((20*16+2*32)<<10)*100; d > turn {
			t.Errorf("a small request waited %v, a turn is %v", d, turn)
		}
		client.Close()
		server.Close()
	})
}

func TestASlowReadersWindowStaysSmall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server, _, _ := piped(t, 50*time.Millisecond, 0, Options{})
		st, err := client.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for b := make([]byte, 64<<10); ; {
				if _, err := st.Write(b); err != nil {
					return
				}
			}
		}()
		in, err := server.Accept()
		if err != nil {
			t.Fatal(err)
		}
		for range 1000 { // 1 MB/s
			if _, err := io.ReadFull(in, make([]byte, 10<<10)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if m := server.Memory(); m > firstWindow+maxFrame {
			t.Errorf("%d KiB are held for it", m>>10)
		}
		client.Close()
		server.Close()
	})
}

func TestDeadlinesWakeWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server, _, _ := piped(t, 0, 0, Options{})
		st, err := client.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		_ = st.SetDeadline(start.Add(time.Second))
		if _, err := st.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v", err)
		}
		if d := time.Since(start); d != time.Second {
			t.Errorf("after %v", d)
		}
		_ = st.SetDeadline(time.Time{})
		time.AfterFunc(time.Minute, func() { _ = st.SetWriteDeadline(time.Unix(1, 0)) })
		n, err := st.Write(make([]byte, 1<<20)) // nobody reads
		if !errors.Is(err, os.ErrDeadlineExceeded) || n < firstWindow || n > firstWindow+maxOut {
			t.Errorf("write: %d, %v", n, err)
		}
		client.Close()
		server.Close()
	})
}

func TestOpenWaitsForAPlaceAsLongAsItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server, _, _ := piped(t, 0, 0, Options{MaxStreams: 2})
		go discard(server)
		open := func(timeout time.Duration) (Stream, error) {
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			return client.Open(ctx)
		}
		first, err := open(time.Second)
		if err != nil {
			t.Fatal(err)
		}
		for range 10 { // a place that was not given is not lost
			second, err := open(time.Second)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := open(time.Second); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the third: %v", err)
			}
			second.Close()
			synctest.Wait()
		}
		second, err := open(time.Second)
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Minute, func() { first.Close() })
		if _, err := open(time.Hour); err != nil {
			t.Error(err)
		}
		second.Close()
		client.Close()
		server.Close()
	})
}

func TestAPeerThatDoesNotAnswerPingsLeavesNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := newPipe(0, 0)
		session, err := Server(s, Options{})
		if err != nil {
			t.Fatal(err)
		}
		go io.Copy(io.Discard, c)
		stop := make(chan struct{})
		go func() { // it speaks, but of other things
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Second):
					_, _ = c.Write(appendHeader(nil, kindPong, 0, 8, 0))
					_, _ = c.Write(make([]byte, 8))
				}
			}
		}()
		if _, err := session.Ping(t.Context()); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
		time.Sleep(time.Hour)
		session.mu.Lock()
		if n := len(session.ping.sent); n > maxPongs {
			t.Errorf("%d pings are remembered", n)
		}
		session.mu.Unlock()
		close(stop)
		session.Close()
		c.Close()
	})
}
