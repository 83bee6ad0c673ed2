package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// A public port under attack by frames: as httpServer and tlsConfig make it, on
// loopback, with a handler that counts what it has to do.
type floodTarget struct {
	addr    string
	running atomic.Int64
	most    atomic.Int64  // running at once
	release chan struct{} // what /stuck waits for
	client  *http.Client  // of somebody else
}

func newFloodTarget(t *testing.T) *floodTarget {
	t.Helper()
	certs := testCertificates(t)
	f := &floodTarget{release: make(chan struct{})}
	front := frontHandler{ids: identities{clusterName: testCluster}, web: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/other" {
			return
		}
		n := f.running.Add(1)
		defer f.running.Add(-1)
		for most := f.most.Load(); n > most && !f.most.CompareAndSwap(most, n); most = f.most.Load() {
		}
		if r.URL.Path == "/stuck" { // a handler that a reset does not end at once
			<-f.release
			return
		}
		<-r.Context().Done()
	})}
	srv := httpServer(front, tlsConfig(testCluster, certs, false, nil), slog.New(slog.DiscardHandler))
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // loopback
	if err != nil {
		t.Fatal(err)
	}
	f.addr = l.Addr().String()
	done := make(chan error, 1)
	go func() { done <- srv.ServeTLS(l, "", "") }()
	t.Cleanup(func() {
		close(f.release)
		_ = srv.Close()
		<-done
	})
	transport := &http.Transport{
		DialTLSContext:    func(ctx context.Context, _, _ string) (net.Conn, error) { return f.dial(ctx, "http/1.1") },
		DisableKeepAlives: true, // a new user each time
	}
	t.Cleanup(transport.CloseIdleConnections)
	f.client = &http.Client{Transport: transport, Timeout: patience}
	return f
}

func (f *floodTarget) dial(ctx context.Context, proto string) (net.Conn, error) {
	d := tls.Dialer{Config: &tls.Config{ServerName: testCluster, InsecureSkipVerify: true, NextProtos: []string{proto}}} //nolint:gosec // not about trust
	return d.DialContext(ctx, "tcp", f.addr)
}

// attacker is an HTTP/2 connection whose frames are made by hand.
type attacker struct {
	*http2.Framer
	net.Conn
	block bytes.Buffer
	enc   *hpack.Encoder
	deaf  atomic.Bool // reads no more
	ended chan error  // what ended the connection, as the other side says
}

func (f *floodTarget) attacker(t *testing.T, settings ...http2.Setting) *attacker {
	t.Helper()
	c, err := f.dial(t.Context(), "h2")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(40 * time.Second)) // less than it takes the server to miss the answer to a ping
	a := &attacker{Framer: http2.NewFramer(c, c), Conn: c, ended: make(chan error, 1)}
	a.AllowIllegalWrites = true
	a.enc = hpack.NewEncoder(&a.block)
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := a.WriteSettings(settings...); err != nil {
		t.Fatal(err)
	}
	go func() {
		for !a.deaf.Load() {
			frame, err := a.ReadFrame()
			if err != nil {
				a.ended <- err
				return
			}
			if away, ok := frame.(*http2.GoAwayFrame); ok && away.ErrCode != http2.ErrCodeNo {
				a.ended <- http2.ConnectionError(away.ErrCode)
				return
			}
		}
	}()
	return a
}

// request begins one on a stream; more than one fragment if the block is long.
func (a *attacker) request(id uint32, path string, end bool) error {
	a.block.Reset()
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", testCluster}, {":path", path}} {
		_ = a.enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	return a.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: a.block.Bytes(), EndHeaders: end, EndStream: true})
}

// CVE-2023-44487 and its kin: what costs the sender little must not cost the
// replica much. A flood ends its connection or is bounded, and others are served.
func TestFloodsOfFramesAreBounded(t *testing.T) {
	const most = 1000 // requests of one connection at a time: see httpServer
	for _, tt := range []struct {
		name     string
		settings []http2.Setting
		flood    func(a *attacker) error // until the connection breaks, or its own end
		closed   bool                    // it must break
	}{
		{name: "CVE-2023-44487 resets", flood: func(a *attacker) error {
			for id := uint32(1); id < 2*20_000; id += 2 {
				if err := errors.Join(a.request(id, "/", true), a.WriteRSTStream(id, http2.ErrCodeCancel)); err != nil {
					return err
				}
			}
			return nil
		}},
		{name: "CVE-2023-44487 resets of requests that run on", closed: true, flood: func(a *attacker) error {
			for id := uint32(1); id < 2*20_000; id += 2 {
				if err := errors.Join(a.request(id, "/stuck", true), a.WriteRSTStream(id, http2.ErrCodeCancel)); err != nil {
					return err
				}
			}
			return nil
		}},
		{name: "CVE-2023-45288 CONTINUATION", closed: true, flood: func(a *attacker) error {
			if err := a.request(1, "/", false); err != nil {
				return err
			}
			_ = a.enc.WriteField(hpack.HeaderField{Name: "x-long", Value: string(bytes.Repeat([]byte{'~'}, 4000)), Sensitive: true})
			for range 10_000 { // 40 MB at most
				if err := a.WriteContinuation(1, false, a.block.Bytes()[a.block.Len()-4000:]); err != nil {
					return err
				}
			}
			return nil
		}},
		// These hold nothing but the connection, and the ping that finds no answer
		// ends that within 45 s.
		{name: "empty CONTINUATIONs", flood: func(a *attacker) error {
			if err := a.request(1, "/", false); err != nil {
				return err
			}
			for range 200_000 {
				if err := a.WriteContinuation(1, false, nil); err != nil {
					return err
				}
			}
			return nil
		}},
		{name: "CVE-2026-33814 SETTINGS_MAX_FRAME_SIZE=0", closed: true, settings: []http2.Setting{{ID: http2.SettingMaxFrameSize}}, flood: func(a *attacker) error {
			return a.request(1, "/", true)
		}},
		{name: "SETTINGS_INITIAL_WINDOW_SIZE of 2^32-1", closed: true, settings: []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 1<<32 - 1}}, flood: func(a *attacker) error {
			return a.request(1, "/", true)
		}},
		{name: "CVE-2026-27141 frames of unknown types", flood: func(a *attacker) error {
			for kind := http2.FrameType(0x0a); kind <= 0x1f; kind++ {
				for _, body := range [][]byte{nil, {0}, bytes.Repeat([]byte{0xff}, 64)} {
					for stream := range uint32(3) {
						if err := a.WriteRawFrame(kind, 0xff, stream, body); err != nil {
							return err
						}
					}
				}
			}
			return nil
		}},
		{name: "a frame longer than allowed", closed: true, flood: func(a *attacker) error {
			return a.WriteRawFrame(http2.FrameData, 0, 1, make([]byte, 2<<20))
		}},
		{name: "PINGs whose answers nobody reads", closed: true, flood: func(a *attacker) error {
			a.deaf.Store(true)
			for range 2_000_000 {
				if err := a.WritePing(false, [8]byte{}); err != nil {
					return err
				}
			}
			return nil
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFloodTarget(t)
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			a := f.attacker(t, tt.settings...)
			flooded := make(chan error, 1)
			go func() { flooded <- tt.flood(a) }()
			var worst time.Duration
			others := 0
			var broken error
			for over := false; !over || others < 20; others++ {
				start := time.Now()
				res, err := f.client.Get("https://" + testCluster + "/other") //nolint:noctx // has a timeout
				if err != nil {
					t.Fatalf("somebody else, after %d requests: %v", others, err)
				}
				_ = res.Body.Close()
				worst = max(worst, time.Since(start))
				select {
				case broken = <-flooded:
					over = true
				default:
				}
			}
			if tt.closed && broken == nil {
				broken = <-a.ended
			}
			runtime.ReadMemStats(&after)
			grown := int64(after.HeapAlloc) - int64(before.HeapAlloc) //nolint:gosec // far below
			t.Logf("ended by %v; %d requests at once; heap +%d KiB; %d of others, the slowest %v", broken, f.most.Load(), grown>>10, others, worst)
			if tt.closed && (broken == nil || errors.Is(broken, os.ErrDeadlineExceeded)) {
				t.Errorf("the connection is still open: %v", broken)
			}
			if f.most.Load() > most {
				t.Errorf("%d requests ran at once, at most %d may", f.most.Load(), most)
			}
			if grown > 64<<20 {
				t.Errorf("the heap grew by %d MiB", grown>>20)
			}
			if worst > patience/4 {
				t.Errorf("somebody else waited %v", worst)
			}
		})
	}
}

// Request smuggling: behind a body that two readers may count differently nothing
// is read. (Of the way to Kubernetes the tests of package proxy have more.)
func TestNothingIsReadBehindADoubtfulBody(t *testing.T) {
	f := newFloodTarget(t)
	for name, sent := range map[string]string{
		"TE and CL":        "POST /other HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"two CL":           "POST /other HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 0\r\n\r\n",
		"bare LF in chunk": "POST /other HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n",
	} {
		c, err := f.dial(t.Context(), "http/1.1")
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := io.WriteString(c, sent+"GET /other HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		answers, err := io.ReadAll(c)
		if errors.Is(err, os.ErrDeadlineExceeded) || strings.Count(string(answers), "HTTP/1.1 ") != 1 {
			t.Errorf("%s: %v, %q", name, err, answers)
		}
		_ = c.Close()
	}
}
