// Package authtest gives tests a ready auth.Service on a real store, without
// Raft: transactions are encoded and applied at once, as a cluster of one would.
package authtest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/pki"
	"github.com/sallyport-dev/sallyport/internal/seal"
)

// What New sets up.
const (
	ClusterName = "tele.example.com"
	PublicAddr  = "tele.example.com:443"
	KubeCluster = "cookie"
	Password    = "correct horse battery"
)

// Client is an address to log in from.
var Client = netip.MustParseAddr("192.0.2.7")

// DB is a store of one, and auth.DB over it. It journals what is committed.
type DB struct {
	Store *fsm.Store

	mu      sync.Mutex
	clock   func() time.Time
	index   uint64
	commits int
	events  []api.Event
	fail    error
	before  func()
}

// NewDB makes an empty store on a clock (nil: time.Now).
func NewDB(clock func() time.Time) *DB {
	if clock == nil {
		clock = time.Now
	}
	db := &DB{clock: clock}
	db.Store = fsm.New(fsm.Options{Clock: clock, Journal: db})
	return db
}

// View implements auth.DB.
func (d *DB) View() fsm.View { return d.Store.View() }

// Linearize implements auth.DB: a store of one is never behind.
func (d *DB) Linearize(ctx context.Context) error { return ctx.Err() }

// Fail makes every later commit fail with err; nil ends that.
func (d *DB) Fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail = err
}

// BeforeCommit makes the next commit run fn first, once: what somebody else
// does between another's reading and writing.
func (d *DB) BeforeCommit(fn func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.before = fn
}

func (d *DB) intercept() {
	d.mu.Lock()
	fn := d.before
	d.before = nil
	d.mu.Unlock()
	if fn != nil {
		fn()
	}
}

// Commit implements auth.DB.
func (d *DB) Commit(ctx context.Context, txn fsm.Txn) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, api.Errorf(api.CodeUnavailable, "commit: %w", err)
	}
	item, err := fsm.EncodeItem(fsm.Item{Origin: "test", Txn: &txn})
	if err != nil {
		return 0, err
	}
	d.intercept()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail != nil {
		return 0, d.fail
	}
	entry, err := fsm.EncodeEntry(d.clock(), [][]byte{item})
	if err != nil {
		return 0, err
	}
	d.index++
	d.commits++
	results, err := d.Store.Apply(d.index, entry)
	if err != nil {
		return 0, err
	}
	if err := fsm.DecodeResult(results[0]); err != nil {
		if conflict, ok := errors.AsType[*fsm.ConflictError](err); ok {
			return 0, api.Errorf(api.CodeConflict, "%w", conflict)
		}
		return 0, err
	}
	return d.index, nil
}

// Extend implements fsm.Journal. Of what the real one keeps, it keeps how many lines
// there are.
func (d *DB) Extend(e fsm.JournalEntry, get func(string) []byte) ([]fsm.Op, func() error, error) {
	const key = fsm.JournalPrefix + "head"
	var head struct {
		Number int `json:"number"`
	}
	if b := get(key); b != nil {
		if err := json.Unmarshal(b, &head); err != nil {
			return nil, nil, err
		}
	}
	for _, b := range e.Batches {
		head.Number += len(b.Events)
	}
	value, err := json.Marshal(head)
	if err != nil {
		return nil, nil, err
	}
	return []fsm.Op{fsm.Put(key, value)}, func() error { // called by Apply, under mu
		for _, b := range e.Batches {
			for _, line := range b.Events {
				var ev api.Event
				if err := json.Unmarshal(line, &ev); err != nil {
					return err
				}
				d.events = append(d.events, ev)
			}
		}
		return nil
	}, nil
}

// Events returns what was journaled.
func (d *DB) Events() []api.Event {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]api.Event(nil), d.events...)
}

// Commits counts transactions proposed, conflicts included.
func (d *DB) Commits() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.commits
}

// Snapshot is the store as a snapshot holds it.
func (d *DB) Snapshot(t testing.TB) []byte {
	t.Helper()
	var buf bytes.Buffer
	if _, err := d.Store.Snapshot().WriteTo(&buf); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// Fixture is a bootstrapped service with one Kubernetes cluster.
type Fixture struct {
	*auth.Service
	DB *DB
}

// Options are auth.Options as New fills them: a cheap derivation, plain JSON
// events. edit may change them.
func Options(db *DB, edit ...func(*auth.Options)) auth.Options {
	secret, err := seal.ParseSecret([]byte("test:" + strings.Repeat("A", 43) + "="))
	if err != nil {
		panic(err)
	}
	o := auth.Options{
		DB: db, Secret: secret, ClusterName: ClusterName, PublicAddr: PublicAddr,
		EncodeEvent: func(e api.Event) ([]byte, error) { return json.Marshal(e) },
		Passwords:   auth.PasswordOptions{MemoryKiB: 64, Iterations: 1},
	}
	for _, fn := range edit {
		fn(&o)
	}
	return o
}

// New makes a bootstrapped service with the Kubernetes cluster KubeCluster.
func New(t testing.TB, edit ...func(*auth.Options)) *Fixture {
	t.Helper()
	return NewOn(t, NewDB(nil), edit...)
}

// NewOn is New on a given store.
func NewOn(t testing.TB, db *DB, edit ...func(*auth.Options)) *Fixture {
	t.Helper()
	s, err := auth.New(Options(db, edit...))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Bootstrap(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.KubeClusters.Register(t.Context(), api.KubeCluster{Name: KubeCluster, Labels: map[string]string{"env": "test"}}); err != nil {
		t.Fatal(err)
	}
	return &Fixture{Service: s, DB: db}
}

// Admin is who sets up tests.
func Admin() auth.Actor { return auth.Actor{User: auth.SocketUser} }

// AddUser makes a user with the password Password. No roles: access.
func (f *Fixture) AddUser(t testing.TB, name string, traits map[string][]string, roles ...string) {
	t.Helper()
	f.Redeem(t, f.Invite(t, name, traits, roles...))
}

// Invite makes a user without a password and returns the token of the link.
func (f *Fixture) Invite(t testing.TB, name string, traits map[string][]string, roles ...string) string {
	t.Helper()
	resp, err := f.Users.Add(t.Context(), Admin(), api.AddUserRequest{User: User(name, traits, roles...)})
	if err != nil {
		t.Fatal(err)
	}
	return resp.InviteURL[strings.LastIndex(resp.InviteURL, "/")+1:]
}

// Redeem sets the password Password with an invite.
func (f *Fixture) Redeem(t testing.TB, token string) {
	t.Helper()
	if _, err := f.Invites.Redeem(t.Context(), token, Password, nil, auth.Actor{}); err != nil {
		t.Fatal(err)
	}
}

// HasPassword reports whether a user has a password.
func (f *Fixture) HasPassword(name string) bool {
	_, ok := f.DB.View().Get("passwords/" + name)
	return ok
}

// SetPassword gives a user Password, by way of a user made for the purpose: the
// document the user has now is kept.
func (f *Fixture) SetPassword(t testing.TB, name string) {
	t.Helper()
	raw, err := f.Users.Get(name)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := api.DecodeDocument(raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Users.Delete(t.Context(), Admin(), name); err != nil {
		t.Fatal(err)
	}
	user := *doc.(*api.User)
	f.AddUser(t, name, user.Spec.Traits, user.Spec.Roles...)
}

// User is a user's document.
func User(name string, traits map[string][]string, roles ...string) api.User {
	return api.User{
		Header: api.Header{Kind: api.KindUser, Version: api.UserVersion, Metadata: api.Metadata{Name: name}},
		Spec:   api.UserSpec{Roles: roles, Traits: traits},
	}
}

// PutRole writes a role with the given allow and deny, over any old one.
func (f *Fixture) PutRole(t testing.TB, name string, spec api.RoleSpec) {
	t.Helper()
	role := &api.Role{Header: api.Header{Kind: api.KindRole, Version: api.RoleVersion, Metadata: api.Metadata{Name: name}}, Spec: spec}
	if _, err := f.Roles.Put(t.Context(), Admin(), role, true); err != nil {
		t.Fatal(err)
	}
}

// NewKey makes a client's key, and its public half as LoginRequest wants it.
func NewKey(t testing.TB) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return key, pub
}

// Login logs a user in with Password and returns who the certificate says it
// is, and the certificate with its key for a TLS client.
func (f *Fixture) Login(t testing.TB, name string) (pki.UserIdentity, tls.Certificate) {
	t.Helper()
	key, pub := NewKey(t)
	resp, err := f.Service.Login.Password(t.Context(), api.LoginRequest{User: name, Password: Password, TLSPubKey: pub}, netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(resp.TLSCert)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	id, err := f.Authorities.VerifyUser([]*x509.Certificate{cert})
	if err != nil {
		t.Fatal(err)
	}
	return id, tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key, Leaf: cert}
}
