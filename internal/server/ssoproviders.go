package server

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/sso"
	"github.com/sallyport-dev/sallyport/sso/github"
	"github.com/sallyport-dev/sallyport/sso/oidc"
	"github.com/sallyport-dev/sallyport/sso/saml"
)

// ssoKinds make what speaks with identity providers, by the kind of a connector.
type ssoKinds interface {
	// New asks nobody anything.
	New(doc api.Connector, facts api.ConnectorFacts) (sso.Provider, error)
	// Probe asks what must be known of an identity provider to save its connector.
	Probe(ctx context.Context, doc api.Connector) (facts api.ConnectorFacts, warnings []string, err error)
}

// realKinds are the protocols that we speak.
type realKinds struct{ o sso.Options }

func newRealKinds(clock func() time.Time, log *slog.Logger) realKinds {
	return realKinds{sso.Options{HTTP: sso.NewClient(nil), Clock: clock, Logger: log}}
}

// CloseIdleConnections ends the connections that nobody uses at the moment.
func (k realKinds) CloseIdleConnections() { k.o.HTTP.CloseIdleConnections() }

// New implements ssoKinds.
func (k realKinds) New(doc api.Connector, facts api.ConnectorFacts) (sso.Provider, error) {
	switch doc := doc.(type) {
	case *api.GithubConnector:
		return github.New(doc, facts, k.o)
	case *api.OIDCConnector:
		return oidc.New(doc, facts, k.o)
	case *api.SAMLConnector:
		return saml.New(doc, facts, k.o)
	default:
		return nil, errNoKind(doc)
	}
}

// Probe implements ssoKinds.
func (k realKinds) Probe(ctx context.Context, doc api.Connector) (api.ConnectorFacts, []string, error) {
	ctx, cancel := context.WithTimeout(ctx, sso.MaxWait)
	defer cancel()
	switch doc := doc.(type) {
	case *api.GithubConnector:
		return github.Probe(ctx, doc, k.o)
	case *api.OIDCConnector:
		return oidc.Probe(ctx, doc, k.o)
	case *api.SAMLConnector:
		return saml.Probe(ctx, doc, k.o)
	default:
		return api.ConnectorFacts{}, nil, errNoKind(doc)
	}
}

func errNoKind(doc api.Connector) error {
	return api.Errorf(api.CodeUnavailable, "this version does not log people in by connectors of kind %q", doc.ConnectorKind())
}

const (
	// What may go on at once, so that an identity provider which hangs holds up neither
	// this replica nor the logins by another one.
	maxCallbacks    = 32
	maxCallbacksPer = 20 // of a connector

	checkFor  = 5 * time.Second
	checkKept = 10 * time.Second
)

// ssoProviders are the connectors that somebody has used, ready to speak with their
// identity providers. Each is made when it is first needed, and anew when its
// document has changed.
type ssoProviders struct {
	kinds  ssoKinds
	open   func(name string) (*auth.OpenConnector, error)
	clock  func() time.Time
	public string // PublicAddr

	mu  sync.Mutex
	all map[string]*ssoProvider
}

// ssoProvider is one of a connector, as it is now.
type ssoProvider struct {
	sso.Provider
	*auth.OpenConnector
	callbacks chan struct{} // one for each under way

	checking *semaphore.Weighted // of one: held by who asks, and by who reads what came of it
	checked  time.Time
	problem  error
}

func newSSOProvider(kinds ssoKinds, open *auth.OpenConnector) (*ssoProvider, error) {
	made, err := kinds.New(open.Doc, open.Facts)
	if err != nil {
		return nil, err
	}
	return &ssoProvider{
		Provider: made, OpenConnector: open, callbacks: make(chan struct{}, maxCallbacksPer), checking: semaphore.NewWeighted(1),
	}, nil
}

// get gives the provider of a connector.
func (p *ssoProviders) get(name string) (*ssoProvider, error) {
	open, err := p.open(name)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		delete(p.all, name)
		return nil, err
	}
	if known := p.all[name]; known != nil && known.Revision == open.Revision {
		return known, nil
	}
	made, err := newSSOProvider(p.kinds, open)
	if err != nil {
		delete(p.all, name)
		return nil, err
	}
	if p.all == nil {
		p.all = map[string]*ssoProvider{}
	}
	p.all[name] = made
	return made, nil
}

// check asks the provider whether it answers, or says what it said a moment ago. One
// asks at a time; who gives up leaves the question to the next, who has as long for it:
// what a shorter one says is nothing about the provider.
func (p *ssoProvider) check(ctx context.Context, clock func() time.Time) error {
	waiting, cancel := context.WithTimeout(ctx, checkFor)
	defer cancel()
	if err := p.checking.Acquire(waiting, 1); err != nil {
		return api.Errorf(api.CodeUnavailable, "it has not answered in %s", checkFor)
	}
	defer p.checking.Release(1)
	if !p.checked.IsZero() && clock().Sub(p.checked).Abs() < checkKept {
		return p.problem
	}
	asking, cancel := context.WithTimeout(ctx, checkFor)
	defer cancel()
	problem := p.Check(asking)
	if problem != nil && ctx.Err() != nil {
		return problem // of who asked, and broke it off
	}
	p.checked, p.problem = clock(), problem
	return problem
}

// preflight is an auth.Options.Preflight: it tells who is about to log in whether that
// is any use. The browser may reach a SAML identity provider that we do not, and nothing
// else is asked of it, so that is a warning.
func (p *ssoProviders) preflight(ctx context.Context, connector string) (warning string, err error) {
	found, err := p.get(connector)
	if err != nil {
		return "", err
	}
	problem := found.check(ctx, p.clock)
	if !api.IsCode(problem, api.CodeUnavailable) {
		return "", problem
	}
	if found.Doc.ConnectorKind() == api.KindSAML {
		return fmt.Sprintf("the identity provider of connector %q does not answer the cluster (%s); your browser may reach it all the same", connector, problem), nil
	}
	return "", api.Errorf(api.CodeUnavailable, "%s", p.down(connector, problem))
}

// down is how people are told that an identity provider is of no use at the moment.
func (p *ssoProviders) down(connector string, problem error) *auth.Hinted {
	return &auth.Hinted{
		Err:  &api.Error{Code: api.CodeUnavailable, Message: fmt.Sprintf("the identity provider of connector %q does not answer (%s)", connector, problem)},
		Hint: fmt.Sprintf("log in as a local user meanwhile: tsh login --proxy=%s --auth=local --user=NAME", api.ShellQuote(p.public)),
	}
}
