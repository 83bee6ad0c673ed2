package acme

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"
)

func TestStapleIsWhatTheResponderSays(t *testing.T) {
	a := newFakeAuthority(t)
	for _, tc := range []struct {
		name   string
		answer func(*big.Int) ocsp.Response
		body   []byte
		want   string
	}{
		{name: "good", answer: func(n *big.Int) ocsp.Response { return ocsp.Response{Status: ocsp.Good, SerialNumber: n} }},
		{name: "revoked", answer: func(n *big.Int) ocsp.Response { return ocsp.Response{Status: ocsp.Revoked, SerialNumber: n} }, want: "doesn't call the certificate good"},
		{name: "of another certificate", answer: func(*big.Int) ocsp.Response {
			return ocsp.Response{Status: ocsp.Good, SerialNumber: big.NewInt(99)}
		}, want: "answers 200"},
		{name: "garbage", body: []byte("<html>"), want: "answers 200"},
		{name: "endless", body: make([]byte, 2*ocspMaxAnswer), want: "answers 200"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			serial := big.NewInt(7)
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				question, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				if req, err := ocsp.ParseRequest(question); err != nil || req.SerialNumber.Cmp(serial) != 0 {
					t.Errorf("asked %v, %v", req, err)
				}
				body := tc.body
				if tc.answer != nil {
					template := tc.answer(serial)
					template.ThisUpdate, template.NextUpdate = time.Now(), time.Now().Add(time.Hour)
					if body, err = ocsp.CreateResponse(a.ca, a.ca, template, a.key); err != nil {
						t.Error(err)
					}
				}
				_, _ = w.Write(body)
			}))
			defer srv.Close()
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
				SerialNumber: serial, DNSNames: []string{webName}, NotAfter: time.Now().Add(time.Hour), OCSPServer: []string{srv.URL},
			}, a.ca, key.Public(), a.key)
			if err != nil {
				t.Fatal(err)
			}
			leaf, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			h := &held{cert: &tls.Certificate{Certificate: [][]byte{der, a.ca.Raw}, Leaf: leaf, PrivateKey: key}, notAfter: leaf.NotAfter}

			answer, until, err := askOCSP(t.Context(), srv.Client(), h)
			if tc.want != "" {
				if err == nil || !strings.Contains(err.Error(), tc.want) || answer != nil {
					t.Errorf("%v, want %q", err, tc.want)
				}
				return
			}
			if err != nil || time.Until(until) < 50*time.Minute {
				t.Fatalf("until %v: %v", until, err)
			}

			// And no handshake waits for it.
			m := &Manager{clock: time.Now}
			s := &subject{name: webName, replaced: make(chan struct{})}
			s.current.Store(h)
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() { defer close(ended); m.staple(ctx, s) }()
			poll := time.NewTicker(time.Millisecond)
			defer poll.Stop()
			for len(s.valid(time.Now()).OCSPStaple) == 0 {
				<-poll.C
			}
			cancel()
			<-ended
		})
	}
}
