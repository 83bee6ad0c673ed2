package acme

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"time"

	"golang.org/x/crypto/ocsp"
)

const (
	ocspTimeout    = 30 * time.Second
	ocspMaxAnswer  = 64 << 10
	ocspAfterError = time.Hour
)

// staple adds to the certificate the responder's word that it isn't revoked, if it names
// a responder: Let's Encrypt's don't, other authorities' do. No handshake waits for it,
// and each replica asks for itself.
func (m *Manager) staple(ctx context.Context, s *subject) {
	client := &http.Client{Timeout: ocspTimeout, Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}}
	var until time.Time // how long the staple holds
	for {
		replaced := s.watch()
		pause := tendEvery // nothing to do
		if h := s.current.Load(); h != nil && len(h.cert.Leaf.OCSPServer) > 0 && len(h.cert.Certificate) > 1 {
			now := m.clock()
			answer, next, err := askOCSP(ctx, client, h)
			if err != nil {
				pause = ocspAfterError
				m.log.Info("a certificate has no OCSP staple", "name", s.name, "error", err)
			}
			if ended := h.cert.OCSPStaple != nil && !now.Before(until); err == nil || ended {
				stapled, cert := *h, *h.cert
				cert.OCSPStaple, stapled.cert = answer, &cert
				if s.current.CompareAndSwap(h, &stapled) && err == nil {
					until, pause = next, min(max(next.Sub(now)/2, time.Minute), 24*time.Hour)
				}
			}
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-replaced:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// askOCSP returns an answer that may be stapled, and until when.
func askOCSP(ctx context.Context, client *http.Client, h *held) ([]byte, time.Time, error) {
	leaf, until := h.cert.Leaf, time.Time{}
	issuer, err := x509.ParseCertificate(h.cert.Certificate[1])
	if err != nil {
		return nil, until, fmt.Errorf("parse the issuer's certificate: %w", err)
	}
	question, err := ocsp.CreateRequest(leaf, issuer, nil)
	if err != nil {
		return nil, until, fmt.Errorf("make an OCSP request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, leaf.OCSPServer[0], bytes.NewReader(question))
	if err != nil {
		return nil, until, fmt.Errorf("make an OCSP request: %w", err)
	}
	req.Header.Set("Content-Type", "application/ocsp-request")
	resp, err := client.Do(req)
	if err != nil {
		return nil, until, fmt.Errorf("ask the OCSP responder: %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, ocspMaxAnswer))
	if err != nil {
		return nil, until, fmt.Errorf("ask the OCSP responder %s: %w", leaf.OCSPServer[0], err)
	}
	parsed, err := ocsp.ParseResponseForCert(answer, leaf, issuer)
	switch {
	case err != nil:
		return nil, until, fmt.Errorf("the OCSP responder %s answers %s: %w", leaf.OCSPServer[0], resp.Status, err)
	case parsed.Status != ocsp.Good || parsed.NextUpdate.IsZero():
		return nil, until, fmt.Errorf("the OCSP responder %s doesn't call the certificate good (status %d)", leaf.OCSPServer[0], parsed.Status)
	}
	return answer, parsed.NextUpdate, nil
}
