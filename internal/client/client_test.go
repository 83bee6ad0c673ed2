package client_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/client"
	"github.com/sallyport-dev/sallyport/internal/client/clienttest"
)

func start(t *testing.T) *clienttest.Server {
	t.Helper()
	srv, err := clienttest.Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	srv.SetPassword("alice", "pw")
	return srv
}

func webCA(t *testing.T, srv *clienttest.Server) []byte {
	t.Helper()
	b, err := os.ReadFile(srv.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestLoginThenTheAPI(t *testing.T) {
	srv := start(t)
	web, err := client.NewWeb(srv.Addr, client.WebOptions{CAs: webCA(t, srv)})
	if err != nil {
		t.Fatal(err)
	}
	defer web.Close()
	resp, creds, err := web.LoginWithPassword(t.Context(), "alice", "pw", "", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	opts := client.APIOptions{ClusterName: resp.ClusterName, CertPEM: creds.CertPEM, KeyPEM: creds.KeyPEM, HostCAs: creds.HostCAs}
	cl, err := client.NewAPI(srv.Addr, opts)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if session, err := cl.Session(t.Context()); err != nil || session.User != "alice" || session.ID != resp.SessionID {
		t.Errorf("%+v, %v", session, err)
	}
	if clusters, err := cl.KubeClusters(t.Context()); err != nil || len(clusters) != 1 {
		t.Errorf("%+v, %v", clusters, err)
	}
	if err := cl.Logout(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := cl.Session(t.Context()); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Error(err)
	}

	// A public authority does not vouch for the api name.
	opts.HostCAs = webCA(t, srv)
	impostor, err := client.NewAPI(srv.Addr, opts)
	if err != nil {
		t.Fatal(err)
	}
	defer impostor.Close()
	if _, err := impostor.Session(t.Context()); !api.IsCode(err, api.CodeForbidden) || !strings.Contains(err.Error(), "does not know") {
		t.Error(err)
	}
}

// answering serves what fn makes of each request.
func answering(t *testing.T, fn http.HandlerFunc) *client.Client {
	t.Helper()
	srv := httptest.NewTLSServer(fn)
	t.Cleanup(srv.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	cl, err := client.NewWeb(srv.Listener.Addr().String(), client.WebOptions{CAs: ca})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func TestLoginAnswerMustFitTheRequest(t *testing.T) {
	good := start(t)
	real, err := client.NewWeb(good.Addr, client.WebOptions{CAs: webCA(t, good)})
	if err != nil {
		t.Fatal(err)
	}
	defer real.Close()
	for name, test := range map[string]struct {
		spoil func(*api.LoginResponse)
		want  string
	}{
		"other user":      {func(r *api.LoginResponse) { r.Username = "bob" }, "another user"},
		"no certificate":  {func(r *api.LoginResponse) { r.TLSCert = []byte("x") }, "not PEM"},
		"no host CA":      {func(r *api.LoginResponse) { r.HostSigners = nil }, "no host CA"},
		"other's host CA": {func(r *api.LoginResponse) { r.HostSigners[0].DomainName = "evil" }, "no host CA"},
		"host CA no PEM":  {func(r *api.LoginResponse) { r.HostSigners[0].TLSCerts[0] = []byte("x") }, "no PEM"},
		"cluster name":    {func(r *api.LoginResponse) { r.ClusterName = "../../etc" }, "want a lower-case DNS name"},
		"other key": {func(r *api.LoginResponse) {
			resp, _, err := real.LoginWithPassword(context.Background(), "alice", "pw", "", 0)
			if err == nil {
				r.TLSCert = resp.TLSCert
			}
		}, "another key"},
	} {
		t.Run(name, func(t *testing.T) {
			cl := answering(t, func(w http.ResponseWriter, r *http.Request) {
				var req api.LoginRequest
				if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
					t.Error(err)
				}
				resp, err := real.Login(r.Context(), &req)
				if err != nil {
					t.Error(err)
					return
				}
				test.spoil(resp)
				_ = json.NewEncoder(w).Encode(resp)
			})
			_, _, err := cl.LoginWithPassword(t.Context(), "alice", "pw", "", 0)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

func TestPasswordIsNotSentOn(t *testing.T) {
	elsewhere := false
	cl := answering(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/elsewhere" {
			elsewhere = true
			return
		}
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	})
	_, _, err := cl.LoginWithPassword(t.Context(), "alice", "pw", "", 0)
	if err == nil || elsewhere {
		t.Errorf("%v, followed: %v", err, elsewhere)
	}
}

func TestAnswersOfStrangersAreExplained(t *testing.T) {
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		code   api.Code
		want   string
	}{
		"a page":    {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }, api.CodeInternal, "is this the right address"},
		"a gateway": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }, api.CodeUnavailable, "502"},
		"our refusal": {func(w http.ResponseWriter, _ *http.Request) {
			api.WriteError(w, api.Errorf(api.CodeRateLimited, "wait"))
		}, api.CodeRateLimited, "wait"},
		"cut short": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "{")
		}, api.CodeAmbiguous, "broke"},
		"hangs up":     {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, api.CodeUnavailable, "reach"},
		"other fields": {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"new":1}`) }, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := answering(t, test.answer).Ping(t.Context())
			if api.CodeOf(err) != test.code || test.want != "" && !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: %v", api.CodeOf(err), err)
			}
		})
	}
}

func TestUnreachableServersAreExplained(t *testing.T) {
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead.sock")
	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", dead)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) //nolint:forcetypeassert // it is one
	_ = l.Close()
	for path, want := range map[string]string{filepath.Join(dir, "none.sock"): "no replica answers", dead: "no replica answers"} {
		if _, err := client.NewUnix(path, "").Status(t.Context()); !api.IsCode(err, api.CodeUnavailable) || !strings.Contains(err.Error(), want) {
			t.Error(err)
		}
	}
	srv := start(t)
	insecure, err := client.NewWeb(srv.Addr, client.WebOptions{Insecure: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := insecure.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	insecure.Close()
	srv.Close()
	if _, err := insecure.Ping(t.Context()); !api.IsCode(err, api.CodeUnavailable) || !strings.Contains(err.Error(), "connection refused") {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := insecure.Ping(ctx); err != context.Canceled { //nolint:errorlint // unwrapped on purpose
		t.Error(err)
	}
}

func TestBrokenWriteIsAmbiguous(t *testing.T) {
	cl := answering(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	if _, err := cl.Put(t.Context(), json.RawMessage(`{}`), false); !api.IsCode(err, api.CodeAmbiguous) {
		t.Error(err)
	}
	if err := cl.Delete(t.Context(), "user", "x", false); !api.IsCode(err, api.CodeAmbiguous) {
		t.Error(err)
	}
}

func TestBackupCutShortIsAnError(t *testing.T) {
	srv := start(t)
	if n, err := client.NewUnix(srv.Socket, "tctl/broken").Backup(t.Context(), io.Discard); err == nil {
		t.Errorf("%d bytes and no error", n)
	}
	if n, err := client.NewUnix(srv.Socket, "tctl").Backup(t.Context(), io.Discard); n != 8 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

func TestBackupWarnsOfWhatItMayLack(t *testing.T) {
	srv := start(t)
	for agent, want := range map[string]string{"tctl/leaderless": "no leader", "tctl": ""} {
		cl, heard := client.NewUnix(srv.Socket, agent), ""
		cl.OnWarning = func(text string) { heard = text }
		if n, err := cl.Backup(t.Context(), io.Discard); n != 8 || err != nil || heard != want {
			t.Errorf("%s: %d, %v, %q", agent, n, err, heard)
		}
	}
}

func TestNamesCannotChangeThePath(t *testing.T) {
	srv := start(t)
	cl := client.NewUnix(srv.Socket, "")
	if err := cl.Delete(t.Context(), api.KindUser, "../user/alice", false); !api.IsCode(err, api.CodeNotFound) {
		t.Error(err)
	}
	if items, err := cl.List(t.Context(), api.KindUser, "alice?x#y"); !api.IsCode(err, api.CodeNotFound) {
		t.Errorf("%s, %v", items, err)
	}
}

// FuzzSplitProxy: a host that comes out is one, and goes through again.
func FuzzSplitProxy(f *testing.F) {
	for _, s := range []string{"tele.example.com:443", "[::1]:1", "https://a/", "..", "a:b:c", "[fe80::1%eth0]:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, addr string) {
		host, port, err := client.SplitProxy(addr)
		if err != nil {
			return
		}
		if host == "" || strings.ContainsAny(host, "/\\\x00%+= \n") || strings.Trim(port, "0123456789") != "" || filepath.Base(host) != host || host == ".." {
			t.Fatalf("%q: %q %q", addr, host, port)
		}
		if h, p, err := client.SplitProxy(net.JoinHostPort(host, port)); h != host || p != port || err != nil {
			t.Fatalf("%q: %q %q, then %q %q %v", addr, host, port, h, p, err)
		}
	})
}
