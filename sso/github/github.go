package github

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/sso"
)

// scope lets the teams of private organizations be listed, and nothing be changed.
const scope = "read:org"

// Provider is a github connector that is ready to speak with GitHub. It implements
// sso.Provider.
type Provider struct {
	name  string // of the connector
	oauth oauth2.Config
	api   *caller
	site  string // host of the pages: what people call the identity provider
	log   *slog.Logger
}

var _ sso.Provider = (*Provider)(nil)

// New makes a Provider of a document that is valid and says all that it may leave out.
// Nothing is asked of GitHub.
func New(doc *api.GithubConnector, _ api.ConnectorFacts, o sso.Options) (*Provider, error) {
	site, apiURL, err := endpoints(doc)
	if err != nil {
		return nil, err
	}
	return &Provider{
		name: doc.Metadata.Name,
		oauth: oauth2.Config{
			ClientID: doc.Spec.ClientID, ClientSecret: doc.Spec.ClientSecret, RedirectURL: doc.Spec.RedirectURL, Scopes: []string{scope},
			Endpoint: oauth2.Endpoint{
				AuthURL:   site.JoinPath("login/oauth/authorize").String(),
				TokenURL:  site.JoinPath("login/oauth/access_token").String(),
				AuthStyle: oauth2.AuthStyleInParams, // else a refused code is sent twice, to find the style out
			},
		},
		api:  newCaller(apiURL, o),
		site: site.Host,
		log:  o.Log().With("connector", doc.Metadata.Name),
	}, nil
}

// GitHub's own.
const (
	publicSite = "https://github.com"
	publicAPI  = "https://api.github.com"
)

// endpoints are where the pages and the API are: the document says both, or neither.
func endpoints(doc *api.GithubConnector) (site, apiURL *url.URL, err error) {
	if site, err = endpoint("spec.endpoint_url", cmp.Or(doc.Spec.EndpointURL, publicSite)); err != nil {
		return nil, nil, err
	}
	apiURL, err = endpoint("spec.api_endpoint_url", cmp.Or(doc.Spec.APIEndpointURL, publicAPI))
	return site, apiURL, err
}

func endpoint(field, text string) (*url.URL, error) {
	u, err := api.HTTPSURL(text, false)
	if err != nil {
		return nil, &api.FieldError{Path: field, Reason: err.Error()}
	}
	u.Path, u.RawPath = strings.TrimRight(u.Path, "/"), ""
	return u, nil
}

// Check implements sso.Provider: whatever is answered but a failure of the server
// counts, a limit of its rate too.
func (p *Provider) Check(ctx context.Context) error {
	// Where the code will be redeemed. Without one it is refused, which is answer enough.
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, p.oauth.Endpoint.TokenURL, nil)
	if err != nil {
		return api.Errorf(api.CodeInternal, "ask %s: %w", p.site, err)
	}
	status, _, _, err := sso.Do(p.api.http, req)
	if err == nil && status >= http.StatusInternalServerError {
		err = sso.StatusError(status)
	}
	if err != nil {
		return sso.Unavailable(p.oauth.Endpoint.TokenURL, err)
	}
	return nil
}

// Start implements sso.Provider.
func (p *Provider) Start(_ context.Context, f *sso.Flow) (string, error) {
	// Servers that know no PKCE ignore it.
	return p.oauth.AuthCodeURL(f.ID, oauth2.S256ChallengeOption(f.Verifier)), nil
}

// Finish implements sso.Provider.
func (p *Provider) Finish(ctx context.Context, f *sso.Flow, answer url.Values) (*api.SSOIdentity, error) {
	code, err := p.code(f, answer)
	if err != nil {
		return nil, err
	}
	token, err := p.redeem(ctx, f, code)
	if err != nil {
		return nil, err
	}
	defer p.revoke(ctx, token)
	return p.identity(ctx, token)
}

// identity asks GitHub whose token it is, and what that person belongs to.
func (p *Provider) identity(ctx context.Context, token secret) (*api.SSOIdentity, error) {
	who, err := p.api.user(ctx, token)
	if err != nil {
		return nil, err
	}
	teams, err := p.api.teams(ctx, token)
	if err != nil {
		return nil, err
	}
	orgs, err := p.api.orgs(ctx, token)
	if err != nil {
		return nil, err
	}
	id := &api.SSOIdentity{
		Subject:  p.api.subject(who.ID),
		Username: who.Login,
		Teams:    teams,
	}
	// The names are those that templates of roles written for Teleport read.
	raw := map[string][]string{"username": {who.Login}, "github_orgs": orgs}
	for _, t := range teams {
		raw["github_teams"] = append(raw["github_teams"], t.Organization+"/"+t.Slug)
	}
	if id.Attributes, err = sso.Clean(raw); err != nil {
		return nil, err
	}
	return id, nil
}

// revokeWithin is how long a person waits, at most, for what only tidies up.
const revokeWithin = 2 * time.Second
