package web

import (
	"context"
	"net/netip"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
)

// What the pages need of the rest; internal/server wires it.
// Errors are *api.Error, whose messages the user reads, with codes as each method
// says; any of them may also fail with CodeRateLimited, CodeUnavailable or
// CodeAmbiguous. from is the client's address, so that guesses can be limited and
// the audit log says where a change came from. cookie is the value of the session
// cookie as the browser sent it: nothing is to be believed of it, and one that is
// worth nothing (any more) is CodeUnauthenticated, whatever the method.

// Invites are the links by which users set a password, once, and a second factor
// with it. CodeNotFound: the token is unknown or no more; CodeConflict: it has been
// used.
type Invites interface {
	Lookup(ctx context.Context, token string, from auth.Actor) (auth.Invite, error)
	// Offer is what the user of the token may add as a second factor. It is asked
	// for where the policy is not off.
	Offer(ctx context.Context, token string, from auth.Actor) (*auth.Offer, error)
	// Redeem sets the password and, unless e is nil, the second factor. CodeInvalid:
	// the password breaks a rule; CodeSecondFactor: the second factor is missing or
	// wrong, or its offer has expired.
	Redeem(ctx context.Context, token, password string, e *auth.Enrolment, from auth.Actor) (user string, err error)
}

// Account is who a session cookie stands for.
type Account struct {
	User         string
	Connector    string // by which they logged in; "": with a password
	SessionID    string
	Roles        []string
	Created      time.Time        // of the session: some pages want a login not long ago
	SecondFactor api.SecondFactor // the policy in force
}

// Accounts are logins, and what a user does once logged in.
type Accounts interface {
	// Begin checks a password. CodeUnauthenticated: user and password do not go
	// together; CodeForbidden: locked, or no second factor where one is demanded.
	Begin(ctx context.Context, user, password string, from netip.Addr) (*auth.Challenge, error)
	// Login makes a session. CodeSecondFactor: the answer is missing or wrong, so
	// that another may be tried with the same state; CodeUnauthenticated: the state
	// has expired or was used, log in from the beginning.
	Login(ctx context.Context, state string, answer auth.FactorAnswer, from netip.Addr) (*auth.WebSession, error)
	// Session says who a cookie stands for. It is asked for before the others, and
	// CodeUnauthenticated is a last word only as far as a replica can tell.
	Session(ctx context.Context, cookie string, from netip.Addr) (*Account, error)
	// Logout ends the session of the cookie.
	Logout(ctx context.Context, cookie string, from netip.Addr) error

	// Clusters are those the user may reach, by name.
	Clusters(ctx context.Context, cookie string) ([]api.KubeCluster, error)

	// Factors are the user's second factors, oldest first.
	Factors(ctx context.Context, cookie string) ([]api.Factor, error)
	// OfferFactor is what the user may add; empty where the policy is off.
	// CodeUnauthenticated: the session is not fresh enough, log in again.
	OfferFactor(ctx context.Context, cookie string) (*auth.Offer, error)
	// AddFactor adds a second factor. CodeSecondFactor: the answer is wrong;
	// CodeInvalid or CodeExists: the name can't be, or there is such a factor already;
	// CodeConflict: the offer has expired or was used.
	AddFactor(ctx context.Context, cookie string, e auth.Enrolment, from netip.Addr) error
	// RemoveFactor takes one away. CodeUnauthenticated: as OfferFactor; CodeForbidden:
	// the policy demands one and it is the last; CodeNotFound: there is none.
	RemoveFactor(ctx context.Context, cookie, id string, from netip.Addr) error

	// PasswordChallenge says what a change asks for beside the old password.
	PasswordChallenge(ctx context.Context, cookie string) (*auth.Challenge, error)
	// ChangePassword ends the user's other sessions, not this one. CodeForbidden: the
	// old password is wrong, or locked; CodeInvalid: the new one breaks a rule;
	// CodeSecondFactor: the answer is missing or wrong.
	ChangePassword(ctx context.Context, cookie, old, next string, a auth.FactorAnswer, from netip.Addr) error

	// Sessions are the user's, of every kind.
	Sessions(ctx context.Context, cookie string) ([]api.Session, error)
	// EndSession ends one of the user's. One that has ended is no error.
	EndSession(ctx context.Context, cookie, id string, from netip.Addr) error
	// EndOtherSessions ends all but this one.
	EndOtherSessions(ctx context.Context, cookie string, from netip.Addr) error

	// Console finds a login of tsh. CodeNotFound: unknown or no more. The holder of
	// the id sees it without a cookie.
	Console(ctx context.Context, id string, from netip.Addr) (*auth.ConsoleLogin, error)
	// ApproveConsole lets a login of tsh go on. The code of a headless one must have been
	// typed. CodeUnauthenticated: the session
	// is not fresh enough, log in again; CodeForbidden: it is another user's, or of
	// another connector; CodeConflict: answered already; CodeInvalid: not the code.
	ApproveConsole(ctx context.Context, cookie, id, typed string, from netip.Addr) (auth.ConsoleAnswer, error)
	// DenyConsole likewise.
	DenyConsole(ctx context.Context, cookie, id string, from netip.Addr) (auth.ConsoleAnswer, error)
}

// Audit is the audit log, for those who may look at it.
type Audit interface {
	// Authorize says whether the session of a cookie may list events. CodeForbidden:
	// it may not; the message names the rule that is missing.
	Authorize(ctx context.Context, cookie string) error
	// Begin waits until a user may search; end is called when the page has been
	// written. CodeRateLimited: too many are searching.
	Begin(ctx context.Context, user string) (end func(), err error)
	// Search looks through the log for a user; Authorize is asked before each.
	// CodeInvalid: the query can't be.
	Search(ctx context.Context, user string, q api.AuditQuery) (*api.AuditPage, error)
}
