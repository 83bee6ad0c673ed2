package auth

import (
	"context"
	"crypto"
	"errors"
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
	defaultTTL  time.Duration
}

// DefaultTTL is how long a session lives whose login asked for no time.
func (l *Login) DefaultTTL() time.Duration { return l.defaultTTL }

// errRefused is the one answer to a wrong password, a user who has none and a
// user who does not exist.
func errRefused() error {
	return api.Errorf(api.CodeUnauthenticated, "invalid user name or password")
}

// Password logs a local user in: a session record and a certificate for the
// client's key that carries its id. addr is where the request came from; one
// that is not valid means the unix socket, which limits and locks exempt.
//
// Order matters: what costs nothing comes first (shape, limits, lock), then the
// delay, then the derivation, then one transaction, of the same kind whether the
// user exists or not.
func (l *Login) Password(ctx context.Context, req api.LoginRequest, addr netip.Addr) (*api.LoginResponse, error) {
	v := l.base.db.View()
	if err := l.limiter.allow(addr, v.Now(), knownNetwork(v, req.User, addr)); err != nil {
		return nil, err
	}
	pub, err := checkLogin(req)
	if err != nil {
		return nil, err
	}
	// A login writes, so it needs a leader anyway: ask before working, and see
	// passwords and locks that another replica has just written.
	if err := l.base.db.Linearize(ctx); err != nil {
		return nil, err
	}
	for {
		release, slowed, err := l.gate(ctx, req.User, addr)
		if err != nil {
			return nil, err
		}
		resp, err := l.guess(ctx, req, pub, addr, slowed)
		release()
		if !errors.Is(err, errSlowed) {
			return resp, err
		}
	}
}

// errSlowed sends a guess back to the gate.
var errSlowed = errors.New("auth: the user is slowed by now")

// guess compares the password and settles what follows from it. Where many
// guess at once they wait for the derivation, and may be locked or slowed by
// those before them.
func (l *Login) guess(ctx context.Context, req api.LoginRequest, pub crypto.PublicKey, addr netip.Addr, slowed bool) (*api.LoginResponse, error) {
	var locked error
	ok, proof, err := l.passwords.verify(ctx, l.base.db.View(), req.User, req.Password, func() error {
		if !addr.IsValid() {
			return nil
		}
		v := l.base.db.View()
		f, err := readFailures(v, req.User, addr)
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
		return nil, l.refuseLocked(ctx, req.User, addr, locked)
	case err != nil:
		return nil, err
	case ok:
		return l.admit(ctx, req, pub, addr, proof)
	case proof == nil:
		return nil, l.refuse(ctx, req.User, addr, "no such user, or one without a password")
	default:
		return nil, l.refuse(ctx, req.User, addr, "wrong password")
	}
}

func checkLogin(req api.LoginRequest) (crypto.PublicKey, error) {
	switch {
	case req.User == "" || len(req.User) > api.MaxNameLen:
		return nil, api.Errorf(api.CodeInvalid, "a login needs a user name of at most %d bytes", api.MaxNameLen)
	case req.Password == "" || len(req.Password) > maxPasswordBytes:
		return nil, api.Errorf(api.CodeInvalid, "a login needs a password of at most %d bytes", maxPasswordBytes)
	case req.TTL < 0 || req.TTL > 0 && req.TTL < minSessionTTL:
		return nil, api.Errorf(api.CodeInvalid, "a session lasts at least %s", minSessionTTL)
	}
	return pki.ParsePublicKey(req.TLSPubKey)
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

// refuse counts a failure, writes its event and gives the one answer. If others
// have locked the pair meanwhile, the answer is the one that the right password
// gets too: else guesses made at once would tell which of them it was.
func (l *Login) refuse(ctx context.Context, user string, addr netip.Addr, reason string) error {
	var locked error
	_, err := l.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		line, err := l.failureEvent(v, user, addr, reason, 1)
		if err != nil || !addr.IsValid() {
			return fsm.Txn{Events: [][]byte{line}}, err
		}
		f, err := readFailures(v, user, addr)
		if err != nil {
			return fsm.Txn{}, err
		}
		if locked = f.locked(v.Now()); locked != nil {
			return fsm.Txn{}, nil //nolint:nilerr // an answer to give, not a failure to write
		}
		txn, err := f.count(v.Now())
		txn.Events = [][]byte{line}
		return txn, err
	})
	switch {
	case err != nil:
		return err
	case locked != nil:
		return l.refuseLocked(ctx, user, addr, locked)
	default:
		return errRefused()
	}
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
		line, err := l.failureEvent(v, user, addr, reason, n)
		return fsm.Txn{Events: [][]byte{line}}, err
	})
	if err != nil {
		return err
	}
	return answer
}

func (l *Login) failureEvent(v fsm.View, user string, addr netip.Addr, reason string, n int) ([]byte, error) {
	fields := map[string]any{"method": "local", "success": false, "error": reason}
	if n > 1 {
		fields["attempts"] = n // since the last such event
	}
	return l.base.event(v, api.EventUserLogin, api.EventCodeUserLoginRefused, Actor{User: user, Addr: addr}, fields)
}

// admit makes the session and its certificate. proof is the password record
// that was compared: if it is another one by now, so is the answer.
func (l *Login) admit(ctx context.Context, req api.LoginRequest, pub crypto.PublicKey, addr netip.Addr, proof *fsm.Record) (*api.LoginResponse, error) {
	id, err := l.base.random(sessionIDBytes)
	if err != nil {
		return nil, err
	}
	var resp *api.LoginResponse
	var locked error
	_, err = l.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		var txn fsm.Txn
		if addr.IsValid() { // first: under a lock nothing else is to be learnt
			f, err := readFailures(v, req.User, addr)
			if err != nil {
				return fsm.Txn{}, err
			}
			if locked = f.locked(v.Now()); locked != nil { // others failed while we derived
				return fsm.Txn{}, nil //nolint:nilerr // as in refuse
			}
			txn.Checks = append(txn.Checks, f.unchanged()...)
			if f.pairRec != nil {
				txn.Ops = append(txn.Ops, fsm.Delete(f.pairRec.Key))
			}
		}
		p, s, user, err := l.newSession(v, req, id, addr)
		if err != nil {
			return fsm.Txn{}, err
		}
		if now, ok := v.Get(proof.Key); !ok || now.Revision != proof.Revision {
			return fsm.Txn{}, errRefused()
		}
		txn.Checks = append(txn.Checks, users.Unchanged(user), passwordRecs.Unchanged(proof))
		know, err := knowNetwork(v, req.User, addr)
		if err != nil {
			return fsm.Txn{}, err
		}
		txn.Ops = append(txn.Ops, know...)
		s.PasswordRevision = proof.Revision
		ops, err := putSession(v, s)
		if err != nil {
			return fsm.Txn{}, err
		}
		txn.Ops = append(txn.Ops, ops...)
		if resp, err = l.response(v, p, pub); err != nil {
			return fsm.Txn{}, err
		}
		line, err := l.base.event(v, api.EventUserLogin, api.EventCodeUserLogin, Actor{User: req.User, Addr: addr}, map[string]any{
			"method": "local", "success": true, "sid": id, "roles": p.RoleNames, "expires": p.Expires.UTC().Format(time.RFC3339),
		})
		txn.Events = [][]byte{line}
		return txn, err
	})
	switch {
	case err != nil:
		return nil, err
	case locked != nil:
		return nil, l.refuseLocked(ctx, req.User, addr, locked)
	default:
		return resp, nil
	}
}

// newSession works out the session as its record will say it.
func (l *Login) newSession(v fsm.View, req api.LoginRequest, id string, addr netip.Addr) (*Principal, *sessionRecord, *fsm.Record, error) {
	rec, found, err := userLife(v, req.User)
	if err != nil {
		return nil, nil, nil, err
	}
	if !found {
		return nil, nil, nil, errRefused()
	}
	now := v.Now()
	s := &sessionRecord{UserCreated: rec.Created, Session: api.Session{
		ID: id, Kind: api.SessionCLI, User: req.User, Created: now,
	}}
	if addr.IsValid() {
		s.ClientAddr = addr.Unmap().String()
	}
	p := &Principal{User: req.User, SessionID: id, Kind: s.Kind, Created: now, Expires: now.Add(1 << 62), session: &s.Session}
	if err := l.access.load(v, p, s); err != nil {
		return nil, nil, nil, err
	}
	ttl := req.TTL
	if ttl == 0 {
		ttl = l.defaultTTL
	}
	bound := leastTTL(p.roles)
	if bound == 0 {
		bound = l.access.maxSessionTTL
	}
	// Certificates count whole seconds: session and certificate end together.
	s.Expires = now.Add(min(ttl, bound)).Truncate(time.Second)
	p.Expires = s.Expires
	return p, s, rec, nil
}

func (l *Login) response(v fsm.View, p *Principal, pub crypto.PublicKey) (*api.LoginResponse, error) {
	der, err := l.authorities.signUser(v, pub, pki.UserIdentity{User: p.User, SessionID: p.SessionID, ClusterName: l.base.clusterName}, p.Expires)
	if err != nil {
		return nil, err
	}
	signers, err := l.authorities.HostSigners()
	if err != nil {
		return nil, err
	}
	groups, kubeUsers := kubeNames(p)
	return &api.LoginResponse{
		Username: p.User, TLSCert: pki.EncodeCert(der), HostSigners: signers, ClusterName: l.base.clusterName,
		SessionID: p.SessionID, Expires: p.Expires, Roles: slices.Clone(p.RoleNames), KubeGroups: groups, KubeUsers: kubeUsers,
	}, nil
}
