package proxy

import (
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
)

// The tests of this file are named after the advisories that they hold off.

// CVE-2021-31999 (Rancher), capsule-proxy#188: fields listed in Connection are
// dropped by proxies, after the proxy has set them.
func TestCVE202131999ConnectionCantRemoveOurImpersonation(t *testing.T) {
	for _, listed := range []string{
		"Impersonate-User, Impersonate-Group", "impersonate-user,IMPERSONATE-GROUP", "close, Impersonate-User", "Authorization, impersonate-group", "User-Agent",
	} {
		for _, upgrade := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s upgrade=%v", listed, upgrade), func(t *testing.T) {
				f := newFixture(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
				c := dialRaw(t, f.front)
				if upgrade {
					c.send("GET /api/v1/namespaces/a/pods/b/exec HTTP/1.1", "Host: sally.example", "Connection: Upgrade, "+listed, "Upgrade: websocket", "")
				} else {
					c.send("GET /api/v1/pods HTTP/1.1", "Host: sally.example", "Connection: "+listed, "")
				}
				if res := c.answer(); res.StatusCode != http.StatusOK {
					t.Fatalf("HTTP %s", res.Status)
				}
				wantImpersonated(t, f.backend.only(t).Header, "alice", "devs", "system:authenticated")
			})
		}
	}
}

// cluster-proxy#329/#335, Infisical#184/#186, kube-oidc-proxy#113: the client's
// own impersonation fields, in spellings that a filter may miss.
func TestClusterProxy329ForgedImpersonationNeverArrives(t *testing.T) {
	for _, field := range []string{
		"Impersonate-Group: system:masters", "impersonate-group: system:masters", "IMPERSONATE-GROUP: system:masters", "iMpErSoNaTe-gRoUp:system:masters",
		"Impersonate-Group: devs\r\nImpersonate-Group: system:masters", "Impersonate-Group: devs, system:masters", "Impersonate-Group : system:masters",
		"Impersonate-Group\t: system:masters", "Impersonate_Group: system:masters", "Impersonate_User: root", "IMPERSONATE_GROUP: x", "Impersonate-Group:", "Impersonate-User:",
		"Impersonate-User: root", "Impersonate-User: bob\r\nImpersonate-User: root", "impersonate-user: alice\r\nIMPERSONATE-USER: root",
		"Impersonate-Uid: 0", "impersonate-uid: 0", "Impersonate-Extra-Scopes: x", "impersonate-extra-a%2fb: x", "Impersonate-Future: x", "Impersonate-: x",
		"Impersonate: x", "Impersonate.Group: x", "Impersonate-User-: x", "\x00Impersonate-Group: x", " Impersonate-Group: system:masters", "X: y\r\n Impersonate-Group: system:masters\r\nImpersonate-Uid: 1",
		"Impersonate-User: a\x01b", "Impersonate-User: r\xc3\xb6\xc3\xb6t", "Impersonate-Group: a\x0bb",
	} {
		for _, upgrade := range []string{"", "Connection: Upgrade\r\nUpgrade: websocket\r\n"} {
			t.Run(fmt.Sprintf("%q %v", field, upgrade != ""), func(t *testing.T) {
				f := newFixture(t, nil)
				c := dialRaw(t, f.front)
				c.send("GET /api/v1/namespaces/a/pods/b/exec HTTP/1.1", "Host: sally.example", upgrade+field, "")
				res := c.answer()
				if res.StatusCode != http.StatusForbidden && res.StatusCode != http.StatusBadRequest {
					t.Errorf("HTTP %s", res.Status)
				}
				if got := f.backend.requests(); len(got) != 0 {
					t.Errorf("the API server got %+v", got)
				}
			})
		}
	}
}

// The same over HTTP/2, where names are lower case and spellings fewer.
func TestInfisical184ForgedImpersonationOverHTTP2(t *testing.T) {
	for _, name := range []string{"Impersonate-Uid", "Impersonate-Extra-Scopes", "Impersonate_group", "Impersonate-Next", "Impersonate-Group", "Impersonate-User"} {
		f := newFixture(t, nil)
		res, body := f.get("/api/v1/pods", name, "system:masters")
		if res.ProtoMajor != 2 {
			t.Fatalf("not HTTP/2: %s", res.Proto)
		}
		wantStatus(t, res, body, http.StatusForbidden, "")
		if len(f.backend.requests()) != 0 {
			t.Errorf("%s reached the API server", name)
		}
	}
}

// An ordering bug: nobody, or nobody's groups, must not become the proxy itself.
func TestWithoutUserOrGroupsNothingIsSent(t *testing.T) {
	for name, d := range map[string]Decision{
		"no user":         {ImpersonateGroups: []string{"devs"}},
		"no groups":       {ImpersonateUser: "alice"},
		"empty group":     {ImpersonateUser: "alice", ImpersonateGroups: []string{""}},
		"group with CRLF": {ImpersonateUser: "alice", ImpersonateGroups: []string{"a\r\nImpersonate-Group: system:masters"}},
		"user with comma": {ImpersonateUser: "alice,root", ImpersonateGroups: []string{"devs"}},
		"user with NUL":   {ImpersonateUser: "alice\x00", ImpersonateGroups: []string{"devs"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, nil)
			f.auth.decide = func(Identity, string, string, []string) (Decision, error) { d.Right = newRight(); return d, nil }
			res, body := f.get("/api/v1/pods")
			wantStatus(t, res, body, http.StatusForbidden, "")
			if len(f.backend.requests()) != 0 {
				t.Error("the API server got a request")
			}
		})
	}
	for name, conn := range map[string]ConnInfo{"empty CN": {Identity: Identity{SessionID: "s"}, Kube: "prod"}, "no session": {Identity: Identity{User: "alice"}, Kube: "prod"}} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, nil)
			f.conn.Store(&conn)
			res, body := f.get("/api/v1/pods")
			wantStatus(t, res, body, http.StatusUnauthorized, "tsh login --proxy=sally.example:443")
		})
	}
}

// kubectl --as is possible, within what the Authorizer says.
func TestKubectlAsIsDecidedByOurRules(t *testing.T) {
	f := newFixture(t, nil)
	if res, body := f.get("/api/v1/pods", "Impersonate-User", "bob", "Impersonate-Group", "devs"); res.StatusCode != http.StatusOK {
		t.Fatal(body)
	}
	wantImpersonated(t, f.backend.only(t).Header, "bob", "devs")
	ev := f.recorder.last(t)
	if ev.User != "alice" || ev.Fields["requested_user"] != "bob" || ev.Code != "T3009I" {
		t.Errorf("event %+v", ev)
	}
	res, body := f.get("/api/v1/pods", "Impersonate-User", "root")
	wantStatus(t, res, body, http.StatusForbidden, "may not impersonate")
	f.backend.only(t)
	ev = f.recorder.last(t)
	if ev.User != "alice" || ev.Fields["requested_user"] != "root" || ev.Code != "T3009W" || ev.Fields["response_code"] != 403 {
		t.Errorf("event %+v", ev)
	}
	// A decision for one identity is never used for another.
	if res, _ := f.get("/api/v1/pods"); res.StatusCode != http.StatusOK {
		t.Fatal(res.Status)
	}
	wantImpersonated(t, f.backend.requests()[1].Header, "alice", "devs", "system:authenticated")
}

// Rancher GHSA-mjcp-rj3c-36fr, CVE-2022-3172, CVE-2018-1002102: a server sends
// the proxy, or the client, elsewhere.
func TestCVE20223172RedirectsAreNotFollowed(t *testing.T) {
	evil := newBackend(t, nil)
	for _, tt := range []struct {
		location string
		want     string // "" : 502
	}{
		{evil.URL + "/steal", ""}, {"//evil.example/x", ""}, {"https:evil", ""}, {`/\evil.example`, ""}, {"http://user@evil/", ""}, {"javascript:alert(1)", ""}, {"https://[", ""},
		{"/api/v1/x?y=1", "/api/v1/x?y=1"}, {"other/", "other/"}, {"SELF/moved", "/moved"},
	} {
		for _, upgrade := range []bool{false, true} {
			var self string
			f := newFixture(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header()["Location"] = []string{strings.Replace(tt.location, "SELF", self, 1)}
				w.WriteHeader(http.StatusFound)
			})
			self = f.backend.URL
			c := dialRaw(t, f.front)
			more := "Accept: */*"
			if upgrade {
				more = "Connection: Upgrade\r\nUpgrade: SPDY/3.1"
			}
			c.send("GET /api/v1/namespaces/a/pods/b/exec HTTP/1.1", "Host: sally.example", more, "")
			res := c.answer()
			want := http.StatusFound
			if tt.want == "" {
				want = http.StatusBadGateway
			}
			if res.StatusCode != want || res.Header.Get("Location") != tt.want {
				t.Errorf("%q: HTTP %s, Location %q", tt.location, res.Status, res.Header.Get("Location"))
			}
			f.backend.only(t)
		}
	}
	if got := evil.requests(); len(got) != 0 {
		t.Errorf("the other host got %+v", got)
	}
	f := newFixture(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "https://evil.example/x")
		w.WriteHeader(http.StatusCreated)
	})
	if res, _ := f.get("/api/v1/pods"); res.StatusCode != http.StatusCreated || res.Header.Get("Location") != "" {
		t.Errorf("HTTP %s, Location %q", res.Status, res.Header.Get("Location"))
	}
}

// CVE-2018-1002105, CVE-2020-8559: an upgrade that fails leaves a connection on
// which the client goes on, past the proxy.
func TestCVE20181002105NoSecondRequestAfterARefusedUpgrade(t *testing.T) {
	for _, status := range []int{200, 302, 400, 403, 404, 500} {
		for _, proto := range []string{"SPDY/3.1", "websocket"} {
			t.Run(fmt.Sprint(status, proto), func(t *testing.T) {
				f := newFixture(t, func(w http.ResponseWriter, _ *http.Request) {
					if status == 302 {
						w.Header().Set("Location", "/elsewhere")
					}
					w.WriteHeader(status)
					_, _ = io.WriteString(w, "no")
				})
				c := dialRaw(t, f.front)
				c.send("GET /api/v1/namespaces/a/pods/b/exec HTTP/1.1", "Host: sally.example", "Connection: Upgrade", "Upgrade: "+proto, "",
					"GET /api/v1/secrets HTTP/1.1", "Host: sally.example", "Impersonate-User: system:admin", "")
				res := c.answer()
				body, err := io.ReadAll(res.Body)
				if err != nil || res.StatusCode != status || string(body) != "no" || !res.Close {
					t.Errorf("HTTP %s, %q, %v, close=%v", res.Status, body, err, res.Close)
				}
				c.wantClosed()
				if got := f.backend.only(t); got.Proto != "HTTP/1.1" {
					t.Errorf("the upgrade went over %s", got.Proto)
				}
				eventually(t, "the connection to the API server is closed", func() bool { return f.backend.conns.Load() == 0 })
			})
		}
	}
}

// k/k#72112: other protocols than the two that Kubernetes speaks.
func TestKubernetes72112OtherUpgradesAreRefused(t *testing.T) {
	const exec = "/api/v1/namespaces/a/pods/b/exec"
	for _, tt := range []struct{ name, start, fields string }{
		{"h2c", "GET " + exec, "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__"},
		{"TLS", "GET " + exec, "Connection: Upgrade\r\nUpgrade: TLS/1.0"},
		{"foo", "GET " + exec, "Connection: Upgrade\r\nUpgrade: foo"},
		{"two in one", "GET " + exec, "Connection: Upgrade\r\nUpgrade: websocket, h2c"},
		{"two", "GET " + exec, "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c"},
		{"SPDY/3", "GET " + exec, "Connection: Upgrade\r\nUpgrade: SPDY/3"},
		{"none", "GET " + exec, "Connection: Upgrade"},
		{"not listed", "GET " + exec, "Upgrade: websocket"},
		{"with a body", "POST " + exec, "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 4\r\n\r\nbody"},
		{"chunked", "POST " + exec, "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nTransfer-Encoding: chunked\r\n\r\n0"},
		{"DELETE", "DELETE " + exec, "Connection: Upgrade\r\nUpgrade: SPDY/3.1"},
		{"POST WebSocket", "POST " + exec, "Connection: Upgrade\r\nUpgrade: websocket"},
		{"list", "GET /api/v1/pods", "Connection: Upgrade\r\nUpgrade: websocket"},
		{"version", "GET /version", "Connection: Upgrade\r\nUpgrade: websocket"},
		{"exec of no pod", "GET /api/v1/namespaces/a/secrets/b/exec", "Connection: Upgrade\r\nUpgrade: websocket"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, nil)
			c := dialRaw(t, f.front)
			c.send(tt.start+" HTTP/1.1", "Host: sally.example", tt.fields, "")
			res := c.answer()
			body, _ := io.ReadAll(res.Body)
			wantStatus(t, res, string(body), http.StatusBadRequest, "upgrade")
			if tt.name != "none" && !res.Close {
				t.Error("the connection stays open")
			}
			if got := f.backend.requests(); len(got) != 0 {
				t.Errorf("the API server got %+v", got)
			}
		})
	}
}

// spdystream CVE-2026-35469: a SETTINGS frame that announces 2^24 entries. The
// proxy reads no frames, so that what it holds doesn't grow with what they say;
// the server closes.
func TestCVE202635469HugeSettingsFrameCostsNothingHere(t *testing.T) {
	f := newFixture(t, spdyServer)
	c := dialRaw(t, f.front)
	c.send("POST /api/v1/namespaces/a/pods/b/exec HTTP/1.1", "Host: sally.example", "Connection: Upgrade", "Upgrade: SPDY/3.1", "X-Stream-Protocol-Version: v4.channel.k8s.io", "")
	if res := c.answer(); res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("HTTP %s", res.Status)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	// Control frame, version 3, type 4 (SETTINGS), length 2^24-1, 2^24 entries.
	if _, err := c.Write([]byte{0x80, 3, 0, 4, 0, 0xff, 0xff, 0xff, 1, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, c.br)
	eventually(t, "the stream has ended", func() bool { return f.handler.inFlight.Load() == 0 })
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 10<<20 {
		t.Errorf("%d MiB were allocated", grown>>20)
	}
}

// Path tricks (cf. CVE-2026-41059): on the wire, with an answer for each.
func TestCVE202641059PathTricksAreRefused(t *testing.T) {
	f := newFixture(t, nil)
	for _, line := range []string{
		"GET /api/v1/../..// HTTP/1.1", "GET /api/%2e%2e/x HTTP/1.1", "GET /api/v1%2Fsecrets HTTP/1.1", "GET /api/%00 HTTP/1.1", "GET /api/v1;x HTTP/1.1",
		"GET http://127.0.0.1/api HTTP/1.1", "GET https://evil/api HTTP/1.1", "CONNECT 127.0.0.1:22 HTTP/1.1", "CONNECT /api HTTP/1.1", "GET /api#x HTTP/1.1", `GET /api\x HTTP/1.1`, "GET //api HTTP/1.1", "OPTIONS * HTTP/1.1", "GET /a b HTTP/1.1", "GET api HTTP/1.1",
	} {
		c := dialRaw(t, f.front)
		c.send(line, "Host: sally.example", "")
		// net/http answers "OPTIONS *" itself, with 200 and nothing in it.
		if res := c.answer(); res.StatusCode != http.StatusBadRequest && (line != "OPTIONS * HTTP/1.1" || res.ContentLength != 0) {
			t.Errorf("%q: HTTP %s", line, res.Status)
		}
	}
	if got := f.backend.requests(); len(got) != 0 {
		t.Errorf("the API server got %+v", got)
	}
}

// CVE-2026-40575, CVE-2026-34457: who and whence is never taken from a field.
func TestCVE202640575ForwardedFieldsAreDropped(t *testing.T) {
	f := newFixture(t, nil)
	fields := []string{
		"Authorization", "Basic Zm9vOmJhcg==", "Cookie", "a=b", "Forwarded", "for=1.2.3.4", "X-Forwarded-For", "1.2.3.4", "X-Forwarded-Host", "evil", "X-Forwarded-Proto", "http",
		"X-Forwarded-Client-Cert", "x", "X-Real-Ip", "1.2.3.4", "X-Remote-User", "root", "X-Remote-Group", "system:masters", "X-Remote-Extra-Scopes", "x", "X-Remote-Uid", "0",
		"X_remote_user", "root", "X_forwarded_for", "1.2.3.4", "Proxy-Authorization", "x", "Te", "trailers", "Trailer", "X",
		"Accept", "application/json", "User-Agent", "kube-probe/1.34", "Kubectl-Command", "kubectl get",
	}
	if res, body := f.get("/api/v1/pods", fields...); res.StatusCode != http.StatusOK {
		t.Fatal(body)
	}
	got := f.backend.only(t)
	wantImpersonated(t, got.Header, "alice", "devs", "system:authenticated")
	for name := range got.Header {
		switch name {
		case "Accept", "User-Agent", "Kubectl-Command", "Accept-Encoding", "Impersonate-User", "Impersonate-Group", "Authorization":
		default:
			t.Errorf("the API server got %s: %q", name, got.Header[name])
		}
	}
	if got.Header.Get("User-Agent") != "kube-probe/1.34" || got.Host != f.backend.Listener.Addr().String() {
		t.Errorf("User-Agent %q, Host %q", got.Header.Get("User-Agent"), got.Host)
	}
	if ev := f.recorder.last(t); ev.Fields["addr.remote"] != "192.0.2.7:4711" {
		t.Errorf("event %+v", ev)
	}
}

// A token for the API server can also ride in a WebSocket subprotocol.
func TestBearerTokensInWebSocketProtocolsAreDropped(t *testing.T) {
	f := newFixture(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	c := dialRaw(t, f.front)
	c.send("GET /api/v1/namespaces/a/pods/b/exec HTTP/1.1", "Host: x", "Connection: Upgrade, Sec-WebSocket-Protocol", "Upgrade: WebSocket",
		"Sec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.dG9rZW4, v5.channel.k8s.io", "Sec-WebSocket-Protocol: Base64URL.bearer.authorization.k8s.io.x,v4.channel.k8s.io", "")
	c.answer()
	if got := f.backend.only(t).Header["Sec-Websocket-Protocol"]; len(got) != 1 || got[0] != "v5.channel.k8s.io, v4.channel.k8s.io" {
		t.Errorf("the API server got %q", got)
	}
}

func TestAnOutsiderLearnsNothing(t *testing.T) {
	f := newFixture(t, nil)
	bare := serveTLS(t, f.handler, func() *ConnInfo { return nil })
	res, err := bare.Client().Do(newRequest(t, http.MethodGet, bare.URL+"/api", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	wantStatus(t, res, string(body), http.StatusUnauthorized, "client certificate")
	if len(f.recorder.events) != 0 {
		t.Error("a stranger wrote to the log")
	}
}
