package github

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"golang.org/x/oauth2"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/sso"
)

// secret is an access token; whoever prints it by mistake prints its type.
type secret struct{ value string }

func (secret) String() string       { return "(token)" }
func (secret) GoString() string     { return "(token)" }
func (secret) LogValue() slog.Value { return slog.StringValue("(token)") }

// maxCode is generous: GitHub's codes are 20 characters.
const maxCode = 512

// code is what the browser brought back to be redeemed.
func (p *Provider) code(f *sso.Flow, answer url.Values) (string, error) {
	err := f.CheckAnswer(answer, "https://"+p.site, func(issuer string) bool {
		u, err := url.Parse(issuer)
		return err == nil && u.Scheme == "https" && strings.EqualFold(u.Host, p.site) // GitHub's has a path too
	})
	if err != nil {
		return "", err
	}
	if answer.Has("error") {
		return "", p.denied(answer.Get("error"))
	}
	code := answer.Get("code")
	if code == "" || len(code) > maxCode || strings.ContainsFunc(code, func(r rune) bool { return r < 0x21 || r > 0x7e }) {
		return "", api.Errorf(api.CodeUnauthenticated, "the answer of %s holds no code: log in again", p.site)
	}
	return code, nil
}

// denied is the error that GitHub sent the browser back with
// (docs.github.com, "Troubleshooting authorization request errors").
func (p *Provider) denied(code string) error {
	switch code {
	case "access_denied":
		return api.Errorf(api.CodeForbidden, "access was denied at %s: log in again, and choose Authorize there", p.site)
	case "redirect_uri_mismatch":
		return p.misconfigured(fmt.Sprintf("does not know the address %s: an administrator sets it as the callback URL of the OAuth app", p.oauth.RedirectURL))
	case "application_suspended":
		return p.misconfigured("has suspended the OAuth app of the connector: ask an administrator")
	case "server_error", "temporarily_unavailable": // RFC 6749, section 4.1.2.1
		return api.Errorf(api.CodeUnavailable, "%s can't log anybody in now (%s): try again later", p.site, code)
	default:
		return p.misconfigured(fmt.Sprintf("refused the login (%s): an administrator compares the connector with the OAuth app there", errorCode(code)))
	}
}

// misconfigured is what goes away when an administrator has changed something, and
// not by trying again.
func (p *Provider) misconfigured(what string) error {
	return api.Errorf(api.CodeForbidden, "%s %s (connector %q)", p.site, what, p.name)
}

var plainCode = regexp.MustCompile(`^[a-z_]{1,64}$`)

// errorCode is a code of GitHub's, unless it is something else.
func errorCode(code string) string {
	if !plainCode.MatchString(code) {
		return "with a reason that can't be read"
	}
	return code
}

// redeem trades the code for a token. No error of oauth2 goes on from here: they hold
// what was answered.
func (p *Provider) redeem(ctx context.Context, f *sso.Flow, code string) (secret, error) {
	token, err := p.oauth.Exchange(context.WithValue(ctx, oauth2.HTTPClient, p.api.http), code, oauth2.VerifierOption(f.Verifier))
	var refused *oauth2.RetrieveError
	var transport *url.Error
	switch {
	case err == nil && !strings.EqualFold(token.Type(), "Bearer"):
		return secret{}, api.Errorf(api.CodeUnavailable, "%s gave a token of a kind that is not known here: try again later", p.site)
	case err == nil:
		return secret{token.AccessToken}, nil
	case errors.As(err, &refused):
		return secret{}, p.refused(refused)
	case errors.As(err, &transport):
		return secret{}, sso.Unavailable(p.oauth.Endpoint.TokenURL, err)
	default:
		return secret{}, api.Errorf(api.CodeUnavailable, "%s did not answer as it should when the code was redeemed: try again later", p.site)
	}
}

// refused reads why there is no token; GitHub says so with status 200
// (docs.github.com, "Troubleshooting OAuth app access token request errors").
func (p *Provider) refused(err *oauth2.RetrieveError) error {
	switch err.ErrorCode {
	case "bad_verification_code", "invalid_grant":
		return api.Errorf(api.CodeUnauthenticated, "%s does not accept the code: it is used, too old or of another login; log in again", p.site)
	case "incorrect_client_credentials", "invalid_client", "unauthorized_client":
		return p.misconfigured("refuses this connector: an administrator checks spec.client_id and spec.client_secret")
	case "redirect_uri_mismatch":
		return p.denied(err.ErrorCode)
	case "unverified_user_email":
		return api.Errorf(api.CodeForbidden, "%s wants you to verify your primary e-mail address first: do so there, and log in again", p.site)
	case "":
		if limit := p.api.limited(err.Response.StatusCode, err.Response.Header, err.Body); limit != nil {
			return limit
		}
		if status := err.Response.StatusCode; status < http.StatusInternalServerError {
			return p.misconfigured(fmt.Sprintf("answered %d when the code was redeemed: an administrator checks that GitHub is at spec.endpoint_url", status))
		}
		return api.Errorf(api.CodeUnavailable, "%s answered %d when the code was redeemed: try again later", p.site, err.Response.StatusCode)
	default:
		return p.denied(err.ErrorCode)
	}
}

// revoke ends the token at GitHub, where it would be good for as long as nobody does.
// That it could not be asked to is no reason to refuse a login.
func (p *Provider) revoke(ctx context.Context, token secret) {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return // it does not answer, and somebody waits
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokeWithin)
	defer cancel()
	body, err := json.Marshal(map[string]string{"access_token": token.value})
	if err != nil {
		return
	}
	u := p.api.base.JoinPath("applications", url.PathEscape(p.oauth.ClientID), "token")
	req, err := http.NewRequestWithContext(ctx, http.MethodDelete, u.String(), bytes.NewReader(body))
	if err != nil {
		return
	}
	req.SetBasicAuth(p.oauth.ClientID, p.oauth.ClientSecret)
	p.api.headers(req)
	switch status, _, _, err := sso.Do(p.api.http, req); {
	case err != nil:
		p.log.DebugContext(ctx, "the access token could not be revoked", "error", sso.Reason(err))
	case status != http.StatusNoContent:
		p.log.DebugContext(ctx, "the access token could not be revoked", "status", status)
	}
}
