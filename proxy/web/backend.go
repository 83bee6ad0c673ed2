package web

import (
	"context"
	"encoding/json"
	"net/netip"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// What the pages need of the rest, in their own words; internal/server wires it.
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
	Look(ctx context.Context, token string, from netip.Addr) (Invite, error)
	// Offer is what the user of the token may add as a second factor. It is asked
	// for where the policy is not off.
	Offer(ctx context.Context, token string, from netip.Addr) (*Offer, error)
	// Redeem sets the password and, unless e is nil, the second factor. CodeInvalid:
	// the password breaks a rule; CodeSecondFactor: the second factor is missing or
	// wrong, or its offer has expired.
	Redeem(ctx context.Context, token, password string, e *Enrolment, from netip.Addr) error
}

// Invite is what a token stands for.
type Invite struct {
	User         string
	Expires      time.Time
	Reset        bool             // the user had a password before
	SecondFactor api.SecondFactor // the policy in force; "" counts as off
}

// Offer is what a user needs to add a second factor. All of it goes to the user's
// browser and comes back with the form.
type Offer struct {
	State      string          `json:"state"`              // opaque to the pages; what Enrolment takes
	TOTPSecret string          `json:"secret,omitempty"`   // base32; "": impossible (the user has one)
	TOTPURI    string          `json:"uri,omitempty"`      // otpauth://…, for the QR code
	WebAuthn   json.RawMessage `json:"webauthn,omitempty"` // as parseCreationOptionsFromJSON takes it; nil: passkeys are impossible
}

// FactorAnswer proves a second factor: one field is set, or none.
type FactorAnswer struct {
	TOTP     string          // as typed; digits, perhaps with spaces
	WebAuthn json.RawMessage // what the browser's credential.toJSON() gave; not checked to be JSON
}

// Enrolment adds a second factor that an Offer described.
type Enrolment struct {
	State string
	Name  string // chosen by the user; "": none
	FactorAnswer
}

// Challenge is a login whose password was right.
type Challenge struct {
	User     string          `json:"user"`
	State    string          `json:"state"`              // opaque to the pages; what Login takes
	Methods  []string        `json:"methods,omitempty"`  // api.FactorTOTP, api.FactorWebAuthn; empty: no second factor is needed
	WebAuthn json.RawMessage `json:"webauthn,omitempty"` // as parseRequestOptionsFromJSON takes it
}

// NewSession is what a login gives.
type NewSession struct {
	User    string
	Cookie  string    // the value, of characters that a cookie may hold
	Expires time.Time // of the session; zero: the cookie lives as long as the browser
}

// Account is who a session cookie stands for.
type Account struct {
	User         string
	SessionID    string
	Roles        []string
	Created      time.Time // of the session: some pages want a login not long ago
	Expires      time.Time
	SecondFactor api.SecondFactor // the policy in force
}

// PasswordChange is what a user fills in to change the password.
type PasswordChange struct {
	Old, New string
	State    string // of the Challenge, with a passkey; "" with a code
	Answer   FactorAnswer
}

// ConsoleLogin is a login of tsh that waits for a person's approval here.
type ConsoleLogin struct {
	User      string     // who it must be; "": whoever is logged in
	MatchCode string     // that the terminal shows too
	Addr      netip.Addr // where it was begun
	Created   time.Time
	Expires   time.Time     // of the request
	TTL       time.Duration // of the session it would make; 0: the usual one
}

// Accounts are logins, and what a user does once logged in.
type Accounts interface {
	// Begin checks a password. CodeUnauthenticated: user and password do not go
	// together; CodeForbidden: locked, or no second factor where one is demanded.
	Begin(ctx context.Context, user, password string, from netip.Addr) (*Challenge, error)
	// Login makes a session. CodeSecondFactor: the answer is missing or wrong, so
	// that another may be tried with the same state; CodeUnauthenticated: the state
	// has expired or was used, log in from the beginning.
	Login(ctx context.Context, state string, answer FactorAnswer, from netip.Addr) (*NewSession, error)
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
	OfferFactor(ctx context.Context, cookie string) (*Offer, error)
	// AddFactor adds a second factor. CodeSecondFactor: the answer is wrong;
	// CodeInvalid or CodeExists: the name can't be, or there is such a factor already;
	// CodeConflict: the offer has expired or was used.
	AddFactor(ctx context.Context, cookie string, e Enrolment, from netip.Addr) error
	// RemoveFactor takes one away. CodeUnauthenticated: as OfferFactor; CodeForbidden:
	// the policy demands one and it is the last; CodeNotFound: there is none.
	RemoveFactor(ctx context.Context, cookie, id string, from netip.Addr) error

	// PasswordChallenge says what a change asks for beside the old password.
	PasswordChallenge(ctx context.Context, cookie string) (*Challenge, error)
	// ChangePassword ends the user's other sessions, not this one. CodeForbidden: the
	// old password is wrong, or locked; CodeInvalid: the new one breaks a rule;
	// CodeSecondFactor: the answer is missing or wrong.
	ChangePassword(ctx context.Context, cookie string, c PasswordChange, from netip.Addr) error

	// Sessions are the user's, of every kind.
	Sessions(ctx context.Context, cookie string) ([]api.Session, error)
	// EndSession ends one of the user's. One that has ended is no error.
	EndSession(ctx context.Context, cookie, id string, from netip.Addr) error
	// EndOtherSessions ends all but this one.
	EndOtherSessions(ctx context.Context, cookie string, from netip.Addr) error

	// Console finds a login of tsh. CodeNotFound: unknown or no more. The holder of
	// the id sees it without a cookie.
	Console(ctx context.Context, id string, from netip.Addr) (*ConsoleLogin, error)
	// ApproveConsole gives the address by which the browser tells tsh.
	// CodeUnauthenticated: the session is not fresh enough, log in again;
	// CodeForbidden: it is another user's; CodeConflict: answered already.
	ApproveConsole(ctx context.Context, cookie, id string, from netip.Addr) (redirect string, err error)
	// DenyConsole likewise.
	DenyConsole(ctx context.Context, cookie, id string, from netip.Addr) (redirect string, err error)
}
