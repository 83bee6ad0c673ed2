package auth_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
)

// join tries once, with a key of its own.
func join(t testing.TB, f *authtest.Fixture, token string, clusters ...string) (*api.JoinResponse, error) {
	t.Helper()
	_, pub := authtest.NewKey(t)
	return f.Agents.Join(t.Context(), api.JoinRequest{Token: token, PublicKey: pub, KubeClusters: clusters}, authtest.Client)
}

// replica is a second one on the same store.
func replica(t testing.TB, db auth.DB, edit ...func(*auth.Options)) *auth.Service {
	t.Helper()
	o := authtest.Options(nil, edit...)
	o.DB = db
	s, err := auth.New(o)
	must(t, err)
	return s
}

// behind is a replica's store that shows what was there when it was held, until it
// asks the leader or writes.
type behind struct {
	*authtest.DB
	mu         sync.Mutex
	held       *fsm.View
	linearized int
	fail       error
}

func (b *behind) hold() {
	v := b.DB.View()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held = &v
}

func (b *behind) View() fsm.View {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.held != nil {
		return *b.held
	}
	return b.DB.View()
}

func (b *behind) Linearize(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.linearized++; b.fail != nil {
		return b.fail
	}
	b.held = nil
	return b.DB.Linearize(ctx)
}

func (b *behind) Commit(ctx context.Context, txn fsm.Txn) (uint64, error) {
	rev, err := b.DB.Commit(ctx, txn)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held = nil
	return rev, err
}

func TestJoinGivesAnIdentity(t *testing.T) {
	f := authtest.New(t)
	token := f.AddToken(t)
	_, pub := authtest.NewKey(t)
	resp, err := f.Agents.Join(t.Context(), api.JoinRequest{
		Token: token.Token, PublicKey: pub, KubeClusters: []string{"prod", "dev", "prod"}, Name: "pod-0\x1b[31m\n", Version: "1.0.0",
	}, authtest.Client)
	must(t, err)
	if resp.ClusterName != authtest.ClusterName || resp.Generation != 1 || len(resp.HostSigners) != 1 || !api.ValidAgentID(resp.AgentID) {
		t.Errorf("%+v", resp)
	}
	got := f.Agents.List()
	want := []api.Agent{{
		ID: resp.AgentID, Name: "pod-0 [31m", KubeClusters: []string{"dev", "prod"}, Token: token.ID, JoinedFrom: authtest.Client.String(),
		Generation: 1, Expires: resp.Expires, Replicas: []string{}, Version: "1.0.0",
	}}
	if d := cmp.Diff(want, got, cmpopts.IgnoreFields(api.Agent{}, "Joined")); d != "" || time.Since(got[0].Joined) > time.Minute {
		t.Error(d)
	}
	e := lastEvent(f)
	fields := map[string]any{
		"host_id": resp.AgentID, "token_name": token.ID, "kubernetes_clusters": []any{"dev", "prod"}, "role": "kube", "node_name": "pod-0 [31m",
		"method": "token", "success": true, "addr.remote": authtest.Client.String(), "token_expires": token.Expires.Format(time.RFC3339),
	}
	if d := cmp.Diff(fields, e.Fields); d != "" || e.Event != api.EventAgentJoin || e.Code != api.EventCodeAgentJoin {
		t.Error(e.Code, d)
	}
	for _, name := range []string{"dev", "prod"} {
		if label, err := f.KubeClusters.Lookup(api.KubeLabel(name)); err != nil || label != name {
			t.Error(name, label, err)
		}
	}
}

// threats.md, Consul GHSA-m69r: nothing of the client's but the key enters a certificate.
func TestNothingButTheKeyEntersTheCertificate(t *testing.T) {
	f := authtest.New(t)
	key, pub := authtest.NewKey(t)
	resp, err := f.Agents.Join(t.Context(), api.JoinRequest{
		Token: f.AddToken(t).Token, PublicKey: pub, KubeClusters: []string{"api.tele.example.com"}, Name: "tele.example.com", Version: "URI:sallyport://x",
	}, authtest.Client)
	must(t, err)
	block, _ := pem.Decode(resp.Cert)
	cert, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	if !key.PublicKey.Equal(cert.PublicKey) {
		t.Error("another key")
	}
	uri := "sallyport://tele.example.com/agent/" + resp.AgentID + "/1"
	if cert.Subject.String() != "CN="+resp.AgentID || len(cert.URIs) != 1 || cert.URIs[0].String() != uri || cert.IsCA ||
		len(cert.DNSNames)+len(cert.EmailAddresses)+len(cert.IPAddresses) > 0 || len(cert.ExtKeyUsage) != 1 || cert.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth {
		t.Errorf("%s %v %v", cert.Subject, cert.URIs, cert.DNSNames)
	}
	if life := time.Until(cert.NotAfter); life > 7*24*time.Hour || life < 7*24*time.Hour-time.Minute || time.Since(cert.NotBefore) < 4*time.Minute {
		t.Error(cert.NotBefore, cert.NotAfter)
	}
	if _, err := f.Authorities.VerifyUser([]*x509.Certificate{cert}); err == nil {
		t.Error("an agent is a user")
	}
	f.AddUser(t, "alice", nil)
	_, user := f.Login(t, "alice")
	if _, err := f.Authorities.VerifyAgent([]*x509.Certificate{user.Leaf}); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Error("a user is an agent:", err)
	}
}

func TestStrangersLearnNothingByGuessingTokens(t *testing.T) {
	f := authtest.New(t)
	token := f.AddToken(t)
	commits := f.DB.Commits()
	var first error
	for i, req := range []api.JoinRequest{
		{}, {Token: "x"}, {Token: strings.Repeat("x", 1000)}, {Token: token.ID}, {Token: token.Token + "0"}, {Token: "a\x00b"}, {Token: "../" + token.ID},
		{Token: "guess-guess-guess", KubeClusters: []string{authtest.KubeCluster}}, {Token: "guess-guess-guess", KubeClusters: []string{"x-"}, PublicKey: []byte("x"), JWT: "a.b.c"},
	} {
		_, err := f.Agents.Join(t.Context(), req, authtest.Client)
		if i == 0 {
			first = err
		}
		if !api.IsCode(err, api.CodeUnauthenticated) || err.Error() != first.Error() {
			t.Errorf("%+v: %v", req, err)
		}
	}
	if f.DB.Commits() != commits {
		t.Error("guesses are written")
	}
}

// threats.md, join tokens and CVE-2024-8185: guesses are limited by address and in
// all, cost bounded memory and few questions to the leader, and keep nobody out.
func TestGuessesAreLimitedAndKeepNobodyOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := &behind{DB: authtest.NewDB(nil)}
		f := authtest.NewOn(t, db.DB)
		token := f.AddToken(t)
		r := replica(t, db)
		limited := 0
		for i := range 100_000 {
			addr := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
			_, err := r.Agents.Join(t.Context(), api.JoinRequest{Token: fmt.Sprintf("guess-%d-guess-guess", i)}, addr)
			if api.IsCode(err, api.CodeRateLimited) {
				limited++
			} else if !api.IsCode(err, api.CodeUnauthenticated) {
				t.Fatal(err)
			}
		}
		if limited < 99_800 || db.linearized > 200 {
			t.Errorf("%d limited, the leader asked %d times", limited, db.linearized)
		}
		if n := r.JoinNetworks(); n > 2*8192 {
			t.Errorf("%d networks remembered", n)
		}
		_, pub := authtest.NewKey(t)
		_, err := r.Agents.Join(t.Context(), api.JoinRequest{Token: token.Token, PublicKey: pub, KubeClusters: []string{"a"}}, netip.AddrFrom4([4]byte{10, 0, 0, 1}))
		if err != nil {
			t.Error("the holder of a token was kept out:", err)
		}
	})
}

func TestHolderOfATokenIsLimitedToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		token := f.AddToken(t).Token
		var err error
		n := 0
		for ; n < 2000 && !api.IsCode(err, api.CodeRateLimited); n++ {
			_, err = f.Agents.Join(t.Context(), api.JoinRequest{Token: token}, authtest.Client) // names nothing
		}
		if n < 1000 || n > 1100 {
			t.Error(n, err)
		}
		refused := 0
		for _, e := range f.DB.Events() {
			if e.Code == api.EventCodeAgentJoinRefused {
				refused++
			}
		}
		if refused != 1 {
			t.Errorf("%d refusals in the log", refused)
		}
		time.Sleep(time.Minute) // in the bubble
		f.JoinAgent(t, token, "a")
	})
}

func TestHoldersOfTokensFillNoStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		f.BoundAgents(4, 2, 3, 3)
		one, two, three := f.AddToken(t).Token, f.AddToken(t).Token, f.AddToken(t).Token
		try := func(what, token, name string, text string) {
			t.Helper()
			time.Sleep(time.Second) // in the bubble
			var code api.Code
			if text != "" {
				code = api.CodeRateLimited
			}
			_, err := join(t, f, token, name)
			wantCode(t, what, err, code, text)
		}
		try("the first", one, "a", "")
		try("the second", one, "a", "")
		try("more by one token", one, "a", "tctl nodes rm")
		try("by another", two, "b", "")
		try("a fourth name", two, "c", "tctl kube rm")
		try("a name that is known", two, "b", "")
		must(t, f.KubeClusters.Delete(t.Context(), authtest.Admin(), "b", true))
		try("a fifth agent", three, "b", "tctl nodes rm")
	})
}

// R6-S7: what 'tctl nodes ls' does not show takes nobody's room, though its record is kept
// while there is room.
func TestAgentsThatAreOverMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		f.BoundAgents(5, 3, 9, 9)
		long := func(req *api.AddTokenRequest) { req.TTL = api.Duration(1000 * time.Hour) }
		one, two, three := f.AddToken(t, long).Token, f.AddToken(t, long).Token, f.AddToken(t, long).Token
		records := func() (n int) {
			for range f.DB.View().List("agents/") {
				n++
			}
			return n
		}
		cluster := map[string]string{one: "a", two: "b", three: "c"}
		try := func(what, token string, want int, text string) {
			t.Helper()
			time.Sleep(2 * time.Second) // in the bubble
			var code api.Code
			if text != "" {
				code = api.CodeRateLimited
			}
			_, err := join(t, f, token, cluster[token])
			wantCode(t, what, err, code, text)
			if n := records(); n != want {
				t.Errorf("%s: %d records, want %d", what, n, want)
			}
		}
		f.JoinAgent(t, two, "b")
		for range 3 {
			f.JoinAgent(t, one, "a")
		}
		time.Sleep(4 * 24 * time.Hour) // in the bubble
		f.JoinAgent(t, two, "b")
		try("six agents live", three, 5, "tctl nodes rm")
		time.Sleep(4 * 24 * time.Hour) // in the bubble: all are over but the last
		if list := f.Agents.List(); len(list) != 1 {
			t.Fatalf("%d are listed", len(list))
		}
		for _, want := range []string{"the token's own", "and again", "and once more"} {
			try(want, one, 5, "")
		}
		try("the token's own all live", one, 5, "tctl nodes rm")
		try("another's, for there are five records", three, 5, "")
		try("all live", three, 5, "tctl nodes rm")
		if list := f.Agents.List(); len(list) != 5 {
			t.Errorf("%d are listed", len(list))
		}
	})
}

// One token can't use up the names of all, neither one after the other nor by many
// joins at once.
func TestOneTokenTakesSoManyNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		f.BoundAgents(1000, 1000, 60, 20)
		greedy, honest := f.AddToken(t).Token, f.AddToken(t).Token
		names := func(i int) []string {
			return []string{fmt.Sprintf("%d-a", i), fmt.Sprintf("%d-b", i), fmt.Sprintf("%d-c", i)}
		}
		_, pub := authtest.NewKey(t)
		var wg sync.WaitGroup
		for i := range 50 { // within a second
			wg.Go(func() {
				_, err := f.Agents.Join(t.Context(), api.JoinRequest{Token: greedy, PublicKey: pub, KubeClusters: names(i)}, authtest.Client)
				if err != nil {
					wantCode(t, "more names", err, api.CodeRateLimited, "of agents of this token")
				}
			})
		}
		wg.Wait()
		owned := len(f.KubeClusters.List()) - 1
		if owned != 18 {
			t.Errorf("%d names by one token", owned)
		}
		_, err := f.Agents.Join(t.Context(), api.JoinRequest{Token: greedy, PublicKey: pub, KubeClusters: names(1000)}, authtest.Client)
		wantCode(t, "more names", err, api.CodeRateLimited, "tctl kube rm")
		must(t, func() error { _, err := join(t, f, honest, "prod"); return err }())
		// A join that fails holds no room.
		for range 100 {
			_, err := f.Agents.Join(t.Context(), api.JoinRequest{Token: honest, PublicKey: []byte("x"), KubeClusters: names(2000)}, authtest.Client)
			wantCode(t, "no key", err, api.CodeInvalid, "public key")
		}
		must(t, func() error { _, err := join(t, f, honest, names(2000)...); return err }())
		// What is removed makes room, a second later.
		for _, c := range f.KubeClusters.List() {
			if n := c.Name; n != authtest.KubeCluster && n != "prod" && !strings.HasPrefix(n, "2000-") {
				must(t, f.KubeClusters.Delete(t.Context(), authtest.Admin(), n, true))
				break
			}
		}
		time.Sleep(time.Second) // in the bubble
		must(t, func() error { _, err := join(t, f, greedy, names(1000)...); return err }())
	})
}

// threats.md, join tokens: one use, raced by 50 joins on two replicas.
func TestTokenOfOneUseLetsOneIn(t *testing.T) {
	f := authtest.New(t)
	replicas := []*auth.Service{f.Service, replica(t, f.DB)}
	for _, uses := range []int{1, 7} {
		token := f.AddToken(t, func(r *api.AddTokenRequest) { r.MaxUses = uses })
		var wg sync.WaitGroup
		var mu sync.Mutex
		in := map[string]bool{}
		for i := range 50 {
			_, pub := authtest.NewKey(t)
			wg.Go(func() {
				req := api.JoinRequest{Token: token.Token, PublicKey: pub, KubeClusters: []string{"a"}}
				if uses == 1 {
					req.KubeClusters = []string{"b"}
				}
				resp, err := replicas[i%2].Agents.Join(t.Context(), req, authtest.Client)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					in[resp.AgentID] = true
				} else if want := map[int]string{1: "its one use is spent", 7: "all 7 uses are spent"}[uses]; !api.IsCode(err, api.CodeForbidden) || !strings.Contains(err.Error(), want) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if len(in) != uses {
			t.Errorf("%d joined by a token of %d uses", len(in), uses)
		}
		raw, err := f.Tokens.Get(token.ID)
		must(t, err)
		if got := decodeToken(t, raw).Spec.Uses; got != uses {
			t.Error(got)
		}
	}
}

func TestLostAnswerCostsNoUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		token := f.AddToken(t, func(r *api.AddTokenRequest) { r.MaxUses, r.TTL = 1, api.Duration(10*time.Hour) })
		_, pub := authtest.NewKey(t)
		req := api.JoinRequest{Token: token.Token, PublicKey: pub, KubeClusters: []string{"a"}}
		first, err := f.Agents.Join(t.Context(), req, authtest.Client)
		must(t, err)
		time.Sleep(10 * time.Minute) // in the bubble
		commits := f.DB.Commits()
		again, err := f.Agents.Join(t.Context(), req, authtest.Client)
		must(t, err)
		if again.AgentID != first.AgentID || !again.Expires.Equal(first.Expires) || f.DB.Commits() != commits {
			t.Errorf("%+v, first %+v", again, first)
		}
		more := req
		more.KubeClusters = []string{"a", "b"}
		_, err = f.Agents.Join(t.Context(), more, authtest.Client)
		wantCode(t, "more clusters", err, api.CodeForbidden, "its one use is spent")
		_, err = join(t, f, token.Token, "a")
		wantCode(t, "another key", err, api.CodeForbidden, "its one use is spent")
		time.Sleep(time.Hour) // in the bubble
		_, err = f.Agents.Join(t.Context(), req, authtest.Client)
		wantCode(t, "much later", err, api.CodeForbidden, "its one use is spent")
	})
}

func TestTokenMadeOnAnotherReplicaIsFound(t *testing.T) {
	db := &behind{DB: authtest.NewDB(nil)}
	f := authtest.NewOn(t, db.DB)
	r := replica(t, db)
	db.hold()
	token := f.AddToken(t)
	_, pub := authtest.NewKey(t)
	if _, err := r.Agents.Join(t.Context(), api.JoinRequest{Token: token.Token, PublicKey: pub, KubeClusters: []string{"a"}}, authtest.Client); err != nil {
		t.Error(err)
	}
	db.hold()
	other := f.AddToken(t)
	if err := r.Tokens.Delete(t.Context(), authtest.Admin(), other.ID); err != nil {
		t.Error(err)
	}
	db.hold()
	db.fail = context.DeadlineExceeded
	_, err := r.Agents.Join(t.Context(), api.JoinRequest{Token: f.AddToken(t).Token}, authtest.Client)
	wantCode(t, "no leader", err, api.CodeUnavailable, "leader")
}

func TestWhoOwnsAClustersName(t *testing.T) {
	f := authtest.New(t)
	first, second := f.AddToken(t), f.AddToken(t)
	listed := f.AddToken(t, func(r *api.AddTokenRequest) { r.KubeClusters = []string{"prod", authtest.KubeCluster} })
	f.JoinAgent(t, first.Token, "prod")
	f.JoinAgent(t, first.Token, "prod")
	for _, tc := range []struct {
		name  string
		token string
		kube  string
		code  api.Code
		text  string
	}{
		{"another token's", second.Token, "prod", api.CodeForbidden, "--kube-clusters=prod"},
		{"and how to free it", second.Token, "prod", api.CodeForbidden, "tctl kube rm prod"},
		{"one that is free", second.Token, "dev", "", ""},
		{"listed by the token", listed.Token, "prod", "", ""},
		{"not listed by a token that lists some", listed.Token, "stage", api.CodeForbidden, "spec.kubernetes_clusters"},
		{"the replicas' own", second.Token, authtest.KubeCluster, api.CodeForbidden, "serve themselves"},
		{"the replicas' own, though listed", listed.Token, authtest.KubeCluster, api.CodeForbidden, "serve themselves"},
		{"a reserved name", second.Token, "x-1", api.CodeInvalid, "reserved"},
		{"no name", second.Token, "", api.CodeInvalid, "name"},
		{"a name with a slash", second.Token, "a/b", api.CodeInvalid, "use ASCII"},
		{"a name of another alphabet", second.Token, "сookie", api.CodeInvalid, "use ASCII"},
	} {
		_, err := join(t, f, tc.token, tc.kube)
		wantCode(t, tc.name, err, tc.code, tc.text)
	}
	_, err := join(t, f, second.Token)
	wantCode(t, "no cluster", err, api.CodeInvalid, "1 to 100")
	_, err = join(t, f, second.Token, strings.Split(strings.Repeat("a,", 100)+"a", ",")...)
	wantCode(t, "101 clusters", err, api.CodeInvalid, "1 to 100")
	err = f.KubeClusters.Register(t.Context(), api.KubeCluster{Name: "prod"})
	wantCode(t, "a replica takes an agents' name", err, api.CodeExists, "served by agents")
	must(t, f.KubeClusters.Register(t.Context(), api.KubeCluster{Name: authtest.KubeCluster, Labels: map[string]string{"env": "test"}}))
	must(t, f.KubeClusters.Delete(t.Context(), authtest.Admin(), "prod", false))
	if _, err = join(t, f, second.Token, "prod"); err != nil {
		t.Error("the name was freed:", err)
	}
	_, err = join(t, f, first.Token, "prod")
	wantCode(t, "the old owner", err, api.CodeForbidden, "another token")
}

func TestKeyOfAnAgentIsJudgedLast(t *testing.T) {
	f := authtest.New(t)
	token := f.AddToken(t)
	commits := f.DB.Commits()
	for name, pub := range map[string][]byte{"none": nil, "garbage": []byte("x"), "1 MB": make([]byte, 1<<20)} {
		_, err := f.Agents.Join(t.Context(), api.JoinRequest{Token: token.Token, PublicKey: pub, KubeClusters: []string{"a"}}, authtest.Client)
		wantCode(t, name, err, api.CodeInvalid, "public key")
	}
	if n := f.DB.Commits() - commits; n != 1 { // the refusal, once a minute
		t.Errorf("%d writes", n)
	}
	if len(f.Agents.List()) != 0 {
		t.Error("an agent without a key")
	}
	_, err := f.KubeClusters.Get("a")
	wantCode(t, "its cluster", err, api.CodeNotFound, "")
}

// reliability.md row 15: clocks that differ by minutes do not matter, and by an hour
// are named.
func TestClocksOfAgentsMayDiffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var skew time.Duration
		db := authtest.NewDB(func() time.Time { return time.Now().Add(skew) })
		f := authtest.NewOn(t, db)
		agent := f.JoinAgent(t, "", "a")
		for _, d := range []time.Duration{-4 * time.Minute, 4 * time.Minute} { // the agent's clock
			if at := time.Now().Add(d); at.Before(agent.TLS.Leaf.NotBefore) || at.After(agent.TLS.Leaf.NotAfter) {
				t.Errorf("%s: not valid for the agent", d)
			}
		}
		for d, want := range map[time.Duration]struct {
			code api.Code
			text string
		}{
			-4 * time.Minute: {"", ""}, 4 * time.Minute: {"", ""},
			-time.Hour: {api.CodeUnavailable, "set the clocks right"}, 7*24*time.Hour + time.Hour: {api.CodeUnauthenticated, "set the clocks right"},
		} {
			skew = d
			// The certificate, on a replica whose state time and clock are so far off.
			v := authtest.NewOn(t, authtest.NewDB(func() time.Time { return time.Now().Add(skew) }))
			rec, _ := f.DB.View().Get("cas/agent")
			key, _ := f.DB.View().Get("system/data_key")
			_, err := v.DB.Commit(t.Context(), fsm.Txn{Ops: []fsm.Op{fsm.Put(rec.Key, rec.Value), fsm.Put(key.Key, key.Value)}})
			must(t, err)
			_, err = v.Authorities.VerifyAgent([]*x509.Certificate{agent.TLS.Leaf})
			wantCode(t, d.String(), err, want.code, want.text)
		}
	})
}
