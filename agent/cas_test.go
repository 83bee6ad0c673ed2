package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/rest"

	"github.com/sallyport-dev/sallyport/internal/wire"
)

func testCA(t *testing.T) (block []byte, sum string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(der)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), hex.EncodeToString(digest[:])
}

// Agents of one name are held against each other by the CAs of their API servers.
func TestClusterCAs_areWhatTheAPIServerIsVerifiedBy(t *testing.T) {
	t.Parallel()
	a, sumA := testCA(t)
	b, sumB := testCA(t)
	both := []string{sumA, sumB}
	slices.Sort(both)
	file := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(file, slices.Concat(a, b), 0o600); err != nil {
		t.Fatal(err)
	}
	var many []byte
	for range wire.MaxClusterCAs + 1 {
		more, _ := testCA(t)
		many = append(many, more...)
	}
	for what, c := range map[string]struct {
		cfg  rest.TLSClientConfig
		want []string
	}{
		"data":                              {rest.TLSClientConfig{CAData: a}, []string{sumA}},
		"data goes before a file":           {rest.TLSClientConfig{CAData: b, CAFile: file}, []string{sumB}},
		"a bundle, in any order":            {rest.TLSClientConfig{CAData: slices.Concat(b, a, b)}, both},
		"a file":                            {rest.TLSClientConfig{CAFile: file}, both},
		"the machine's":                     {rest.TLSClientConfig{}, nil},
		"nobody asks":                       {rest.TLSClientConfig{CAData: a, Insecure: true}, nil},
		"no file":                           {rest.TLSClientConfig{CAFile: file + "x"}, nil},
		"no certificate":                    {rest.TLSClientConfig{CAData: []byte("x")}, nil},
		"too many to be those of a cluster": {rest.TLSClientConfig{CAData: many}, nil},
	} {
		if d := cmp.Diff(c.want, clusterCAs(&rest.Config{TLSClientConfig: c.cfg})); d != "" {
			t.Errorf("%s: %s", what, d)
		}
	}
}
