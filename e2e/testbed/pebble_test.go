package testbed

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/acme"
)

// acmeUser asks for a certificate and answers its challenge.
type acmeUser struct {
	t      *testing.T
	pebble *Pebble
	client *acme.Client
}

func newACMEUser(t *testing.T, p *Pebble) *acmeUser {
	t.Helper()
	b, err := os.ReadFile(p.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(b)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	t.Cleanup(transport.CloseIdleConnections)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	u := &acmeUser{t, p, &acme.Client{
		Key: key, DirectoryURL: p.URL, HTTPClient: &http.Client{Transport: transport},
		RetryBackoff: func(n int, _ *http.Request, resp *http.Response) time.Duration {
			if resp.StatusCode == http.StatusBadRequest && n < 20 { // a refused nonce
				return time.Millisecond
			}
			return -1
		},
	}}
	if _, err := u.client.Register(t.Context(), &acme.Account{}, acme.AcceptTOS); err != nil {
		t.Fatal(err)
	}
	return u
}

func (u *acmeUser) order(ctx context.Context, name string) ([][]byte, crypto.Signer, error) {
	order, err := u.client.AuthorizeOrder(ctx, acme.DomainIDs(name))
	if err != nil {
		return nil, nil, err
	}
	for _, at := range order.AuthzURLs {
		authz, err := u.client.GetAuthorization(ctx, at)
		if err != nil {
			return nil, nil, err
		}
		for _, c := range authz.Challenges {
			if c.Type != "tls-alpn-01" {
				continue
			}
			cert, err := u.client.TLSALPN01ChallengeCert(c.Token, name)
			if err != nil {
				return nil, nil, err
			}
			l, err := tls.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(u.pebble.TLSPort)), &tls.Config{
				Certificates: []tls.Certificate{cert}, NextProtos: []string{acme.ALPNProto}, MinVersion: tls.VersionTLS12})
			if err != nil {
				return nil, nil, err
			}
			served := make(chan struct{})
			go func() {
				defer close(served)
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					_ = conn.(*tls.Conn).Handshake() // whether it was right is Pebble's to say
					conn.Close()
				}
			}()
			_, err = u.client.Accept(ctx, c)
			if err == nil {
				_, err = u.client.WaitAuthorization(ctx, at)
			}
			l.Close()
			<-served
			if err != nil {
				return nil, nil, err
			}
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}}, key)
	if err != nil {
		return nil, nil, err
	}
	chain, _, err := u.client.CreateOrderCert(ctx, order.FinalizeURL, csr, true)
	if err == nil {
		return chain, key, nil
	}
	// While it is processing, Pebble's answer does not say where the order is, on which this client insists.
	order, waited := u.client.WaitOrder(ctx, order.URI)
	if waited != nil {
		return nil, nil, errors.Join(err, waited)
	}
	chain, err = u.client.FetchCert(ctx, order.CertURL, true)
	return chain, key, err
}

func TestPebbleIssuesAndCounts(t *testing.T) {
	p := StartPebble(t, PebbleOptions{BadNonces: 30})
	u := newACMEUser(t, p)
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	const name = "tele.example.com"
	if _, _, err := u.order(ctx, name); err == nil || !strings.Contains(err.Error(), "authorization error") {
		t.Errorf("a name that nobody has told: %v", err)
	}
	if err := p.SetDNS(name, "127.0.0.1"); err != nil {
		t.Fatal(err)
	}
	chain, _, err := u.order(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	root, err := p.Root()
	if err != nil {
		t.Fatal(err)
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(root)
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, der := range chain[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		between.AddCert(c)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, Intermediates: between}); err != nil {
		t.Error(err)
	}
	if err := p.FailDNS(name); err != nil {
		t.Fatal(err)
	}
	if _, _, err := u.order(ctx, name); err == nil {
		t.Error("validated though its DNS fails")
	}
	orders := p.Orders()
	taken := 0
	for _, o := range orders {
		if len(o.Names) != 1 || o.Names[0] != name {
			t.Errorf("order %+v", o)
		}
		if o.Status == http.StatusCreated { // the others had a bad nonce
			taken++
		}
	}
	valid, invalid := p.Validations()
	if live, accounts := p.Live(), p.Accounts(); len(live) != 1 || len(accounts) != 1 || len(accounts[0]) != 43 {
		t.Errorf("alive: %+v; accounts: %q", live, accounts)
	}
	if taken != 3 || p.Issued() != 1 || valid != 1 || invalid != 2 {
		t.Errorf("%d orders, %d certificates, %d and %d validations: %+v", taken, p.Issued(), valid, invalid, orders)
	}
}

func TestPebbleFailsAsTold(t *testing.T) {
	p := StartPebble(t, PebbleOptions{})
	other := StartPebble(t, PebbleOptions{}) // two at once don't meet
	if a, err := p.Root(); err != nil {
		t.Fatal(err)
	} else if b, err := other.Root(); err != nil || bytes.Equal(a, b) {
		t.Errorf("one root for two, or none: %v", err)
	}
	u := newACMEUser(t, p)
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	for _, f := range []struct {
		fault Fault
		want  string
	}{
		{Fault{Kind: FaultRateLimited, Path: PebbleNewOrder}, "rateLimited"},
		{Fault{Kind: FaultError, Path: PebbleNewOrder}, "serverInternal"},
		{Fault{Kind: FaultDown}, "refused"},
		{Fault{Kind: FaultHang, Path: PebbleNewOrder}, "deadline"},
	} {
		if err := p.SetFault(f.fault); err != nil {
			t.Fatal(err)
		}
		short, stop := context.WithTimeout(ctx, 500*time.Millisecond)
		if f.fault.Kind != FaultHang {
			stop()
			short, stop = context.WithCancel(ctx)
		}
		if _, err := u.client.AuthorizeOrder(short, acme.DomainIDs("tele.example.com")); err == nil || !strings.Contains(err.Error(), f.want) {
			t.Errorf("%+v: %v", f.fault, err)
		}
		stop()
	}
	if err := p.SetFault(); err != nil {
		t.Fatal(err)
	}
	if _, err := u.client.AuthorizeOrder(ctx, acme.DomainIDs("tele.example.com")); err != nil {
		t.Errorf("well again: %v", err)
	}
}

func TestPebbleSaysOfRenewalsWhatItIsTold(t *testing.T) {
	for _, o := range []PebbleOptions{{RenewalEvery: 3 * time.Second}, {NoRenewalInfo: true}} {
		p := StartPebble(t, o)
		directory, err := p.get(t.Context(), p.URL)
		if err != nil {
			t.Fatal(err)
		}
		if has := bytes.Contains(directory, []byte(`"renewalInfo"`)); has == o.NoRenewalInfo || !bytes.Contains(directory, []byte(`"newOrder"`)) {
			t.Errorf("%+v: %s", o, directory)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, strings.TrimSuffix(p.URL, PebbleDirectory)+PebbleRenewal+"AA.AA", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := p.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := resp.Header.Get("Retry-After"); (got == "3") != (o.RenewalEvery > 0) {
			t.Errorf("%+v: Retry-After: %q", o, got)
		}
	}
}
