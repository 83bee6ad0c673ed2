package web

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

const (
	theSecret   = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
	theCreation = `{"rp":{"id":"gate.example.com","name":"gate.example.com"},"user":{"id":"YWxpY2U","name":"alice","displayName":"alice"},"challenge":"AAAAAAAAAAAAAAAAAAAAAA","pubKeyCredParams":[{"type":"public-key","alg":-7}]}`
	theRequest  = `{"challenge":"AAAAAAAAAAAAAAAAAAAAAA","rpId":"gate.example.com","allowCredentials":[{"type":"public-key","id":"AAAA"}]}`
)

func theOffer() *auth.Offer {
	return &auth.Offer{
		State: "offer-state", TOTPSecret: theSecret, WebAuthn: json.RawMessage(theCreation),
		TOTPURI: "otpauth://totp/gate.example.com:alice?algorithm=SHA1&digits=6&issuer=gate.example.com&period=30&secret=" + theSecret,
	}
}

// accounts is a cluster in which a user's name says what becomes of a login, and
// the cookie of a session is USER.live, USER.old, USER.late (too old for the cluster,
// and not yet by this replica's clock) or USER.ended.
type accounts struct {
	calls    []string // what was changed, and from where
	err      error    // of every change
	readErr  error    // of every read
	mode     api.SecondFactor
	clusters []api.KubeCluster
	factors  []api.Factor
	sessions []api.Session
	console  *auth.ConsoleLogin
	redirect string
	role     string
	offers   int
	asked    int       // how often it was asked who somebody is
	sso      *signOn   // nil: there is none
	audit    *auditLog // nil: there is none
}

// fresh refuses who has logged in too long ago.
func fresh(cookie string) error {
	if _, token, _ := strings.Cut(cookie, "."); token == "old" || token == "late" {
		return api.Errorf(api.CodeUnauthenticated, "you logged in more than 10 minutes ago: log in again to do this")
	}
	return nil
}

func newAccounts() *accounts {
	return &accounts{
		mode: api.SecondFactorOptional, role: "kube-access",
		clusters: []api.KubeCluster{
			{
				Name: "production-eu", Labels: map[string]string{"env": "production", "region": "eu-central-1", "team": "payments"},
				Status: &api.KubeStatus{Health: api.HealthHealthy, Version: "v1.34.1", Agents: 2, LastSeen: noon, Checked: noon.Add(-20 * time.Second)},
			},
			{
				Name: "staging", Labels: map[string]string{"env": "staging"},
				Status: &api.KubeStatus{Health: api.HealthOffline, Reason: "no agent of it is connected", Version: "v1.33.4", LastSeen: noon.Add(-3 * time.Hour)},
			},
			{
				Name:   "edge-7",
				Status: &api.KubeStatus{Health: api.HealthUnhealthy, Reason: "its API server answers /readyz with 500: etcd is not ready", Agents: 1, LastSeen: noon.Add(-time.Minute), Checked: noon.Add(-10 * time.Second)},
			},
			{Name: "edge-8", Status: &api.KubeStatus{Health: api.HealthUnknown, Agents: 1}},
			{Name: "edge-9", Status: &api.KubeStatus{Health: api.HealthOffline, Reason: "no agent of it is connected"}},
			{Name: "a b's cluster"},
		},
		factors: []api.Factor{
			{ID: "f1", Kind: api.FactorTOTP, Name: "authenticator app", Created: noon.AddDate(0, -3, -2), LastUsed: noon.Add(-3 * time.Hour)},
			{ID: "f2", Kind: api.FactorWebAuthn, Name: "Blue key", Created: noon.Add(-26 * time.Hour)},
		},
		sessions: []api.Session{
			{ID: "0123", Kind: api.SessionCLI, User: "alice", Created: noon.Add(-5 * time.Hour), Expires: noon.Add(7 * time.Hour), ClientAddr: "192.0.2.7"},
			{ID: "4567", Kind: api.SessionWeb, User: "alice", Created: noon.Add(-time.Minute), Expires: noon.Add(12*time.Hour - time.Second), ClientAddr: "2001:db8::17:4"},
			{ID: "89ab", Kind: api.SessionWeb, User: "alice", Created: noon.Add(-11 * time.Hour), Expires: noon.Add(time.Hour), ClientAddr: "198.51.100.23"},
		},
		console: &auth.ConsoleLogin{
			User: "alice", MatchCode: "3F7A-09C2", Addr: netip.MustParseAddr("192.0.2.1"),
			Created: noon.Add(-20 * time.Second), Expires: noon.Add(9 * time.Minute), TTL: 12 * time.Hour,
		},
		redirect: "http://127.0.0.1:40123/callback?id=abc&code=def",
	}
}

// change notes a change, or refuses it.
func (f *accounts) change(from netip.Addr, words ...string) error {
	if f.err != nil {
		return f.err
	}
	if !from.IsValid() {
		return errors.New("who was it?")
	}
	f.calls = append(f.calls, strings.Join(words, " "))
	return nil
}

func (f *accounts) Begin(_ context.Context, user, password string, from netip.Addr) (*auth.Challenge, error) {
	if !from.IsValid() {
		return nil, errors.New("whom to limit?")
	}
	c := &auth.Challenge{User: user, State: "state-of-" + user}
	switch {
	case user == "locked":
		return nil, api.Errorf(api.CodeForbidden, "too many failed logins: locked until 12:20 UTC, or until an administrator resets it")
	case user == "busy":
		return nil, api.Errorf(api.CodeRateLimited, "too many logins from your network, wait a minute")
	case user == "noquorum":
		return nil, api.Errorf(api.CodeUnavailable, "the cluster has no leader at the moment")
	case user == "broken":
		return nil, errors.New("secret detail of the store")
	case password != good:
		return nil, api.Errorf(api.CodeUnauthenticated, "wrong user name or password")
	case user == "nofactor":
		return nil, api.Errorf(api.CodeForbidden, "a second factor is needed here and you have none: ask an administrator for 'tctl users reset nofactor'")
	case user == "totp":
		c.Methods = []string{api.FactorTOTP}
	case user == "passkey":
		c.Methods, c.WebAuthn = []string{api.FactorWebAuthn}, json.RawMessage(theRequest)
	case user == "both":
		c.Methods, c.WebAuthn = []string{api.FactorTOTP, api.FactorWebAuthn}, json.RawMessage(theRequest)
	}
	return c, nil
}

func (f *accounts) Login(_ context.Context, state string, a auth.FactorAnswer, from netip.Addr) (*auth.WebSession, error) {
	user := strings.TrimPrefix(state, "state-of-")
	switch {
	case a.TOTP == "000000":
		return nil, api.Errorf(api.CodeUnauthenticated, "expired")
	case a.TOTP == "111111":
		return nil, api.Errorf(api.CodeRateLimited, "too many codes, wait a minute")
	case user == "both" && string(a.WebAuthn) == "copy":
		err := api.Errorf(api.CodeSecondFactor, "the counter of this passkey went back, so it is locked: use another second factor")
		err.SecondFactors = []string{api.FactorTOTP}
		return nil, err
	case user != "alice" && a.TOTP != "123456" && string(a.WebAuthn) != `{"id":"x"}`:
		return nil, api.Errorf(api.CodeSecondFactor, "the code is wrong, or was used already: wait for the next one")
	}
	if err := f.change(from, "login", user); err != nil {
		return nil, err
	}
	return &auth.WebSession{Identity: pki.UserIdentity{User: user}, Cookie: user + ".live", Expires: noon.Add(12 * time.Hour)}, nil
}

func (f *accounts) Session(_ context.Context, cookie string, from netip.Addr) (*Account, error) {
	if !from.IsValid() {
		return nil, errors.New("whom to limit?")
	}
	f.asked++
	user, token, _ := strings.Cut(cookie, ".")
	a := &Account{User: user, SessionID: "4567", Roles: []string{"access", f.role}, Created: noon.Add(-time.Minute), SecondFactor: f.mode}
	if user == "octocat" {
		a.Connector = "github"
	}
	switch token {
	case "live":
	case "old":
		a.Created = noon.Add(-11 * time.Minute)
	case "late":
		a.Created = noon.Add(-10*time.Minute + time.Second)
	default:
		return nil, api.Errorf(api.CodeUnauthenticated, "the session has ended")
	}
	return a, f.readErr
}

func (f *accounts) Logout(_ context.Context, cookie string, from netip.Addr) error {
	return f.change(from, "logout", cookie)
}

func (f *accounts) Clusters(context.Context, string) ([]api.KubeCluster, error) {
	return f.clusters, f.readErr
}

func (f *accounts) Factors(context.Context, string) ([]api.Factor, error) {
	return slices.Clone(f.factors), f.readErr
}

func (f *accounts) OfferFactor(_ context.Context, cookie string) (*auth.Offer, error) {
	if err := fresh(cookie); err != nil {
		return nil, err
	}
	f.offers++
	o := theOffer()
	switch user, _, _ := strings.Cut(cookie, "."); user {
	case "totp":
		o.TOTPSecret, o.TOTPURI = "", ""
	case "ip":
		o.WebAuthn = nil
	}
	return o, f.readErr
}

func (f *accounts) AddFactor(_ context.Context, _ string, e auth.Enrolment, from netip.Addr) error {
	if e.TOTP == "000000" {
		return api.Errorf(api.CodeSecondFactor, "the code is wrong: check the clock of your phone and enter the code it shows now")
	}
	return f.change(from, "add", e.State, e.Name, e.TOTP+string(e.WebAuthn))
}

func (f *accounts) RemoveFactor(_ context.Context, cookie, id string, from netip.Addr) error {
	if err := fresh(cookie); err != nil {
		return err
	}
	return f.change(from, "remove", id)
}

func (f *accounts) PasswordChallenge(_ context.Context, cookie string) (*auth.Challenge, error) {
	user, _, _ := strings.Cut(cookie, ".")
	c, err := f.Begin(context.Background(), user, good, netip.MustParseAddr("192.0.2.1"))
	if f.readErr != nil {
		err = f.readErr
	}
	return c, err
}

func (f *accounts) ChangePassword(_ context.Context, _, old, next string, a auth.FactorAnswer, from netip.Addr) error {
	if old != good {
		return api.Errorf(api.CodeForbidden, "this is not your present password")
	}
	return f.change(from, "password", next, a.State, a.TOTP+string(a.WebAuthn))
}

func (f *accounts) Sessions(context.Context, string) ([]api.Session, error) {
	return slices.Clone(f.sessions), f.readErr
}

func (f *accounts) EndSession(_ context.Context, _, id string, from netip.Addr) error {
	return f.change(from, "end", id)
}

func (f *accounts) EndOtherSessions(_ context.Context, _ string, from netip.Addr) error {
	return f.change(from, "end others")
}

func (f *accounts) Console(_ context.Context, id string, _ netip.Addr) (*auth.ConsoleLogin, error) {
	known := map[string]func(*auth.ConsoleLogin){
		"good":      func(*auth.ConsoleLogin) {},
		"elsewhere": func(c *auth.ConsoleLogin) { c.Addr = netip.MustParseAddr("203.0.113.9") },
		"other":     func(c *auth.ConsoleLogin) { c.User = "bob" },
		"anyone":    func(c *auth.ConsoleLogin) { c.User = "" },
		"expired":   func(c *auth.ConsoleLogin) { c.Expires = noon },

		"sso":      func(c *auth.ConsoleLogin) { c.User, c.Connector = "", "github" },
		"sso-bob":  func(c *auth.ConsoleLogin) { c.User, c.Connector = "bob", "github" },
		"gone":     func(c *auth.ConsoleLogin) { c.User, c.Connector = "", "removed" },
		"local":    func(c *auth.ConsoleLogin) { c.Connector = api.AuthLocal },
		"headless": func(c *auth.ConsoleLogin) { c.User, c.Headless, c.Device = "", true, "build-07.internal.example.com" },
		"headless-sso": func(c *auth.ConsoleLogin) {
			c.User, c.Connector, c.Headless, c.Device = "", "github", true, "build-07"
		},
	}
	if id == "failed" {
		return nil, api.Errorf(api.CodeConflict, "this login has failed: %s", nomapping)
	}
	if !slices.Contains(slices.Collect(maps.Keys(known)), id) {
		return nil, api.Errorf(api.CodeNotFound, "no such login")
	}
	c := *f.console
	known[id](&c)
	return &c, nil
}

func (f *accounts) ApproveConsole(_ context.Context, cookie, id, typed string, from netip.Addr) (auth.ConsoleAnswer, error) {
	to := auth.ConsoleAnswer{Redirect: f.redirect}
	if id == "sso" && fresh(cookie) != nil {
		return to, fresh(cookie)
	}
	if strings.HasPrefix(id, "headless") {
		if typed != f.console.MatchCode {
			return to, api.Errorf(api.CodeInvalid, "this is not the code that your terminal shows: type it again")
		}
		return auth.ConsoleAnswer{Headless: true}, f.change(from, "approve", cookie, id, typed)
	}
	return to, f.change(from, "approve", cookie, id)
}

func (f *accounts) DenyConsole(_ context.Context, cookie, id string, from netip.Addr) (auth.ConsoleAnswer, error) {
	if strings.HasPrefix(id, "headless") {
		return auth.ConsoleAnswer{Headless: true}, f.change(from, "deny", cookie, id)
	}
	return auth.ConsoleAnswer{Redirect: f.redirect}, f.change(from, "deny", cookie, id)
}
