package kubeconfig

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// certificate is one of a user's, or with another scheme somebody else's.
func certificate(t testing.TB, scheme, user string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: user}, NotAfter: time.Now().Add(time.Hour),
		URIs: []*url.URL{{Scheme: scheme, Host: "tele.example.com", Path: "/session/1"}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func static(t testing.TB, scheme, user string, comments ...string) []byte {
	t.Helper()
	out, err := Static(Entry{
		Name: "tele.example.com", Server: "https://tele.example.com:443", TLSServerName: "x.kube.tele.example.com",
		CAs: []byte("CA\n"), Cert: certificate(t, scheme, user), Key: []byte("KEY\n"),
	}, comments...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestCommentsOfAStaticFileStayComments(t *testing.T) {
	for _, end := range []string{"\n", "\r", "\r\n", "\u0085", "\u2028", "\u2029"} {
		out := static(t, identityScheme, "ci", "one"+end+"current-context: evil", "two")
		if f, err := parse("f", out); err != nil || f.current() != "tele.example.com" || !strings.HasPrefix(string(out), "# one current-context: evil\n# two\napiVersion: v1\n") {
			t.Errorf("%q: %v\n%s", end, err, out)
		}
	}
}

func TestAStaticFileReplacesItsOwnKindAlone(t *testing.T) {
	ours := string(static(t, identityScheme, "ci", "Credentials"))
	for name, tc := range map[string]struct {
		file      string
		overwrite bool
		want      api.Code
	}{
		"the same user's":               {file: ours},
		"changed by kubectl":            {file: strings.Replace(ours[strings.Index(ours, "apiVersion"):], "context:\n", "context:\n      namespace: web\n", 1)},
		"an empty one":                  {file: ""},
		"another user's":                {file: string(static(t, identityScheme, "other")), want: api.CodeExists},
		"another user's, overwritten":   {file: string(static(t, identityScheme, "other")), overwrite: true},
		"another program's certificate": {file: string(static(t, "spiffe", "ci")), want: api.CodeExists},
		"with another cluster":          {file: strings.Replace(ours, "clusters:\n", "clusters:\n  - name: prod\n    cluster: {server: https://prod}\n", 1), want: api.CodeExists},
		"people's":                      {file: foreign, want: api.CodeExists},
		"people's, overwritten":         {file: foreign, overwrite: true},
		"no kubeconfig":                 {file: "#!/bin/sh\nexit 1\n", want: api.CodeExists},
		"bytes":                         {file: "\x00\xff", want: api.CodeExists},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "ci.yaml")
			if err := os.WriteFile(path, []byte(tc.file), 0o644); err != nil { //nolint:gosec // wider than it will be
				t.Fatal(err)
			}
			err := CheckStatic(path, "ci", tc.overwrite)
			if (err == nil) != (tc.want == "") || err != nil && api.CodeOf(err) != tc.want {
				t.Fatal(err)
			}
			if err != nil {
				return
			}
			if err := WriteStatic(path, []byte(ours)); err != nil {
				t.Fatal(err)
			}
			info, err := os.Stat(path)
			if got, _ := os.ReadFile(path); err != nil || string(got) != ours || info.Mode().Perm() != 0o600 {
				t.Errorf("%v %v %s", err, info.Mode(), got)
			}
		})
	}
}

func TestAStaticFileGoesWhereALinkLeads(t *testing.T) {
	dir := t.TempDir()
	link, file := filepath.Join(dir, "link"), filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	if err := CheckStatic(link, "ci", false); err != nil {
		t.Fatal(err)
	}
	if err := WriteStatic(link, []byte("new")); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(file); string(got) != "new" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Error("the link is gone:", err)
	}
}
