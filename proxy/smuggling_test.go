package proxy

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Request smuggling: what front and back could count differently. A request
// whose end is in doubt is refused, or answered and its connection closed; what
// follows it is never taken for a request, here or upstream.
func TestSmuggledRequestsNeverArrive(t *testing.T) {
	const second = "GET /api/v1/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
	const post = "POST /api/v1/first HTTP/1.1\r\nHost: x\r\n"
	for name, tt := range map[string]struct {
		raw  string
		want int    // the one answer
		body string // as the API server got it; for 200
	}{
		// RFC 9112 §6.3: chunked counts, and the connection is closed.
		"TE and CL":               {post + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + second, 200, ""},
		"CL and TE":               {post + "Transfer-Encoding: chunked\r\nContent-Length: 88\r\n\r\n5\r\nhello\r\n0\r\n\r\n" + second, 200, "hello"},
		"two CL":                  {post + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello" + second, 400, ""},
		"CL list":                 {post + "Content-Length: 5, 6\r\n\r\nhello" + second, 400, ""},
		"CL +5":                   {post + "Content-Length: +5\r\n\r\nhello" + second, 400, ""},
		"CL -1":                   {post + "Content-Length: -1\r\n\r\nhello" + second, 400, ""},
		"CL 0x5":                  {post + "Content-Length: 0x5\r\n\r\nhello" + second, 400, ""},
		"CL of 2^64+5":            {post + "Content-Length: 18446744073709551621\r\n\r\nhello" + second, 400, ""},
		"TE xchunked":             {post + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + second, 501, ""},
		"TE twice":                {post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + second, 501, ""},
		"TE gzip, chunked":        {post + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + second, 501, ""},
		"TE with vertical tab":    {post + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + second, 400, ""},
		"TE with space":           {post + "Transfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + second, 400, ""},
		"TE in HTTP/1.0":          {"POST /api/v1/first HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + second, 200, ""},
		"chunk size 0x5":          {post + "Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n" + second, 400, ""},
		"chunk size of 2^64+5":    {post + "Transfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\n" + second, 400, ""},
		"chunk extension":         {post + "Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0;c\r\n\r\n" + second, 200, "hello"},
		"chunk extension with LF": {post + "Transfer-Encoding: chunked\r\n\r\n5;a=\nb\r\nhello\r\n0\r\n\r\n" + second, 400, ""},
		"chunk extension with CR": {post + "Transfer-Encoding: chunked\r\n\r\n5;a=\rb\r\nhello\r\n0\r\n\r\n" + second, 400, ""},
		"chunk ended by bare LF":  {post + "Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n" + second, 400, ""},
		"chunk longer than told":  {post + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n0\r\n\r\n" + second, 400, ""},
		"trailer with TE":         {post + "Transfer-Encoding: chunked\r\nTrailer: Transfer-Encoding\r\n\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n" + second, 400, ""},
		"bare CR":                 {"GET /api/v1/first HTTP/1.1\r\nHost: x\rImpersonate-Group: a\r\n\r\n" + second, 400, ""},
		"bare LF ends the head":   {"POST /api/v1/first HTTP/1.1\nHost: x\nConnection: close\nContent-Length: 5\n\nhello" + second, 200, "hello"},
		"two hosts":               {"GET /api/v1/first HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n" + second, 400, ""},
		"NUL in a field":          {"GET /api/v1/first HTTP/1.1\r\nHost: x\r\nA: b\x00c\r\n\r\n" + second, 400, ""},
		"HTTP/1.10":               {"GET /api/v1/first HTTP/1.10\r\nHost: x\r\n\r\n" + second, 400, ""},
		"GET with a body":         {"GET /api/v1/first HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 42\r\n\r\n" + second, 200, second},
		"obs-fold":                {"GET /api/v1/first HTTP/1.1\r\nHost: x\r\nConnection: close\r\nA: b\r\n Transfer-Encoding: chunked\r\n\r\n" + second, 200, ""},
		"obs-fold first":          {"GET /api/v1/first HTTP/1.1\r\n Host: x\r\n\r\n" + second, 400, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bodies := make(chan string, 2)
			f := newFixture(t, func(_ http.ResponseWriter, r *http.Request) {
				if body, err := io.ReadAll(r.Body); err == nil {
					bodies <- string(body)
				} // else a request whose body was refused half-way: it never was one
			})
			c := dialRaw(t, f.front)
			_, _ = io.WriteString(c, tt.raw)
			res := c.answer()
			_, _ = io.Copy(io.Discard, res.Body)
			if res.StatusCode != tt.want {
				t.Errorf("HTTP %s, want %d", res.Status, tt.want)
			}
			c.wantClosed()
			for _, s := range f.backend.requests() {
				if s.URI != "/api/v1/first" || s.Header.Get("Transfer-Encoding") != "" || s.Header.Get("A") != "" && strings.Contains(s.Header.Get("A"), "\n") || s.Header.Get("Impersonate-User") != "alice" {
					t.Errorf("the API server got %+v", s)
				}
			}
			if tt.want != http.StatusOK {
				f.backend.Close() // waits for its requests
				if len(bodies) > 0 {
					t.Errorf("the API server got a whole request, body %q", <-bodies)
				}
			} else if got := f.backend.only(t).Body + <-bodies; got != tt.body {
				t.Errorf("the API server got the body %q, want %q", got, tt.body)
			}
		})
	}
}

// The same over HTTP/2, where the frames say where a request ends: what the
// fields say beside them must agree.
func TestHTTP2RequestsThatContradictTheirFramesAreRefused(t *testing.T) {
	const second = "GET /api/v1/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
	for name, tt := range map[string]struct {
		fields []string
		body   string
	}{
		"shorter than told":     {[]string{"content-length", "500"}, second},
		"longer than told":      {[]string{"content-length", "0"}, second},
		"two lengths":           {[]string{"content-length", "0", "content-length", "42"}, second},
		"no length":             {[]string{"content-length", "+42"}, second},
		"transfer-encoding":     {[]string{"transfer-encoding", "chunked"}, "0\r\n\r\n" + second},
		"connection":            {[]string{"connection", "keep-alive"}, second},
		"CR LF in a field":      {[]string{"a", "b\r\nTransfer-Encoding: chunked"}, second},
		"CR LF in a name":       {[]string{"a\r\ntransfer-encoding", "chunked"}, second},
		"upper case":            {[]string{"Content-Length", "0"}, second},
		"space in the path":     {[]string{":path", "/api/v1/first HTTP/1.1\r\nHost: x"}, second},
		"field before :path":    {[]string{"a", "b", ":path", "/api/v1/smuggled"}, second},
		"two paths":             {[]string{":path", "/api/v1/first", ":path", "/api/v1/smuggled"}, second},
		"unknown pseudo-header": {[]string{":smuggled", "x"}, second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, func(w http.ResponseWriter, r *http.Request) {
				if _, err := io.Copy(io.Discard, r.Body); err == nil {
					t.Errorf("the API server took %s %s for complete", r.Method, r.URL)
				}
			})
			pool := x509.NewCertPool()
			pool.AddCert(f.front.Certificate())
			c, err := (&tls.Dialer{Config: &tls.Config{RootCAs: pool, ServerName: "example.com", NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12}}).
				DialContext(t.Context(), "tcp", f.front.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(patience))
			_, _ = io.WriteString(c, http2.ClientPreface)
			fr := http2.NewFramer(c, c)
			fr.AllowIllegalWrites = true
			fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
			fields := []string{":method", "POST", ":scheme", "https", ":authority", "x"}
			if !slices.Contains(tt.fields, ":path") {
				fields = append(fields, ":path", "/api/v1/first")
			}
			var block bytes.Buffer
			enc := hpack.NewEncoder(&block)
			fields = append(fields, tt.fields...)
			for i := 0; i < len(fields); i += 2 {
				_ = enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
			}
			_ = errors.Join(fr.WriteSettings(), fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true}),
				fr.WriteData(1, true, []byte(tt.body)))
			if got := refusal(fr); got == "" {
				t.Error("it is answered as if nothing were wrong")
			}
			for _, s := range f.backend.requests() {
				if s.URI != "/api/v1/first" || strings.Contains(s.Body, "smuggled") && s.Header.Get("Content-Length") == "0" {
					t.Errorf("the API server got %+v", s)
				}
			}
		})
	}
}

// refusal reads until the stream ends: how it was refused, "" if it was not.
func refusal(fr *http2.Framer) string {
	for {
		frame, err := fr.ReadFrame()
		if err != nil {
			return err.Error()
		}
		switch frame := frame.(type) {
		case *http2.RSTStreamFrame:
			return frame.ErrCode.String()
		case *http2.GoAwayFrame:
			return frame.ErrCode.String()
		case *http2.MetaHeadersFrame:
			if status := frame.PseudoValue("status"); status[0] != '4' {
				return ""
			}
			return "HTTP " + frame.PseudoValue("status")
		}
	}
}
