package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/netip"
	"net/url"
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
	consoleTries   = 5                // wrong codes or verifiers until it is dead
	consoleBytes   = 16               // of ids and codes, which are written in hex

	// Started by strangers, and so bounded: of one /16 or /48, and in all. Where the
	// user named has logged in from that network lately, the first does not count,
	// and there is room when the rest is taken.
	maxWideConsoles  = 256
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
// left it either.
type Consoles struct {
	base    *base
	access  *Authorizer
	login   *Login
	limiter *limiter

	mu      sync.Mutex
	refused *recent[string, int] // tries beyond the limit, of each login that lives
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

// consoleRecord is a login under way. CodeHash is empty until it is approved.
type consoleRecord struct {
	Redirect  string        `json:"redirect"`
	PublicKey []byte        `json:"public_key"` // PKIX, DER
	TTL       time.Duration `json:"ttl,omitempty"`
	User      string        `json:"user,omitempty"`
	Challenge []byte        `json:"challenge"` // SHA-256 of the verifier
	Addr      string        `json:"addr,omitempty"`
	Created   time.Time     `json:"created"`
	Expires   time.Time     `json:"expires"`
	Tries     int           `json:"tries,omitempty"`

	CodeHash []byte            `json:"code_hash,omitempty"` // SHA-256 of the code
	Proof    *pki.UserIdentity `json:"proof,omitempty"`     // the web session that approved it
}

func errNoConsole() error {
	return api.Errorf(api.CodeNotFound, "this login is not known (any more): it expired, was refused, or was finished already; run tsh login again")
}

// errConsoleWrong is the one answer to a wrong code, a wrong verifier, and both
// before the approval.
func errConsoleWrong() error {
	return api.Errorf(api.CodeUnauthenticated, "the login was not approved with this code: run tsh login again")
}

// Start begins a login. It proves nothing about anybody: strangers may.
func (c *Consoles) Start(ctx context.Context, req api.ConsoleLoginRequest, addr netip.Addr) (*api.ConsoleLoginResponse, error) {
	v := c.base.db.View()
	known := req.User != "" && knownNetwork(v, req.User, addr)
	if err := c.limiter.allow(addr, v.Now(), known); err != nil {
		return nil, err
	}
	rec, err := checkConsole(req)
	if err != nil {
		return nil, err
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
	return &api.ConsoleLoginResponse{ID: id, RedirectURL: "https://" + c.base.publicAddr + "/web/cli/" + id, Expires: rec.Expires}, nil
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
	redirect, err := checkRedirect(req.RedirectURL)
	if err != nil {
		return nil, err
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
	return &consoleRecord{Redirect: redirect, PublicKey: req.TLSPubKey, TTL: req.CertTTL, User: req.User, Challenge: challenge}, nil
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

// Get is a login that waits for approval.
func (c *Consoles) Get(ctx context.Context, id string, from Actor) (*ConsoleLogin, error) {
	rec, err := c.lookup(ctx, id, from.Addr)
	if err != nil {
		return nil, err
	}
	if rec.Proof != nil {
		return nil, errConsoleApproved()
	}
	out := &ConsoleLogin{
		User: rec.User, MatchCode: api.MatchCode(rec.PublicKey), Created: rec.Created, Expires: rec.Expires, TTL: rec.TTL,
	}
	if rec.Addr != "" {
		if out.Addr, err = netip.ParseAddr(rec.Addr); err != nil {
			return nil, readError("console login", "", err)
		}
	}
	return out, nil
}

func errConsoleApproved() error {
	return api.Errorf(api.CodeConflict, "this login was approved already: go back to your terminal")
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

// Approve lets a login go on as the user of a web session, and gives the address
// to send the browser to. The session must be fresh: otherwise the answer is
// CodeUnauthenticated.
func (c *Consoles) Approve(ctx context.Context, web pki.UserIdentity, id, typed string, from Actor) (redirect string, err error) {
	if _, err := c.lookup(ctx, id, from.Addr); err != nil {
		return "", err
	}
	code, err := c.base.random(consoleBytes)
	if err != nil {
		return "", err
	}
	_, err = c.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		p, err := c.access.fresh(v, web)
		if err != nil {
			return fsm.Txn{}, err
		}
		rec, stored, err := getConsole(v, id)
		switch {
		case err != nil:
			return fsm.Txn{}, err
		case rec.Proof != nil:
			return fsm.Txn{}, errConsoleApproved()
		case rec.User != "" && rec.User != p.User:
			return fsm.Txn{}, api.Errorf(api.CodeForbidden, "this login was begun for user %q, and you are logged in as %q: log out first", rec.User, p.User)
		}
		next := *rec
		left := min(rec.Expires.Sub(v.Now()), consoleCodeTTL)
		next.Expires = v.Now().Add(left)
		next.CodeHash, next.Proof = hash(code), &web
		op, err := consoles.Update(stored, &next, max(left.Round(time.Millisecond), time.Millisecond))
		redirect = rec.Redirect + "?" + url.Values{"id": {id}, "code": {code}}.Encode()
		return fsm.Txn{Checks: []fsm.Check{consoles.Unchanged(stored)}, Ops: []fsm.Op{op}}, err
	})
	if err != nil {
		return "", err
	}
	return redirect, nil
}

// Deny ends a login, approved or not, and gives the address that tells the tool.
func (c *Consoles) Deny(ctx context.Context, id string, from Actor) (redirect string, err error) {
	if _, err := c.lookup(ctx, id, from.Addr); err != nil {
		return "", err
	}
	_, err = c.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		rec, stored, err := getConsole(v, id)
		if err != nil {
			return fsm.Txn{}, err
		}
		redirect = rec.Redirect + "?" + url.Values{"error": {"denied"}, "id": {id}}.Encode()
		return c.end(v, rec, stored, from, "refused in the browser")
	})
	return redirect, err
}

// end removes a login that came to nothing, and says so in the log.
func (c *Consoles) end(v fsm.View, rec *consoleRecord, stored *fsm.Record, from Actor, reason string) (fsm.Txn, error) {
	fields := map[string]any{"method": "console", "success": false, "error": reason}
	if rec.Addr != "" {
		fields["begun_at"] = rec.Addr
	}
	switch {
	case from.User != "":
	case rec.Proof != nil:
		from.User = rec.Proof.User
	default:
		from.User = rec.User
	}
	line, err := c.base.event(v, api.EventUserLogin, api.EventCodeUserLoginRefused, from, fields)
	return fsm.Txn{
		Checks: []fsm.Check{consoles.Unchanged(stored)}, Ops: []fsm.Op{fsm.Delete(stored.Key)}, Events: [][]byte{line},
	}, err
}

// Redeem gives the certificate to who holds code and verifier, once. Everything
// wrong counts as a try, before the approval too; the last try ends the login.
func (c *Consoles) Redeem(ctx context.Context, req api.ConsoleRedeemRequest, addr netip.Addr) (*api.LoginResponse, error) {
	if n := len(req.CodeVerifier); n < 43 || n > 128 {
		return nil, api.Errorf(api.CodeInvalid, "code_verifier: want 43 to 128 characters (RFC 7636, section 4.1)")
	}
	rec, err := c.lookup(ctx, req.ID, addr)
	if err != nil {
		return nil, err
	}
	if !rec.opens(req) {
		if rec, err = c.judgeAgain(ctx, rec, req, addr); err != nil {
			return nil, err
		}
	}
	// Judged again in the transaction, whose check holds the count of tries.
	resp, err := c.login.Issue(ctx, *rec.Proof, rec.PublicKey, rec.TTL, addr, func(v fsm.View) (fsm.Txn, error) {
		rec, stored, err := getConsole(v, req.ID)
		switch {
		case err != nil:
			return fsm.Txn{}, err
		case !rec.opens(req):
			return fsm.Txn{}, errConsoleWrong()
		}
		return fsm.Txn{Checks: []fsm.Check{consoles.Unchanged(stored)}, Ops: []fsm.Op{fsm.Delete(stored.Key)}}, nil
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// opens says whether code and verifier are the right ones, in the same time for
// all that are not.
func (r *consoleRecord) opens(req api.ConsoleRedeemRequest) bool {
	code := r.CodeHash
	if len(code) != sha256.Size {
		code = make([]byte, sha256.Size) // the hash of nothing known
	}
	right := subtle.ConstantTimeCompare(code, hash(req.Code))
	right &= subtle.ConstantTimeCompare(r.Challenge, hash(req.CodeVerifier))
	return right == 1 && r.Proof != nil
}

// judgeAgain asks the leader about a code that seems wrong, as this replica may not
// know of the approval yet, and counts the try if it is. Asking and counting cost the
// others something, so both take a try of the limit's: who may begin so many logins
// may not do five times as much by guessing at them.
//
// A try that the limit refuses is counted all the same, in memory, and the last of
// them ends the login: one write for a login whose start the limit allowed. The first
// of them may ask the leader, so that strangers who have used up the limit do not
// spoil the right code.
func (c *Consoles) judgeAgain(ctx context.Context, rec *consoleRecord, req api.ConsoleRedeemRequest, addr netip.Addr) (*consoleRecord, error) {
	limited := c.limiter.allow(addr, c.base.db.View().Now(), false)
	refused := c.countRefused(req.ID, limited != nil)
	if limited == nil || refused == 1 {
		if err := c.base.db.Linearize(ctx); err != nil {
			return nil, err
		}
		var err error
		if rec, _, err = getConsole(c.base.db.View(), req.ID); err != nil || rec.opens(req) {
			return rec, err
		}
	}
	if limited == nil {
		return nil, c.fail(ctx, req, addr, refused+1)
	}
	if rec.Tries+refused >= consoleTries {
		return nil, c.fail(ctx, req, addr, refused)
	}
	return nil, limited
}

// countRefused says how many tries at a login were refused, with one more if more.
func (c *Consoles) countRefused(id string, more bool) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.refused.get(id, func() *int { return new(int) })
	if more {
		*n++
	}
	return *n
}

// fail counts a wrong try, or ends the login if those that are not in its record yet
// (this one, and those refused before) are the last it had.
func (c *Consoles) fail(ctx context.Context, req api.ConsoleRedeemRequest, addr netip.Addr, more int) error {
	_, err := c.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		rec, stored, err := getConsole(v, req.ID)
		if err != nil {
			return fsm.Txn{}, err
		}
		if rec.opens(req) { // approved since it was judged
			return fsm.Txn{}, api.Errorf(api.CodeRateLimited, "the login was approved at this moment: try again")
		}
		if rec.Tries+more >= consoleTries {
			return c.end(v, rec, stored, Actor{Addr: addr}, "wrong code or verifier, too often")
		}
		next := *rec
		next.Tries++
		op, err := consoles.Update(stored, &next, max(rec.Expires.Sub(v.Now()).Round(time.Millisecond), time.Millisecond))
		return fsm.Txn{Checks: []fsm.Check{consoles.Unchanged(stored)}, Ops: []fsm.Op{op}}, err
	})
	if err != nil {
		return err
	}
	return errConsoleWrong()
}

func hash(s string) []byte {
	sum := sha256.Sum256([]byte(s))
	return sum[:]
}
