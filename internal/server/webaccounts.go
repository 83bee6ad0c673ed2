package server

import (
	"context"
	"net/netip"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/pki"
	"github.com/sallyport-dev/sallyport/proxy/web"
)

// webAccounts is auth as the pages ask for it. Whom a cookie stands for is decided
// here, at each call, by identify; no method takes a user's name from a page.
type webAccounts struct {
	auth  *auth.Service
	store auth.DB
	name  string            // of the cluster
	stale func() error      // why nobody may be let in at present, or nil
	blame func(error) error // says so where the clock, and not the session, is to blame

	misses *cookieMisses
}

// identify says whom a cookie stands for, and what they are at this moment.
func (a webAccounts) identify(cookie string) (*auth.Principal, pki.UserIdentity, error) {
	if err := a.stale(); err != nil {
		return nil, pki.UserIdentity{}, err
	}
	id, err := auth.WebIdentity(cookie, a.name)
	if err != nil {
		return nil, id, err
	}
	p, err := a.auth.Access.Cookie(a.store.View(), id)
	return p, id, a.blame(err)
}

func actor(id pki.UserIdentity, from netip.Addr) auth.Actor {
	return auth.Actor{User: id.User, Addr: from, Session: id}
}

func (a webAccounts) Begin(ctx context.Context, user, password string, from netip.Addr) (*auth.Challenge, error) {
	return a.auth.Login.Begin(ctx, user, password, from)
}

func (a webAccounts) Login(ctx context.Context, state string, answer auth.FactorAnswer, from netip.Addr) (*auth.WebSession, error) {
	return a.auth.Login.Web(ctx, state, answer, from)
}

// Session is asked first for every page, so it alone asks the leader for a session
// that is not known here, and tells the request whose it is.
func (a webAccounts) Session(ctx context.Context, cookie string, from netip.Addr) (*web.Account, error) {
	p, id, err := a.identify(cookie)
	if api.IsCode(err, api.CodeUnauthenticated) && id != (pki.UserIdentity{}) {
		again, unknown := a.missed(ctx, from)
		switch {
		case unknown != nil:
			err = unknown
		case again:
			p, id, err = a.identify(cookie)
		}
	}
	if err != nil {
		return nil, err
	}
	policy, err := a.auth.Preference.Get()
	if err != nil {
		return nil, err
	}
	noteUser(ctx)
	return &web.Account{
		User: id.User, Connector: p.Connector, SessionID: id.SessionID, Roles: p.RoleNames, Created: p.Created,
		SecondFactor: policy.Spec.SecondFactor,
	}, nil
}

// Logout needs no living session, nor one that may do anything: to end what has
// ended is no error, and whose role is broken must be able to leave.
func (a webAccounts) Logout(ctx context.Context, cookie string, from netip.Addr) error {
	id, err := auth.WebIdentity(cookie, a.name)
	if err != nil {
		return err
	}
	return a.auth.Sessions.Delete(ctx, actor(id, from), id)
}

func (a webAccounts) Clusters(_ context.Context, cookie string) ([]api.KubeCluster, error) {
	p, _, err := a.identify(cookie)
	if err != nil {
		return nil, err
	}
	return a.auth.Access.KubeClusters(a.store.View(), p), nil
}

func (a webAccounts) Factors(_ context.Context, cookie string) ([]api.Factor, error) {
	_, id, err := a.identify(cookie)
	if err != nil {
		return nil, err
	}
	return a.auth.Factors.List(id.User), nil
}

func (a webAccounts) OfferFactor(_ context.Context, cookie string) (*auth.Offer, error) {
	_, id, err := a.identify(cookie)
	if err != nil {
		return nil, err
	}
	return a.auth.Factors.Offer(id)
}

func (a webAccounts) AddFactor(ctx context.Context, cookie string, e auth.Enrolment, from netip.Addr) error {
	_, id, err := a.identify(cookie)
	if err != nil {
		return err
	}
	_, err = a.auth.Factors.Add(ctx, id, e, actor(id, from))
	return err
}

func (a webAccounts) RemoveFactor(ctx context.Context, cookie, factor string, from netip.Addr) error {
	_, id, err := a.identify(cookie)
	if err != nil {
		return err
	}
	return a.auth.Factors.Remove(ctx, id, factor, actor(id, from))
}

func (a webAccounts) PasswordChallenge(_ context.Context, cookie string) (*auth.Challenge, error) {
	_, id, err := a.identify(cookie)
	if err != nil {
		return nil, err
	}
	return a.auth.Users.PasswordChallenge(id)
}

func (a webAccounts) ChangePassword(ctx context.Context, cookie, old, next string, answer auth.FactorAnswer, from netip.Addr) error {
	_, id, err := a.identify(cookie)
	if err != nil {
		return err
	}
	return a.auth.Users.ChangePassword(ctx, id, old, next, answer, actor(id, from))
}

func (a webAccounts) Sessions(_ context.Context, cookie string) ([]api.Session, error) {
	_, id, err := a.identify(cookie)
	if err != nil {
		return nil, err
	}
	return a.auth.Sessions.List(id.User), nil
}

func (a webAccounts) EndSession(ctx context.Context, cookie, session string, from netip.Addr) error {
	_, id, err := a.identify(cookie)
	if err != nil {
		return err
	}
	ended := id // the user's own, whatever the page said
	ended.SessionID = session
	return a.auth.Sessions.Delete(ctx, actor(id, from), ended)
}

func (a webAccounts) EndOtherSessions(ctx context.Context, cookie string, from netip.Addr) error {
	_, id, err := a.identify(cookie)
	if err != nil {
		return err
	}
	return a.auth.Sessions.DeleteOthers(ctx, actor(id, from), id)
}

func (a webAccounts) Console(ctx context.Context, id string, from netip.Addr) (*auth.ConsoleLogin, error) {
	return a.auth.Consoles.Get(ctx, id, auth.Actor{Addr: from})
}

func (a webAccounts) ApproveConsole(ctx context.Context, cookie, console, typed string, from netip.Addr) (auth.ConsoleAnswer, error) {
	_, id, err := a.identify(cookie)
	if err != nil {
		return auth.ConsoleAnswer{}, err
	}
	return a.auth.Consoles.Approve(ctx, id, console, typed, actor(id, from))
}

func (a webAccounts) DenyConsole(ctx context.Context, cookie, console string, from netip.Addr) (auth.ConsoleAnswer, error) {
	_, id, err := a.identify(cookie)
	if err != nil {
		return auth.ConsoleAnswer{}, err
	}
	return a.auth.Consoles.Deny(ctx, console, actor(id, from))
}
