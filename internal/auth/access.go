package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

// Authorizer decides, from the store as this replica has it, what a session may.
type Authorizer struct {
	base          *base
	clusters      *KubeClusters
	maxSessionTTL time.Duration
}

// Principal is a living session with what its user may be at this moment.
type Principal struct {
	User      string
	SessionID string
	Kind      string
	Connector string // by which the user logged in; "": a local user
	RoleNames []string
	Created   time.Time
	Expires   time.Time // the session's end, or earlier if a role's max_session_ttl says so now

	session *api.Session
	roles   []*role
	traits  traits
	changed []<-chan struct{}

	certificate []byte // DER: what response signed, if it did
}

// Session is the session as it was made; callers must not change it.
func (p *Principal) Session() *api.Session { return p.session }

// Session resolves a session: it lives, its user is the one it was made for, and
// every role can be read. Anything in doubt is a denial that says why. Who has
// the identity from a certificate or a cookie asks Certificate or Cookie, which
// keep the two kinds apart.
func (a *Authorizer) Session(v fsm.View, id pki.UserIdentity) (*Principal, error) {
	if id.ClusterName != a.base.clusterName || id.User == "" || !pki.ValidSessionID(id.SessionID) {
		return nil, api.Errorf(api.CodeUnauthenticated, "not a session of cluster %q; log in: %s", a.base.clusterName, a.base.loginLine(""))
	}
	s, rec, changed, err := sessions.Watch(v, sessionName(id.User, id.SessionID))
	if errors.Is(err, fsm.ErrNotFound) {
		return nil, a.base.errSessionEnded(id.User, id.SessionID)
	}
	if err != nil {
		return nil, readError("session", id.SessionID, err)
	}
	p := &Principal{
		User: id.User, SessionID: id.SessionID, Kind: s.Kind, Connector: s.Connector, session: &s.Session,
		Created: s.Created, Expires: s.Expires, changed: []<-chan struct{}{changed},
	}
	if !rec.Expires.IsZero() && rec.Expires.Before(p.Expires) {
		p.Expires = rec.Expires
	}
	if s.User != id.User {
		return nil, a.base.errSessionEnded(id.User, id.SessionID)
	}
	if err := a.load(v, p, s, s.passwordRevision(rec)); err != nil {
		return nil, err
	}
	if !v.Now().Before(p.Expires) {
		return nil, a.base.errEnded(id.User, id.SessionID, p.Connector)
	}
	return p, nil
}

// errSessionEnded is what kubectl shows, so it ends in a line to paste.
func (b *base) errSessionEnded(user, session string) error {
	connector := ""
	if u, _, err := ssoUsers.Get(b.db.View(), user); err == nil {
		connector = u.Connector
	}
	return b.errEnded(user, session, connector)
}

// errEnded is errSessionEnded of a user who came by a connector; "": by none that is known.
func (b *base) errEnded(user, session, connector string) error {
	_, local := b.db.View().Get(users.Key(user)) // else the name is none to log in with (any more)
	line := b.loginLine("")
	switch {
	case pki.SignedSessionID(session):
		return errSignedEnded(user, local)
	case connector != "":
		line = b.ssoLoginLine(connector)
	case local:
		line = b.loginLine(user)
	}
	return api.Errorf(api.CodeUnauthenticated, "the session of user %q has ended (expired, logged out or deleted); log in again: %s", user, line)
}

// errSignedEnded is errEnded of a session that nobody logged in for: whoever has its
// kubeconfig has no password, and may be a program.
func errSignedEnded(user string, exists bool) error {
	why, before := "it expired, or was ended ('tctl sessions rm', a reset, a password that was set)", ""
	if !exists {
		why, before = "its user has been removed", fmt.Sprintf("add the user again ('tctl users add %s') and ", user)
	}
	return errSigned(user, "has ended: "+why, before)
}

// errSigned is what whoever shows a kubeconfig that is no use any more is told; before
// is what an administrator does first.
func errSigned(user, why, before string) error {
	return api.Errorf(api.CodeUnauthenticated, "this kubeconfig of user %q was made with 'tctl auth sign', not by a tsh login, and %s; an administrator can %ssign a new one: tctl auth sign --user=%s --out=FILE", user, why, before, user)
}

// load reads roles and traits: those of the user record for a local user, those
// that single sign-on gave for another. password is the revision of the password
// that the session hangs on, 0 for none.
func (a *Authorizer) load(v fsm.View, p *Principal, s *sessionRecord, password uint64) error {
	if s.Connector != "" {
		if err := a.loadSSO(v, p, s); err != nil {
			return err
		}
	} else {
		u, rec, changed, err := users.Watch(v, p.User)
		p.changed = append(p.changed, changed)
		if errors.Is(err, fsm.ErrNotFound) || rec != nil && !rec.Created.Equal(s.UserCreated) {
			return a.base.errSessionEnded(p.User, p.SessionID)
		}
		if err != nil {
			return readError("user", p.User, err)
		}
		p.RoleNames, p.traits = u.Spec.Roles, localTraits(u.Spec.Traits)
	}
	if password != 0 {
		// Setting a password ends the user's sessions, but can't name one that a login
		// makes at that moment: it is worth nothing by itself.
		rec, ok, changed := v.Watch(passwordRecs.Key(p.User))
		p.changed = append(p.changed, changed)
		if !ok || rec.Revision != password {
			return a.base.errSessionEnded(p.User, p.SessionID)
		}
	}
	return a.loadRoles(v, p)
}

// loadSSO says whether the user and the connector of a session live, and are those
// that it was made for: it ends with either.
func (a *Authorizer) loadSSO(v fsm.View, p *Principal, s *sessionRecord) error {
	u, _, changed, err := ssoUsers.Watch(v, p.User)
	p.changed = append(p.changed, changed)
	if errors.Is(err, fsm.ErrNotFound) || err == nil && (u.Connector != s.Connector || !u.Created.Equal(s.UserCreated)) {
		return a.base.errEnded(p.User, p.SessionID, s.Connector)
	}
	if err != nil {
		return readError("SSO user", p.User, err)
	}
	rec, ok, changed := v.Watch(connectors.Key(s.Connector))
	p.changed = append(p.changed, changed)
	if !ok || !rec.Created.Equal(s.ConnectorCreated) {
		return a.base.errEnded(p.User, p.SessionID, s.Connector)
	}
	p.take(s)
	return nil
}

// take gives a principal what the session of an SSO user carries.
func (p *Principal) take(s *sessionRecord) {
	p.RoleNames, p.traits = s.Roles, traits{s.Traits, s.External}
}

func (a *Authorizer) loadRoles(v fsm.View, p *Principal) error {
	for _, name := range p.RoleNames {
		r, _, changed, err := roles.Watch(v, name)
		p.changed = append(p.changed, changed)
		switch {
		case errors.Is(err, fsm.ErrNotFound):
			// Not skipped: it may have held a deny.
			mend := "the user"
			if p.Connector != "" {
				mend = fmt.Sprintf("connector %q", p.Connector)
			}
			return api.Errorf(api.CodeForbidden, "role %q of user %q does not exist: ask an administrator to mend %s", name, p.User, mend)
		case err != nil:
			return api.Errorf(api.CodeForbidden, "role %q of user %q can't be read by this version, so it denies: %w", name, p.User, err)
		case r.unknown != nil:
			return api.Errorf(api.CodeForbidden, "role %q of user %q holds what this version can't enforce, so it denies: %w", name, p.User, r.unknown)
		}
		p.roles = append(p.roles, r)
	}
	if ttl := leastTTL(p.roles); ttl > 0 {
		if end := p.Created.Add(ttl); end.Before(p.Expires) {
			p.Expires = end
		}
	}
	return nil
}

// leastTTL is the least max_session_ttl that a role sets, 0 if none does.
func leastTTL(roles []*role) (least time.Duration) {
	for _, r := range roles {
		if ttl := time.Duration(r.doc.Spec.Options.MaxSessionTTL); ttl > 0 && (least == 0 || ttl < least) {
			least = ttl
		}
	}
	return least
}

// Decision is the answer to a request for a Kubernetes cluster. Callers cache it
// per session, cluster and KubeRequest, and ask Stale at every use. It is shared:
// nobody changes it.
type Decision struct {
	User              string
	SessionID         string
	Roles             []string
	KubeCluster       string
	KubeLabels        map[string]string
	ImpersonateUser   string
	ImpersonateGroups []string
	Expires           time.Time

	access    *Authorizer
	connector string // by which the user came
	identity  pki.UserIdentity
	request   KubeRequest
	changed   []<-chan struct{} // of exactly what was read: session, user, roles, cluster
}

// Kube decides whether and as whom a session may use a Kubernetes cluster (by
// its name; see KubeClusters.Lookup for labels).
func (a *Authorizer) Kube(id pki.UserIdentity, kube string, req KubeRequest) (*Decision, error) {
	v := a.base.db.View()
	p, err := a.Certificate(v, id)
	if err != nil {
		return nil, err
	}
	cluster, _, changed, err := kubeClusters.Watch(v, kube)
	if err != nil {
		if errors.Is(err, fsm.ErrNotFound) {
			return nil, errKubeNotFound(kube)
		}
		return nil, readError("Kubernetes cluster", kube, err)
	}
	set, err := kubeIdentities(p, &cluster.KubeCluster)
	if err != nil {
		return nil, err
	}
	user, groups, err := set.impersonation(p, req)
	if err != nil {
		return nil, err
	}
	return &Decision{
		User: p.User, SessionID: p.SessionID, Roles: p.RoleNames,
		KubeCluster: cluster.Name, KubeLabels: cluster.Labels,
		ImpersonateUser: user, ImpersonateGroups: groups, Expires: p.Expires,
		access: a, connector: p.Connector, identity: id, request: KubeRequest{AsUser: req.AsUser, AsGroups: slices.Clone(req.AsGroups)},
		changed: append(p.changed, changed),
	}, nil
}

// Stale reports whether the decision must be made anew: something it was made
// from was written, or the session's time is over. It neither blocks nor
// allocates.
func (d *Decision) Stale() bool {
	for _, ch := range d.changed {
		select {
		case <-ch:
			return true
		default:
		}
	}
	return !d.access.base.db.View().Now().Before(d.Expires)
}

// Watch guards a live stream: it returns when the right to it is gone or
// narrower than at the start, with an *api.Error that says why, or with the
// context's error when that ends first. A change that takes nothing away goes
// unnoticed. Streams of one decision may share one Watch.
func (d *Decision) Watch(ctx context.Context) error {
	for current := d; ; {
		if err := current.wait(ctx); err != nil {
			return err
		}
		next, err := d.access.Kube(d.identity, d.KubeCluster, d.request)
		_, shut := errors.AsType[*hiddenError](err)   // whose stream it is knows of the cluster
		if api.IsCode(err, api.CodeUnauthenticated) { // the user may be gone, and with it who knows how to log in
			return d.access.base.errEnded(d.User, d.SessionID, d.connector)
		}
		if err != nil && !shut {
			return err
		}
		if shut || next.narrowerThan(d) {
			return api.Errorf(api.CodeForbidden, "the rights of user %q on Kubernetes cluster %q were changed: try again", d.User, d.KubeCluster)
		}
		current = next
	}
}

// wait returns nil when the decision may have become stale.
func (d *Decision) wait(ctx context.Context) error {
	over, err := waitAny(ctx, d.changed, d.Expires.Sub(d.access.base.db.View().Now()))
	if over {
		return d.access.base.errEnded(d.User, d.SessionID, d.connector)
	}
	return err
}

func (d *Decision) narrowerThan(old *Decision) bool {
	if d.ImpersonateUser != old.ImpersonateUser {
		return true
	}
	for _, g := range old.ImpersonateGroups {
		if !slices.Contains(d.ImpersonateGroups, g) {
			return true
		}
	}
	return false
}

// KubeClusters lists the clusters that a principal may use, by name, and how they
// do. Who must choose a user with --as may use it too.
func (a *Authorizer) KubeClusters(v fsm.View, p *Principal) []api.KubeCluster {
	var out []api.KubeCluster
	for _, k := range kubeClusters.List(v) {
		if k == nil {
			continue
		}
		set, err := kubeIdentities(p, &k.KubeCluster)
		if err == nil && len(set.groups)+len(set.users) > 0 {
			out = append(out, a.clusters.seen(v, k))
		}
	}
	return out
}

// kubeNames are all groups and users that roles give a person anywhere, for
// tsh status. They decide nothing.
func kubeNames(p *Principal) (groups, users []string) {
	var set identitySet
	for _, r := range p.roles {
		if set.add(p, r) != nil {
			return nil, nil
		}
	}
	if set.subtractDenied(p) != nil {
		return nil, nil
	}
	return set.groups, set.users
}
