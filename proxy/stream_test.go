package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/moby/spdystream"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// spdyServer takes SPDY/3.1 and echoes every stream, as an exec of cat would.
func spdyServer(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := takeOver(w, "SPDY/3.1")
	if err != nil {
		return
	}
	defer conn.Close()
	sc, err := spdystream.NewConnection(conn, true)
	if err != nil {
		return
	}
	sc.Serve(func(s *spdystream.Stream) {
		if s.SendReply(http.Header{}, false) == nil {
			_, _ = io.Copy(s, s)
		}
		_ = s.Close()
	})
}

// echoServer takes an upgrade and echoes bytes.
func echoServer(w http.ResponseWriter, r *http.Request) {
	conn, br, err := takeOver(w, r.Header.Get("Upgrade"))
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = io.Copy(conn, br)
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

func takeOver(w http.ResponseWriter, proto string) (conn net.Conn, br io.Reader, err error) {
	c, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, err
	}
	_, err = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+proto+"\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\nSet-Cookie: a=b\r\n\r\n")
	return c, buf.Reader, err
}

func (f *fixture) upgrade(t *testing.T, proto string) *rawConn {
	t.Helper()
	c := dialRaw(t, f.front)
	c.send("POST /api/v1/namespaces/a/pods/b/exec?command=cat HTTP/1.1", "Host: sally.example", "Connection: Upgrade", "Upgrade: "+proto, "X-Stream-Protocol-Version: v4.channel.k8s.io", "")
	res := c.answer()
	if res.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(res.Body)
		t.Fatalf("HTTP %s: %s", res.Status, body)
	}
	if res.Header.Get("X-Stream-Protocol-Version") != "v4.channel.k8s.io" || res.Header.Get("Set-Cookie") != "" || !strings.EqualFold(res.Header.Get("Upgrade"), proto) {
		t.Errorf("header %v", res.Header)
	}
	return c
}

func echo(t *testing.T, c *rawConn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c.br, got); err != nil || string(got) != text {
		t.Fatalf("got %d bytes, %v", len(got), err)
	}
}

func TestUpgradedStreamsCarryBytesBothWays(t *testing.T) {
	f := newFixture(t, echoServer)
	c := f.upgrade(t, "SPDY/3.1")
	echo(t, c, "hello")
	big := strings.Repeat("0123456789abcdef", 1<<14)
	go func() { _, _ = io.WriteString(c, big) }()
	got := make([]byte, len(big))
	if _, err := io.ReadFull(c.br, got); err != nil || string(got) != big {
		t.Fatalf("bulk: %v", err)
	}
	s := f.backend.only(t)
	wantImpersonated(t, s.Header, "alice", "devs", "system:authenticated")
	if s.URI != "/api/v1/namespaces/a/pods/b/exec?command=cat" || s.Proto != "HTTP/1.1" {
		t.Errorf("%+v", s)
	}
	ev := f.recorder.last(t)
	if ev.Fields["response_code"] != 101 || ev.Fields["resource_kind"] != "pods/exec" || ev.Fields["upgrade"] != "SPDY/3.1" {
		t.Errorf("event %+v", ev)
	}
	// Half-close: the client is done, and still gets what is under way.
	_, _ = io.WriteString(c, "last words")
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(c.br); err != nil || string(rest) != "last words" {
		t.Errorf("after half-close: %q, %v", rest, err)
	}
	eventually(t, "the stream ends", func() bool { return f.handler.inFlight.Load() == 0 && f.backend.conns.Load() == 0 })
}

func TestBytesSentAheadOfThe101BelongToTheStream(t *testing.T) {
	f := newFixture(t, echoServer)
	c := dialRaw(t, f.front)
	c.send("POST /api/v1/namespaces/a/pods/b/portforward HTTP/1.1", "Host: x", "Connection: Upgrade", "Upgrade: SPDY/3.1", "", "early")
	if res := c.answer(); res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(res.Status)
	}
	got := make([]byte, 7)
	if _, err := io.ReadFull(c.br, got); err != nil || string(got) != "early\r\n" {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestAnotherProtocolThanAskedForIsRefused(t *testing.T) {
	f := newFixture(t, func(w http.ResponseWriter, _ *http.Request) {
		if conn, _, err := takeOver(w, "h2c"); err == nil {
			_ = conn.Close()
		}
	})
	c := dialRaw(t, f.front)
	c.send("GET /api/v1/namespaces/a/pods/b/exec HTTP/1.1", "Host: x", "Connection: Upgrade", "Upgrade: websocket", "")
	res := c.answer()
	body, _ := io.ReadAll(res.Body)
	wantStatus(t, res, string(body), http.StatusBadGateway, "h2c")
	c.wantClosed()
}

func TestWhenTheServerEndsTheClientIsClosed(t *testing.T) {
	f := newFixture(t, func(w http.ResponseWriter, r *http.Request) {
		if conn, _, err := takeOver(w, r.Header.Get("Upgrade")); err == nil {
			_, _ = io.WriteString(conn, "bye")
			_ = conn.Close()
		}
	})
	c := f.upgrade(t, "SPDY/3.1")
	if got, err := io.ReadAll(c.br); err != nil || string(got) != "bye" {
		t.Errorf("%q, %v", got, err)
	}
	_ = c.Close()
	eventually(t, "the stream ends", func() bool { return f.handler.inFlight.Load() == 0 })
}

// liveKinds lists the kinds of long-lived requests: each starts one, and gives a
// function that reads until it ends.
var liveKinds = map[string]func(t *testing.T, f *fixture) (wait func() error){
	"watch over HTTP/2": func(t *testing.T, f *fixture) func() error {
		res, err := f.front.Client().Do(newRequest(t, http.MethodGet, f.front.URL+"/api/v1/pods?watch=true", nil))
		if err != nil {
			t.Fatal(err)
		}
		return func() error { _, err := io.Copy(io.Discard, res.Body); _ = res.Body.Close(); return err }
	},
	"log over HTTP/1.1": func(t *testing.T, f *fixture) func() error {
		c := dialRaw(t, f.front)
		c.send("GET /api/v1/namespaces/a/pods/b/log?follow=true HTTP/1.1", "Host: x", "")
		res := c.answer()
		return func() error { _, err := io.Copy(io.Discard, res.Body); return err }
	},
	"exec": func(t *testing.T, f *fixture) func() error {
		c := f.upgrade(t, "SPDY/3.1")
		echo(t, c, "x")
		return func() error { _, err := io.Copy(io.Discard, c.br); return errors.Join(io.ErrUnexpectedEOF, err) }
	},
	"watch without an answer yet": func(t *testing.T, f *fixture) func() error {
		c := dialRaw(t, f.front)
		c.send("GET /silent?watch=true HTTP/1.1", "Host: x", "")
		eventually(t, "the API server has it", func() bool { return len(f.backend.requests()) == 1 })
		return func() error {
			body, err := io.ReadAll(c.br)
			if err == nil && !strings.Contains(string(body), `"kind":"Status"`) {
				err = errors.New("no Status: " + string(body))
			}
			return errors.Join(io.ErrUnexpectedEOF, err)
		}
	},
	"bulk to a client that reads nothing": func(t *testing.T, f *fixture) func() error {
		c := dialRaw(t, f.front)
		c.send("GET /bulk HTTP/1.1", "Host: x", "")
		eventually(t, "the API server has it", func() bool { return len(f.backend.requests()) == 1 })
		return func() error {
			// The handler itself may take 5 s more: crypto/tls waits so long to get
			// an alert through to a client that does not read.
			eventually(t, "the API server's answer is cancelled", func() bool { return f.backend.active.Load() == 0 })
			return io.ErrUnexpectedEOF
		}
	},
	"upload that stalls": func(t *testing.T, f *fixture) func() error {
		c := dialRaw(t, f.front)
		c.send("POST /api/v1/pods HTTP/1.1", "Host: x", "Content-Length: 2000000", "", "{")
		eventually(t, "the proxy has it", func() bool { return f.handler.inFlight.Load() == 1 && f.handler.grants.len() == 1 })
		return func() error { _, _ = io.Copy(io.Discard, c.br); return io.ErrUnexpectedEOF }
	},
}

// liveServer answers each of liveKinds.
func liveServer(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Header.Get("Upgrade") != "":
		echoServer(w, r)
	case r.URL.Path == "/silent":
		<-r.Context().Done()
	case r.URL.Path == "/bulk":
		for {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				return
			}
		}
	case r.Method == http.MethodPost:
		_, _ = io.Copy(io.Discard, r.Body)
	default:
		_, _ = io.WriteString(w, "{}\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
}

// The rows on long-lived streams: cut within a second of the right's end. That the
// end is acted on at once, or with the next sweep, is shown by TestTheEndOfARightCutsItsRequestsOnly
// and its neighbours, where time is virtual; how soon the client notices depends on
// what else the machine does, so only what never ends, or at some timeout, fails here.
func TestLiveStreamsAreCutWithTheirRight(t *testing.T) {
	ends := map[string]func(f *fixture){
		"session removed": func(f *fixture) { f.auth.forbid(api.Errorf(api.CodeUnauthenticated, "the session of alice was ended")) },
		"replica stale": func(f *fixture) {
			err := errors.New("no leader for 15m0s")
			f.stale.Store(&err)
		},
		"replica closes": func(f *fixture) { _ = f.handler.Close() },
	}
	for end, act := range ends {
		for kind, start := range liveKinds {
			t.Run(end+"/"+kind, func(t *testing.T) {
				t.Parallel()
				f := newFixture(t, liveServer)
				wait := start(t, f)
				began := time.Now()
				act(f)
				if err := wait(); err == nil {
					t.Error("the stream ended as if it were complete")
				}
				if took := time.Since(began); took > patience/4 {
					t.Errorf("it took %v", took)
				}
				eventually(t, "the request is over", func() bool { return f.handler.inFlight.Load() == 0 })
			})
		}
	}
}

func TestStreamsEndWithTheSession(t *testing.T) {
	f := newFixture(t, liveServer)
	f.auth.decide = func(id Identity, _, _ string, _ []string) (Decision, error) {
		return Decision{ImpersonateUser: id.User, ImpersonateGroups: []string{"devs"}, Right: newRight(), Expires: time.Now().Add(2 * time.Second)}, nil
	}
	c := f.upgrade(t, "SPDY/3.1")
	began := time.Now()
	_, _ = io.Copy(io.Discard, c.br)
	if took := time.Since(began); took > patience/4 {
		t.Errorf("it took %v", took)
	}
	f.auth.decide = func(id Identity, _, _ string, _ []string) (Decision, error) {
		return Decision{ImpersonateUser: id.User, ImpersonateGroups: []string{"devs"}, Right: newRight(), Expires: time.Now().Add(-time.Second)}, nil
	}
	res, body := f.get("/api/v1/pods")
	wantStatus(t, res, body, http.StatusUnauthorized, "tsh login")
}

// A stale decision whose right is intact: streams go on, new requests ask anew.
func TestAChangeThatKeepsTheRightCutsNothing(t *testing.T) {
	f := newFixture(t, echoServer)
	c := f.upgrade(t, "SPDY/3.1")
	f.auth.mu.Lock()
	old := f.auth.right
	f.auth.mu.Unlock()
	old.stale.Store(true)
	d := f.upgrade(t, "SPDY/3.1")
	echo(t, c, "still here")
	echo(t, d, "here too")
	if n := f.handler.grants.len(); n != 2 {
		t.Errorf("%d grants, want the old and the new", n)
	}
	old.lose(api.Errorf(api.CodeForbidden, "role removed"))
	_, _ = io.Copy(io.Discard, c.br)
	echo(t, d, "not cut")
	eventually(t, "the old grant is gone", func() bool { return f.handler.grants.len() == 1 })
}

// remotedialer#39, teleport#10966: whatever ends a stream, nothing is left of it.
func TestStreamsLeaveNoGoroutinesAndFilesBehind(t *testing.T) {
	f := newFixture(t, liveServer)
	f.upgrade(t, "SPDY/3.1").Close() // warm up
	settled := func() bool { return f.handler.inFlight.Load() == 0 && f.backend.conns.Load() == 0 }
	eventually(t, "the first stream is over", settled)
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	for i := range 60 {
		c := f.upgrade(t, "SPDY/3.1")
		echo(t, c, "x")
		if i%2 == 0 {
			_ = c.NetConn().Close() // no close_notify: a killed client
		} else {
			_ = c.Close()
		}
	}
	eventually(t, "all streams are over", settled)
	eventually(t, "goroutines and files are back", func() bool {
		return runtime.NumGoroutine() <= goroutines+5 && openFiles(t) <= files+5
	})
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0 // not Linux: goroutines alone
	}
	return len(entries)
}

func TestDrain(t *testing.T) {
	f := newFixture(t, liveServer)
	watch := liveKinds["watch over HTTP/2"](t, f)
	c := f.upgrade(t, "SPDY/3.1")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.handler.Drain(ctx) }()
	if err := watch(); err != nil {
		t.Errorf("a drained watch does not end cleanly: %v", err)
	}
	d := dialRaw(t, f.front)
	d.send("GET /api/v1/namespaces/a/pods/b/exec HTTP/1.1", "Host: x", "Connection: Upgrade", "Upgrade: websocket", "")
	res := d.answer()
	body, _ := io.ReadAll(res.Body)
	wantStatus(t, res, string(body), http.StatusServiceUnavailable, "stopping")
	echo(t, c, "still served")
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Drain: %v", err)
	}
	_, _ = io.Copy(io.Discard, c.br)
	eventually(t, "the stream is cut", func() bool { return f.handler.inFlight.Load() == 0 })
	if err := f.handler.Drain(t.Context()); err != nil {
		t.Errorf("Drain of nothing: %v", err)
	}
}

func TestDrainReturnsWhenStreamsEnd(t *testing.T) {
	f := newFixture(t, liveServer)
	c := f.upgrade(t, "SPDY/3.1")
	done := make(chan error, 1)
	go func() { done <- f.handler.Drain(t.Context()) }()
	eventually(t, "draining", f.handler.draining.Load)
	_ = c.Close()
	if err := <-done; err != nil {
		t.Errorf("Drain: %v", err)
	}
}

// execServer runs "cat" in the manner of a kubelet with v4.channel.k8s.io.
func execServer(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := takeOver(w, "SPDY/3.1")
	if err != nil {
		return
	}
	defer conn.Close()
	sc, err := spdystream.NewConnection(conn, true)
	if err != nil {
		return
	}
	streams := make(chan *spdystream.Stream, 3)
	go func() {
		byType := map[string]*spdystream.Stream{}
		for range 3 {
			s, ok := <-streams
			if !ok {
				return
			}
			byType[s.Headers().Get("streamType")] = s
		}
		_, _ = io.Copy(byType["stdout"], byType["stdin"])
		_ = byType["stdout"].Close()
		_, _ = io.WriteString(byType["error"], `{"kind":"Status","apiVersion":"v1","status":"Success"}`)
		_ = byType["error"].Close()
		_ = sc.Close()
	}()
	sc.Serve(func(s *spdystream.Stream) {
		if s.SendReply(http.Header{}, false) == nil {
			streams <- s
		}
	})
	close(streams)
}
