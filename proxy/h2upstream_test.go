package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// CVE-2026-33814, CVE-2023-45288 from the other side: an API server (or whoever
// holds its key) that sends frames to hurt the proxy. Its own cluster's requests
// fail, in time and in bounded memory; those to other clusters don't notice.
func TestCVE202633814HostileFramesOfAnAPIServerFailInTime(t *testing.T) {
	const upload = 1 << 20
	for name, serve := range map[string]func(fr *http2.Framer, id uint32){
		"SETTINGS_MAX_FRAME_SIZE=0": func(fr *http2.Framer, _ uint32) {
			_ = fr.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize})
		},
		"endless CONTINUATION": func(fr *http2.Framer, id uint32) {
			var block bytes.Buffer
			enc := hpack.NewEncoder(&block)
			_ = enc.WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
			_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes()})
			block.Reset()
			_ = enc.WriteField(hpack.HeaderField{Name: "x-long", Value: strings.Repeat("~", 8000), Sensitive: true})
			for range 100_000 { // 800 MB at most
				if fr.WriteContinuation(id, false, block.Bytes()) != nil {
					return
				}
			}
		},
		"endless 1xx answers": func(fr *http2.Framer, id uint32) {
			var block bytes.Buffer
			enc := hpack.NewEncoder(&block)
			for range 1_000_000 {
				block.Reset()
				_ = enc.WriteField(hpack.HeaderField{Name: ":status", Value: "103"})
				_ = enc.WriteField(hpack.HeaderField{Name: "x-long", Value: strings.Repeat("~", 1000), Sensitive: true})
				if fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true}) != nil {
					return
				}
			}
		},
		"window of 2^32-1": func(fr *http2.Framer, _ uint32) {
			_ = fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<32 - 1})
		},
		"frames of unknown types, then none": func(fr *http2.Framer, id uint32) {
			for kind := http2.FrameType(0x0a); kind < 0x0c; kind++ {
				_ = fr.WriteRawFrame(kind, 0xff, id, []byte{1, 2, 3})
			}
			_ = fr.WriteGoAway(0, http2.ErrCodeInternal, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, nil)
			hostile := hostileServer(t, f.backend.TLS.Certificates[0], serve)
			up := f.backend.upstream(t)
			up.URL.Host = hostile
			f.handler.targets = StaticTargets{"prod": up, "dev": f.backend.upstream(t)}

			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			start := time.Now()
			req, _ := http.NewRequestWithContext(ctx, http.MethodPost, f.front.URL+"/api/v1/pods", bytes.NewReader(make([]byte, upload)))
			res, err := f.front.Client().Do(req)
			if err != nil {
				t.Fatalf("after %v: %v", time.Since(start), err)
			}
			body, _ := io.ReadAll(res.Body)
			_ = res.Body.Close()
			wantStatus(t, res, string(body), http.StatusBadGateway, `the API server of the Kubernetes cluster "prod" can't be reached`)
			runtime.ReadMemStats(&after)
			if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 32<<20 { //nolint:gosec // far below
				t.Errorf("the heap grew by %d MiB", grown>>20)
			}
			t.Logf("after %v: %s", time.Since(start), body)
			f.conn.Store(&ConnInfo{Identity: Identity{User: "alice", SessionID: "s1"}, Kube: "dev"})
			f.front.Client().CloseIdleConnections()
			if res, body := f.get("/api/v1/pods"); res.StatusCode != http.StatusOK {
				t.Errorf("another cluster: HTTP %s: %s", res.Status, body)
			}
		})
	}
}

// hostileServer speaks HTTP/2 by hand: serve is called on the first request of
// each connection.
func hostileServer(t *testing.T, cert tls.Certificate, serve func(fr *http2.Framer, id uint32)) (addr string) {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go hostileConn(c, serve)
		}
	}()
	return l.Addr().String()
}

func hostileConn(c net.Conn, serve func(fr *http2.Framer, id uint32)) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
		return
	}
	fr := http2.NewFramer(c, c)
	fr.AllowIllegalWrites = true
	if fr.WriteSettings() != nil {
		return
	}
	for begun := false; ; {
		frame, err := fr.ReadFrame()
		if err != nil {
			return
		}
		if h, ok := frame.(*http2.HeadersFrame); ok && !begun {
			begun = true
			serve(fr, h.StreamID)
		}
	}
}
