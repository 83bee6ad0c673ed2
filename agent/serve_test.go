package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/sallyport-dev/sallyport/internal/upstream"
)

// served gives a way to send raw requests to an agent as a replica would, on
// streams without a tunnel below them, before one API server.
func served(t *testing.T, apiServer http.Handler, prefix string) (dial func() net.Conn, a *Agent) {
	t.Helper()
	srv := httptest.NewServer(apiServer)
	t.Cleanup(srv.Close)
	up, err := upstream.New(&rest.Config{Host: srv.URL + prefix, BearerToken: "the-agents-own"})
	if err != nil {
		t.Fatal(err)
	}
	a, err = New(Options{Proxy: testAddr, Clusters: []Cluster{{Name: "cookie", Upstream: up}, {Name: "Big_Name", Upstream: up}}})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { a.http.Serve(a.streams) })
	t.Cleanup(func() {
		a.streams.Close()
		a.http.Close()
		wg.Wait()
		a.conns.Wait()
		a.requests.Wait()
		up.CloseIdle()
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return func() net.Conn {
		client, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		a.streams.push(&stream{Stream: tcpStream{server.(*net.TCPConn)}, tunnel: &tunnel{agent: a}})
		t.Cleanup(func() { client.Close() })
		return client
	}, a
}

// tcpStream is a stream that has a connection for itself.
type tcpStream struct{ *net.TCPConn }

func (s tcpStream) Reset() error { return s.Close() }

func ask(t *testing.T, conn net.Conn, request string) (*http.Response, string) {
	t.Helper()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, strings.ReplaceAll(request, "\n", "\r\n")); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(b)
}

func TestWhatReachesTheAPIServer(t *testing.T) {
	var got *http.Request
	var body string
	dial, _ := served(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, body = r, string(b)
		w.Header().Set("X-Answer", "yes")
		w.WriteHeader(http.StatusTeapot)
	}), "/prefix")
	res, _ := ask(t, dial(), `POST /api/v1/%7Ea//b;c?x=1;y=%zz&&z HTTP/1.1
Host: cookie
impersonate-user: alice
Impersonate-Group: devs
Impersonate-Group: admins
Impersonate-Extra-Scopes: s
Impersonate-Uid: 7
Authorization: Bearer the-users-own
Proxy-Authorization: Basic x
Forwarded: for=1.2.3.4
X-Forwarded-For: 1.2.3.4
X-Forwarded-Proto: http
X-Real-Ip: 1.2.3.4
X-Remote-User: admin
X-Remote-Group: system:masters
Accept: application/json
User-Agent: kubectl/v1.34
Content-Length: 4

body`)
	if res.StatusCode != http.StatusTeapot || res.Header.Get("X-Answer") != "yes" || body != "body" {
		t.Errorf("%d, %q", res.StatusCode, body)
	}
	if got.RequestURI != "/prefix/api/v1/%7Ea//b;c?x=1;y=%zz&&z" {
		t.Errorf("path and query: %s", got.RequestURI)
	}
	header := got.Header.Clone()
	header.Del("Accept-Encoding")
	want := http.Header{
		"Impersonate-User": {"alice"}, "Impersonate-Group": {"devs", "admins"}, "Impersonate-Extra-Scopes": {"s"}, "Impersonate-Uid": {"7"},
		"Authorization": {"Bearer the-agents-own"}, "Accept": {"application/json"}, "User-Agent": {"kubectl/v1.34"}, "Content-Length": {"4"},
	}
	if diff := cmp.Diff(want, header); diff != "" {
		t.Error(diff)
	}
	if res, _ := ask(t, dial(), "GET /x HTTP/1.1\nHost: x-"+apiLabel("Big_Name")+"\nImpersonate-User: a\n\n"); res.StatusCode != http.StatusTeapot {
		t.Errorf("a name that is no DNS label: %d", res.StatusCode)
	}
}

func apiLabel(name string) string {
	a, err := New(Options{Proxy: testAddr, Clusters: []Cluster{{Name: name, Handler: http.NotFoundHandler()}}})
	if err != nil {
		return err.Error()
	}
	for label := range a.byHost {
		return strings.TrimPrefix(label, "x-")
	}
	return ""
}

// Threats rows SSRF, CVE-2021-31999 and "ordering bug": nothing but the configured
// API server, and nobody without a user.
func TestRequestsThatAreRefused(t *testing.T) {
	reached := 0
	dial, _ := served(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached++ }), "")
	for name, test := range map[string]struct {
		request string
		code    int
	}{
		"another host":                {"GET / HTTP/1.1\nHost: 169.254.169.254\nImpersonate-User: a\n\n", 404},
		"a host with a port":          {"GET / HTTP/1.1\nHost: cookie:80\nImpersonate-User: a\n\n", 404},
		"the name of a label":         {"GET / HTTP/1.1\nHost: Big_Name\nImpersonate-User: a\n\n", 404},
		"absolute form":               {"GET http://cookie/ HTTP/1.1\nHost: cookie\nImpersonate-User: a\n\n", 400},
		"absolute form, another host": {"GET http://169.254.169.254/ HTTP/1.1\nHost: cookie\nImpersonate-User: a\n\n", 404},
		"connect":                     {"CONNECT 169.254.169.254:80 HTTP/1.1\nHost: cookie\nImpersonate-User: a\n\n", 404},
		"connect by name":             {"CONNECT cookie HTTP/1.1\nHost: cookie\nImpersonate-User: a\n\n", 400},
		"asterisk":                    {"OPTIONS * HTTP/1.1\nHost: cookie\nImpersonate-User: a\n\n", 400},
		"nobody":                      {"GET /api HTTP/1.1\nHost: cookie\n\n", 403},
		"an empty user":               {"GET /api HTTP/1.1\nHost: cookie\nImpersonate-User:  \n\n", 403},
		"two users":                   {"GET /api HTTP/1.1\nHost: cookie\nImpersonate-User: a\nImpersonate-User: b\n\n", 403},
		"groups alone":                {"GET /api HTTP/1.1\nHost: cookie\nImpersonate-Group: system:masters\n\n", 403},
		"a user with an underscore":   {"GET /api HTTP/1.1\nHost: cookie\nImpersonate_User: a\n\n", 403},
		"a user that is hop-by-hop":   {"GET /api HTTP/1.1\nHost: cookie\nImpersonate-User: a\nConnection: close, impersonate-User\n\n", 400},
		"a group that is":             {"GET /api HTTP/1.1\nHost: cookie\nImpersonate-User: a\nImpersonate-Group: b\nConnection: Impersonate-Group\n\n", 400},
	} {
		res, body := ask(t, dial(), test.request)
		var status metav1.Status
		if err := json.Unmarshal([]byte(body), &status); err != nil || res.StatusCode != test.code || status.Kind != "Status" || int(status.Code) != test.code {
			t.Errorf("%s: %d %s", name, res.StatusCode, body)
		}
	}
	if reached > 0 {
		t.Errorf("%d requests reached the API server", reached)
	}
}

// The last line: whatever takes the user away on the way, the request stops.
func TestARequestWithoutAUserIsNeverSent(t *testing.T) {
	up := upstream.Upstream{Plain: roundTrip(func(*http.Request) { t.Error("it was sent") }), Upgrade: roundTrip(func(*http.Request) { t.Error("it was sent") })}
	for _, header := range []http.Header{{}, {"Upgrade": {"SPDY/3.1"}}, {"Impersonate-User": {"a", "b"}}} {
		if _, err := (apiTransport{up}).RoundTrip(&http.Request{Header: header}); err == nil {
			t.Error(header)
		}
	}
}

type roundTrip func(*http.Request)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) {
	f(r)
	return nil, io.EOF
}

// A redirect is the user's to follow, or not.
func TestRedirectsAreNotFollowed(t *testing.T) {
	n := 0
	dial, _ := served(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n++
		http.Redirect(w, r, "http://169.254.169.254/", http.StatusFound)
	}), "")
	if res, _ := ask(t, dial(), "GET /api HTTP/1.1\nHost: cookie\nImpersonate-User: a\n\n"); res.StatusCode != http.StatusFound || n != 1 {
		t.Errorf("%d after %d requests", res.StatusCode, n)
	}
}

func TestAnAPIServerThatIsAwayIsToldInWords(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	srv.Close()
	up, err := upstream.New(&rest.Config{Host: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(Options{Proxy: testAddr, Clusters: []Cluster{{Name: "cookie", Upstream: up}}})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "/api", nil)
	r.Host = "cookie"
	r.Header.Set("Impersonate-User", "a")
	a.serve(w, r)
	if body := w.Body.String(); w.Code != http.StatusBadGateway || !strings.Contains(body, `the API server of the Kubernetes cluster \"cookie\" can't be reached by its agent: connection refused`) || strings.Contains(body, "127.0.0.1") {
		t.Errorf("%d %s", w.Code, body)
	}
	if n := a.clusters[0].requests[5].Load(); n != 1 {
		t.Errorf("%d counted", n)
	}
}

// Watches: what the API server has said is on its way at once.
func TestAnswersAreFlushedAtOnce(t *testing.T) {
	go1 := make(chan struct{})
	dial, _ := served(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "first\n")
		w.(http.Flusher).Flush()
		select {
		case <-go1:
		case <-r.Context().Done():
		}
		io.WriteString(w, "second\n")
	}), "")
	conn := dial()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(conn, "GET /watch HTTP/1.1\r\nHost: cookie\r\nImpersonate-User: a\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(res.Body)
	if line, err := r.ReadString('\n'); line != "first\n" {
		t.Fatal(line, err)
	}
	close(go1)
	if line, _ := r.ReadString('\n'); line != "second\n" {
		t.Error(line)
	}
	res.Body.Close()
}

// Upgrades go both ways, and each way ends by itself.
func TestUpgrades(t *testing.T) {
	for _, protocol := range []string{"SPDY/3.1", "websocket"} {
		t.Run(protocol, func(t *testing.T) {
			heard := make(chan string, 1)
			dial, _ := served(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Upgrade") != protocol || r.Header.Get("Impersonate-User") != "alice" || r.Header.Get("Authorization") != "Bearer the-agents-own" {
					t.Errorf("%v", r.Header)
				}
				conn, rw, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\nhello", protocol)
				b, _ := io.ReadAll(rw) // until the client's half is closed
				heard <- string(b)
				io.WriteString(conn, "goodbye")
			}), "")
			conn := dial()
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			fmt.Fprintf(conn, "POST /api/v1/exec HTTP/1.1\r\nHost: cookie\r\nImpersonate-User: alice\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", protocol)
			r := bufio.NewReader(conn)
			res, err := http.ReadResponse(r, nil)
			if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
				t.Fatal(res, err)
			}
			io.WriteString(conn, "typed")
			conn.(*net.TCPConn).CloseWrite()
			b, err := io.ReadAll(r)
			if string(b) != "hellogoodbye" || err != nil {
				t.Errorf("%q, %v", b, err)
			}
			if got := <-heard; got != "typed" {
				t.Errorf("%q", got)
			}
		})
	}
}

// The API server may be the first to have said all.
func TestTheAPIServersHalfOfAnUpgradeEndsByItself(t *testing.T) {
	heard := make(chan string, 1)
	dial, _ := served(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\nall")
		conn.(*net.TCPConn).CloseWrite()
		b, _ := io.ReadAll(rw)
		heard <- string(b)
	}), "")
	conn := dial()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(conn, "POST /api/v1/exec HTTP/1.1\r\nHost: cookie\r\nImpersonate-User: alice\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n")
	r := bufio.NewReader(conn)
	if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(res, err)
	}
	if b, err := io.ReadAll(r); string(b) != "all" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	io.WriteString(conn, "late")
	conn.(*net.TCPConn).CloseWrite()
	if got := <-heard; got != "late" {
		t.Errorf("%q", got)
	}
}

// CVE-2018-1002105: an API server that does not switch protocols is answered for,
// and what follows on the stream is a request of its own, with its own user.
func TestAnUpgradeThatIsRefusedLeadsNowhere(t *testing.T) {
	var paths []string
	dial, _ := served(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		paths = append(paths, r.URL.Path)
		w.WriteHeader(http.StatusForbidden)
	}), "")
	conn := dial()
	res, _ := ask(t, conn, "GET /exec HTTP/1.1\nHost: cookie\nImpersonate-User: a\nConnection: Upgrade\nUpgrade: SPDY/3.1\n\n")
	if res.StatusCode != http.StatusForbidden {
		t.Fatal(res.Status)
	}
	if res, _ := ask(t, conn, "GET /secret HTTP/1.1\nHost: cookie\n\n"); res.StatusCode != http.StatusForbidden {
		t.Error(res.Status)
	}
	if !slices.Equal(paths, []string{"/exec"}) {
		t.Error(paths)
	}
}

// Reliability row 20, through a whole tunnel: nothing is left of streams that ended.
func TestStreamsLeaveNothingBehind(t *testing.T) {
	bubble(t, func(t *testing.T) { // which fails if a goroutine is left
		f := newFake(t, "r1")
		a := start(t, options(f))
		pass(10 * time.Second)
		tun := f.open()[0]
		for range 500 {
			conn, err := tun.sess.Open(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(conn, "GET / HTTP/1.1\r\nHost: cookie\r\nImpersonate-User: a\r\n\r\n")
			if _, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil {
				t.Fatal(err)
			}
			conn.Close()
		}
		pass(time.Second)
		if n := tun.sess.Streams(); n > 1 {
			t.Errorf("%d streams are open", n)
		}
		a.end(t)
		f.close()
	})
}

// FuzzServe: whatever bytes a replica sends, nobody acts as the agent itself.
func FuzzServe(f *testing.F) {
	f.Add([]byte("GET /api HTTP/1.1\r\nHost: cookie\r\nImpersonate-User: a\r\n\r\n"))
	f.Add([]byte("GET /api HTTP/1.1\r\nHost: cookie\r\nImpersonate-User: a\r\nConnection: impersonate-user\r\n\r\n"))
	f.Add([]byte("GET /api HTTP/1.1\r\nHost: cookie\r\nImpersonate-User: a\r\nAuthorization: Bearer theirs\r\n\r\n")) // credentials of ours may be a certificate
	f.Add([]byte("GET http://x/ HTTP/1.1\r\nHost: cookie\r\n\r\n"))
	f.Add([]byte("POST /api HTTP/1.1\r\nHost: cookie\r\nImpersonate-User: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: cookie\r\n\r\n"))
	u, _ := url.Parse("https://10.0.0.1:6443")
	f.Fuzz(func(t *testing.T, b []byte) {
		check := func(r *http.Request) {
			if len(r.Header["Impersonate-User"]) != 1 || r.URL.Host != u.Host || r.URL.Scheme != "https" || r.Header["Authorization"] != nil {
				t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
			}
		}
		a, err := New(Options{Proxy: testAddr, Clusters: []Cluster{{Name: "cookie", Upstream: upstream.Upstream{URL: u, Plain: roundTrip(check), Upgrade: roundTrip(check)}}}})
		if err != nil {
			t.Fatal(err)
		}
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(string(b))))
		if err != nil {
			return
		}
		a.serve(httptest.NewRecorder(), r)
	})
}
