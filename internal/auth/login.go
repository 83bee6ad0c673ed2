package auth

import (
	"context"
	"crypto"
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
	if err := l.limiter.allow(addr, v.Now()); err != nil {
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
	if err := l.gate(ctx, l.base.db.View(), req.User, addr); err != nil {
		return nil, err
	}
	v = l.base.db.View()
	ok, proof, err := l.passwords.verify(ctx, v, req.User, req.Password)
	if err != nil {
		return nil, err
	}
	if !ok {
		reason := "wrong password"
		if proof == nil {
			reason = "no such user, or one without a password"
		}
		return nil, l.refuse(ctx, req.User, addr, reason)
	}
	return l.admit(ctx, req, pub, addr, proof)
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
// guessed at. A locked pair is told so without any work but the audit line.
func (l *Login) gate(ctx context.Context, v fsm.View, user string, addr netip.Addr) error {
	if !addr.IsValid() {
		return nil
	}
	f, err := readFailures(v, user, addr)
	if err != nil {
		return err
	}
	if locked := f.locked(v.Now()); locked != nil {
		if _, err := l.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
			line, err := l.failureEvent(v, user, addr, "locked after too many failures")
			return fsm.Txn{Events: [][]byte{line}}, err
		}); err != nil {
			return err
		}
		return locked
	}
	delay := f.delay()
	if delay == 0 {
		return nil
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return api.Errorf(api.CodeUnavailable, "the login was given up while it waited: %w", context.Cause(ctx))
	}
}

// refuse counts a failure, writes its event and gives the one answer.
func (l *Login) refuse(ctx context.Context, user string, addr netip.Addr, reason string) error {
	_, err := l.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		line, err := l.failureEvent(v, user, addr, reason)
		if err != nil || !addr.IsValid() {
			return fsm.Txn{Events: [][]byte{line}}, err
		}
		f, err := readFailures(v, user, addr)
		if err != nil {
			return fsm.Txn{}, err
		}
		txn, err := f.count(v.Now())
		txn.Events = [][]byte{line}
		return txn, err
	})
	if err != nil {
		return err
	}
	return errRefused()
}

func (l *Login) failureEvent(v fsm.View, user string, addr netip.Addr, reason string) ([]byte, error) {
	return l.base.event(v, api.EventUserLogin, api.EventCodeUserLoginRefused, Actor{User: user, Addr: addr}, map[string]any{
		"method": "local", "success": false, "error": reason,
	})
}

// admit makes the session and its certificate. proof is the password record
// that was compared: if it is another one by now, so is the answer.
func (l *Login) admit(ctx context.Context, req api.LoginRequest, pub crypto.PublicKey, addr netip.Addr, proof *fsm.Record) (*api.LoginResponse, error) {
	id, err := l.base.random(sessionIDBytes)
	if err != nil {
		return nil, err
	}
	var resp *api.LoginResponse
	_, err = l.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		p, s, user, err := l.newSession(v, req, id, addr)
		if err != nil {
			return fsm.Txn{}, err
		}
		txn := fsm.Txn{Checks: []fsm.Check{users.Unchanged(user), passwordRecs.Unchanged(proof)}}
		if now, ok := v.Get(proof.Key); !ok || now.Revision != proof.Revision {
			return fsm.Txn{}, errRefused()
		}
		if addr.IsValid() {
			f, err := readFailures(v, req.User, addr)
			if err != nil {
				return fsm.Txn{}, err
			}
			if err := f.locked(v.Now()); err != nil { // others failed while we derived
				return fsm.Txn{}, err
			}
			txn.Checks = append(txn.Checks, f.unchanged()...)
			if f.pairRec != nil {
				txn.Ops = append(txn.Ops, fsm.Delete(f.pairRec.Key))
			}
		}
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
	if err != nil {
		return nil, err
	}
	return resp, nil
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
