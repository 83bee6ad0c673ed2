package server

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/sso"
)

const theIDP = "https://idp.example.com/authorize"

// fakeKinds are identity providers that believe what a browser brings: its code, or
// SAML response, says who somebody is and to which groups they belong, as in
// "alice:devs,ops".
type fakeKinds struct {
	mu    sync.Mutex
	asked []string // every call that a real one would ask somebody about
	down  error    // of Check and Start
}

func (k *fakeKinds) ask(words ...string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked = append(k.asked, strings.Join(words, " "))
}

func (k *fakeKinds) calls() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]string(nil), k.asked...)
}

func (k *fakeKinds) setDown(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.down = err
}

func (k *fakeKinds) isDown() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.down
}

func (k *fakeKinds) New(doc api.Connector, _ api.ConnectorFacts) (sso.Provider, error) {
	return &fakeProvider{k, doc}, nil
}

func (k *fakeKinds) Probe(_ context.Context, doc api.Connector) (api.ConnectorFacts, []string, error) {
	k.ask("probe", doc.Head().Metadata.Name)
	return api.ConnectorFacts{}, nil, nil
}

type fakeProvider struct {
	kinds *fakeKinds
	doc   api.Connector
}

func (p *fakeProvider) param() string {
	if p.doc.ConnectorKind() == api.KindSAML {
		return "RelayState"
	}
	return "state"
}

func (p *fakeProvider) Check(ctx context.Context) error {
	p.kinds.ask("check", p.doc.Head().Metadata.Name)
	if err := bounded(ctx); err != nil {
		return err
	}
	return p.kinds.isDown()
}

// bounded is nil where a provider that hangs would hold nobody up for longer than
// the 10 s that are promised.
func bounded(ctx context.Context) error {
	if end, ok := ctx.Deadline(); !ok || time.Until(end) > 10*time.Second {
		return errors.New("a real identity provider could hang here")
	}
	return nil
}

func (p *fakeProvider) Start(ctx context.Context, f *sso.Flow) (string, error) {
	p.kinds.ask("start", p.doc.Head().Metadata.Name)
	if err := bounded(ctx); err != nil {
		return "", err
	}
	if err := p.kinds.isDown(); err != nil {
		return "", err
	}
	return theIDP + "?" + url.Values{p.param(): {f.ID}}.Encode(), nil
}

func (p *fakeProvider) Finish(ctx context.Context, f *sso.Flow, answer url.Values) (*api.SSOIdentity, error) {
	p.kinds.ask("finish", p.doc.Head().Metadata.Name)
	if err := bounded(ctx); err != nil {
		return nil, err
	}
	if answer.Get(p.param()) != f.ID || f.Verifier == "" {
		return nil, api.Errorf(api.CodeUnauthenticated, "the answer is for another login")
	}
	code := answer.Get("code") + answer.Get("SAMLResponse")
	switch code {
	case "denied":
		return nil, api.Errorf(api.CodeForbidden, "the person at the identity provider said no")
	}
	who, groups, _ := strings.Cut(code, ":")
	id := &api.SSOIdentity{Subject: "id-" + who, Username: who, Attributes: map[string][]string{"groups": strings.Split(groups, ",")}}
	if p.doc.ConnectorKind() == api.KindSAML {
		id.UseOnce, id.UseUntil = "assertion-of-"+code, time.Now().Add(5*time.Minute)
	}
	return id, nil
}

func (p *fakeProvider) Metadata() ([]byte, error) { return []byte("<EntityDescriptor/>"), nil }

// addConnectors makes one of OIDC named dex and one of SAML named okta; who is in the
// group devs has the role access.
func (r *replicas) addConnectors(i int) {
	r.t.Helper()
	header := func(kind, version, name string) api.Header {
		return api.Header{Kind: kind, Version: version, Metadata: api.Metadata{Name: name}}
	}
	for _, doc := range []api.Connector{
		&api.OIDCConnector{Header: header(api.KindOIDC, "v3", "dex"), Spec: api.OIDCSpec{
			IssuerURL: "https://idp.example.com", ClientID: "id", ClientSecret: "secret", Display: "Example Corp",
			ClaimsToRoles: []api.ClaimToRole{{Claim: "groups", Value: "devs", Roles: []string{auth.RoleAccess}}},
		}},
		&api.OIDCConnector{Header: header(api.KindOIDC, "v3", "other"), Spec: api.OIDCSpec{
			IssuerURL: "https://other.example.com", ClientID: "id", ClientSecret: "secret",
			ClaimsToRoles: []api.ClaimToRole{{Claim: "groups", Value: "devs", Roles: []string{auth.RoleAccess}}},
		}},
		&api.SAMLConnector{Header: header(api.KindSAML, "v2", "okta"), Spec: api.SAMLSpec{
			Issuer: "https://idp.example.com/saml", SSO: theIDP, Cert: string(r.hostCAs()),
			AttributesToRoles: []api.AttributeToRole{{Name: "groups", Value: "devs", Roles: []string{auth.RoleAccess}}},
		}},
	} {
		if _, err := r.run[i].srv.auth.Connectors.Put(r.t.Context(), auth.Actor{User: auth.SocketUser}, doc, false); err != nil {
			r.t.Fatal(err)
		}
	}
	for _, run := range r.run {
		eventually(r.t, patience, "all know the connectors", func() error {
			if n := len(run.srv.auth.Connectors.Public()); n != 3 {
				return api.Errorf(api.CodeNotFound, "%d connectors", n)
			}
			return nil
		})
	}
}

// begin starts a login at replica i, and gives the id of its flow.
func (b *browser) begin(i int, kind, connector, next string) (state string) {
	b.r.t.Helper()
	p := b.open(i, "/v1/webapi/"+kind+"/login/web?"+url.Values{"connector_id": {connector}, "next": {next}}.Encode(), nil)
	to, err := url.Parse(p.location)
	if err != nil || !strings.HasPrefix(p.location, theIDP+"?") {
		b.r.t.Fatalf("%d %s %s", p.status, p.location, p.body)
	}
	return to.Query().Get("state") + to.Query().Get("RelayState")
}

// back is a browser's way back to replica i from dex.
func (b *browser) back(i int, state, code string) page {
	b.r.t.Helper()
	return b.open(i, "/v1"+api.PathOIDCCallback+"/dex?"+url.Values{"state": {state}, "code": {code}}.Encode(), nil)
}

// post is a browser's way back from a SAML identity provider.
func (b *browser) post(i int, state, response string) page {
	b.r.t.Helper()
	return b.open(i, "/v1"+api.PathSAMLACS, url.Values{"RelayState": {state}, "SAMLResponse": {response}})
}

// flows are the cookies of flows that a browser holds.
func (b *browser) flows() map[string]string {
	out := map[string]string{}
	for _, c := range b.c.Jar.Cookies(&url.URL{Scheme: "https", Host: b.r.opts[0].PublicAddr}) {
		if strings.HasPrefix(c.Name, "__Host-sso-") {
			out[c.Name] = c.Value
		}
	}
	return out
}

// keep gives a browser cookies of flows.
func (b *browser) keep(flows map[string]string) {
	for name, value := range flows {
		b.c.Jar.SetCookies(&url.URL{Scheme: "https", Host: b.r.opts[0].PublicAddr}, []*http.Cookie{{Name: name, Value: value, Path: "/", Secure: true}})
	}
}

func startSSOReplicas(t *testing.T, n int) (*replicas, *fakeKinds) {
	t.Helper()
	kinds := &fakeKinds{}
	r := startReplicas(t, n, func(_ int, o *Options) { o.ssoKinds = kinds })
	r.addConnectors(0)
	return r, kinds
}
