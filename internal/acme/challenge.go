package acme

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
)

// challengePrefix is where an authority looks for the answer to HTTP-01 (RFC 8555
// section 8.3).
const challengePrefix = "/.well-known/acme-challenge/"

// challengeTimeout bounds the reading of a challenge.
const challengeTimeout = 5 * time.Second

// solver presents a challenge by putting it into the store: whichever replica the
// authority asks answers from there.
type solver struct {
	storage certmagic.Storage
	path    func(name string) string
}

// Present implements acmez.Solver.
func (s *solver) Present(ctx context.Context, challenge acme.Challenge) error {
	value, err := json.Marshal(challenge)
	if err != nil {
		return fmt.Errorf("encode the challenge: %w", err)
	}
	return s.storage.Store(ctx, s.path(challenge.Identifier.Value), value) //nolint:wrapcheck // says all
}

// CleanUp implements acmez.Solver. It is called also when the order's context has ended.
func (s *solver) CleanUp(ctx context.Context, challenge acme.Challenge) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), challengeTimeout)
	defer cancel()
	return s.storage.Delete(ctx, s.path(challenge.Identifier.Value)) //nolint:wrapcheck // says all
}

// challengePath is CertMagic's. Storage.Load reads it as of now, not as of here: the
// challenge before this one may still be on a replica that is behind.
func challengePath(issuer, name string) string {
	return path.Join("acme", issuer, "challenge_tokens", certmagic.StorageKeys.Safe(name)+".json")
}

// errNoChallenge is for those who knock without an order of ours.
var errNoChallenge = errors.New("there is no ACME challenge for this name")

// challenge reads the live challenge of a name.
func (m *Manager) challenge(ctx context.Context, name string) (acme.Challenge, error) {
	var c acme.Challenge
	if m.subject(name) == nil {
		return c, &NotConfiguredError{name}
	}
	ctx, cancel := context.WithTimeout(ctx, challengeTimeout)
	defer cancel()
	value, err := m.storage.Load(ctx, challengePath(m.issuer.IssuerKey(), strings.ToLower(name)))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return c, errNoChallenge
	case err != nil:
		return c, fmt.Errorf("read the ACME challenge: %w", err)
	}
	if err := json.Unmarshal(value, &c); err != nil {
		return c, fmt.Errorf("decode the ACME challenge: %w", err)
	}
	return c, nil
}

// Challenge answers the handshake of an authority that offers acme-tls/1 alone
// (RFC 8737), whichever replica ordered.
func (m *Manager) Challenge(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	ctx := hello.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	c, err := m.challenge(ctx, hello.ServerName)
	if err != nil {
		return nil, err
	}
	if c.Type != acme.ChallengeTypeTLSALPN01 {
		return nil, errNoChallenge
	}
	cert, err := acmez.TLSALPN01ChallengeCert(c)
	if err != nil {
		return nil, fmt.Errorf("make the certificate for the ACME challenge: %w", err)
	}
	return cert, nil
}

// HTTPHandler answers HTTP-01 challenges and hands everything else to next. Where
// challenges are looked for, nothing else is ever served.
func (m *Manager) HTTPHandler(next http.Handler) http.Handler {
	if !m.opts.HTTP01 {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, ok := strings.CutPrefix(r.URL.Path, challengePrefix)
		if !ok {
			next.ServeHTTP(w, r)
			return
		}
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		c, err := m.challenge(r.Context(), host)
		if err != nil || r.Method != http.MethodGet || c.Type != acme.ChallengeTypeHTTP01 || token == "" || token != c.Token {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_, _ = w.Write([]byte(c.KeyAuthorization))
	})
}
