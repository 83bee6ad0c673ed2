package auth

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

const (
	consoleTTL     = 10 * time.Minute // from the start to the approval
	consoleCodeTTL = 2 * time.Minute  // from the approval until the code is redeemed
	consoleOverTTL = 2 * time.Minute  // that a failed or refused one is kept, to say so
	consoleTries   = 5                // wrong codes or verifiers until it is dead, and codes typed wrong
	maxDevice      = 64
	consoleBytes   = 16 // of ids and codes, which are written in hex

	// Started by strangers, and so bounded: of one /16 or /48, and in all. Where the
	// user named has logged in from that network lately, the first does not count,
	// and there is room when the rest is taken. One is hardly ever 4 KiB, so all are
	// below 20 MiB in each replica. More would be dear: 16384 were 64 MiB, and each start
	// reads them all to count them. So one network has an eighth.
	maxWideConsoles  = 512
	maxConsoles      = 4096
	maxKnownConsoles = maxConsoles + 1024
)

// Consoles are logins of a command-line tool that a person approves in a
// browser, with whatever the web login asks for. Each lives in the store, so that
// it may begin, be approved and be redeemed on three replicas.
//
// What the browser carries back to the tool is a code, worth nothing alone: the
// tool redeems it with a verifier that never left it (RFC 7636), and gets a
// certificate for the key that the login was begun with, whose private half never
// left it either. A headless login has no address to carry a code to: the person
// types what the terminal shows, and the verifier alone redeems it. A login is one of
// the two from its start on, so neither way opens the other.
type Consoles struct {
	base       *base
	access     *Authorizer
	login      *Login
	connectors *Connectors
	preflight  func(ctx context.Context, connector string) (warning string, err error) // nil: none
	limiter    *limiter
	starts     *limiter // those that no password approves here

	mu      sync.Mutex
	refused *recent[string, int] // tries beyond the limit, of each login that lives
	waits   map[string]int       // of each login, on this replica
}

// ConsoleLogin is what the page shows of a login that waits for approval: whom it
// is for, where it was begun, and the code that the terminal shows too, so that
// nobody approves what somebody else has begun.
type ConsoleLogin struct {
	User      string     // who it must be; "": whoever logs in
	MatchCode string     // api.MatchCode of the key
	Addr      netip.Addr // where it was begun
	Created   time.Time
	Expires   time.Time
	TTL       time.Duration // asked for; 0: the default
	// Connector is by which whoever approves it must have logged in: "" any way,
	// api.AuthLocal with a password.
	Connector string
	Headless  bool   // the page asks for the code to be typed, and leads nowhere afterwards
	Device    string // what the tool's machine calls itself, one line of printable text
}

// consoleRecord is a login under way. CodeHash is empty until it is approved, and
// of a headless login always; Redirect of the latter too.
type consoleRecord struct {
	Redirect  string        `json:"redirect,omitempty"`
	Headless  bool          `json:"headless,omitempty"`
	Connector string        `json:"connector,omitempty"` // see ConsoleLogin
	Device    string        `json:"device,omitempty"`
	PublicKey []byte        `json:"public_key"` // PKIX, DER
	TTL       time.Duration `json:"ttl,omitempty"`
	User      string        `json:"user,omitempty"`
	Challenge []byte        `json:"challenge"` // SHA-256 of the verifier
	Addr      string        `json:"addr,omitempty"`
	Created   time.Time     `json:"created"`
	Expires   time.Time     `json:"expires"`
	Tries     int           `json:"tries,omitempty"`
	Typed     int           `json:"typed,omitempty"` // codes typed wrong

	CodeHash []byte            `json:"code_hash,omitempty"` // SHA-256 of the code
	Proof    *pki.UserIdentity `json:"proof,omitempty"`     // the web session that approved it

	// Over is why it came to nothing. It is kept a while to tell the tool.
	Over *consoleOver `json:"over,omitempty"`
}

// consoleOver is how a login ended without a session.
type consoleOver struct {
	Code    api.Code `json:"code"`
	Message string   `json:"message"`
	// Denied says that a person refused it, and knows: the page has nothing to tell.
	Denied bool `json:"denied,omitempty"`
}

func (o *consoleOver) err() error { return &api.Error{Code: o.Code, Message: o.Message} }

func errNoConsole() error {
	return api.Errorf(api.CodeNotFound, "this login is not known (any more): it expired, was refused, or was finished already; run tsh login again")
}

// errConsoleWrong is the one answer to a wrong code, a wrong verifier, and both
// before the approval.
func errConsoleWrong() error {
	return api.Errorf(api.CodeUnauthenticated, "the login was not approved with this code: run tsh login again")
}

// Start begins a login. It proves nothing about anybody: strangers may. The identity
// provider of the connector that it names, if it names one, is asked whether it answers,
// after the limits and before anything is written; the answer's warning says so.
func (c *Consoles) Start(ctx context.Context, req api.ConsoleLoginRequest, addr netip.Addr) (*api.ConsoleLoginResponse, error) {
	v := c.base.db.View()
	known := req.User != "" && knownNetwork(v, req.User, addr)
	byConnector := req.ConnectorID != "" && req.ConnectorID != api.AuthLocal
	limiter := c.limiter
	if byConnector || req.Headless {
		limiter = c.starts
	}
	if err := limiter.allow(addr, v.Now(), known); err != nil {
		return nil, err
	}
	rec, err := checkConsole(req)
	if err != nil {
		return nil, err
	}
	warning := ""
	if byConnector {
		if warning, err = c.askAbout(ctx, rec.Connector); err != nil {
			return nil, err
		}
	}
	if addr.IsValid() {
		rec.Addr = addr.Unmap().String()
	}
	id, err := c.base.random(consoleBytes)
	if err != nil {
		return nil, err
	}
	_, err = c.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		if err := consoleRoom(v, addr, known); err != nil {
			return fsm.Txn{}, err
		}
		rec.Created, rec.Expires = v.Now(), v.Now().Add(consoleTTL)
		op, err := consoles.Put(id, rec, consoleTTL)
		return fsm.Txn{Checks: []fsm.Check{consoles.Absent(id)}, Ops: []fsm.Op{op}}, err
	})
	if err != nil {
		return nil, err
	}
	return &api.ConsoleLoginResponse{ID: id, RedirectURL: "https://" + c.base.publicAddr + "/web/cli/" + id, Expires: rec.Expires, Warning: warning}, nil
}

// askAbout says whether one can log in by a connector. The leader knows if this replica
// does not: it may have been made a moment ago.
func (c *Consoles) askAbout(ctx context.Context, connector string) (warning string, err error) {
	if _, err = c.connectors.Named(connector); api.IsCode(err, api.CodeNotFound) {
		if err := c.base.db.Linearize(ctx); err != nil {
			return "", err
		}
		_, err = c.connectors.Named(connector)
	}
	if err != nil || c.preflight == nil {
		return "", err
	}
	return c.preflight(ctx, connector)
}

func consoleRoom(v fsm.View, addr netip.Addr, known bool) error {
	most := maxConsoles
	if known {
		most = maxKnownConsoles
	}
	var wide netip.Prefix
	if addr.IsValid() {
		wide = wideNetworkOf(NetworkOf(addr))
	}
	all, near := 0, 0
	for _, rec := range consoles.List(v) {
		all++
		if rec == nil || !wide.IsValid() {
			continue
		}
		if from, err := netip.ParseAddr(rec.Addr); err == nil && wide.Contains(from) {
			near++
		}
	}
	if all >= most || near >= maxWideConsoles && !known {
		return api.Errorf(api.CodeRateLimited, "too many logins are under way: try again in a few minutes")
	}
	return nil
}

// checkConsole makes the record of a request, or says what is wrong with it.
func checkConsole(req api.ConsoleLoginRequest) (*consoleRecord, error) {
	redirect := ""
	if req.Headless {
		if req.RedirectURL != "" {
			return nil, api.Errorf(api.CodeInvalid, "redirect_url: a headless login has none")
		}
	} else {
		var err error
		if redirect, err = checkRedirect(req.RedirectURL); err != nil {
			return nil, err
		}
	}
	if req.ConnectorID != "" {
		if err := api.ValidateName("connector", req.ConnectorID); err != nil {
			return nil, err
		}
	}
	if req.User != "" {
		if err := api.ValidateName(api.KindUser, req.User); err != nil {
			return nil, err
		}
	}
	if err := checkTTL(req.CertTTL); err != nil {
		return nil, err
	}
	if _, err := pki.ParsePublicKey(req.TLSPubKey); err != nil {
		return nil, err
	}
	challenge, err := base64.RawURLEncoding.Strict().DecodeString(req.CodeChallenge)
	if err != nil || len(challenge) != sha256.Size {
		return nil, api.Errorf(api.CodeInvalid, "code_challenge: want the SHA-256 of the verifier in unpadded base64url (RFC 7636, section 4.2)")
	}
	return &consoleRecord{
		Redirect: redirect, Headless: req.Headless, Connector: req.ConnectorID, Device: api.CleanText(req.Device, maxDevice),
		PublicKey: req.TLSPubKey, TTL: req.CertTTL, User: req.User, Challenge: challenge,
	}, nil
}

func checkTTL(ttl time.Duration) error {
	if ttl < 0 || ttl > 0 && ttl < minSessionTTL {
		return api.Errorf(api.CodeInvalid, "a session lasts at least %s", minSessionTTL)
	}
	return nil
}

const (
	redirectBefore = "http://127.0.0.1:"
	redirectAfter  = "/callback"
)

// checkRedirect takes one shape and puts it together anew: a URL that is parsed
// here and again by a browser could mean two things. It is an address and not
// "localhost", which need not lead to the machine itself (RFC 8252, section 8.3).
func checkRedirect(s string) (string, error) {
	bad := api.Errorf(api.CodeInvalid, "redirect_url: want %sPORT%s, nothing else", redirectBefore, redirectAfter)
	rest, ok := strings.CutPrefix(s, redirectBefore)
	if !ok {
		return "", bad
	}
	text, ok := strings.CutSuffix(rest, redirectAfter)
	if !ok {
		return "", bad
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 || strconv.FormatUint(port, 10) != text {
		return "", bad
	}
	return redirectBefore + strconv.FormatUint(port, 10) + redirectAfter, nil
}

// Get is a login that waits for approval. CodeConflict: it was approved already, or
// has failed, as the message says.
func (c *Consoles) Get(ctx context.Context, id string, from Actor) (*ConsoleLogin, error) {
	rec, err := c.lookup(ctx, id, from.Addr)
	if err != nil {
		return nil, err
	}
	if err = rec.waiting(); err == nil {
		err = c.checkConnector(ctx, id, rec)
	}
	if err != nil {
		return nil, err
	}
	out := &ConsoleLogin{
		User: rec.User, MatchCode: api.MatchCode(rec.PublicKey), Created: rec.Created, Expires: rec.Expires, TTL: rec.TTL,
		Connector: rec.Connector, Headless: rec.Headless, Device: rec.Device,
	}
	if rec.Addr != "" {
		if out.Addr, err = netip.ParseAddr(rec.Addr); err != nil {
			return nil, readError("console login", "", err)
		}
	}
	return out, nil
}

// checkConnector ends a login by a connector that is gone: nobody can approve it, and the
// terminal would wait in vain.
func (c *Consoles) checkConnector(ctx context.Context, id string, rec *consoleRecord) error {
	gone := func(v fsm.View, rec *consoleRecord) bool {
		_, ok := v.Get(connectors.Key(rec.Connector))
		return !ok && rec.Connector != "" && rec.Connector != api.AuthLocal
	}
	if !gone(c.base.db.View(), rec) {
		return nil
	}
	if err := c.base.db.Linearize(ctx); err != nil { // this replica may be behind
		return err
	}
	var over error
	_, err := c.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		over = nil
		rec, stored, err := getConsole(v, id)
		if err == nil {
			err = rec.waiting()
		}
		if err != nil || !gone(v, rec) {
			return fsm.Txn{}, err
		}
		why := &consoleOver{Code: api.CodeForbidden, Message: fmt.Sprintf("connector %q was removed meanwhile: run tsh login again, without --auth or with another", rec.Connector)}
		over = errConsoleFailed(why)
		txn, err := rec.over(v, stored, why)
		txn.Checks = append(txn.Checks, fsm.Check{Key: connectors.Key(rec.Connector)})
		return txn, err
	})
	if err != nil {
		return err
	}
	return over
}

func errConsoleFailed(why *consoleOver) error {
	return api.Errorf(api.CodeConflict, "this login has failed: %s", why.Message)
}

// ConsoleApproved is the CodeConflict of a login that has not failed: a person approved it.
type ConsoleApproved struct{ err error }

func (e *ConsoleApproved) Error() string { return e.err.Error() }
func (e *ConsoleApproved) Unwrap() error { return e.err }

func errConsoleApproved() error {
	return &ConsoleApproved{api.Errorf(api.CodeConflict, "this login was approved already: go back to your terminal")}
}

// waiting refuses what nobody can approve (any more).
func (r *consoleRecord) waiting() error {
	switch {
	case r.Proof != nil:
		return errConsoleApproved()
	case r.Over == nil:
		return nil
	case r.Over.Denied:
		return errNoConsole()
	default:
		return errConsoleFailed(r.Over)
	}
}

// lookup reads a login, from the leader if this replica does not know it: it may
// have begun on another one a moment ago. Ids are too long to be guessed; misses
// are limited for what they cost.
func (c *Consoles) lookup(ctx context.Context, id string, addr netip.Addr) (*consoleRecord, error) {
	v := c.base.db.View()
	rec, _, err := getConsole(v, id)
	if !api.IsCode(err, api.CodeNotFound) {
		return rec, err
	}
	if err := c.limiter.allow(addr, v.Now(), false); err != nil {
		return nil, err
	}
	if !validConsoleSecret(id) {
		return nil, err
	}
	if err := c.base.db.Linearize(ctx); err != nil {
		return nil, err
	}
	rec, _, err = getConsole(c.base.db.View(), id)
	return rec, err
}

func getConsole(v fsm.View, id string) (*consoleRecord, *fsm.Record, error) {
	if !validConsoleSecret(id) {
		return nil, nil, errNoConsole()
	}
	rec, stored, err := consoles.Get(v, id)
	switch {
	case errors.Is(err, fsm.ErrNotFound):
		return nil, nil, errNoConsole()
	case err != nil:
		return nil, nil, readError("console login", "", err)
	case !v.Now().Before(rec.Expires):
		return nil, nil, errNoConsole()
	}
	return rec, stored, nil
}

// validConsoleSecret reports whether s has the shape of an id or a code.
func validConsoleSecret(s string) bool {
	if len(s) != 2*consoleBytes || strings.ToLower(s) != s {
		return false
	}
	_, err := hex.DecodeString(s)
	return err == nil
}
