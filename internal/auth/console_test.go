package auth_test

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

// consoleTool is a command-line tool that logs in: what it keeps to itself.
type consoleTool struct {
	verifier string
	req      api.ConsoleLoginRequest
	id       string
}

const callback = "http://127.0.0.1:40123/callback"

func newTool(t *testing.T) *consoleTool {
	t.Helper()
	_, pub := authtest.NewKey(t)
	c := &consoleTool{verifier: strings.Repeat("v", 43)}
	sum := sha256.Sum256([]byte(c.verifier))
	c.req = api.ConsoleLoginRequest{RedirectURL: callback, TLSPubKey: pub, CodeChallenge: base64.RawURLEncoding.EncodeToString(sum[:])}
	return c
}

// by names the connector that whoever approves it must have logged in with.
func (c *consoleTool) by(connector string) *consoleTool {
	c.req.ConnectorID = connector
	return c
}

func (c *consoleTool) start(t *testing.T, f *authtest.Fixture) *consoleTool {
	t.Helper()
	resp, err := f.Consoles.Start(t.Context(), c.req, home)
	must(t, err)
	c.id = resp.ID
	if want := "https://" + authtest.PublicAddr + "/web/cli/" + c.id; resp.RedirectURL != want {
		t.Errorf("page %s, want %s", resp.RedirectURL, want)
	}
	return c
}

func (c *consoleTool) redeem(t *testing.T, f *authtest.Fixture, code string) (*api.LoginResponse, error) {
	return f.Consoles.Redeem(t.Context(), api.ConsoleRedeemRequest{ID: c.id, Code: code, CodeVerifier: c.verifier}, home)
}

// approve gives the code that the browser would bring to the callback.
func (c *consoleTool) approve(t *testing.T, f *authtest.Fixture, web pki.UserIdentity) string {
	t.Helper()
	answer, err := f.Consoles.Approve(t.Context(), web, c.id, "", auth.Actor{User: web.User, Addr: office})
	must(t, err)
	u, err := url.Parse(answer.Redirect)
	must(t, err)
	if !strings.HasPrefix(answer.Redirect, callback+"?") || answer.Headless || u.Query().Get("id") != c.id {
		t.Fatalf("%+v", answer)
	}
	return u.Query().Get("code")
}

func TestConsoleLoginFromStartToCertificate(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", groups("dev"))
	_, web := f.WebSession(t, "alice")
	tool := newTool(t)
	tool.req.CertTTL = time.Hour
	tool.start(t, f)
	shown, err := f.Consoles.Get(t.Context(), tool.id, auth.Actor{Addr: office})
	must(t, err)
	// Who is led to approve what somebody else began sees where it began.
	want := &auth.ConsoleLogin{MatchCode: api.MatchCode(tool.req.TLSPubKey), Addr: home, Created: shown.Created, Expires: shown.Created.Add(10 * time.Minute), TTL: time.Hour}
	if d := cmp.Diff(want, shown, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Error(d)
	}
	code := tool.approve(t, f, web)
	if _, err := f.Consoles.Get(t.Context(), tool.id, auth.Actor{Addr: office}); !api.IsCode(err, api.CodeConflict) {
		t.Error("after the approval:", err)
	}
	if _, err := f.Consoles.Approve(t.Context(), web, tool.id, "", auth.Actor{}); !api.IsCode(err, api.CodeConflict) {
		t.Error("approved twice:", err)
	}
	resp, err := tool.redeem(t, f, code)
	must(t, err)
	block, _ := pem.Decode(resp.TLSCert)
	cert, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	id, err := f.Authorities.VerifyUser([]*x509.Certificate{cert})
	must(t, err)
	if spki, err := x509.MarshalPKIXPublicKey(cert.PublicKey); err != nil || string(spki) != string(tool.req.TLSPubKey) {
		t.Error("the certificate is for another key")
	}
	if left := time.Until(resp.Expires).Round(time.Minute); left != time.Hour || resp.Username != "alice" {
		t.Errorf("%s for %s", resp.Username, left)
	}
	if _, err := f.Access.Certificate(f.DB.View(), id); err != nil {
		t.Error(err)
	}
	if _, err := f.Access.Kube(id, authtest.KubeCluster, auth.KubeRequest{}); err != nil {
		t.Error(err)
	}
	if _, err := tool.redeem(t, f, code); !api.IsCode(err, api.CodeNotFound) {
		t.Error("redeemed twice:", err)
	}
}

func TestConsoleLoginIsRedeemedOnceByManyAtOnce(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", groups("dev"))
	_, web := f.WebSession(t, "alice")
	tool := newTool(t).start(t, f)
	code := tool.approve(t, f, web)
	before := len(f.Sessions.List("alice"))
	var mu sync.Mutex
	var wg sync.WaitGroup
	got := 0
	for range 20 {
		wg.Go(func() {
			if _, err := tool.redeem(t, f, code); err == nil {
				mu.Lock()
				defer mu.Unlock()
				got++
			}
		})
	}
	wg.Wait()
	if made := len(f.Sessions.List("alice")) - before; got != 1 || made != 1 {
		t.Errorf("%d redeemed, %d sessions", got, made)
	}
}

func TestConsoleLoginDiesOfFiveWrongTries(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", nil)
	_, web := f.WebSession(t, "alice")
	wrong := strings.Repeat("0", 32)
	for name, try := range map[string]func(tool *consoleTool, code string) error{
		"code": func(tool *consoleTool, _ string) error { _, err := tool.redeem(t, f, wrong); return err },
		"verifier": func(tool *consoleTool, code string) error {
			_, err := f.Consoles.Redeem(t.Context(), api.ConsoleRedeemRequest{ID: tool.id, Code: code, CodeVerifier: strings.Repeat("w", 43)}, home)
			return err
		},
		"no code": func(tool *consoleTool, _ string) error { _, err := tool.redeem(t, f, ""); return err },
	} {
		t.Run(name, func(t *testing.T) {
			tool := newTool(t).start(t, f)
			code := tool.approve(t, f, web)
			for i := range 5 {
				if err := try(tool, code); !api.IsCode(err, api.CodeUnauthenticated) {
					t.Fatalf("try %d: %v", i+1, err)
				}
			}
			if e := lastEvent(f); e.Code != api.EventCodeUserLoginRefused || e.User != "alice" || e.Fields["method"] != "console" || e.Fields["begun_at"] != home.String() {
				t.Errorf("%+v", e)
			}
			if _, err := tool.redeem(t, f, code); !api.IsCode(err, api.CodeNotFound) {
				t.Error("the right code after five wrong ones:", err)
			}
		})
	}
	t.Run("before the approval", func(t *testing.T) {
		tool := newTool(t).start(t, f)
		for range 5 {
			if _, err := tool.redeem(t, f, wrong); !api.IsCode(err, api.CodeUnauthenticated) {
				t.Fatal(err)
			}
		}
		if _, err := f.Consoles.Approve(t.Context(), web, tool.id, "", auth.Actor{}); !api.IsCode(err, api.CodeNotFound) {
			t.Error("approved a dead one:", err)
		}
	})
	t.Run("at once", func(t *testing.T) {
		tool := newTool(t).start(t, f)
		tool.approve(t, f, web)
		var mu sync.Mutex
		var wg sync.WaitGroup
		judged := 0
		for range 40 {
			wg.Go(func() {
				if _, err := tool.redeem(t, f, wrong); api.IsCode(err, api.CodeUnauthenticated) {
					mu.Lock()
					defer mu.Unlock()
					judged++
				}
			})
		}
		wg.Wait()
		if judged > 5 {
			t.Errorf("%d guesses were judged", judged)
		}
	})
}

func TestConsoleLoginIsApprovedByAFreshWebSessionOfThatUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		f.AddUser(t, "alice", nil)
		f.AddUser(t, "bob", nil)
		cli, _ := f.Login(t, "alice")
		_, old := f.WebSession(t, "alice")
		time.Sleep(10 * time.Minute) // in the bubble
		_, bob := f.WebSession(t, "bob")
		_, ended := f.WebSession(t, "alice")
		must(t, f.Sessions.Delete(t.Context(), authtest.Admin(), ended))
		_, fresh := f.WebSession(t, "alice")
		elsewhere := fresh
		elsewhere.ClusterName = "other.example.com"
		tool := newTool(t)
		tool.req.User = "alice"
		tool.start(t, f)
		for name, tc := range map[string]struct {
			web  pki.UserIdentity
			want api.Code
		}{
			"an old session": {old, api.CodeUnauthenticated}, "an ended one": {ended, api.CodeUnauthenticated},
			"a certificate's": {cli, api.CodeUnauthenticated}, "nobody's": {pki.UserIdentity{}, api.CodeUnauthenticated},
			"another cluster's": {elsewhere, api.CodeUnauthenticated}, "another user's": {bob, api.CodeForbidden},
		} {
			if _, err := f.Consoles.Approve(t.Context(), tc.web, tool.id, "", auth.Actor{}); !api.IsCode(err, tc.want) {
				t.Errorf("%s: %v", name, err)
			}
		}
		code := tool.approve(t, f, fresh)
		time.Sleep(2 * time.Minute) // in the bubble
		if _, err := tool.redeem(t, f, code); !api.IsCode(err, api.CodeNotFound) {
			t.Error("a code outlives two minutes:", err)
		}
	})
}

func TestConsoleLoginEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		f.AddUser(t, "alice", nil)
		late, denied, logout := newTool(t).start(t, f), newTool(t).start(t, f), newTool(t).start(t, f)
		_, web := f.WebSession(t, "alice")
		answer, err := f.Consoles.Deny(t.Context(), denied.id, auth.Actor{User: "alice", Addr: office})
		if err != nil || answer != (auth.ConsoleAnswer{Redirect: callback + "?error=denied&id=" + denied.id}) {
			t.Error(answer, err)
		}
		if e := lastEvent(f); e.Code != api.EventCodeUserLoginRefused || e.User != "alice" || e.Fields["addr.remote"] != office.String() || e.Fields["begun_at"] != home.String() {
			t.Errorf("%+v", e)
		}
		code := logout.approve(t, f, web)
		must(t, f.Sessions.Delete(t.Context(), authtest.Admin(), web))
		if _, err := logout.redeem(t, f, code); !api.IsCode(err, api.CodeUnauthenticated) {
			t.Error("approved by a session that has ended since:", err)
		}
		time.Sleep(10 * time.Minute) // in the bubble
		for name, tool := range map[string]*consoleTool{"denied": denied, "late": late} {
			if _, err := f.Consoles.Get(t.Context(), tool.id, auth.Actor{Addr: office}); !api.IsCode(err, api.CodeNotFound) {
				t.Error(name, err)
			}
		}
	})
}

func TestConsoleLoginRequestsAreChecked(t *testing.T) {
	f := authtest.New(t)
	for name, edit := range map[string]func(*api.ConsoleLoginRequest){
		"user":            func(r *api.ConsoleLoginRequest) { r.User = "a b" },
		"ttl":             func(r *api.ConsoleLoginRequest) { r.CertTTL = time.Second },
		"negative ttl":    func(r *api.ConsoleLoginRequest) { r.CertTTL = -time.Hour },
		"key":             func(r *api.ConsoleLoginRequest) { r.TLSPubKey = []byte("key") },
		"no challenge":    func(r *api.ConsoleLoginRequest) { r.CodeChallenge = "" },
		"short challenge": func(r *api.ConsoleLoginRequest) { r.CodeChallenge = r.CodeChallenge[:40] },
		"padding":         func(r *api.ConsoleLoginRequest) { r.CodeChallenge += "=" },
	} {
		tool := newTool(t)
		edit(&tool.req)
		if _, err := f.Consoles.Start(t.Context(), tool.req, netip.Addr{}); !api.IsCode(err, api.CodeInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	tool := newTool(t).start(t, f)
	for _, verifier := range []string{"", strings.Repeat("v", 42), strings.Repeat("v", 129)} {
		if _, err := f.Consoles.Redeem(t.Context(), api.ConsoleRedeemRequest{ID: tool.id, CodeVerifier: verifier}, home); !api.IsCode(err, api.CodeInvalid) {
			t.Errorf("a verifier of %d: %v", len(verifier), err)
		}
	}
	for _, id := range []string{"", "..", strings.Repeat("0", 32), strings.ToUpper(tool.id), tool.id + "/x", strings.Repeat("z", 1<<16)} {
		if _, err := f.Consoles.Get(t.Context(), id, auth.Actor{Addr: office}); !api.IsCode(err, api.CodeNotFound) {
			t.Errorf("id %.40q: %v", id, err)
		}
	}
}

// The address that a browser is sent to is the tool's own machine, whatever the
// request says (teleport#55398).
func TestConsoleLoginRedirectsToThisMachineAlone(t *testing.T) {
	f := authtest.New(t)
	for redirect, ok := range map[string]bool{
		callback: true, "http://127.0.0.1:1/callback": true, "http://127.0.0.1:65535/callback": true,
		"": false, "http://localhost:40123/callback": false, "http://localhost.evil:40123/callback": false,
		"http://127.0.0.1@evil:40123/callback": false, "http://127.0.0.1:40123@evil/callback": false, "//evil/callback": false,
		"http://127.0.0.1.evil:40123/callback": false, "https://127.0.0.1:40123/callback": false, "javascript:alert(1)//127.0.0.1:1/callback": false,
		"http://[::1]:40123/callback": false, "http://127.1:40123/callback": false, "http://127.0.0.2:40123/callback": false,
		"http://127.0.0.1/callback": false, "http://127.0.0.1:/callback": false, "http://127.0.0.1:0/callback": false,
		"http://127.0.0.1:65536/callback": false, "http://127.0.0.1:040123/callback": false, "http://127.0.0.1:+80/callback": false,
		"http://127.0.0.1:40123/": false, "http://127.0.0.1:40123/callback/": false, "http://127.0.0.1:40123/callback?x=1": false,
		"http://127.0.0.1:40123/callback#x": false, "http://127.0.0.1:40123/x/../callback": false, "http://127.0.0.1:40123\\@evil/callback": false,
		"HTTP://127.0.0.1:40123/callback": false, " http://127.0.0.1:40123/callback": false, "http://127.0.0.1:40123/callback\r\nSet-Cookie: a=b": false,
		"http://127.0.0.1:٤٠١٢٣/callback": false, "http://127.0.0.1:4_0123/callback": false,
	} {
		tool := newTool(t)
		tool.req.RedirectURL = redirect
		_, err := f.Consoles.Start(t.Context(), tool.req, netip.Addr{})
		if ok && err != nil || !ok && !api.IsCode(err, api.CodeInvalid) {
			t.Errorf("%q: %v", redirect, err)
		}
	}
}

func FuzzConsoleRedirect(f *testing.F) {
	for _, seed := range []string{
		callback, "http://127.0.0.1:1/callback", "http://127.0.0.1:65536/callback", "http://127.0.0.1@evil:1/callback",
		"http://127.0.0.1:1/callback?x", "http://127.0.0.1:0x1/callback", "//evil/callback", "http://127.0.0.1:\n1/callback", "",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, redirect string) {
		got, err := auth.CheckRedirect(redirect)
		if err != nil {
			if !api.IsCode(err, api.CodeInvalid) {
				t.Fatal(err)
			}
			return
		}
		u, err := url.Parse(got)
		if err != nil || got != redirect {
			t.Fatalf("%q became %q: %v", redirect, got, err)
		}
		port, err := strconv.Atoi(u.Port())
		want := &url.URL{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", port), Path: "/callback"}
		if err != nil || port < 1 || port > 65535 || *u != *want {
			t.Fatalf("%q was taken", redirect)
		}
	})
}

// What strangers may begin is bounded, in rate and in number.
func TestConsoleLoginsOfStrangersAreBounded(t *testing.T) {
	f := authtest.New(t)
	limited := 0
	for range 60 {
		if _, err := f.Consoles.Start(t.Context(), newTool(t).req, office); api.IsCode(err, api.CodeRateLimited) {
			limited++
		}
	}
	if limited < 15 {
		t.Errorf("%d of 60 of one network were limited", limited)
	}
	commits := f.DB.Commits()
	for range 60 {
		_, _ = f.Consoles.Get(t.Context(), strings.Repeat("0", 32), auth.Actor{Addr: netip.MustParseAddr("203.0.113.1")})
	}
	if n := f.DB.Commits() - commits; n != 0 {
		t.Errorf("looking for what is not there wrote %d times", n)
	}

	// The socket has no limit of rate: fill the store by it.
	tool := newTool(t)
	var err error
	for range 4096 {
		if _, err = f.Consoles.Start(t.Context(), tool.req, netip.Addr{}); err != nil {
			break
		}
	}
	if n := len(slices.Collect(f.DB.View().List("consoles/"))); !api.IsCode(err, api.CodeRateLimited) || n != 4096 {
		t.Errorf("%d logins under way: %v", n, err)
	}
	f.AddUser(t, "alice", nil)
	must(t, login(t, f, "alice", authtest.Password, home))
	if _, err := f.Consoles.Start(t.Context(), tool.req, home); !api.IsCode(err, api.CodeRateLimited) {
		t.Error("there is no end:", err)
	}
	tool.req.User = "alice"
	if _, err := f.Consoles.Start(t.Context(), tool.req, home); err != nil {
		t.Error("who has logged in from here before is shut out by strangers:", err)
	}
}

// Who has a provider's whole network does not use up what there is for all.
func TestWrongTriesAtConsoleLoginsTakeTriesOfTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		f.AddUser(t, "alice", nil)
		_, web := f.WebSession(t, "alice")
		owner := newTool(t).start(t, f)
		code := owner.approve(t, f, web)
		commits, wrong := f.DB.Commits(), strings.Repeat("0", 32)
		tool := owner
		for i := range 39 { // the owner's start was one of 40
			if i%6 == 0 {
				tool = newTool(t).start(t, f)
			} else if _, err := tool.redeem(t, f, wrong); !api.IsCode(err, api.CodeUnauthenticated) {
				t.Fatal(err)
			}
		}
		if _, err := f.Consoles.Start(t.Context(), newTool(t).req, home); !api.IsCode(err, api.CodeRateLimited) {
			t.Error("more than the limit:", err)
		}
		if _, err := owner.redeem(t, f, wrong); !api.IsCode(err, api.CodeRateLimited) {
			t.Error("a wrong code is judged beyond the limit:", err)
		}
		if n := f.DB.Commits() - commits; n != 39 {
			t.Errorf("39 tries wrote %d times", n)
		}
		if _, err := owner.redeem(t, f, code); err != nil {
			t.Error("the right code takes a try:", err)
		}
	})
}

// asksDB counts how often the leader is asked.
type asksDB struct {
	*authtest.DB
	asks atomic.Int64
}

func (d *asksDB) Linearize(ctx context.Context) error {
	d.asks.Add(1)
	return d.DB.Linearize(ctx)
}

func TestFiveWrongTriesEndAConsoleLoginBeyondTheLimitToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		f.AddUser(t, "alice", nil)
		_, web := f.WebSession(t, "alice")
		db := &asksDB{DB: f.DB}
		s, err := auth.New(authtest.Options(f.DB, func(o *auth.Options) { o.DB = db }))
		must(t, err)
		f = &authtest.Fixture{Service: s, DB: f.DB}
		tool, victim := newTool(t).start(t, f), newTool(t).start(t, f)
		code, wrong := tool.approve(t, f, web), strings.Repeat("0", 32)
		for range 60 { // all that there is for this network
			_, _ = f.Consoles.Get(t.Context(), wrong, auth.Actor{Addr: home})
		}
		asks, commits := db.asks.Load(), f.DB.Commits()
		for i := range 2000 {
			if _, err := tool.redeem(t, f, wrong); err == nil || i < 4 && !api.IsCode(err, api.CodeRateLimited) {
				t.Fatalf("try %d: %v", i+1, err)
			}
		}
		if a, c := db.asks.Load()-asks, f.DB.Commits()-commits; a != 1 || c != 1 {
			t.Errorf("2000 tries beyond the limit asked the leader %d times and wrote %d times", a, c)
		}
		for range 2 { // the network has tries again
			if _, err := tool.redeem(t, f, code); err == nil {
				t.Fatal("the login outlived five wrong tries")
			}
			time.Sleep(time.Minute) // in the bubble
		}
		// Those refused and those judged count together.
		for range 3 {
			_, _ = victim.redeem(t, f, wrong)
		}
		for range 60 {
			_, _ = f.Consoles.Get(t.Context(), wrong, auth.Actor{Addr: home})
		}
		for range 2 {
			_, _ = victim.redeem(t, f, wrong)
		}
		time.Sleep(time.Minute) // in the bubble
		if _, err := f.Consoles.Get(t.Context(), victim.id, auth.Actor{Addr: home}); !api.IsCode(err, api.CodeNotFound) {
			t.Error("three judged and two refused:", err)
		}
	})
}

func TestConsoleLoginsOfOneWideNetworkAreBounded(t *testing.T) {
	f := authtest.New(t, func(o *auth.Options) {
		o.Limits = auth.LoginLimits{PerWideMinute: 1e6, WideBurst: 1e6, PerSecond: 1e6, Burst: 1e6}
	})
	tool := newTool(t)
	for name, network := range map[string]func(i byte) netip.Addr{
		"IPv4": func(i byte) netip.Addr { return netip.AddrFrom4([4]byte{203, 0, i, 1}) },
		"IPv6": func(i byte) netip.Addr { return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, 1, i, i, 15: 1}) },
	} {
		begun := 0
		for i := range 600 {
			if _, err := f.Consoles.Start(t.Context(), tool.req, network(byte(i/4))); err == nil {
				begun++
			} else if !api.IsCode(err, api.CodeRateLimited) {
				t.Fatal(err)
			}
		}
		if begun != 512 {
			t.Errorf("%s: %d were begun", name, begun)
		}
	}
	if _, err := f.Consoles.Start(t.Context(), tool.req, home); err != nil {
		t.Error("another network is shut out:", err)
	}
}

// The store holds nothing by which a login could be taken over.
func TestConsoleLoginLeavesNoCodeInTheStore(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", nil)
	_, web := f.WebSession(t, "alice")
	tool := newTool(t).start(t, f)
	code := tool.approve(t, f, web)
	for rec := range f.DB.View().List("") {
		for name, secret := range map[string]string{"code": code, "verifier": tool.verifier} {
			if strings.Contains(string(rec.Value), secret) || strings.Contains(rec.Key, secret) {
				t.Errorf("%s holds the %s", rec.Key, name)
			}
		}
	}
}

// behindDB is a replica that has not applied what others did, until it asks the
// leader.
type behindDB struct {
	*authtest.DB
	old  fsm.View
	once atomic.Bool
}

func (d *behindDB) View() fsm.View {
	if d.once.Load() {
		return d.DB.View()
	}
	return d.old
}

func (d *behindDB) Linearize(ctx context.Context) error {
	d.once.Store(true)
	return d.DB.Linearize(ctx)
}

func TestConsoleLoginOnAReplicaThatIsBehind(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", nil)
	_, web := f.WebSession(t, "alice")
	behind := func() *authtest.Fixture {
		db := &behindDB{DB: f.DB, old: f.DB.View()}
		s, err := auth.New(authtest.Options(f.DB, func(o *auth.Options) { o.DB = db }))
		must(t, err)
		return &authtest.Fixture{Service: s, DB: f.DB}
	}
	beforeStart, beforeStart2 := behind(), behind()
	tool := newTool(t).start(t, f)
	if _, err := beforeStart.Consoles.Get(t.Context(), tool.id, auth.Actor{Addr: office}); err != nil {
		t.Error("the page:", err)
	}
	beforeApproval := behind()
	code := tool.approve(t, beforeStart2, web)
	for range 60 { // others have used up the limit
		_, _ = beforeApproval.Consoles.Start(t.Context(), api.ConsoleLoginRequest{}, home)
	}
	if _, err := tool.redeem(t, beforeApproval, code); err != nil {
		t.Error("the redemption:", err)
	}
}
