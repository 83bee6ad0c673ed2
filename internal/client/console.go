package client

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// ConsoleOptions say which login a person is to approve in a browser. The zero
// value is a headless one, of whoever logs in there.
type ConsoleOptions struct {
	// Callback is where the browser brings the code, on this machine:
	// http://127.0.0.1:PORT/callback. Without one the login is headless: the person
	// types the match code anywhere.
	Callback string
	User     string        // who it must be; "": whoever logs in
	TTL      time.Duration // 0: the server's default
	// Connector is the one by which it must be, or api.AuthLocal; "": whatever the
	// login page offers. Kind is that of the connector.
	Connector, Kind string
	Device          string // what this machine calls itself, for the page
}

// ConsoleLogin is a login that waits for a person's yes in a browser.
type ConsoleLogin struct {
	ID        string
	URL       string // the page to open
	MatchCode string // which that page must show, or ask for
	Expires   time.Time
	Warning   string // a sentence to be shown, or ""
	user      string
	connector string // "": any
	pair      *keyPair
	verifier  string
}

// StartConsoleLogin begins a login in a browser. That the identity provider of the
// connector does not answer is a CodeUnavailable error, which says what else works.
func (c *Client) StartConsoleLogin(ctx context.Context, o ConsoleOptions) (*ConsoleLogin, error) {
	path := api.PathConsoleLogin
	if o.Connector != "" && o.Connector != api.AuthLocal {
		if !slices.Contains(api.ConnectorKinds(), o.Kind) {
			return nil, api.Errorf(api.CodeInvalid, "connector %q is of kind %q, which this version does not know: install a newer one", o.Connector, o.Kind)
		}
		path = fmt.Sprintf(api.PathSSOConsole, o.Kind)
	}
	pair, err := newKeyPair()
	if err != nil {
		return nil, err
	}
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return nil, fmt.Errorf("make a verifier: %w", err)
	}
	verifier := base64.RawURLEncoding.EncodeToString(secret)
	challenge := sha256.Sum256([]byte(verifier))
	resp, err := c.begin(ctx, path, api.ConsoleLoginRequest{
		RedirectURL: o.Callback, TLSPubKey: pair.public, CertTTL: o.TTL, User: o.User,
		CodeChallenge: base64.RawURLEncoding.EncodeToString(challenge[:]),
		ConnectorID:   o.Connector, Headless: o.Callback == "", Device: o.Device,
	})
	if err != nil {
		return nil, err
	}
	page, err := url.Parse(resp.RedirectURL)
	if err != nil || page.Scheme != "https" || page.Host == "" || page.User != nil || resp.ID == "" {
		// It goes to a program that opens other things than pages, too.
		return nil, api.Errorf(api.CodeInternal, "the server names %q as the page to log in at, which is none", resp.RedirectURL)
	}
	return &ConsoleLogin{
		ID: resp.ID, URL: page.String(), MatchCode: api.MatchCode(pair.public), Expires: resp.Expires, Warning: resp.Warning,
		user: o.User, connector: o.Connector, pair: pair, verifier: verifier,
	}, nil
}

// begin leaves out, one by one, what an older server does not know of a request, as
// long as the login stays what was asked for.
func (c *Client) begin(ctx context.Context, path string, req api.ConsoleLoginRequest) (*api.ConsoleLoginResponse, error) {
	for {
		resp, err := send[api.ConsoleLoginResponse](ctx, c, http.MethodPost, path, &req)
		refused, ok := errors.AsType[*api.Error](err)
		if !ok || refused.Code != api.CodeInvalid {
			return resp, err
		}
		switch {
		case refused.Field == "device" && req.Device != "":
			req.Device = ""
		case refused.Field == "connector_id" && req.ConnectorID == api.AuthLocal:
			req.ConnectorID = "" // it has local users alone
		case refused.Field == "headless" && req.Headless:
			return nil, api.Errorf(api.CodeInvalid, "this server is too old for --headless: leave it out, or have the cluster upgraded")
		default:
			return nil, err
		}
	}
}

// CancelConsoleLogin tells the cluster that nobody waits for a login any more, so
// that the page says so to whoever follows the link later.
func (c *Client) CancelConsoleLogin(ctx context.Context, login *ConsoleLogin) error {
	return c.call(ctx, http.MethodPost, api.PathConsoleCancel, &api.ConsoleWaitRequest{ID: login.ID, CodeVerifier: login.verifier}, nil)
}

// Bounds of the tries at a redemption: as long as an election takes, several times.
const (
	redeemPatience = 30 * time.Second
	redeemPause    = 500 * time.Millisecond
)

// RedeemConsoleLogin fetches the certificate with the code that the browser
// brought ("" for a headless login), and checks it as LoginWithPassword does. A
// replica that fails is no reason to begin anew: the code is good for some time.
func (c *Client) RedeemConsoleLogin(ctx context.Context, login *ConsoleLogin, code string) (*api.LoginResponse, *Credentials, error) {
	resp, err := again(ctx, func() (*api.LoginResponse, error) {
		return send[api.LoginResponse](ctx, c, http.MethodPost, api.PathConsoleRedeem, &api.ConsoleRedeemRequest{
			ID: login.ID, Code: code, CodeVerifier: login.verifier,
		})
	})
	if err != nil {
		return nil, nil, err
	}
	creds, err := checkLogin(resp, login.user, login.pair)
	if err != nil {
		return nil, nil, err
	}
	if err := login.checkConnector(resp.Connector); err != nil {
		return nil, nil, err
	}
	return resp, creds, nil
}

// again asks until there is an answer, or one that another try won't change.
func again[T any](ctx context.Context, ask func() (T, error)) (T, error) {
	deadline := time.Now().Add(redeemPatience)
	var unclear error // what may have been done, though nobody heard of it
	for {
		out, err := ask()
		switch code := api.CodeOf(err); {
		case unclear != nil && code == api.CodeNotFound:
			return out, unclear
		case code == api.CodeAmbiguous:
			unclear = err
		case code != api.CodeUnavailable:
			return out, err
		}
		if !time.Now().Add(redeemPause).Before(deadline) || !sleep(ctx, redeemPause) {
			return out, err
		}
	}
}

// checkConnector compares by what somebody logged in with what was asked for.
func (l *ConsoleLogin) checkConnector(got string) error {
	want := l.connector
	switch {
	case want == "", want == got, want == api.AuthLocal && got == "":
		return nil
	case got == "":
		got = api.AuthLocal
	}
	return api.Errorf(api.CodeInternal, "the server's answer is wrong: the login was to be by %q and was by %q", want, got)
}
