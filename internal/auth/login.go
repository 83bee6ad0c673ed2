package auth

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

const minSessionTTL = time.Minute

// Login proves who someone is and makes a session of it.
type Login struct {
	base        *base
	passwords   *passwords
	limiter     *limiter
	turns       *turns
	quiet       *quiet
	authorities *Authorities
	access      *Authorizer
	factors     *Factors
	defaultTTL  time.Duration
}

// DefaultTTL is how long a session lives whose login asked for no time.
func (l *Login) DefaultTTL() time.Duration { return l.defaultTTL }

// errRefused is the one answer to a wrong password, a user who has none and a
// user who does not exist.
func errRefused() error {
	return api.Errorf(api.CodeUnauthenticated, "invalid user name or password")
}

// try is one try of somebody to prove a user's password. An addr that is not valid
// means the unix socket, which limits and locks exempt.
type try struct {
	user, password string
	addr           netip.Addr
	refused        error // the answer to a wrong password
}

// Password logs a local user in: a session record and a certificate for the
// client's key that carries its id. addr is where the request came from; one
// that is not valid means the unix socket, which limits and locks exempt.
//
// Where a second factor is needed, CodeSecondFactor says which the user has, after
// the right password alone; a code comes with the request, a passkey needs the
// browser (see Begin).
func (l *Login) Password(ctx context.Context, req api.LoginRequest, addr netip.Addr) (*api.LoginResponse, error) {
	if err := l.limit(req.User, addr); err != nil {
		return nil, err
	}
	pub, err := checkLogin(req)
	if err != nil {
		return nil, err
	}
	id, err := l.base.random(sessionIDBytes)
	if err != nil {
		return nil, err
	}
	var resp *api.LoginResponse
	err = l.prove(ctx, try{req.User, req.Password, addr, errRefused()}, func(proof *fsm.Record) error {
		return l.admit(ctx, admission{
			user: req.User, addr: addr, password: proof.Revision,
			session: api.Session{ID: id, Kind: api.SessionCLI}, ttl: req.TTL,
			answer: FactorAnswer{TOTP: req.OTPToken},
			finish: func(v fsm.View, p *Principal) (err error) {
				resp, err = l.response(v, p, pub)
				return err
			},
		})
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// limit comes before any work.
func (l *Login) limit(user string, addr netip.Addr) error {
	v := l.base.db.View()
	return l.limiter.allow(addr, v.Now(), knownNetwork(v, user, addr))
}

// prove calls then if the password is right, with the record it was compared with.
// The limit and the checks of shape come before.
//
// Order matters: what costs nothing comes first (shape, limits, lock), then the
// delay, then the derivation, then one transaction, of the same kind whether the
// user exists or not.
func (l *Login) prove(ctx context.Context, t try, then func(proof *fsm.Record) error) error {
	// A login writes, so it needs a leader anyway: ask before working, and see
	// passwords and locks that another replica has just written.
	if err := l.base.db.Linearize(ctx); err != nil {
		return err
	}
	// A policy that can't be obeyed is nobody's, whatever the password.
	if _, err := l.factors.preference.policy(l.base.db.View()); err != nil {
		return err
	}
	for {
		release, slowed, err := l.gate(ctx, t.user, t.addr)
		if err != nil {
			return err
		}
		err = l.guess(ctx, t, slowed, then)
		release()
		if !errors.Is(err, errSlowed) {
			return err
		}
	}
}

// errSlowed sends a guess back to the gate.
var errSlowed = errors.New("auth: the user is slowed by now")

// guess compares the password and settles what follows from it. Where many
// guess at once they wait for the derivation, and may be locked or slowed by
// those before them.
func (l *Login) guess(ctx context.Context, t try, slowed bool, then func(*fsm.Record) error) error {
	var locked error
	ok, proof, err := l.passwords.verify(ctx, l.base.db.View(), t.user, t.password, func() error {
		if !t.addr.IsValid() {
			return nil
		}
		v := l.base.db.View()
		f, err := readFailures(v, t.user, t.addr)
		if err != nil {
			return err
		}
		if locked = f.locked(v.Now()); locked == nil && !slowed && f.delay() > 0 {
			return errSlowed
		}
		return locked
	})
	switch {
	case locked != nil:
		return l.refuseLocked(ctx, t.user, t.addr, locked)
	case err != nil:
		return err
	case ok:
		return then(proof)
	case proof == nil:
		return l.refuse(ctx, t, &wrongFactor{reason: "no such user, or one without a password", answer: t.refused})
	default:
		return l.refuse(ctx, t, &wrongFactor{reason: "wrong password", answer: t.refused})
	}
}

func checkLogin(req api.LoginRequest) (crypto.PublicKey, error) {
	if err := checkShape(req.User, req.Password); err != nil {
		return nil, err
	}
	if err := checkTTL(req.TTL); err != nil {
		return nil, err
	}
	return pki.ParsePublicKey(req.TLSPubKey)
}

func checkShape(user, password string) error {
	switch {
	case user == "" || len(user) > api.MaxNameLen:
		return api.Errorf(api.CodeInvalid, "a login needs a user name of at most %d bytes", api.MaxNameLen)
	case password == "" || len(password) > maxPasswordBytes:
		return api.Errorf(api.CodeInvalid, "a login needs a password of at most %d bytes", maxPasswordBytes)
	default:
		return nil
	}
}

// gate stops a locked pair, whoever the user is, and slows a user who is being
// guessed at: one login after the other, each after a delay. Networks from which
// the user has logged in lately have turns of their own, so that nobody else's
// guesses keep the owner out. slowed says that release ends a turn.
func (l *Login) gate(ctx context.Context, user string, addr netip.Addr) (release func(), slowed bool, err error) {
	free := func() {}
	if !addr.IsValid() {
		return free, false, nil
	}
	delay, err := l.delay(ctx, user, addr)
	if err != nil || delay == 0 {
		return free, false, err
	}
	key := attemptUser(user)
	if knownNetwork(l.base.db.View(), user, addr) {
		key = pairName(user, addr)
	}
	release, err = l.turns.take(ctx, key)
	if api.IsCode(err, api.CodeRateLimited) {
		return nil, false, l.refuseQuietly(ctx, "turn/"+key, user, addr, "too many logins of one user at once", err)
	}
	if err != nil {
		return nil, false, err
	}
	// Those before may have locked the pair, or made the delay longer.
	if delay, err = l.delay(ctx, user, addr); err == nil {
		err = wait(ctx, delay)
	}
	if err != nil {
		release()
		return nil, false, err
	}
	return release, true, nil
}

// delay is how long a login must wait; an error if the pair is locked.
func (l *Login) delay(ctx context.Context, user string, addr netip.Addr) (time.Duration, error) {
	v := l.base.db.View()
	f, err := readFailures(v, user, addr)
	if err != nil {
		return 0, err
	}
	if locked := f.locked(v.Now()); locked != nil {
		return 0, l.refuseLocked(ctx, user, addr, locked)
	}
	return f.delay(), nil
}

// refuse counts a failure, writes its event and gives the answer. If others have
// locked the pair meanwhile, the answer is the one that the right password gets
// too: else guesses made at once would tell which of them it was.
func (l *Login) refuse(ctx context.Context, t try, wrong *wrongFactor) error {
	var locked error
	_, err := l.base.transact(ctx, func(v fsm.View) (txn fsm.Txn, err error) {
		if t.addr.IsValid() {
			f, err := readFailures(v, t.user, t.addr)
			if err != nil {
				return fsm.Txn{}, err
			}
			if locked = f.locked(v.Now()); locked != nil {
				return fsm.Txn{}, nil //nolint:nilerr // an answer to give, not a failure to write
			}
			if txn, err = f.count(v.Now()); err != nil {
				return fsm.Txn{}, err
			}
		}
		if wrong.also != nil {
			also, err := wrong.also(v)
			if err != nil {
				return fsm.Txn{}, err
			}
			merge(&txn, also)
		}
		line, err := l.failureEvent(ctx, v, t.user, t.addr, wrong.reason, 1)
		txn.Events = append(txn.Events, line)
		return txn, err
	})
	switch {
	case err != nil:
		return err
	case locked != nil:
		return l.refuseLocked(ctx, t.user, t.addr, locked)
	default:
		return wrong.answer
	}
}

// unlocked gives an answer that only the right password gets, and for which
// nothing is written: it asks for the lock first, as a transaction would, of all
// that was counted until now. Otherwise guesses made at once, on several replicas,
// would find the right one beyond the fifth failure.
func (l *Login) unlocked(ctx context.Context, t try, answer error) error {
	if !t.addr.IsValid() {
		return answer
	}
	if err := l.base.db.Linearize(ctx); err != nil {
		return err
	}
	v := l.base.db.View()
	f, err := readFailures(v, t.user, t.addr)
	if err != nil {
		return err
	}
	if locked := f.locked(v.Now()); locked != nil {
		return l.refuseLocked(ctx, t.user, t.addr, locked)
	}
	return answer
}

func (l *Login) refuseLocked(ctx context.Context, user string, addr netip.Addr, locked error) error {
	return l.refuseQuietly(ctx, "lock/"+pairName(user, addr), user, addr, "locked after too many failures", locked)
}

// refuseQuietly refuses what has cost nothing: an event at most once a minute
// for each key, and no other write.
func (l *Login) refuseQuietly(ctx context.Context, key, user string, addr netip.Addr, reason string, answer error) error {
	n := l.quiet.count(key, l.base.db.View().Now())
	if n == 0 {
		return answer
	}
	_, err := l.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		line, err := l.failureEvent(ctx, v, user, addr, reason, n)
		return fsm.Txn{Events: [][]byte{line}}, err
	})
	if err != nil {
		return err
	}
	return answer
}

func (l *Login) failureEvent(ctx context.Context, v fsm.View, user string, addr netip.Addr, reason string, n int) ([]byte, error) {
	fields := map[string]any{"method": "local", "success": false, "error": reason}
	if n > 1 {
		fields["attempts"] = n // since the last such event
	}
	return l.base.event(ctx, v, api.EventUserLogin, api.EventCodeUserLoginRefused, Actor{User: user, Addr: addr}, fields)
}

// admission is a session to be made of a password that was right.
type admission struct {
	user     string
	addr     netip.Addr
	password uint64 // the revision of the record that was compared
	session  api.Session
	ttl      time.Duration
	answer   FactorAnswer
	state    *state // what answer belongs to; nil: none
	finish   func(v fsm.View, p *Principal) error
}

// admit makes the session, in one transaction with all that it is made of: the
// pair is not locked, the password is still the one that was compared, the second
// factor is right and used once.
func (l *Login) admit(ctx context.Context, a admission) error {
	t := try{user: a.user, addr: a.addr}
	var locked error
	_, err := l.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		var txn fsm.Txn
		var err error
		if txn, locked, err = l.forgive(v, t); err != nil || locked != nil {
			return fsm.Txn{}, err
		}
		more, err := l.admission(ctx, v, a)
		merge(&txn, more)
		return txn, err
	})
	return l.settle(ctx, t, locked, err)
}

// forgive begins the transaction of a try that is right: under a lock nothing else
// is to be learnt, and otherwise the failures of the pair are forgotten.
func (l *Login) forgive(v fsm.View, t try) (txn fsm.Txn, locked, err error) {
	if !t.addr.IsValid() {
		return txn, nil, nil
	}
	f, err := readFailures(v, t.user, t.addr)
	if err != nil {
		return txn, nil, err
	}
	if locked = f.locked(v.Now()); locked != nil { // others failed while we derived
		return txn, locked, nil
	}
	txn.Checks = f.unchanged()
	if f.pairRec != nil {
		txn.Ops = append(txn.Ops, fsm.Delete(f.pairRec.Key))
	}
	return txn, nil, nil
}

// settle gives the answer of a transaction that forgive began.
func (l *Login) settle(ctx context.Context, t try, locked, err error) error {
	if locked != nil {
		return l.refuseLocked(ctx, t.user, t.addr, locked)
	}
	if wrong, ok := errors.AsType[*wrongFactor](err); ok {
		return l.refuse(ctx, t, wrong)
	}
	if isFactorError(err) {
		return l.unlocked(ctx, t, err)
	}
	return err
}

func (l *Login) admission(ctx context.Context, v fsm.View, a admission) (txn fsm.Txn, err error) {
	life, found, err := userLife(v, a.user)
	if err != nil {
		return txn, err
	}
	if now, ok := v.Get(passwordRecs.Key(a.user)); !found || !ok || now.Revision != a.password {
		if a.state != nil {
			return txn, errStateOver()
		}
		return txn, errRefused()
	}
	txn.Checks = []fsm.Check{users.Unchanged(life), {Key: passwordRecs.Key(a.user), Revision: a.password}}
	fields := map[string]any{"method": "local", "success": true, "sid": a.session.ID}
	var ch *challenge
	if a.state != nil {
		if !a.state.UserCreated.Equal(life.Created) {
			return txn, errStateOver()
		}
		ch = a.state.Challenge
		used, err := a.state.spend(v)
		if err != nil {
			return txn, err
		}
		merge(&txn, used)
	}
	factor, err := l.factors.prove(v, life, a.answer, ch, a.addr)
	if err != nil {
		return txn, err
	}
	merge(&txn, factor.txn)
	maps.Copy(fields, factor.fields)
	s := &sessionRecord{Session: a.session, UserCreated: life.Created, PasswordRevision: a.password}
	s.User = a.user
	made, err := l.makeSession(ctx, v, s, a.ttl, a.addr, fields, a.finish)
	merge(&txn, made)
	return txn, err
}

// makeSession gives the transaction that makes a session, whose id, kind, user
// and proof s names, with its event.
func (l *Login) makeSession(ctx context.Context, v fsm.View, s *sessionRecord, ttl time.Duration, addr netip.Addr, fields map[string]any, finish func(fsm.View, *Principal) error) (txn fsm.Txn, err error) {
	p, err := l.newSession(v, s, ttl, l.access.maxSessionTTL, addr)
	if err != nil {
		return txn, err
	}
	by := Actor{User: s.User, Addr: addr}
	if txn, err = l.keep(ctx, v, s, by); err != nil {
		return txn, err
	}
	known, err := knowNetwork(v, s.User, addr)
	if err != nil {
		return txn, err
	}
	txn.Ops = append(txn.Ops, known...)
	if err := finish(v, p); err != nil {
		return txn, err
	}
	if p.certificate != nil {
		line, err := l.certificateEvent(ctx, v, p, by, map[string]any{})
		if err != nil {
			return txn, err
		}
		txn.Events = append(txn.Events, line)
	}
	fields["roles"], fields["expires"], fields["kind"] = p.RoleNames, p.Expires.UTC().Format(time.RFC3339), s.Kind
	code := api.EventCodeUserLogin
	if s.Connector != "" {
		code, fields["connector"] = api.EventCodeSSOLogin, s.Connector
	}
	line, err := l.base.event(ctx, v, api.EventUserLogin, code, by, fields)
	txn.Events = append(txn.Events, line)
	return txn, err
}

// keep gives the transaction that stores a session and ends those that are too many,
// with their events.
func (l *Login) keep(ctx context.Context, v fsm.View, s *sessionRecord, by Actor) (txn fsm.Txn, err error) {
	ops, ended, err := putSession(v, s)
	if err != nil {
		return txn, err
	}
	txn.Ops = ops
	for _, rec := range ended {
		gone := endedFields(rec)
		gone["reason"] = fmt.Sprintf("a user has %d sessions at most, and this was the oldest", maxUserSessions)
		line, err := l.base.event(ctx, v, api.EventUserLogout, api.EventCodeUserLogout, by, gone)
		if err != nil {
			return txn, err
		}
		txn.Events = append(txn.Events, line)
	}
	return txn, nil
}

// certificateEvent tells of the certificate that response has signed for a session:
// nobody gets one that the log does not know. fields are what there is to say beside.
func (l *Login) certificateEvent(ctx context.Context, v fsm.View, p *Principal, by Actor, fields map[string]any) ([]byte, error) {
	cert, err := x509.ParseCertificate(p.certificate)
	if err != nil {
		return nil, fmt.Errorf("the certificate that was signed: %w", err)
	}
	groups, kubeUsers := kubeNames(p)
	maps.Copy(fields, map[string]any{
		"cert_type": "user", "kind": p.Kind, "sid": p.SessionID, "serial_number": cert.SerialNumber.Text(16),
		"identity": map[string]any{
			"user": p.User, "roles": p.RoleNames, "kubernetes_groups": groups, "kubernetes_users": kubeUsers,
			"teleport_cluster": l.base.clusterName, "expires": cert.NotAfter.UTC().Format(time.RFC3339),
		},
	})
	return l.base.event(ctx, v, api.EventCertCreate, api.EventCodeCertCreate, by, fields)
}

// newSession works out the rest of a session as its record will say it. unbounded is how
// long it may last where no role bounds it.
func (l *Login) newSession(v fsm.View, s *sessionRecord, ttl, unbounded time.Duration, addr netip.Addr) (*Principal, error) {
	now := v.Now()
	s.Created = now
	if addr.IsValid() {
		s.ClientAddr = addr.Unmap().String()
	}
	p := &Principal{
		User: s.User, SessionID: s.ID, Kind: s.Kind, Connector: s.Connector,
		Created: now, Expires: now.Add(1 << 62), session: &s.Session,
	}
	load := func() error { return l.access.load(v, p, s, s.PasswordRevision) }
	if s.Connector != "" {
		s.PasswordRevision = noPassword
		// The caller vouches for user and connector: the same transaction may make the user.
		p.take(s)
		load = func() error { return l.access.loadRoles(v, p) }
	}
	if err := load(); err != nil {
		return nil, err
	}
	if ttl == 0 {
		ttl = l.defaultTTL
	}
	bound := leastTTL(p.roles)
	if bound == 0 {
		bound = unbounded
	}
	// Certificates count whole seconds: session and certificate end together.
	s.Expires = now.Add(min(ttl, bound))
	if end := s.IdentityExpires; !end.IsZero() && end.Before(s.Expires) {
		s.Expires = end
	}
	s.Expires = s.Expires.Truncate(time.Second)
	p.Expires = s.Expires
	return p, nil
}

func (l *Login) response(v fsm.View, p *Principal, pub crypto.PublicKey) (*api.LoginResponse, error) {
	der, err := l.authorities.signUser(v, pub, pki.UserIdentity{User: p.User, SessionID: p.SessionID, ClusterName: l.base.clusterName}, p.Expires)
	if err != nil {
		return nil, err
	}
	p.certificate = der
	signers, err := l.authorities.HostSigners()
	if err != nil {
		return nil, err
	}
	groups, kubeUsers := kubeNames(p)
	return &api.LoginResponse{
		Username: p.User, Connector: p.Connector, TLSCert: pki.EncodeCert(der), HostSigners: signers, ClusterName: l.base.clusterName,
		SessionID: p.SessionID, Expires: p.Expires, Roles: slices.Clone(p.RoleNames), KubeGroups: groups, KubeUsers: kubeUsers,
	}, nil
}
