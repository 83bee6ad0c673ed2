package auth

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"golang.org/x/time/rate"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/pki"
	"github.com/sallyport-dev/sallyport/internal/seal"
)

// DB is the replicated store as this package needs it. Commit proposes a
// transaction and returns once this replica has applied it; a failed check is
// an error of api.CodeConflict with *fsm.ConflictError in its chain.
type DB interface {
	View() fsm.View
	Commit(ctx context.Context, txn fsm.Txn) (revision uint64, err error)
	Linearize(ctx context.Context) error
}

// Options are the options of New.
type Options struct {
	DB          DB
	Secret      *seal.Secret
	ClusterName string // a DNS name; fixed for the life of the state
	PublicAddr  string // host:port that people reach; ":443" is added to a bare host
	// EncodeEvent makes one line of the audit log.
	EncodeEvent func(api.Event) ([]byte, error)

	Rand   io.Reader    // crypto/rand.Reader
	Logger *slog.Logger // slog.DiscardHandler

	DefaultSessionTTL time.Duration // 12 h
	// MaxSessionTTL bounds sessions for which no role sets max_session_ttl: 30 h.
	MaxSessionTTL time.Duration
	Passwords     PasswordOptions
	Limits        LoginLimits

	// TokenReview asks the Kubernetes API server of the replicas whose a service
	// account's token is, if it was made for one of the audiences: the answer is
	// system:serviceaccount:NAMESPACE:NAME. CodeUnauthenticated: it is worth nothing;
	// any other error: nobody could be asked. nil: no joining by in_cluster.
	TokenReview func(ctx context.Context, jwt string, audiences []string) (username string, err error)
	// KubeStatus is how a Kubernetes cluster does at this moment, nil if this replica
	// knows of no agent of it. Without the function no cluster has a status.
	KubeStatus func(name string) *api.KubeStatus
	// KubeServed says whether this replica serves a Kubernetes cluster of that name by
	// itself, without agents. nil: it serves none.
	KubeServed func(name string) bool
	// Probe asks an identity provider, before a connector is saved or tried, for what
	// must be known of it. Its error refuses the connector. nil: no facts.
	Probe func(context.Context, api.Connector) (facts api.ConnectorFacts, warnings []string, err error)
	// Preflight asks whether the identity provider of a connector answers, before
	// anybody is sent there: a warning for who logs in, or why it is no use. nil: nobody
	// is asked.
	Preflight func(ctx context.Context, connector string) (warning string, err error)
}

// Service gathers the domains over one database.
type Service struct {
	Authorities  *Authorities
	Users        *Users
	Roles        *Roles
	Invites      *Invites
	Preference   *AuthPreferences
	Factors      *Factors
	Sessions     *Sessions
	Login        *Login
	Consoles     *Consoles
	Access       *Authorizer
	KubeClusters *KubeClusters
	Tokens       *Tokens
	Agents       *Agents
	Connectors   *Connectors
	SSOTests     *SSOTests
	SSO          *SSO
	Forwarders   *Forwarders

	base *base
}

// New wires the domains. Nothing is read or written yet: see Bootstrap.
func New(o Options) (*Service, error) {
	if o.DB == nil || o.Secret == nil || o.EncodeEvent == nil {
		return nil, fmt.Errorf("auth: DB, Secret and EncodeEvent are needed")
	}
	if err := api.ValidateClusterName(o.ClusterName); err != nil {
		return nil, err
	}
	public, host, err := publicAddr(o.PublicAddr, o.ClusterName)
	if err != nil {
		return nil, err
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.DefaultSessionTTL <= 0 {
		o.DefaultSessionTTL = 12 * time.Hour
	}
	if o.MaxSessionTTL <= 0 {
		o.MaxSessionTTL = 30 * time.Hour
	}
	b := &base{db: o.DB, clusterName: o.ClusterName, publicAddr: public, rand: o.Rand, encodeEvent: o.EncodeEvent, log: o.Logger}
	s := &Service{base: b}
	s.Authorities = newAuthorities(b, o.Secret, host)
	s.Roles = &Roles{base: b}
	s.Sessions = &Sessions{base: b}
	s.KubeClusters = newKubeClusters(b, o)
	s.Tokens = &Tokens{base: b, authorities: s.Authorities}
	s.Agents = newAgents(b, o, s.Authorities)
	s.Access = &Authorizer{base: b, clusters: s.KubeClusters, maxSessionTTL: o.MaxSessionTTL}
	passwords, err := newPasswords(b, s.Authorities, o.Passwords)
	if err != nil {
		return nil, err
	}
	s.Connectors = newConnectors(b, s.Authorities.keys, s.Access, o)
	s.Forwarders = newForwarders(b, s.Authorities.keys, s.Access)
	s.SSOTests = &SSOTests{base: b, connectors: s.Connectors}
	s.Preference = &AuthPreferences{base: b, publicHost: host}
	s.Factors = &Factors{base: b, keys: s.Authorities.keys, access: s.Access, preference: s.Preference}
	s.Login = &Login{
		base: b, passwords: passwords, limiter: newLimiter(o.Limits, keptShare), turns: newTurns(), quiet: newQuiet(),
		authorities: s.Authorities, access: s.Access, factors: s.Factors,
		defaultTTL: o.DefaultSessionTTL,
	}
	s.Invites = &Invites{base: b, passwords: passwords, limiter: newLimiter(o.Limits, 0), factors: s.Factors, turns: newTurns()}
	s.Users = &Users{base: b, invites: s.Invites, access: s.Access, login: s.Login, factors: s.Factors}
	s.Consoles = &Consoles{
		base: b, access: s.Access, login: s.Login, connectors: s.Connectors, preflight: o.Preflight,
		limiter: newLimiter(o.Limits, keptShare), starts: newLimiter(o.Limits.or(consoleStartLimits()), keptShare),
		refused: newRecent[string, int](maxKnownConsoles), waits: map[string]int{},
	}
	s.SSO = &SSO{
		base: b, keys: s.Authorities.keys, connectors: s.Connectors, login: s.Login, consoles: s.Consoles,
		starts: newLimiter(o.Limits.or(ssoStartLimits()), 0), answers: newLimiter(o.Limits.or(ssoAnswerLimits()), 0), quiet: newQuiet(),
		tries: newRecent[string, int](maxFlows), people: newRecent[string, rate.Limiter](maxQuiet),
	}
	return s, nil
}

func publicAddr(addr, clusterName string) (hostport, host string, err error) {
	if addr == "" {
		addr = clusterName
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		host, port = addr, "443"
	}
	_, ipErr := netip.ParseAddr(host)
	if ipErr != nil && api.ValidateClusterName(host) != nil {
		return "", "", api.Errorf(api.CodeInvalid, "public address %q: want host:port", addr)
	}
	return net.JoinHostPort(host, port), host, nil
}

// Actor is who asks for a change, for the audit log.
type Actor struct {
	User string     // "" where nobody is known yet
	Addr netip.Addr // where from; the zero value for the unix socket
	// Session is how User proved it, where what may be done depends on what the
	// actor has: see Users. SocketUser needs none.
	Session pki.UserIdentity
}

// SocketUser is the Actor's name of whoever holds the unix socket. No user can
// have it: names that begin with system: are refused.
const SocketUser = "system:tctl"

// maxConflicts bounds how often a transaction is decided anew because somebody
// wrote first.
const maxConflicts = 20

// base is what all domains share.
type base struct {
	db          DB
	clusterName string
	publicAddr  string // host:port
	rand        io.Reader
	encodeEvent func(api.Event) ([]byte, error)
	log         *slog.Logger
}

// loginLine is what a person pastes into a terminal; user may be "".
func (b *base) loginLine(user string) string {
	line := "tsh login --proxy=" + api.ShellQuote(b.publicAddr)
	if user != "" {
		line += " --user=" + api.ShellQuote(user)
	}
	return line
}

// ssoLoginLine is the line of somebody who logs in by a connector.
func (b *base) ssoLoginLine(connector string) string {
	return b.loginLine("") + " --auth=" + api.ShellQuote(connector)
}

// decide is one attempt: it reads the view and says what to write.
type decide func(v fsm.View) (fsm.Txn, error)

// transact decides and commits, again when somebody wrote first: a conflict's
// answer comes after this replica applied what it conflicted with, so the next
// view shows it. An empty transaction is not proposed.
func (b *base) transact(ctx context.Context, fn decide) (uint64, error) {
	for attempt := 1; ; attempt++ {
		txn, err := fn(b.db.View())
		if err != nil {
			return 0, err
		}
		if len(txn.Ops) == 0 && len(txn.Events) == 0 {
			return 0, nil
		}
		revision, err := b.db.Commit(ctx, txn)
		if err == nil || !api.IsCode(err, api.CodeConflict) {
			return revision, err
		}
		if attempt == maxConflicts || ctx.Err() != nil {
			return 0, api.Errorf(api.CodeConflict, "others keep changing the same things, try again: %w", err)
		}
	}
}

// random gives n random bytes, in hex.
func (b *base) random(n int) (string, error) {
	buf, err := b.randomBytes(n)
	return hex.EncodeToString(buf), err
}

func (b *base) randomBytes(n int) ([]byte, error) {
	buf := make([]byte, n)
	if _, err := io.ReadFull(b.rand, buf); err != nil {
		return nil, fmt.Errorf("no randomness: %w", err)
	}
	return buf, nil
}

// event makes one audit line. A line that can't be made stops the act: nothing
// happens unseen.
func (b *base) event(ctx context.Context, v fsm.View, name, code string, by Actor, fields map[string]any) ([]byte, error) {
	uid, err := api.NewEventID(b.rand)
	if err != nil {
		return nil, err
	}
	PutAddresses(ctx, fields, by.Addr)
	line, err := b.encodeEvent(api.Event{
		Event: name, Code: code, Time: v.Now().UTC(), UID: uid, ClusterName: b.clusterName, User: by.User, Fields: fields,
	})
	if err != nil {
		return nil, fmt.Errorf("audit event %s: %w", name, err)
	}
	return line, nil
}
