package tests

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// kubeLabel stands for tele.example.com, which is no DNS label: x- and 32 hex
// digits of its SHA-256.
const (
	kubeLabel = "x-b559ee2532d3c827029373097add97ac"
	kubeSNI   = kubeLabel + ".kube." + clusterName
)

// dialKube makes a TLS connection as kubectl of the user does.
func dialKube(t *testing.T, u *sallyport.User, r *sallyport.Replica, alpn string) *tls.Conn {
	t.Helper()
	conn, err := tls.Dial("tcp", r.WebAddr(), kubeTLS(t, u, alpn))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}

// kubeTLS holds the certificate that tsh gives kubectl.
func kubeTLS(t *testing.T, u *sallyport.User, alpn string) *tls.Config {
	t.Helper()
	out := ok(t, u.Tsh(within(t, 20*time.Second), "kube", "credentials", "--kube-cluster="+clusterName))
	var cred struct {
		Status struct{ ClientCertificateData, ClientKeyData string }
	}
	if err := json.Unmarshal([]byte(out.Stdout), &cred); err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair([]byte(cred.Status.ClientCertificateData), []byte(cred.Status.ClientKeyData))
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(u.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}, ServerName: kubeSNI, NextProtos: []string{alpn}}
}

// forgeries are header lines as they stand on the wire. What each asks for must
// not be had: it is refused, or dropped and the request is the user's own.
var forgeries = []struct{ name, lines string }{
	{"plain", "Impersonate-Group: system:masters"},
	{"lower case", "impersonate-group: system:masters"},
	{"upper case", "IMPERSONATE-GROUP: system:masters"},
	{"no space", "Impersonate-Group:system:masters"},
	{"trailing space in the value", "Impersonate-Group: system:masters "},
	{"trailing space in the name", "Impersonate-Group : system:masters"},
	{"leading space", " Impersonate-Group: system:masters"},
	{"leading tab", "\tImpersonate-Group: system:masters"},
	{"underscore", "Impersonate_Group: system:masters"},
	{"two underscores", "impersonate_group: system:masters\r\nImpersonate_User: root"},
	{"twice", "Impersonate-Group: system:masters\r\nImpersonate-Group: system:masters"},
	{"beside an own group", "Impersonate-Group: dev\r\nImpersonate-Group: system:masters"},
	{"list", "Impersonate-Group: dev, system:masters"},
	{"user", "Impersonate-User: root"},
	{"user and group", "Impersonate-User: root\r\nImpersonate-Group: system:masters"},
	{"own user twice", "Impersonate-User: mallory\r\nImpersonate-User: root"},
	{"own user with a group", "Impersonate-User: mallory\r\nImpersonate-Group: system:masters"},
	{"empty user", "Impersonate-User:"},
	{"empty user and group", "Impersonate-User: \r\nImpersonate-Group: system:masters"},
	{"uid", "Impersonate-Uid: 0"},
	{"extra", "Impersonate-Extra-Scopes: cluster-admin"},
	{"future", "Impersonate-Anything: x"},
	{"no hyphen", "ImpersonateGroup: system:masters"},
	{"NUL in the name", "Impersonate-Group\x00: system:masters"},
	{"no-break space in the name", "Impersonate-Group\xa0: system:masters"},
	{"folded", "X-A: b\r\n Impersonate-Group: system:masters"},
	{"bare LF", "X-A: b\nImpersonate-Group: system:masters"},
	{"bare CR", "X-A: b\rImpersonate-Group: system:masters"},
	{"Connection names ours", "Connection: Impersonate-User, Impersonate-Group"},
	{"connection names ours, lower case", "connection: impersonate-user, impersonate-group"},
	{"CONNECTION names ours, upper case", "CONNECTION: IMPERSONATE-USER,IMPERSONATE-GROUP,close"},
	{"Connection names ours twice", "Connection: Impersonate-User\r\nConnection: Impersonate-Group"},
	{"Proxy-Connection names ours", "Proxy-Connection: Impersonate-User, Impersonate-Group"},
	{"Connection names a forged one", "Connection: Impersonate-Group\r\nImpersonate-Group: system:masters"},
	{"front proxy", "X-Remote-User: root\r\nX-Remote-Group: system:masters"},
	{"front proxy, underscores", "X_Remote_User: root\r\nX_Remote_Group: system:masters"},
	{"bearer token", "Authorization: Bearer x"},
	{"basic", "Authorization: Basic cm9vdDpyb290"},
	{"trailer", "TE: trailers\r\nTrailer: Impersonate-Group\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nImpersonate-Group: system:masters"},
	{"smuggled by TE and CL", "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /api/v1/namespaces/forged-smuggled HTTP/1.1\r\nHost: x\r\nImpersonate-User: root"},
	{"smuggled by two CL", "Content-Length: 0\r\nContent-Length: 80\r\n\r\nGET /api/v1/namespaces/forged-smuggled HTTP/1.1\r\nHost: x\r\nImpersonate-User: root"},
	{"upgrade names ours", "Connection: Upgrade, Impersonate-User, Impersonate-Group\r\nUpgrade: SPDY/3.1"},
	{"upgrade to h2c", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__"},
}

func TestForgedImpersonationNeverArrives(t *testing.T) {
	c, _ := shared(t)
	ctx := within(t, time.Minute)
	mallory := newUser(t, c, c.Replicas[1], "mallory", "--k8s-groups=dev")
	paths := map[string]int{} // and the status of its answer
	for i, f := range forgeries {
		path := fmt.Sprintf("/api/v1/namespaces/forged-h1-%d", i)
		paths[path] = sendH1(t, mallory, c.Replicas[i%3], path, f.lines)
		if s := paths[path]; s != 403 && s != 400 && s != 0 && s != 431 {
			t.Errorf("HTTP/1.1, %s: status %d", f.name, s)
		}
		t.Logf("HTTP/1.1 %-36s %d", f.name, paths[path])
		if strings.ContainsAny(f.lines, "\r\n") && !strings.HasPrefix(f.lines, "Impersonate") && !strings.HasPrefix(f.lines, "X") {
			continue // is about HTTP/1.1's framing
		}
		path = fmt.Sprintf("/api/v1/namespaces/forged-h2-%d", i)
		paths[path] = sendH2(t, mallory, c.Replicas[i%3], path, f.lines)
		if s := paths[path]; s != 403 && s != 400 && s != 0 {
			t.Errorf("HTTP/2, %s: status %d", f.name, s)
		}
		t.Logf("HTTP/2   %-36s %d", f.name, paths[path])
	}
	// An exec whose Connection field names our fields must not run as the proxy.
	exec := "/api/v1/namespaces/default/pods/" + pod + "/exec?command=true&stdout=true&forged-exec=1"
	if s := sendH1(t, mallory, c.Replicas[0], exec, "Connection: Upgrade, Impersonate-User, Impersonate-Group\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io"); s != 403 {
		t.Errorf("exec: status %d", s)
	}
	// The last request is honest; when it is in the audit log, so are all before it.
	refused(t, mallory.Kubectl(ctx, "get", "ns", "forged-last"), `namespaces "forged-last" is forbidden: User "mallory" cannot get resource`)
	checkAudit(t, "forged-last", 10, func(a auditLine) {
		if strings.Contains(a.RequestURI, "smuggled") {
			t.Errorf("a smuggled request reached the API server: %s", a.RequestURI)
		}
		if !strings.Contains(a.RequestURI, "forged-h") && !strings.Contains(a.RequestURI, "forged-exec") && !strings.Contains(a.RequestURI, "forged-last") {
			return // another test's
		}
		if a.ImpersonatedUser == nil || a.ImpersonatedUser.Username != "mallory" || a.ImpersonatedUser.UID != "" || len(a.ImpersonatedUser.Extra) > 0 ||
			!slices.Equal(a.ImpersonatedUser.Groups, []string{"dev", "system:authenticated"}) {
			t.Errorf("%s reached the API server as %+v (by %s)", a.RequestURI, a.ImpersonatedUser, a.User.Username)
		}
	})
}

type auditLine struct {
	RequestURI       string
	User             struct{ Username string }
	ImpersonatedUser *struct {
		Username, UID string
		Groups        []string
		Extra         map[string][]string
	}
}

// checkAudit looks at what reached the API server with "forged-" in its path, up to the last, and that
// these were at least so many: otherwise the test tests nothing.
func checkAudit(t *testing.T, last string, least int, check func(auditLine)) {
	t.Helper()
	var lines []string
	testbed.Wait(t, 10*time.Second, last+" in the audit log", func() error {
		b, err := os.ReadFile(fixture.kube.AuditLog())
		if err != nil {
			return err
		}
		lines = strings.Split(string(b), "\n")
		if !slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, last) }) {
			return fmt.Errorf("not there")
		}
		return nil
	})
	n := 0
	for _, line := range lines {
		var a auditLine
		if !strings.Contains(line, "forged-") || json.Unmarshal([]byte(line), &a) != nil {
			continue
		}
		n++
		check(a)
	}
	if n < least {
		t.Errorf("only %d requests reached the API server", n)
	}
}

// sendH1 sends raw lines in a request and returns the answer's status, 0 for none.
func sendH1(t *testing.T, u *sallyport.User, r *sallyport.Replica, path, lines string) int {
	t.Helper()
	conn := dialKube(t, u, r, "http/1.1")
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n\r\n", path, r.WebAddr(), lines); err != nil {
		return 0
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

// sendH2 sends the same fields over HTTP/2, names in lower case as they must be
// there, else as they are.
func sendH2(t *testing.T, u *sallyport.User, r *sallyport.Replica, path, lines string) int {
	t.Helper()
	conn := dialKube(t, u, r, "h2")
	defer conn.Close()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", r.WebAddr()}, {":path", path}} {
		_ = enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	for _, line := range strings.Split(lines, "\r\n") {
		name, value, _ := strings.Cut(line, ":")
		_ = enc.WriteField(hpack.HeaderField{Name: strings.ToLower(name), Value: strings.TrimPrefix(value, " ")})
	}
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return 0
	}
	_ = framer.WriteSettings()
	if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true}); err != nil {
		return 0
	}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return 0
		}
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			status := 0
			_, _ = fmt.Sscan(f.PseudoValue("status"), &status)
			return status
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return 0
		}
	}
}
