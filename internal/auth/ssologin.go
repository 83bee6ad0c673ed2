package auth

import (
	"context"
	"encoding/json"
	"net/netip"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// SSO makes sessions of what identity providers say.
type SSO struct {
	base       *base
	keys       *keys
	connectors *Connectors
	login      *Login
	consoles   *Consoles
	limiter    *limiter
	quiet      *quiet
}

// SSOState is a login at an identity provider, which the browser keeps sealed
// until it comes back.
type SSOState struct {
	Flow      json.RawMessage `json:"flow"` // sso.Flow
	ID        string          `json:"id"`   // the flow's: good for one login
	Kind      string          `json:"kind"` // of the connector
	Connector string          `json:"connector,omitempty"`
	Next      string          `json:"next,omitempty"`    // where to go afterwards
	Console   string          `json:"console,omitempty"` // the login of tsh that it is for
	Test      string          `json:"test,omitempty"`    // the test that it belongs to: it logs nobody in
	Expires   time.Time       `json:"expires"`           // filled in by Seal
}

// Allow limits what strangers may start or bring back.
func (s *SSO) Allow(addr netip.Addr) error {
	return s.limiter.allow(addr, s.base.db.View().Now(), false)
}

// Seal makes the text that the browser keeps. It is good for ten minutes.
func (s *SSO) Seal(SSOState) (string, error) {
	return "", api.Errorf(api.CodeUnavailable, "nobody can log in by a connector yet")
}

// Open reads what came back. Altered, foreign and expired ones are all
// CodeUnauthenticated: begin again.
func (s *SSO) Open(string) (*SSOState, error) { return nil, errStateOver() }

// Login makes the session of who an identity provider says somebody is, or refuses
// and has then done what Fail does.
func (s *SSO) Login(context.Context, *SSOState, *OpenConnector, *api.SSOIdentity, netip.Addr) (*WebSession, error) {
	return nil, api.Errorf(api.CodeUnavailable, "nobody can log in by a connector yet")
}

// Fail tells the log, and the terminal that waits, why a login came to nothing. id is
// nil where nobody knows who it was.
func (s *SSO) Fail(context.Context, *SSOState, *api.SSOIdentity, error, netip.Addr) {}
