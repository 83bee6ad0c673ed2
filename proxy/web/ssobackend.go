package web

import (
	"context"
	"net/http"
	"net/netip"
	"net/url"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
)

// SSO is single sign-on: logins that an identity provider vouches for. Errors are as
// those of Accounts, but for a ProviderError; from is the client's address, by which
// strangers are limited.
//
// Nothing is stored while a person is at the provider: the flow is in a cookie, which
// Start makes and Finish asks for by a name that the provider's answer contains.
type SSO interface {
	// Connectors are those that one may log in with, by name. It asks no provider.
	Connectors() []api.PingConnector
	// Start begins a login; next is where it leads. session is the browser's session
	// cookie, if it has one, which the login ends: browsers do not send it with the POST
	// by which a SAML login comes back. CodeNotFound: there is no such connector of that
	// kind.
	Start(ctx context.Context, kind, connector, next, session string, from netip.Addr) (*SSOStart, error)
	// StartTest begins the login of tctl sso test, which logs nobody in.
	StartTest(ctx context.Context, id string, from netip.Addr) (*SSOStart, error)
	// Finish judges what the browser brought back to a callback of a kind, whose path is
	// given without /v1. What it gives says whose login it was as far as that is known and
	// is never nil, with an error neither.
	Finish(ctx context.Context, kind, path string, answer url.Values, cookie func(name string) (string, bool), from netip.Addr) (*SSOFinish, error)
	// Metadata is what a SAML connector's identity provider wants to know of us.
	Metadata(ctx context.Context, name string) ([]byte, error)
}

// SSOStart sends a browser to an identity provider.
type SSOStart struct {
	Address string // at the identity provider
	Cookie  *http.Cookie
}

// SSOFinish is how a login at an identity provider ended.
type SSOFinish struct {
	Session *auth.WebSession // nil: nobody is logged in
	Next    string
	Test    bool   // nobody was to be logged in
	Cookie  string // the name of the flow's, which is worth nothing any more; "": there is none

	// Repeat: the error is ours and says nothing about the login, so that the browser may
	// bring the same answer once more.
	Repeat bool

	// Lost: this browser holds no flow of that name which is still good, so that the
	// answer belongs to no login of its own.
	Lost      bool
	Connector api.PingConnector
	// Attributes are what the provider says of the person, for a login that nothing in
	// the connector fits: the person may need them to ask for access.
	Attributes map[string][]string
}

// ProviderError is an error that an identity provider is to blame for, or its connector.
type ProviderError struct{ Err error }

func (e *ProviderError) Error() string { return e.Err.Error() }
func (e *ProviderError) Unwrap() error { return e.Err }

// The names of cookies of flows begin so. At most maxFlows of them are kept.
const (
	FlowCookiePrefix = "__Host-sso-"
	maxFlows         = 5
)
