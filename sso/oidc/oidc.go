package oidc

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"golang.org/x/oauth2"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/sso"
)

// Provider is a connector of kind oidc. It implements sso.Provider.
type Provider struct {
	name      string
	spec      api.OIDCSpec
	o         sso.Options
	client    *http.Client
	discovery *discovery
}

var _ sso.Provider = (*Provider)(nil)

// New makes a Provider of a document that is valid and says all that it may leave out;
// it asks the identity provider nothing.
func New(doc *api.OIDCConnector, _ api.ConnectorFacts, o sso.Options) (*Provider, error) {
	if len(doc.Spec.RedirectURL) != 1 {
		return nil, api.Errorf(api.CodeInvalid, "spec.redirect_url: want one")
	}
	p := &Provider{name: doc.Metadata.Name, spec: doc.Spec, o: o, client: o.Client()}
	p.discovery = newDiscovery(p.spec.IssuerURL, p.client, o)
	return p, nil
}

// Probe asks the identity provider for its discovery document when a connector is
// saved. One that does not answer may be down for the moment: that is a warning.
func Probe(ctx context.Context, doc *api.OIDCConnector, o sso.Options) (facts api.ConnectorFacts, warnings []string, err error) {
	p, err := New(doc, facts, o)
	if err != nil {
		return facts, nil, err
	}
	if err = p.Check(ctx); err == nil {
		return facts, nil, nil
	}
	if api.IsCode(err, api.CodeUnavailable) {
		return facts, []string{"spec.issuer_url is not checked, and nobody can log in meanwhile: " + err.Error()}, nil
	}
	return facts, nil, api.Errorf(api.CodeInvalid, "spec.issuer_url: %w", err)
}

// Check implements sso.Provider: it asks for the discovery document anew.
func (p *Provider) Check(ctx context.Context) error {
	return p.discovery.renew(ctx)
}

// Start implements sso.Provider (OpenID Connect Core 1.0, section 3.1.2.1).
func (p *Provider) Start(ctx context.Context, f *sso.Flow) (string, error) {
	md, err := p.discovery.get(ctx)
	if err != nil {
		return "", err
	}
	options := []oauth2.AuthCodeOption{
		oauth2.S256ChallengeOption(f.Verifier), oauth2.SetAuthURLParam("nonce", f.Nonce),
	}
	for name, value := range map[string]string{"prompt": p.spec.Prompt, "acr_values": p.spec.ACRValues, "max_age": p.maxAge()} {
		if value != "" {
			options = append(options, oauth2.SetAuthURLParam(name, value))
		}
	}
	return p.oauth(md).AuthCodeURL(f.ID, options...), nil
}

func (p *Provider) maxAge() string {
	if p.spec.MaxAge == 0 {
		return ""
	}
	return strconv.FormatInt(int64(time.Duration(p.spec.MaxAge)/time.Second), 10)
}

func (p *Provider) oauth(md *metadata) *oauth2.Config {
	scopes := []string{"openid"}
	for _, s := range p.spec.Scope {
		if !slices.Contains(scopes, s) {
			scopes = append(scopes, s)
		}
	}
	return &oauth2.Config{
		ClientID: p.spec.ClientID, ClientSecret: p.spec.ClientSecret, RedirectURL: p.spec.RedirectURL[0], Scopes: scopes,
		Endpoint: oauth2.Endpoint{AuthURL: md.AuthorizationEndpoint, TokenURL: md.TokenEndpoint, AuthStyle: md.authStyle},
	}
}

// Finish implements sso.Provider.
func (p *Provider) Finish(ctx context.Context, f *sso.Flow, answer url.Values) (*api.SSOIdentity, error) {
	md, err := p.discovery.get(ctx)
	if err != nil {
		return nil, err
	}
	code, err := p.code(md, f, answer)
	if err != nil {
		return nil, err
	}
	token, err := p.exchange(ctx, md, f, code)
	if err != nil {
		return nil, err
	}
	claims, err := p.verify(ctx, md, f, token)
	if err != nil {
		return nil, err
	}
	if claims, err = p.withUserinfo(ctx, md, claims, token.access); err != nil {
		return nil, err
	}
	return p.identity(claims)
}

// code is the code that the browser brought.
func (p *Provider) code(md *metadata, f *sso.Flow, answer url.Values) (string, error) {
	if err := f.CheckAnswer(answer, p.spec.IssuerURL, func(issuer string) bool { return issuer == p.spec.IssuerURL }); err != nil {
		return "", err
	}
	if md.IssuerInAnswer && !answer.Has("iss") {
		return "", api.Errorf(api.CodeUnauthenticated,
			"the answer does not say that it is from %q, as that identity provider promises (RFC 9207): it may be from another; log in again", p.spec.IssuerURL)
	}
	if answer.Has("error") {
		return "", answeredError(answer.Get("error"), answer.Get("error_description"))
	}
	code := answer.Get("code")
	if code == "" || len(code) > maxCode {
		return "", api.Errorf(api.CodeUnauthenticated, "the answer of the identity provider has no usable code; log in again")
	}
	return code, nil
}

// maxCode bounds a code. Some providers put a whole sealed session into it.
const maxCode = 8 << 10

// answeredError words an error of the authorization endpoint (RFC 6749, section
// 4.1.2.1; OpenID Connect Core 1.0, section 3.1.2.6).
func answeredError(code, description string) error {
	said := quote(code, description)
	switch code {
	case "access_denied":
		return api.Errorf(api.CodeForbidden, "the identity provider refused the login: %s", said)
	case "login_required", "interaction_required", "consent_required", "account_selection_required":
		return api.Errorf(api.CodeForbidden,
			"the identity provider wants to ask you something (%s), and spec.prompt of the connector forbids it: log in there first, or let an administrator change spec.prompt", said)
	case "unmet_authentication_requirements":
		return api.Errorf(api.CodeForbidden, "the identity provider can't log you in as spec.acr_values of the connector asks: %s", said)
	case "temporarily_unavailable", "server_error":
		return api.Errorf(api.CodeUnavailable, "the identity provider can't log anybody in now: %s; try again later", said)
	default:
		return api.Errorf(api.CodeForbidden, "the identity provider refused the request of this connector: %s; an administrator compares the connector with what is registered there", said)
	}
}

// quote is what a stranger says of an error, fit to be shown.
func quote(code, description string) string {
	said := api.CleanText(code, 64)
	if said == "" {
		said = "no reason given"
	}
	if text := api.CleanText(description, 200); text != "" {
		said += " (" + text + ")"
	}
	return said
}
