package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/client"
)

func TestTurnsAreFewForAUserAndInAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns("searches", 2, 3, 2*time.Second)
		begin := func(user string) func() {
			end, err := turns.begin(t.Context(), user)
			if err != nil {
				t.Fatal(err)
			}
			return end
		}
		first, second := begin("mallory"), begin("mallory")
		refused := func(user, says string) {
			t.Helper()
			begun := time.Now()
			if _, err := turns.begin(t.Context(), user); !api.IsCode(err, api.CodeRateLimited) || !strings.Contains(err.Error(), says) || time.Since(begun) != 2*time.Second {
				t.Errorf("%v after %s", err, time.Since(begun))
			}
		}
		refused("mallory", "2 searches of yours")
		third := begin("alice")
		refused("bob", "3 searches are under way on this replica")
		got := make(chan error, 1)
		go func() {
			end, err := turns.begin(t.Context(), "bob")
			if err == nil {
				end()
			}
			got <- err
		}()
		synctest.Wait()
		first()
		first() // twice is once
		if err := <-got; err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		begin("mallory")
		if _, err := turns.begin(ctx, "mallory"); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		second()
		third()
		if len(turns.users) != 1 || turns.used != 1 {
			t.Errorf("%v %d", turns.users, turns.used)
		}
	})
}

// stuck is a client that does not read.
type stuck struct {
	*httptest.ResponseRecorder
	release <-chan struct{}
	began   chan struct{}
}

func (s *stuck) Write(b []byte) (int, error) {
	select {
	case s.began <- struct{}{}:
	default:
	}
	<-s.release
	return s.ResponseRecorder.Write(b)
}

func TestWhoDoesNotReadKeepsNoVerificationFromItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release, verified := make(chan struct{}), make(chan struct{})
		w := &stuck{httptest.NewRecorder(), release, make(chan struct{}, 1)}
		served := make(chan struct{})
		go func() {
			defer close(served)
			newReports().serve(w, func(tell func(api.AuditVerified)) {
				defer close(verified)
				tell(api.AuditVerified{ServerID: "a"})
				<-w.began
				for n := range uint64(1000) {
					tell(api.AuditVerified{ServerID: "a", Number: n})
				}
				tell(api.AuditVerified{ServerID: "b", Done: true, OK: true})
				tell(api.AuditVerified{ServerID: "a", Number: 1000, Done: true, OK: true})
			})
		}()
		<-verified
		close(release)
		<-served
		if got := w.Body.String(); strings.Count(got, "\n") != 3 || strings.Count(got, `"done":true`) != 2 || strings.Contains(got, "999") {
			t.Error(got)
		}
	})
	synctest.Test(t, func(t *testing.T) { // and one that sees nothing for long hears a sign of life
		w := httptest.NewRecorder()
		newReports().serve(w, func(tell func(api.AuditVerified)) {
			tell(api.AuditVerified{ServerID: "a", Done: true})
			tell(api.AuditVerified{ServerID: "b"})
			<-time.After(35 * time.Second)
		})
		if a, b := strings.Count(w.Body.String(), `"server_id":"a"`), strings.Count(w.Body.String(), `"server_id":"b"`); a != 1 || b != 4 {
			t.Error(a, b, w.Body)
		}
	})
}

// stall asks for something n times over one connection, and reads none of the answers
// until it leaves.
func (r *replicas) stall(creds *client.Credentials, n int, path string) (leave func()) {
	r.t.Helper()
	pair, err := tls.X509KeyPair(creds.CertPEM, creds.KeyPEM)
	if err != nil {
		r.t.Fatal(err)
	}
	nc, err := (&tls.Dialer{Config: &tls.Config{
		ServerName: api.APIServerName(testCluster), Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2"}, InsecureSkipVerify: true, //nolint:gosec // ourselves
	}}).DialContext(r.t.Context(), "tcp", r.opts[0].PublicAddr)
	if err != nil {
		r.t.Fatal(err)
	}
	leave = sync.OnceFunc(func() { _ = nc.Close() })
	r.t.Cleanup(leave)
	fr := http2.NewFramer(nc, nc)
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	_, err = nc.Write([]byte(http2.ClientPreface))
	err = errors.Join(err, fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}), fr.WriteSettingsAck())
	for i := range n {
		block.Reset()
		for _, h := range [][2]string{{":method", http.MethodGet}, {":scheme", "https"}, {":authority", "x"}, {":path", path}, {"user-agent", "tctl"}} {
			err = errors.Join(err, enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}))
		}
		err = errors.Join(err, fr.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(1 + 2*i), BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})) //nolint:gosec // few
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return leave
}

// Who asks for much and reads nothing is refused more, and stands in nobody else's way.
func (r *replicas) boundsWhoReadsNothing(t *testing.T) {
	r.addAuditor("mallory")
	srv, mallory, ada := r.run[0].srv, r.login(0, "mallory"), r.apiClient(0, r.login(0, "ada"))
	for range 20 {
		srv.events.Record(api.Event{Event: "x", Code: "X", Fields: map[string]any{"a": strings.Repeat("x", 4000), "b": strings.Repeat("y", 4000)}})
	}
	eventually(t, patience, "all is there", func() error {
		page, err := ada.Audit(t.Context(), api.AuditQuery{Types: []string{"x"}})
		if err != nil || len(page.Events) != 20 {
			return fmt.Errorf("%d events, %w", len(page.Events), err)
		}
		return nil
	})
	leave := r.stall(mallory, 20, api.PathAudit+"?newest=true&limit=1000")
	leaveExports := r.stall(mallory, 5, api.PathAuditExport)
	bounds := srv.auditBounds
	used := func(b *turns) int { b.mu.Lock(); defer b.mu.Unlock(); return b.users["mallory"] }
	eventually(t, patience, "mallory has all turns", func() error {
		if a, b := used(bounds.calls), used(bounds.exports); a != bounds.calls.perUser || b != bounds.exports.perUser {
			return fmt.Errorf("%d searches, %d exports", a, b)
		}
		return nil
	})
	if _, err := ada.Audit(t.Context(), api.AuditQuery{Limit: 1}); err != nil {
		t.Errorf("another auditor: %v", err)
	}
	if _, err := ada.AuditExport(t.Context(), 0, 0, &bytes.Buffer{}); err != nil {
		t.Errorf("another auditor: %v", err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+r.opts[0].PublicAddr+api.PathAuditExport, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := r.kubeClient(mallory)
	c.Transport.(*http.Transport).TLSClientConfig.ServerName = api.APIServerName(testCluster)
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") == "" {
		t.Errorf("mallory: %s %v", resp.Status, resp.Header)
	}
	leave()
	leaveExports()
	eventually(t, patience, "mallory has left", func() error {
		if a, b := used(bounds.calls), used(bounds.exports); a+b > 0 {
			return fmt.Errorf("%d searches, %d exports", a, b)
		}
		return nil
	})
	if page, err := r.apiClient(0, mallory).Audit(t.Context(), api.AuditQuery{Newest: true, Limit: 1000}); err != nil || len(page.Events) < 20 {
		t.Errorf("%+v %v", page, err)
	}
}

// What a client does not read ends after a while; who reads gets all of it, however long
// that takes in all.
func TestAnswersEndWithTheClientsPatience(t *testing.T) {
	t.Parallel()
	failed := make(chan error, 1)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stalled" {
			out := newPieces(w, 50*time.Millisecond)
			for {
				if _, err := out.Write(make([]byte, 1<<20)); err != nil {
					failed <- err
					panic(http.ErrAbortHandler)
				}
			}
		}
		out := newPieces(w, time.Minute)
		for range 3 {
			_, _ = out.Write(bytes.Repeat([]byte("x"), 3*readPiece+1))
			_ = out.FlushError()
		}
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	http1 := srv.Client().Transport.(*http.Transport).Clone()
	http1.ForceAttemptHTTP2, http1.TLSClientConfig.NextProtos, http1.TLSNextProto = false, []string{"http/1.1"}, map[string]func(string, *tls.Conn) http.RoundTripper{}
	defer http1.CloseIdleConnections()
	for major, c := range map[int]*http.Client{1: {Transport: http1}, 2: srv.Client()} {
		get := func(path string) *http.Response {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := c.Do(req)
			if err != nil || resp.ProtoMajor != major {
				t.Fatal(resp, err)
			}
			return resp
		}
		stalled := get("/stalled")
		if err := <-failed; err == nil {
			t.Error("all of it was written")
		}
		_ = stalled.Body.Close()
		whole := get("/")
		if n, err := io.Copy(io.Discard, whole.Body); err != nil || n != 3*(3*readPiece+1) {
			t.Errorf("HTTP/%d: %d bytes, %v", major, n, err)
		}
		_ = whole.Body.Close()
	}
}
