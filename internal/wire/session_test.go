package wire

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"
)

// tcpPair is two ends of a TCP connection on loopback.
func tcpPair(tb testing.TB) (dialled, accepted net.Conn) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	if dialled, err = net.Dial("tcp", l.Addr().String()); err != nil {
		tb.Fatal(err)
	}
	if accepted, err = l.Accept(); err != nil {
		tb.Fatal(err)
	}
	return dialled, accepted
}

// sessions are two ends of a session, closed with the test.
func sessions(tb testing.TB, o Options) (client, server *Session) {
	tb.Helper()
	c, s := tcpPair(tb)
	client, server = over(tb, c, s, o, o)
	return client, server
}

func over(tb testing.TB, c, s net.Conn, forClient, forServer Options) (client, server *Session) {
	tb.Helper()
	client, err := Client(c, forClient)
	if err != nil {
		tb.Fatal(err)
	}
	server, err = Server(s, forServer)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		client.Close()
		server.Close()
	})
	return client, server
}

// listener is a session as an http.Server wants one.
type listener struct{ *Session }

func (l listener) Accept() (net.Conn, error) { return l.Session.Accept() }
func (l listener) Addr() net.Addr            { return l.conn.LocalAddr() }

// echo sends back what comes on every stream.
func echo(s *Session) {
	for {
		st, err := s.Accept()
		if err != nil {
			return
		}
		go func() {
			defer st.Close()
			_, _ = io.Copy(struct{ io.Writer }{st}, struct{ io.Reader }{st})
		}()
	}
}

func TestStreamsCarryBytesBothWaysAndEndEachByItself(t *testing.T) {
	client, server := sessions(t, Options{})
	go echo(server)
	want := make([]byte, 3<<20)
	rand.Read(want)
	st, err := client.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = st.Write(want)
		_ = st.CloseWrite()
	}()
	have, err := io.ReadAll(st)
	if err != nil || !bytes.Equal(have, want) {
		t.Fatalf("%d bytes came back (%v), want %d", len(have), err, len(want))
	}
	if err := st.Close(); err != nil {
		t.Error(err)
	}
	if n := client.Streams(); n != 0 {
		t.Errorf("%d streams are left", n)
	}
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !condition(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func open(t *testing.T, s *Session) *stream {
	t.Helper()
	st, err := s.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return st.(*stream)
}

// A stream is a net.Conn in every respect that golang.org/x/net tests.
func TestStreamsAreConns(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		a, b := tcpPair(t)
		client, err := Client(a, Options{})
		if err != nil {
			return nil, nil, nil, err
		}
		server, err := Server(b, Options{})
		if err != nil {
			return nil, nil, nil, err
		}
		if c1, err = client.Open(t.Context()); err != nil {
			return nil, nil, nil, err
		}
		c2, err = server.Accept()
		return c1, c2, func() {
			client.Close()
			server.Close()
		}, err
	})
}

func TestManyStreamsAtOnceMixNothingUp(t *testing.T) {
	client, server := sessions(t, Options{})
	go echo(server)
	var wg sync.WaitGroup
	for i := range 38 {
		wg.Go(func() {
			want := make([]byte, 1<<(i%19))
			rand.Read(want)
			st, err := client.Open(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			defer st.Close()
			go func() {
				_, _ = st.Write(want)
				_ = st.(*stream).CloseWrite()
			}()
			if have, err := io.ReadAll(st); err != nil || !bytes.Equal(have, want) {
				t.Errorf("%d bytes came back (%v), want %d", len(have), err, len(want))
			}
		})
	}
	wg.Wait()
	eventually(t, "all streams are gone", func() bool { return client.Streams() == 0 && server.Streams() == 0 })
	eventually(t, "all memory is given back", func() bool { return client.Memory()+server.Memory() == 0 })
}

// konnectivity's oldest complaint.
func TestAStreamThatNobodyReadsHoldsUpNoOther(t *testing.T) {
	client, server := sessions(t, Options{})
	stuck := open(t, client)
	never, err := server.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer never.Close()
	blocked := make(chan int, 1)
	go func() {
		n, _ := stuck.Write(make([]byte, 8<<20))
		blocked <- n
	}()
	eventually(t, "the stream is full", func() bool { return server.Memory() == firstWindow })
	go echo(server)
	for range 4 {
		st := open(t, client)
		go func() {
			_, _ = st.Write(make([]byte, 4<<20))
			_ = st.CloseWrite()
		}()
		if n, err := io.Copy(io.Discard, struct{ io.Reader }{st}); err != nil || n != 4<<20 {
			t.Fatalf("%d bytes, %v", n, err)
		}
		st.Close()
	}
	select {
	case n := <-blocked:
		t.Errorf("%d bytes went to a stream that nobody reads", n)
	default:
	}
	never.Close() // and now its writer knows
	if n := <-blocked; n > firstWindow+maxOut {
		t.Errorf("%d bytes were taken for a stream that nobody read", n)
	}
	if _, err := stuck.Write([]byte("x")); !errors.Is(err, ErrStopped) {
		t.Errorf("a write to a stream that was closed: %v", err)
	}
}

// reliability.md row 20.
func TestTenThousandStreamsLeaveNothingBehind(t *testing.T) {
	client, server := sessions(t, Options{})
	go discard(server)
	eventually(t, "the session stands", func() bool { return client.RTT() > 0 && server.RTT() > 0 })
	before := runtime.NumGoroutine()
	for i := range 10_000 {
		st := open(t, client)
		if i%2 == 0 {
			if _, err := st.Write([]byte("hello")); err != nil {
				t.Fatal(err, server.Err())
			}
		}
		st.Close()
		if i%1000 == 999 { // who opens faster than the other end accepts is refused
			eventually(t, "the other end has seen them", func() bool { return server.Streams() < 100 })
		}
	}
	eventually(t, "both ends have forgotten the streams", func() bool { return client.Streams() == 0 && server.Streams() == 0 })
	eventually(t, "goroutines are at their start", func() bool { return runtime.NumGoroutine() <= before+5 })
	eventually(t, "all memory is given back", func() bool { return client.Memory()+server.Memory() == 0 })
}

func TestCloseWaitsForItsGoroutines(t *testing.T) {
	synctest.Test(t, func(*testing.T) { // which panics if a goroutine is left
		client, server, _, _ := piped(t, 50*time.Millisecond, 0, Options{})
		st := open(t, client)
		go func() { _, _ = st.Read(make([]byte, 1)) }()
		go func() { _, _ = server.Accept() }()
		go func() { _, _ = server.Ping(context.Background()) }()
		time.Sleep(time.Second)
		client.Close()
		client.Close()
		server.Close()
	})
}

func TestTheLastWordsAreHeard(t *testing.T) {
	client, server := sessions(t, Options{})
	st := open(t, client)
	in, err := server.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if err := WriteMessage(in, Message{Refused: &Refused{Message: "come again"}}); err != nil {
		t.Fatal(err)
	}
	server.Close()
	m, err := ReadMessage(st)
	if err != nil || m.Refused == nil || m.Refused.Message != "come again" {
		t.Errorf("%+v, %v", m, err)
	}
	if _, err := ReadMessage(st); err == nil || !errors.Is(err, client.Err()) {
		t.Errorf("after the session: %v, which ended by %v", err, client.Err())
	}
}

func TestErrSaysWhyASessionEnded(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(session *Session, other net.Conn)
		want error
		says string
	}{
		{"closed here", func(s *Session, _ net.Conn) { s.Close() }, net.ErrClosed, "closed"},
		{"closed there", func(_ *Session, c net.Conn) { c.(*net.TCPConn).CloseWrite() }, io.EOF, "the other end closed the connection"},
		{"not our protocol", func(_ *Session, c net.Conn) { c.Write([]byte("GET / HTTP/1.1\r\n\r\n")) }, nil, "broke the tunnel's protocol"},
	} {
		t.Run(c.name, func(t *testing.T) {
			here, there := tcpPair(t)
			defer there.Close()
			s, err := Client(here, Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if s.Err() != nil {
				t.Error("it has ended already")
			}
			c.do(s, there)
			<-s.Done()
			if err := s.Err(); c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Error(err)
			}
			if _, err := s.Open(t.Context()); !errors.Is(err, s.Err()) {
				t.Errorf("open: %v", err)
			}
			if _, err := s.Accept(); !errors.Is(err, s.Err()) {
				t.Errorf("accept: %v", err)
			}
		})
	}
}

func TestAPeerThatOpensTooManyStreamsIsRefusedThoseOnly(t *testing.T) {
	c, s := tcpPair(t)
	client, server := over(t, c, s, Options{MaxStreams: 100}, Options{MaxStreams: 3})
	go echo(server)
	var kept []*stream
	for range 3 {
		st := open(t, client)
		if _, err := st.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		kept = append(kept, st)
	}
	if _, err := open(t, client).Read(make([]byte, 1)); !errors.Is(err, ErrRefused) {
		t.Errorf("the fourth: %v", err)
	}
	for _, st := range kept {
		if _, err := st.Read(make([]byte, 1)); err != nil {
			t.Error(err)
		}
	}
	kept[0].Close()
	st := open(t, client)
	if _, err := st.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Read(make([]byte, 1)); err != nil {
		t.Errorf("after one has ended: %v", err)
	}
}

func TestMemoryIsBoundedOverAllStreamsAndSessions(t *testing.T) {
	shared := NewBudget(2 << 20)
	c, s := tcpPair(t)
	client, server := over(t, c, s, Options{}, Options{Memory: 1 << 20, Shared: shared})
	var wg sync.WaitGroup
	var out atomic.Int32
	for range 8 { // of 256 KiB each; nobody reads
		st := open(t, client)
		wg.Go(func() {
			if _, err := st.Write(make([]byte, 1<<20)); errors.Is(err, ErrMemory) {
				out.Add(1)
			}
		})
	}
	eventually(t, "streams are reset", func() bool { return out.Load() >= 3 })
	if m := server.Memory(); m > 1<<20 {
		t.Errorf("%d bytes are held", m)
	}
	if err := server.Err(); err != nil {
		t.Errorf("the session ended: %v", err)
	}
	go discard(server) // and those that are read go on
	wg.Wait()
	c, s = tcpPair(t)
	_, second := over(t, s, c, Options{}, Options{Shared: shared})
	second.mu.Lock()
	if !second.memory.take(3<<20) || shared.Used() != 2<<20 || second.memory.take(1) {
		t.Errorf("of the shared budget %d bytes are used", shared.Used())
	}
	second.mu.Unlock()
	second.Close()
	server.Close()
	if n := shared.Used(); n != 0 {
		t.Errorf("%d bytes of the shared budget are lost", n)
	}
}

// An agent speaks HTTP/1.1 on the streams: what is closed there must end here.
func TestRequestsOverStreams(t *testing.T) {
	agent, replica := sessions(t, Options{})
	gone := make(chan error, 1)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/logs" {
			io.Copy(w, r.Body)
			return
		}
		for {
			if _, err := w.Write(make([]byte, 32<<10)); err != nil {
				gone <- r.Context().Err()
				return
			}
		}
	})}
	go server.Serve(listener{agent})
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return replica.Open(ctx) }}}
	for range 3 {
		resp, err := client.Post("http://cookie/", "", strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "hello" {
			t.Fatalf("%q, %v", b, err)
		}
		resp.Body.Close()
	}
	ctx, cancel := context.WithCancel(t.Context())
	r, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://cookie/logs", nil)
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	cancel()
	<-gone
	client.CloseIdleConnections()
	eventually(t, "the streams are gone", func() bool { return agent.Streams() == 0 && replica.Streams() == 0 })
}
