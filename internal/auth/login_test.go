package auth_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
	"github.com/sallyport-dev/sallyport/internal/seal"
)

var (
	home   = netip.MustParseAddr("192.0.2.7")
	office = netip.MustParseAddr("198.51.100.7")
)

// login tries once, with no care for the certificate.
func login(t testing.TB, f *authtest.Fixture, user, password string, addr netip.Addr) error {
	t.Helper()
	_, pub := authtest.NewKey(t)
	_, err := f.Service.Login.Password(t.Context(), api.LoginRequest{User: user, Password: password, TLSPubKey: pub}, addr)
	return err
}

func lastEvent(f *authtest.Fixture) api.Event {
	events := f.DB.Events()
	return events[len(events)-1]
}

func TestLoginLastsAsLongAsAskedAndRolesAllow(t *testing.T) {
	f := authtest.New(t)
	short := api.RoleSpec{Options: api.RoleOptions{MaxSessionTTL: api.Duration(2 * time.Hour)}}
	long := api.RoleSpec{Options: api.RoleOptions{MaxSessionTTL: api.Duration(100 * time.Hour)}}
	f.PutRole(t, "short", short)
	f.PutRole(t, "long", long)
	f.AddUser(t, "plain", nil)
	f.AddUser(t, "bounded", nil, "short", "long")
	f.AddUser(t, "bot", nil, "long")
	for _, tc := range []struct {
		user      string
		ttl, want time.Duration
	}{
		{"plain", 0, 12 * time.Hour}, {"plain", time.Hour, time.Hour}, {"plain", 1000 * time.Hour, 30 * time.Hour},
		{"bounded", 0, 2 * time.Hour}, {"bounded", time.Hour, time.Hour}, {"bot", 0, 12 * time.Hour}, {"bot", 1000 * time.Hour, 100 * time.Hour},
	} {
		_, pub := authtest.NewKey(t)
		resp, err := f.Service.Login.Password(t.Context(), api.LoginRequest{User: tc.user, Password: authtest.Password, TLSPubKey: pub, TTL: tc.ttl}, netip.Addr{})
		must(t, err)
		if got := time.Until(resp.Expires).Round(time.Minute); got != tc.want {
			t.Errorf("%s asked for %s: %s, want %s", tc.user, tc.ttl, got, tc.want)
		}
	}
	for _, ttl := range []time.Duration{-time.Hour, time.Second} {
		_, pub := authtest.NewKey(t)
		if _, err := f.Service.Login.Password(t.Context(), api.LoginRequest{User: "plain", Password: authtest.Password, TLSPubKey: pub, TTL: ttl}, home); !api.IsCode(err, api.CodeInvalid) {
			t.Error(ttl, err)
		}
	}
}

func TestSessionEndsWithItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		f.AddUser(t, "alice", groups("a"))
		id, cert := f.Login(t, "alice")
		s, err := f.Sessions.Get(id)
		must(t, err)
		if !s.Expires.Equal(cert.Leaf.NotAfter) {
			t.Error("session and certificate end apart:", s.Expires, cert.Leaf.NotAfter)
		}
		d, err := f.Access.Kube(id, authtest.KubeCluster, auth.KubeRequest{})
		must(t, err)
		<-time.After(12*time.Hour - 2*time.Second)
		if d.Stale() {
			t.Error("ended early")
		}
		<-time.After(2 * time.Second)
		if !d.Stale() {
			t.Error("outlived its time")
		}
		if _, err := f.Access.Kube(id, authtest.KubeCluster, auth.KubeRequest{}); !api.IsCode(err, api.CodeUnauthenticated) {
			t.Error(err)
		}
	})
}

func TestLoginTellsClientsAndAuditWhatHappened(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", map[string][]string{api.TraitKubeGroups: {"g"}, api.TraitKubeUsers: {"u"}})
	_, pub := authtest.NewKey(t)
	resp, err := f.Service.Login.Password(t.Context(), api.LoginRequest{User: "alice", Password: authtest.Password, TLSPubKey: pub}, home)
	must(t, err)
	if d := cmp.Diff([]any{"alice", []string{"access"}, []string{"g"}, []string{"u"}, authtest.ClusterName},
		[]any{resp.Username, resp.Roles, resp.KubeGroups, resp.KubeUsers, resp.ClusterName}); d != "" {
		t.Error(d)
	}
	if len(resp.HostSigners) != 1 || resp.HostSigners[0].DomainName != authtest.ClusterName || len(resp.HostSigners[0].TLSCerts) != 1 {
		t.Error(resp.HostSigners)
	}
	e := lastEvent(f)
	if e.Event != "user.login" || e.Code != "T1000I" || e.User != "alice" || e.Fields["success"] != true || e.Fields["addr.remote"] != "192.0.2.7" || e.UID == "" || e.ClusterName == "" {
		t.Errorf("%+v", e)
	}
	_ = login(t, f, "alice", "wrong password!", home)
	if e := lastEvent(f); e.Code != "T1000W" || e.Fields["success"] != false || e.Fields["error"] == "" {
		t.Errorf("%+v", e)
	}
}

func TestUnknownUserCostsTheSame(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", nil)
	f.Invite(t, "nopassword", nil)
	type cost struct {
		derivations int64
		commits     int
		events      int
		text        string
	}
	measure := func(user string) cost {
		total, _ := f.Derivations()
		commits, events := f.DB.Commits(), len(f.DB.Events())
		err := login(t, f, user, "wrong password!", home)
		if !api.IsCode(err, api.CodeUnauthenticated) {
			t.Fatal(user, err)
		}
		after, _ := f.Derivations()
		return cost{after - total, f.DB.Commits() - commits, len(f.DB.Events()) - events, err.Error()}
	}
	known := measure("alice")
	for _, user := range []string{"bob", "nopassword", "a/b", "al\x00ice", "ALICE"} {
		if d := cmp.Diff(known, measure(user), cmp.AllowUnexported(cost{})); d != "" {
			t.Errorf("%q: %s", user, d)
		}
	}
	if known.derivations != 1 || known.commits != 1 || known.events != 1 {
		t.Errorf("%+v", known)
	}
}

func TestLoginFailsWhenPasswordOrUserChangedMeanwhile(t *testing.T) {
	f := authtest.New(t)
	for name, change := range map[string]func(){
		"password changed": func() {
			rec, _ := f.DB.View().Get("passwords/alice")
			_, err := f.DB.Commit(t.Context(), auth.PutRaw(rec.Key, string(rec.Value)))
			must(t, err)
		},
		"user deleted": func() { must(t, f.Users.Delete(t.Context(), authtest.Admin(), "alice")) },
		"user deleted and made again": func() {
			must(t, f.Users.Delete(t.Context(), authtest.Admin(), "alice"))
			f.AddUser(t, "alice", nil)
		},
	} {
		_ = f.Users.Delete(t.Context(), authtest.Admin(), "alice")
		f.AddUser(t, "alice", nil)
		f.DB.BeforeCommit(change)
		if err := login(t, f, "alice", authtest.Password, home); !api.IsCode(err, api.CodeUnauthenticated) {
			t.Errorf("%s: %v", name, err)
		}
		if n := len(f.Sessions.List("alice")); n != 0 {
			t.Errorf("%s: %d sessions", name, n)
		}
	}
}

func TestRoleCannotVanishUnderAUser(t *testing.T) {
	f := authtest.New(t)
	f.PutRole(t, "dev", api.RoleSpec{})
	f.DB.BeforeCommit(func() { must(t, f.Roles.Delete(t.Context(), authtest.Admin(), "dev")) })
	if _, err := f.Users.Add(t.Context(), authtest.Admin(), api.AddUserRequest{User: authtest.User("alice", nil, "dev")}); !api.IsCode(err, api.CodeInvalid) {
		t.Fatal(err)
	}
}

// flood begins 200 logins at once, of as many users and networks. wait asserts that
// most were turned away, and that no more than two passwords were tried at a time.
func flood(t *testing.T, f *authtest.Fixture, login func(user string, addr netip.Addr) error) (wait func()) {
	codes := make([]api.Code, 200)
	var wg sync.WaitGroup
	for i := range codes {
		wg.Go(func() {
			codes[i] = api.CodeOf(login(fmt.Sprintf("user%d", i), netip.AddrFrom4([4]byte{10, byte(i), 1, 1})))
		})
	}
	return func() {
		t.Helper()
		wg.Wait()
		count := map[api.Code]int{}
		for _, c := range codes {
			count[c]++
		}
		if count[api.CodeUnauthenticated]+count[api.CodeRateLimited] != 200 || count[api.CodeRateLimited] < 90 {
			t.Error(count)
		}
		if _, peak := f.Derivations(); peak > 2 {
			t.Errorf("%d derivations at once", peak)
		}
	}
}

func TestFloodOfLoginsIsBounded(t *testing.T) {
	f := authtest.New(t, func(o *auth.Options) {
		o.Passwords = auth.PasswordOptions{MemoryKiB: 1024, Iterations: 1, Queue: 30}
		o.Limits = auth.LoginLimits{Networks: 64}
	})
	f.AddUser(t, "alice", nil)
	f.AddUser(t, "bob", groups("a"))
	id, _ := f.Login(t, "bob")
	wait := flood(t, f, func(user string, addr netip.Addr) error { return login(t, f, user, authtest.Password, addr) })
	if _, err := f.Access.Kube(id, authtest.KubeCluster, auth.KubeRequest{}); err != nil {
		t.Error("a certificate's session suffers:", err)
	}
	wait()
	if n := f.Networks(); n > 128 { // 64 of each size
		t.Errorf("%d networks remembered", n)
	}
}

func TestLoginRefusesOversizeAndWeak(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", nil)
	_, pub := authtest.NewKey(t)
	before, _ := f.Derivations()
	for name, req := range map[string]api.LoginRequest{
		"1 MB password":  {User: "alice", Password: strings.Repeat("x", 1<<20), TLSPubKey: pub},
		"513 bytes":      {User: "alice", Password: strings.Repeat("x", 513), TLSPubKey: pub},
		"empty password": {User: "alice", TLSPubKey: pub},
		"no user":        {Password: authtest.Password, TLSPubKey: pub},
		"1 MB user":      {User: strings.Repeat("x", 1<<20), Password: authtest.Password, TLSPubKey: pub},
		"no key":         {User: "alice", Password: authtest.Password},
		"garbage as key": {User: "alice", Password: authtest.Password, TLSPubKey: []byte("key")},
	} {
		if _, err := f.Service.Login.Password(t.Context(), req, home); !api.IsCode(err, api.CodeInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if after, _ := f.Derivations(); after != before {
		t.Error("a malformed login cost a derivation")
	}
	// 73 bytes differ from 72: nothing is cut.
	long := strings.Repeat("x", 72)
	token := f.Invite(t, "long", nil)
	_, err := f.Invites.Redeem(t.Context(), token, long+"a", nil, auth.Actor{})
	must(t, err)
	if err := login(t, f, "long", long+"b", home); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Error(err)
	}
	must(t, login(t, f, "long", long+"a", home))
}

func TestLoginSaysWhyItCannotWrite(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", nil)
	f.DB.Fail(api.Errorf(api.CodeUnavailable, "no leader"))
	for _, user := range []string{"alice", "nobody"} {
		if err := login(t, f, user, authtest.Password, home); !api.IsCode(err, api.CodeUnavailable) {
			t.Error(user, err)
		}
	}
}

func TestOldestSessionsEndWhenThereAreTooMany(t *testing.T) {
	f := authtest.New(t, func(o *auth.Options) { o.Passwords.MemoryKiB = 8 })
	f.AddUser(t, "alice", nil)
	first, _ := f.Login(t, "alice")
	_, pub := authtest.NewKey(t)
	for range 500 {
		_, err := f.Service.Login.Password(t.Context(), api.LoginRequest{User: "alice", Password: authtest.Password, TLSPubKey: pub}, netip.Addr{})
		must(t, err)
	}
	if n := len(f.Sessions.List("alice")); n != 500 {
		t.Errorf("%d sessions", n)
	}
	if _, err := f.Sessions.Get(first); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Error("the oldest session lives:", err)
	}
	var ended []api.Event
	for _, e := range f.DB.Events() {
		if e.Code == api.EventCodeUserLogout {
			ended = append(ended, e)
		}
	}
	if len(ended) != 1 || ended[0].Fields["sid"] != first.SessionID || ended[0].Fields["name"] != "alice" || !strings.Contains(fmt.Sprint(ended[0].Fields["reason"]), "500 sessions") {
		t.Errorf("no event says that it was ended: %+v", ended)
	}
	must(t, f.Users.Delete(t.Context(), authtest.Admin(), "alice"))
	if n := len(f.Sessions.List("alice")); n != 0 {
		t.Errorf("%d sessions after the deletion", n)
	}
}

func TestStoreHoldsNoSecretInTheClear(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", nil)
	token := f.Invite(t, "bob", nil)
	_, cert := f.Login(t, "alice")
	_ = login(t, f, "alice", "a wrong password", home)
	snapshot := inflate(t, f.DB.Snapshot(t))
	rawToken, err := hex.DecodeString(token)
	must(t, err)
	for name, secret := range map[string]string{
		"password": authtest.Password, "wrong password": "a wrong password", "token": token, "token's bytes": string(rawToken),
		"token in base64": base64.StdEncoding.EncodeToString(rawToken), "private key": "PRIVATE KEY", "password hash": "argon2id",
	} {
		if bytes.Contains(snapshot, []byte(secret)) {
			t.Errorf("the snapshot shows the %s", name)
		}
	}
	for _, want := range []string{"users/alice", "BEGIN CERTIFICATE", "sealed_key"} {
		if !bytes.Contains(snapshot, []byte(want)) {
			t.Fatalf("the test reads nothing: no %q in %d bytes", want, len(snapshot))
		}
	}
	events := fmt.Sprint(f.DB.Events())
	if strings.Contains(events, token) || strings.Contains(events, authtest.Password) || strings.Contains(events, "wrong password!") {
		t.Error("an event shows a secret")
	}
	_ = cert
}

// inflate appends every zstd frame found in b, decompressed: a snapshot's header
// is not this test's business.
func inflate(t *testing.T, b []byte) []byte {
	t.Helper()
	dec, err := zstd.NewReader(nil)
	must(t, err)
	defer dec.Close()
	out := bytes.Clone(b)
	magic := []byte{0x28, 0xb5, 0x2f, 0xfd}
	for i := 0; ; {
		n := bytes.Index(b[i:], magic)
		if n < 0 {
			return out
		}
		i += n
		if plain, _ := dec.DecodeAll(b[i:], nil); len(plain) > 0 {
			out = append(out, plain...)
		}
		i++
	}
}

func TestClusterSecretRotatesAndAWrongOneIsNamed(t *testing.T) {
	db := authtest.NewDB(nil)
	f := authtest.NewOn(t, db)
	f.AddUser(t, "alice", nil)
	withSecret := func(text string) func(*auth.Options) {
		return func(o *auth.Options) {
			s, err := seal.ParseSecret([]byte(text))
			must(t, err)
			o.Secret = s
		}
	}
	old, fresh := "test:"+strings.Repeat("A", 43)+"=", "next:"+strings.Repeat("B", 42)+"A="
	before := db.Commits()
	rotated := authtest.NewOn(t, db, withSecret(fresh+"\n"+old))
	if db.Commits() != before+1 {
		t.Errorf("rotation wrote %d records, want 1", db.Commits()-before)
	}
	rotated.Login(t, "alice")
	authtest.NewOn(t, db, withSecret(fresh)).Login(t, "alice")
	s, err := auth.New(authtest.Options(db, withSecret(old)))
	must(t, err)
	if err := s.Bootstrap(t.Context()); err == nil || !strings.Contains(err.Error(), `"next"`) {
		t.Error("the missing line is not named:", err)
	}
	if _, err := s.Authorities.HostSigners(); err == nil || strings.Contains(err.Error(), "BBBB") {
		t.Error(err)
	}
	renamed, err := auth.New(authtest.Options(db, func(o *auth.Options) { o.ClusterName = "other.example.com" }))
	must(t, err)
	if err := renamed.Bootstrap(t.Context()); err == nil || !strings.Contains(err.Error(), authtest.ClusterName) {
		t.Error("another cluster's name was accepted:", err)
	}
}

func TestBootstrapTwiceWritesOnce(t *testing.T) {
	f := authtest.New(t)
	before := f.DB.Commits()
	must(t, f.Bootstrap(t.Context()))
	if f.DB.Commits() != before {
		t.Error("the second bootstrap wrote")
	}
	states, err := f.Authorities.States()
	must(t, err)
	if len(states) != 3 || states[0].Pin == states[1].Pin || states[0].Rotation != "standby" {
		t.Error(states)
	}
	for _, name := range []string{"cookie.kube.tele.example.com", "api.tele.example.com", "join.tele.example.com", "tele.example.com", "unknown.kube.tele.example.com"} {
		if _, err := f.Authorities.HostCertificate(name); err != nil {
			t.Error(name, err)
		}
	}
	for _, name := range []string{"", "evil.example.org", "a.b.kube.tele.example.com", "x.tele.example.com", "a.join.tele.example.com"} {
		if _, err := f.Authorities.HostCertificate(name); err == nil {
			t.Error("a certificate for", name)
		}
	}
}
