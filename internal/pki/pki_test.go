package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
)

const cluster = "tele.example.com"

var (
	now   = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	alice = UserIdentity{User: "alice@example.com", SessionID: strings.Repeat("ab", 16), ClusterName: cluster}
)

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newCA(t testing.TB, typ CAType, name string) *Authority {
	t.Helper()
	ca, err := NewAuthority(typ, name, now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func parse(t testing.TB, der []byte, err error) *x509.Certificate {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func signUser(t testing.TB, ca *Authority, id UserIdentity) *x509.Certificate {
	t.Helper()
	der, err := ca.SignUser(newKey(t).Public(), id, now.Add(-ClockSkew), now.Add(time.Hour))
	return parse(t, der, err)
}

func TestUserCertificateRoundTrips(t *testing.T) {
	ca := newCA(t, UserCA, cluster)
	for _, user := range []string{"alice", "alice@example.com", "A-b_c.d@e+f:g", strings.Repeat("x", 128)} {
		id := alice
		id.User = user
		got, err := VerifyUser([]*x509.Certificate{signUser(t, ca, id)}, []*x509.Certificate{ca.Cert}, cluster, now)
		if err != nil {
			t.Fatal(user, err)
		}
		if d := cmp.Diff(id, got); d != "" {
			t.Fatal(d)
		}
	}
}

func TestCertificateStartsEarlyAndEnds(t *testing.T) {
	ca := newCA(t, UserCA, cluster)
	cert := signUser(t, ca, alice)
	cas := []*x509.Certificate{ca.Cert}
	for offset, ok := range map[time.Duration]bool{-6 * time.Minute: false, -4 * time.Minute: true, 59 * time.Minute: true, 61 * time.Minute: false} {
		if _, err := VerifyUser([]*x509.Certificate{cert}, cas, cluster, now.Add(offset)); (err == nil) != ok {
			t.Errorf("%s: %v", offset, err)
		}
	}
}

func TestSignUserRefusesNamesThatCouldReadDifferently(t *testing.T) {
	ca := newCA(t, UserCA, cluster)
	pub := newKey(t).Public()
	for _, id := range []UserIdentity{
		{"", alice.SessionID, cluster},
		{"alice,CN=root", alice.SessionID, cluster},
		{"alice\nroot", alice.SessionID, cluster},
		{"alice=root", alice.SessionID, cluster},
		{"alice\x00root", alice.SessionID, cluster},
		{"аlice", alice.SessionID, cluster}, // a Cyrillic letter
		{"alice/root", alice.SessionID, cluster},
		{"alice", "", cluster},
		{"alice", "../session", cluster},
		{"alice", strings.Repeat("AB", 16), cluster},
		{"alice", strings.Repeat("ab", 15), cluster},
		{"alice", alice.SessionID, "other.example.com"},
	} {
		if _, err := ca.SignUser(pub, id, now, now.Add(time.Hour)); err == nil {
			t.Errorf("signed %+v", id)
		}
	}
	if _, err := ca.SignUser(pub, alice, now, now.Add(20*365*24*time.Hour)); err == nil {
		t.Error("signed beyond the CA's life")
	}
	if _, err := ca.SignUser(pub, alice, now, now); err == nil {
		t.Error("signed an empty time span")
	}
}

func TestPublicKeys(t *testing.T) {
	weak, _ := rsa.GenerateKey(rand.Reader, 2048)
	p224, _ := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	p521, _ := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	ed, _, _ := ed25519.GenerateKey(rand.Reader)
	short := &rsa.PublicKey{N: new(big.Int).Rsh(weak.N, 1024), E: 65537}
	huge := &rsa.PublicKey{N: new(big.Int).Lsh(weak.N, 8192), E: 65537}
	for _, tc := range []struct {
		name string
		pub  crypto.PublicKey
		ok   bool
	}{
		{"P-256", newKey(t).Public(), true}, {"P-384", p384.Public(), true}, {"Ed25519", ed, true}, {"RSA 2048", weak.Public(), true},
		{"P-224", p224.Public(), false}, {"P-521", p521.Public(), false}, {"RSA 1024", short, false}, {"RSA 10240", huge, false},
	} {
		der, err := x509.MarshalPKIXPublicKey(tc.pub)
		if err != nil {
			t.Fatal(tc.name, err)
		}
		if _, err := ParsePublicKey(der); (err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	key := newKey(t)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "root"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	for name, der := range map[string][]byte{"a signing request": csr, "nothing": nil, "garbage": []byte("x"), "1 MB": make([]byte, 1<<20)} {
		if _, err := ParsePublicKey(der); err == nil {
			t.Errorf("accepted %s as a public key", name)
		}
	}
}

func TestRoleComesFromTheCAThatVerified(t *testing.T) {
	user, host, foreign := newCA(t, UserCA, cluster), newCA(t, HostCA, cluster), newCA(t, UserCA, cluster)
	elsewhere := newCA(t, UserCA, "other.example.com")
	userLeaf := signUser(t, user, alice)
	der, err := host.SignHost(newKey(t).Public(), []string{"api." + cluster}, nil, now.Add(-ClockSkew), now.Add(time.Hour))
	hostLeaf := parse(t, der, err)
	otherID := alice
	otherID.ClusterName = "other.example.com"
	otherLeaf := signUser(t, elsewhere, otherID)
	userCAs := []*x509.Certificate{user.Cert}
	for _, tc := range []struct {
		name string
		peer []*x509.Certificate
		cas  []*x509.Certificate
	}{
		{"nobody", nil, userCAs},
		{"host certificate as a user", []*x509.Certificate{hostLeaf}, userCAs},
		{"host certificate, host CA in the user pool", []*x509.Certificate{hostLeaf}, []*x509.Certificate{host.Cert}},
		{"user of another cluster's CA of the same name", []*x509.Certificate{signUser(t, foreign, alice)}, userCAs},
		{"user of another cluster", []*x509.Certificate{otherLeaf}, userCAs},
		{"another cluster's CA in the pool", []*x509.Certificate{otherLeaf}, []*x509.Certificate{elsewhere.Cert}},
		{"the CA as a leaf", []*x509.Certificate{user.Cert}, userCAs},
		{"leaf and CA as two certificates", []*x509.Certificate{userLeaf, user.Cert}, userCAs},
		{"two leaves", []*x509.Certificate{userLeaf, userLeaf}, userCAs},
		{"a leaf as CA in the pool", []*x509.Certificate{userLeaf}, []*x509.Certificate{userLeaf}},
	} {
		if id, err := VerifyUser(tc.peer, tc.cas, cluster, now); err == nil {
			t.Errorf("%s: accepted as %+v", tc.name, id)
		}
	}
	if _, err := host.SignUser(newKey(t).Public(), alice, now, now.Add(time.Hour)); err == nil {
		t.Error("the host CA signed a user")
	}
	if _, err := user.SignHost(newKey(t).Public(), []string{cluster}, nil, now, now.Add(time.Hour)); err == nil {
		t.Error("the user CA signed a host")
	}
}

// forge signs any template with the real user CA's key: what a bug in signing
// would have let through, ParseUser must still refuse.
func forge(t *testing.T, ca *Authority, edit func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	marker, _ := markerExtension(UserCA)
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: alice.User},
		URIs:                  []*url.URL{alice.uri()},
		NotBefore:             now.Add(-ClockSkew),
		NotAfter:              now.Add(time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		ExtraExtensions:       []pkix.Extension{marker},
	}
	edit(template)
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Cert, newKey(t).Public(), ca.Signer)
	return parse(t, der, err)
}

func TestParseUserRefusesWhatSignUserWouldNotWrite(t *testing.T) {
	ca := newCA(t, UserCA, cluster)
	hostMarker, _ := markerExtension(HostCA)
	uri := func(s string) *url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	good := "sallyport://" + cluster + "/session/" + alice.SessionID
	for name, edit := range map[string]func(*x509.Certificate){
		"two session URIs":       func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) },
		"a second, foreign URI":  func(c *x509.Certificate) { c.URIs = append(c.URIs, uri("spiffe://x/y")) },
		"no URI":                 func(c *x509.Certificate) { c.URIs = nil },
		"another scheme":         func(c *x509.Certificate) { c.URIs[0] = uri("spiffe" + good[len("sallyport"):]) },
		"another cluster":        func(c *x509.Certificate) { c.URIs[0] = uri(strings.Replace(good, cluster, "other.example.com", 1)) },
		"upper-case cluster":     func(c *x509.Certificate) { c.URIs[0] = uri(strings.Replace(good, "tele", "TELE", 1)) },
		"a port":                 func(c *x509.Certificate) { c.URIs[0] = uri(strings.Replace(good, cluster, cluster+":443", 1)) },
		"query":                  func(c *x509.Certificate) { c.URIs[0] = uri(good + "?a=b") },
		"bare query":             func(c *x509.Certificate) { c.URIs[0] = uri(good + "?") },
		"fragment":               func(c *x509.Certificate) { c.URIs[0] = uri(good + "#a") },
		"user info":              func(c *x509.Certificate) { c.URIs[0] = uri(strings.Replace(good, "//", "//root@", 1)) },
		"escaped path":           func(c *x509.Certificate) { c.URIs[0] = uri(strings.Replace(good, "/session", "/%73ession", 1)) },
		"dot segments":           func(c *x509.Certificate) { c.URIs[0] = uri(strings.Replace(good, "/session", "/x/../session", 1)) },
		"no session":             func(c *x509.Certificate) { c.URIs[0] = uri("sallyport://" + cluster) },
		"extra DNS name":         func(c *x509.Certificate) { c.DNSNames = []string{cluster} },
		"extra address":          func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} },
		"extra e-mail":           func(c *x509.Certificate) { c.EmailAddresses = []string{"a@b.c"} },
		"CA":                     func(c *x509.Certificate) { c.IsCA = true },
		"may sign":               func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign },
		"no basic constraints":   func(c *x509.Certificate) { c.BasicConstraintsValid = false },
		"server auth":            func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} },
		"both usages":            func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) },
		"any usage":              func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} },
		"no usage":               func(c *x509.Certificate) { c.ExtKeyUsage = nil },
		"unknown usage":          func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 2, 3}} },
		"no marker":              func(c *x509.Certificate) { c.ExtraExtensions = nil },
		"host marker":            func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{hostMarker} },
		"empty name":             func(c *x509.Certificate) { c.Subject = pkix.Name{} },
		"name with a comma":      func(c *x509.Certificate) { c.Subject.CommonName = "alice,CN=root" },
		"name with a line break": func(c *x509.Certificate) { c.Subject.CommonName = "alice\nroot" },
		"two common names": func(c *x509.Certificate) {
			c.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "alice"}, {Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "root"}}
		},
		"an organization": func(c *x509.Certificate) { c.Subject.Organization = []string{"system:masters"} },
		"critical extension": func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}})
		},
	} {
		if id, err := ParseUser(forge(t, ca, edit), cluster); err == nil {
			t.Errorf("%s: accepted as %+v", name, id)
		}
	}
	if _, err := ParseUser(forge(t, ca, func(*x509.Certificate) {}), cluster); err != nil {
		t.Fatal("the unedited template should pass:", err)
	}
}

func TestNestedChainIsRefused(t *testing.T) {
	ca := newCA(t, UserCA, cluster)
	key := newKey(t)
	marker, _ := markerExtension(UserCA)
	template := &x509.Certificate{
		Subject:               ca.Cert.Subject,
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
		ExtraExtensions:       []pkix.Extension{marker},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Cert, key.Public(), ca.Signer)
	sub := &Authority{Type: UserCA, ClusterName: cluster, Cert: parse(t, der, err), Signer: key}
	leaf := signUser(t, sub, alice)
	for _, peer := range [][]*x509.Certificate{{leaf}, {leaf, sub.Cert}, {sub.Cert}} {
		if id, err := VerifyUser(peer, []*x509.Certificate{ca.Cert}, cluster, now); err == nil {
			t.Errorf("%d certificates: accepted as %+v", len(peer), id)
		}
	}
}

func TestAuthorityRoundTripsAndKnowsItself(t *testing.T) {
	user, host := newCA(t, UserCA, cluster), newCA(t, HostCA, cluster)
	key, err := user.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	hostKey, _ := host.KeyPEM()
	got, err := ParseAuthority(UserCA, cluster, user.CertPEM(), key)
	if err != nil || !got.Cert.Equal(user.Cert) {
		t.Fatal(err)
	}
	if api.Pin(got.Cert) != api.Pin(user.Cert) || api.Pin(user.Cert) == api.Pin(host.Cert) {
		t.Fatal(api.Pin(user.Cert))
	}
	for name, try := range map[string]func() error{
		"another type":    func() error { _, err := ParseAuthority(HostCA, cluster, user.CertPEM(), key); return err },
		"another cluster": func() error { _, err := ParseAuthority(UserCA, "other", user.CertPEM(), key); return err },
		"another key":     func() error { _, err := ParseAuthority(UserCA, cluster, user.CertPEM(), hostKey); return err },
		"no key":          func() error { _, err := ParseAuthority(UserCA, cluster, user.CertPEM(), nil); return err },
		"two certs": func() error {
			_, err := ParseAuthorityCert(UserCA, cluster, append(user.CertPEM(), host.CertPEM()...))
			return err
		},
		"a leaf": func() error {
			_, err := ParseAuthorityCert(UserCA, cluster, EncodeCert(signUser(t, user, alice).Raw))
			return err
		},
	} {
		if try() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, name := range []string{"", "UPPER.example.com", "a..b", "-a", "a b", "a\nb", strings.Repeat("a", 64), strings.Repeat("a.", 100) + "a"} {
		if _, err := NewAuthority(UserCA, name, now, rand.Reader); err == nil {
			t.Errorf("cluster name %q accepted", name)
		}
	}
}

func TestHostCertificatesAreMintedOnceAndBounded(t *testing.T) {
	ca, clock := newCA(t, HostCA, cluster), now
	h := NewHostCertificates(HostOptions{
		Authority:  func() (*Authority, error) { return ca, nil },
		Allowed:    func(name string) bool { return strings.HasSuffix(name, cluster) || name == "10.0.0.1" },
		Clock:      func() time.Time { return clock },
		MaxEntries: 4,
	})
	get := func(name string) *tls.Certificate {
		t.Helper()
		cert, err := h.Certificate(name)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	first := get("cookie.kube." + cluster)
	if get("COOKIE.kube."+cluster+".") != first {
		t.Error("minted twice")
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca.Cert)
	for _, name := range []string{"cookie.kube." + cluster, "10.0.0.1"} {
		if _, err := get(name).Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: pool, CurrentTime: now}); err != nil {
			t.Error(err)
		}
		if chain := get(name).Certificate; len(chain) != 2 || !bytes.Equal(chain[1], ca.Cert.Raw) {
			t.Errorf("%s: shown without its CA, which tsh pins", name)
		}
	}
	for i := range 20 {
		get(fmt.Sprintf("k%d.kube.%s", i, cluster))
	}
	if len(h.entries) != 4 || h.recent.Len() != 4 {
		t.Error("not bounded:", len(h.entries), h.recent.Len())
	}
	last := get("k19.kube." + cluster)
	clock = clock.Add(4 * 24 * time.Hour)
	if get("k19.kube."+cluster) == last {
		t.Error("not renewed after half its life")
	}
	last = get("k19.kube." + cluster)
	ca = newCA(t, HostCA, cluster)
	if get("k19.kube."+cluster) == last {
		t.Error("kept after the CA changed")
	}
	for _, name := range []string{"", "evil.example.org", "a b." + cluster, "*." + cluster, "..", "127.0.0.1", "x\x00." + cluster} {
		if _, err := h.Certificate(name); err == nil {
			t.Errorf("minted for %q", name)
		}
	}
}

func FuzzParseUser(f *testing.F) {
	ca := newCA(f, UserCA, cluster)
	f.Add(signUser(f, ca, alice).Raw)
	f.Add(ca.Cert.Raw)
	host := newCA(f, HostCA, cluster)
	der, err := host.SignHost(newKey(f).Public(), []string{cluster}, nil, now, now.Add(time.Hour))
	f.Add(parse(f, der, err).Raw)
	f.Fuzz(func(t *testing.T, der []byte) {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		if id, err := ParseUser(cert, cluster); err == nil && id.validate(cluster) != nil {
			t.Fatalf("accepted %+v", id)
		}
	})
}

func FuzzParsePublicKey(f *testing.F) {
	der, _ := x509.MarshalPKIXPublicKey(newKey(f).Public())
	f.Add(der)
	f.Fuzz(func(t *testing.T, der []byte) {
		if pub, err := ParsePublicKey(der); err == nil && checkPublicKey(pub) != nil {
			t.Fatal("accepted a weak key")
		}
	})
}
