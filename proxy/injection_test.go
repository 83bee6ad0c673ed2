package proxy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/audit"
)

// hostile are texts with which a stranger would like to end a line and begin one of
// his own, to hide what stands before, or to command the terminal of who reads it.
var hostile = map[string]string{
	"CR LF":         "x\r\n{\"event\":\"user.login\",\"user\":\"root\"}\r\n",
	"ANSI":          "\x1b[2K\x1b[1A\x1b[31mred\x1b[0m\x1b]0;title\x07",
	"quotes":        `","user":"root","x":"`,
	"a backslash":   `\`,
	"NUL":           "a\x00b",
	"no UTF-8":      "\xff\xfe\xc0\xaf",
	"line ends":     "a\u2028b\u2029c\u0085d",
	"bidirectional": "\u202egnp.exe\u2066",
	"a page's":      "</script><script>alert(1)</script>",
	"long":          strings.Repeat("y", 50_000),
	"long controls": strings.Repeat("\x1b\r\n", 5_000),
}

// checkLine fails unless an event becomes one line of printable JSON that a reader
// takes for this event alone, and gives its fields.
func checkLine(t *testing.T, ev api.Event) map[string]any {
	t.Helper()
	line, err := audit.Encode(ev)
	if err != nil {
		t.Fatal(err)
	}
	if len(line) > audit.MaxLine || !utf8.Valid(line) || bytes.IndexFunc(line, func(r rune) bool { return !unicode.IsPrint(r) || r == '<' || r == '>' }) >= 0 {
		t.Fatalf("%d bytes: %.300q", len(line), line)
	}
	dec := json.NewDecoder(bytes.NewReader(line))
	var fields map[string]any
	if err := dec.Decode(&fields); err != nil {
		t.Fatal(err)
	}
	if _, err := dec.Token(); err != io.EOF { //nolint:errorlint // as documented
		t.Fatalf("more than one value: %.300q", line)
	}
	if fields["event"] != ev.Event || fields["code"] != ev.Code || fields["user"] != nil && fields["user"] != ev.User {
		t.Errorf("%.300q", line)
	}
	return fields
}

// threats.md, row "audit injection": whatever a client puts where an exec or a
// port-forward has its texts, each event is one line.
func TestAuditInjectionByStreams(t *testing.T) {
	f := newFixture(t, exits(seven))
	for name, text := range hostile {
		t.Run(name, func(t *testing.T) {
			f.recorder.mu.Lock()
			f.recorder.events = nil
			f.recorder.mu.Unlock()
			q := url.QueryEscape(text)
			for _, path := range []string{
				"/api/v1/namespaces/a/pods/b/exec?command=" + q + "&command=-c",
				"/api/v1/namespaces/a/pods/b/exec?tty=1&command=sh&container=" + q,
				"/api/v1/namespaces/a/pods/b/portforward?ports=" + q,
				"/api/v1/namespaces/a/pods/b/attach?container=" + q,
			} {
				c, res := f.open(t, path)
				if res.StatusCode != http.StatusSwitchingProtocols {
					t.Fatal(res.Status)
				}
				_, _ = io.Copy(io.Discard, c.br)
				_ = c.Close()
				eventually(t, "the stream has ended", func() bool { return f.handler.inFlight.Load() == 0 })
			}
			commands, containers, truncated := 0, 0, 0
			f.recorder.mu.Lock()
			defer f.recorder.mu.Unlock()
			for _, ev := range f.recorder.events {
				fields := checkLine(t, ev)
				if fields["truncated"] == true {
					truncated++
				}
				if !utf8.ValidString(text) || len(text) > audit.MaxString {
					continue
				}
				if fields["command"] == text+" -c" {
					commands++
				}
				if fields["kubernetes_container_name"] == text {
					containers++
				}
			}
			if n := len(f.recorder.events); n != 13 {
				t.Errorf("%d events", n)
			}
			switch long := len(text) > audit.MaxString; {
			case long && truncated < 8:
				t.Errorf("%d events of texts that are too long say so", truncated)
			case !long && (truncated > 0 || utf8.ValidString(text) && (commands != 1 || containers != 5)):
				t.Errorf("%d truncated, the text is in %d commands and %d containers", truncated, commands, containers)
			}
		})
	}
}

// threats.md, row "audit injection": paths, names and fields of requests, served or
// refused, and what an API server says of a command.
func TestAuditInjectionByRequests(t *testing.T) {
	f := newFixture(t, nil)
	for name, text := range hostile {
		t.Run(name, func(t *testing.T) {
			escaped := url.PathEscape(text)
			for _, target := range []string{"/api/v1/namespaces/" + escaped + "/pods/" + escaped, "/" + escaped, "/api/v1/pods?fieldSelector=" + url.QueryEscape(text)} {
				req := newRequest(t, http.MethodGet, f.front.URL, nil)
				req.URL.Opaque = "//" + req.URL.Host + target
				res, err := f.front.Client().Do(req)
				if err != nil {
					t.Fatal(err)
				}
				_ = res.Body.Close()
			}
			c := dialRaw(t, f.front) // what no client library sends
			plain := strings.NewReplacer("\r", "", "\n", "", "\x00", "", " ", "").Replace(text)
			// The server may have hung up before the end of it.
			_, _ = fmt.Fprintf(c, "GET /%s HTTP/1.1\r\nHost: x\r\nImpersonate-User: %[1]s\r\nConnection: Upgrade\r\nUpgrade: %[1]s\r\n\r\n", plain)
			_, _ = io.Copy(io.Discard, io.LimitReader(c.br, 1))
		})
	}
	for _, ev := range f.recorder.events {
		checkLine(t, ev)
	}
	if n := len(f.recorder.events); n < 3*len(hostile) {
		t.Errorf("%d events", n)
	}
}

// threats.md, row "audit injection": a header of 1 MB is refused before it costs
// anything, and what a request's fields hold stands in no event.
func TestAuditInjectionByAHeaderOfOneMegabyte(t *testing.T) {
	f := newFixture(t, nil)
	c := dialRaw(t, f.front)
	go func() { // the server stops reading
		_, _ = fmt.Fprintf(c, "GET /api/v1/pods HTTP/1.1\r\nHost: x\r\nX-Huge: %s\r\n\r\n", strings.Repeat("x", 2<<20))
	}()
	// The server hangs up on who goes on writing, and its answer may get lost.
	if res, err := http.ReadResponse(c.br, nil); err == nil && res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Error(res.Status)
	}
	if codes := f.recorder.codes(); len(codes) != 0 || len(f.backend.requests()) != 0 {
		t.Error(codes)
	}
	big := strings.Repeat("z", 200<<10)
	f.get("/api/v1/pods", "X-Big", big, "User-Agent", big, "Kubectl-Command", big)
	line, err := audit.Encode(f.recorder.last(t))
	if err != nil || bytes.Contains(line, []byte("zzz")) || len(line) > 1<<10 {
		t.Errorf("%d bytes, %v", len(line), err)
	}
}
