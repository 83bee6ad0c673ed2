package proxy

import (
	"bufio"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// FuzzRequestHeader: whatever fields a client types, what is sent on impersonates
// as decided, and holds nothing of its connection or of another identity.
func FuzzRequestHeader(f *testing.F) {
	for _, s := range []string{
		"Impersonate-Group: system:masters", "Connection: Impersonate-User, close\r\nA: b", "impersonate_group: x", "X-Remote-User: root", "X_Remote_User: root",
		"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.eA, v5.channel.k8s.io", "Authorization: x\r\nCookie: y", "TE: trailers\r\nTrailer: Impersonate-User",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, fields string) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET /api/v1/namespaces/a/pods/b/exec HTTP/1.1\r\nHost: x\r\n" + fields + "\r\n\r\n")))
		if err != nil {
			return
		}
		user, groups, err := impersonation(r.Header)
		if err != nil {
			return
		}
		for name, values := range r.Header {
			if strings.HasPrefix(strings.ToLower(name), "impersonate") && !slices.Equal(values, []string{user}) && !slices.Equal(values, groups) {
				t.Fatalf("%s: %q went unseen", name, values)
			}
		}
		proto, err := upgradeRequest(r, parseResource(r.Method, r.URL.Path, ""))
		if err != nil {
			return
		}
		out := requestHeader(r.Header, proto, "alice", []string{"devs"})
		if !slices.Equal(out["Impersonate-User"], []string{"alice"}) || !slices.Equal(out["Impersonate-Group"], []string{"devs"}) {
			t.Fatalf("impersonation %v", out)
		}
		for name, values := range out {
			fold := strings.ReplaceAll(strings.ToLower(name), "_", "-")
			switch {
			case strings.HasPrefix(fold, "impersonate"):
				if name != "Impersonate-User" && name != "Impersonate-Group" {
					t.Fatalf("%q is sent on", name)
				}
			case fold == "connection" || fold == "upgrade":
				if proto == "" || len(values) != 1 {
					t.Fatalf("%s: %q without an upgrade", name, values)
				}
			case fold == "authorization", fold == "cookie", fold == "te", fold == "trailer", fold == "transfer-encoding", fold == "content-length", fold == "host",
				fold == "forwarded", strings.HasPrefix(fold, "x-remote-"), strings.HasPrefix(fold, "x-forwarded-"), strings.HasPrefix(fold, "proxy-auth"):
				t.Fatalf("%q is sent on", name)
			case fold == "sec-websocket-protocol" && proto != "":
				if strings.Contains(strings.ToLower(strings.Join(values, ",")), wsBearerPrefix) && !strings.Contains(strings.ToLower(values[0]), "x"+wsBearerPrefix) {
					for _, p := range strings.Split(values[0], ",") {
						if strings.HasPrefix(strings.ToLower(strings.TrimSpace(p)), wsBearerPrefix) {
							t.Fatalf("a bearer token is sent on: %q", values)
						}
					}
				}
			}
		}
	})
}

// FuzzLocation: a Location that is passed on leads a client to where it was.
func FuzzLocation(f *testing.F) {
	for _, s := range []string{
		"/api/v1/x", "//evil/x", `/\evil`, "https://evil/", "https://api.test:6443/x", "https://api.test:6443//evil", "x/y", "?q", "", "/../..//evil", "https:x", "\t//evil", "/%2f/evil", "https://api.test:6443@evil/", "/base/x",
	} {
		f.Add(s)
	}
	client, _ := url.Parse("https://sally.example/k8s/prod/api/v1/pods")
	f.Fuzz(func(t *testing.T, location string) {
		for _, base := range []*url.URL{{Scheme: "https", Host: "api.test:6443"}, {Scheme: "https", Host: "api.test:6443", Path: "/base"}} {
			got, ok := localizer{base, "/k8s/prod"}.location(location)
			if !ok {
				continue
			}
			to, err := client.Parse(got)
			if err != nil {
				t.Fatalf("%q became %q: %v", location, got, err)
			}
			if to.Scheme != "https" || to.Host != "sally.example" || to.User != nil || strings.HasPrefix(got, "//") || strings.ContainsAny(got, "\\\r\n") {
				t.Fatalf("%q became %q, which leads to %q", location, got, to)
			}
		}
	})
}
