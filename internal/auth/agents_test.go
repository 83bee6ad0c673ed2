package auth_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

// agentNow is how the store has an agent.
func agentNow(t testing.TB, f *authtest.Fixture, id string) api.Agent {
	t.Helper()
	for _, a := range f.Agents.List() {
		if a.ID == id {
			return a
		}
	}
	t.Fatalf("no agent %s", id)
	return api.Agent{}
}

func wantGrant(t testing.TB, f *authtest.Fixture, what string, a *authtest.Agent) *auth.AgentGrant {
	t.Helper()
	g, err := f.Admit(t, a)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if d := cmp.Diff(a.Clusters, g.KubeClusters); d != "" || g.ID != a.Identity.ID || g.Generation != a.Identity.Generation {
		t.Errorf("%s: %+v %s", what, g, d)
	}
	return g
}

func TestAgentIsAdmittedForItsClustersAlone(t *testing.T) {
	f := authtest.New(t)
	token := f.AddToken(t).Token
	agent := f.JoinAgent(t, token, "dev", "prod")
	f.JoinAgent(t, token, "stage")
	wantGrant(t, f, "its clusters", agent)
	for _, tc := range []struct {
		name     string
		clusters []string
		code     api.Code
		text     string
	}{
		{"some of its clusters", []string{"prod"}, "", ""},
		{"one that it did not join for", []string{"prod", "stage"}, api.CodeForbidden, `did not join for Kubernetes cluster "stage"`},
		{"the replicas' own", []string{authtest.KubeCluster}, api.CodeForbidden, "did not join"},
		{"none", nil, api.CodeInvalid, "1 to 100"},
		{"no name", []string{"../prod"}, api.CodeInvalid, "use ASCII"},
	} {
		_, err := f.Agents.Admit(t.Context(), agent.Identity, agent.KeySum, tc.clusters, authtest.Client)
		wantCode(t, tc.name, err, tc.code, tc.text)
	}
	other := agent.Identity
	other.ClusterName = "other.example.com"
	_, err := f.Agents.Admit(t.Context(), other, agent.KeySum, agent.Clusters, authtest.Client)
	wantCode(t, "of another cluster", err, api.CodeUnauthenticated, "not an agent of")
	other = agent.Identity
	other.ID = strings.Repeat("00", 16)
	_, err = f.Agents.Admit(t.Context(), other, agent.KeySum, agent.Clusters, authtest.Client)
	wantCode(t, "not known", err, api.CodeUnauthenticated, "join anew")
	if !agentNow(t, f, agent.Identity.ID).Locked.IsZero() {
		t.Error("a refusal locked the agent")
	}
}

// Issue 4, item 1: every way in which generations may be used. Each case renews as
// its comment says; what is tried last must be refused and lock, or not.
func TestGenerationsOfCertificates(t *testing.T) {
	const locked, in = api.CodeForbidden, api.Code("")
	for _, tc := range []struct {
		name string
		try  func(t *testing.T, f *authtest.Fixture, first *authtest.Agent) *authtest.Agent
		code api.Code
		text string
	}{
		{"the first certificate, again", func(_ *testing.T, _ *authtest.Fixture, first *authtest.Agent) *authtest.Agent { return first }, in, ""},
		{"the old one, until the new one is used", func(t *testing.T, f *authtest.Fixture, first *authtest.Agent) *authtest.Agent {
			f.RenewAgent(t, first)
			return first
		}, in, ""},
		{"the new one", func(t *testing.T, f *authtest.Fixture, first *authtest.Agent) *authtest.Agent {
			return f.RenewAgent(t, first)
		}, in, ""},
		{"the new one, twice", func(t *testing.T, f *authtest.Fixture, first *authtest.Agent) *authtest.Agent {
			next := f.RenewAgent(t, first)
			wantGrant(t, f, "promotion", next)
			return next
		}, in, ""},
		{"a crash before saving: renewed twice, the second used", func(t *testing.T, f *authtest.Fixture, first *authtest.Agent) *authtest.Agent {
			f.RenewAgent(t, first)
			return f.RenewAgent(t, first)
		}, in, ""},
		{"a third generation", func(t *testing.T, f *authtest.Fixture, first *authtest.Agent) *authtest.Agent {
			next := f.RenewAgent(t, first)
			wantGrant(t, f, "promotion", next)
			return f.RenewAgent(t, next)
		}, in, ""},
		{"the old one, after the new one was used", func(t *testing.T, f *authtest.Fixture, first *authtest.Agent) *authtest.Agent {
			wantGrant(t, f, "promotion", f.RenewAgent(t, first))
			return first
		}, locked, "generation 1 was used after generation 2"},
		{"a superseded renewal, before the later one is used", func(t *testing.T, f *authtest.Fixture, first *authtest.Agent) *authtest.Agent {
			lost := f.RenewAgent(t, first)
			f.RenewAgent(t, first)
			return lost
		}, locked, "a later renewal"},
		{"a superseded renewal, after the later one was used", func(t *testing.T, f *authtest.Fixture, first *authtest.Agent) *authtest.Agent {
			lost := f.RenewAgent(t, first)
			wantGrant(t, f, "promotion", f.RenewAgent(t, first))
			return lost
		}, locked, "a later renewal"},
		{"the present generation with another key", func(_ *testing.T, _ *authtest.Fixture, first *authtest.Agent) *authtest.Agent {
			next := *first
			next.KeySum = strings.Repeat("0", 64)
			return &next
		}, locked, "generation 1"},
		{"the next generation with the old key", func(t *testing.T, f *authtest.Fixture, first *authtest.Agent) *authtest.Agent {
			next := *f.RenewAgent(t, first)
			next.KeySum = first.KeySum
			return &next
		}, locked, "generation 2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := authtest.New(t)
			first := f.JoinAgent(t, "", "a")
			wantGrant(t, f, "after the join", first)
			last := tc.try(t, f, first)
			_, err := f.Admit(t, last)
			wantCode(t, "the last", err, tc.code, tc.text)
			now := agentNow(t, f, first.Identity.ID)
			if tc.code == in {
				if !now.Locked.IsZero() || now.Generation != last.Identity.Generation {
					t.Errorf("%+v", now)
				}
				return
			}
			e := lastEvent(f)
			if now.Locked.IsZero() || !strings.Contains(err.Error(), now.LockReason) || e.Event != api.EventAgentLock || e.Code != api.EventCodeAgentLock ||
				e.Fields["host_id"] != first.Identity.ID || e.Fields["reason"] != now.LockReason || e.Fields["addr.remote"] != authtest.Client.String() {
				t.Errorf("%+v %+v", now, e)
			}
			commits := f.DB.Commits()
			for _, a := range []*authtest.Agent{first, last} {
				_, err := f.Admit(t, a)
				wantCode(t, "locked", err, api.CodeForbidden, "tctl nodes rm "+first.Identity.ID)
				_, pub := authtest.NewKey(t)
				_, err = f.Agents.Renew(t.Context(), a.Identity, a.KeySum, pub, authtest.Client)
				wantCode(t, "renewing a locked one", err, api.CodeForbidden, "locked")
			}
			if f.DB.Commits() != commits {
				t.Error("a locked one writes")
			}
			must(t, f.Agents.Delete(t.Context(), authtest.Admin(), first.Identity.ID))
			_, err = f.Admit(t, first)
			wantCode(t, "removed", err, api.CodeUnauthenticated, "join anew")
		})
	}
}

// threats.md, agent re-issue: renewal needs the current certificate and gives the same
// id, clusters and life.
func TestRenewalGivesNothingElse(t *testing.T) {
	f := authtest.New(t)
	token := f.AddToken(t).Token
	a, b := f.JoinAgent(t, token, "a"), f.JoinAgent(t, token, "b")
	next := f.RenewAgent(t, a)
	if next.Identity.ID != a.Identity.ID || next.Identity.Generation != 2 || next.KeySum == a.KeySum {
		t.Errorf("%+v", next.Identity)
	}
	if life := time.Until(next.TLS.Leaf.NotAfter); life > 7*24*time.Hour {
		t.Error(life)
	}
	e := lastEvent(f)
	if e.Event != api.EventAgentRenew || e.Fields["host_id"] != a.Identity.ID || e.Fields["generation"] != float64(2) {
		t.Errorf("%+v", e)
	}
	_, pub := authtest.NewKey(t)
	stolen := a.Identity
	stolen.ID = b.Identity.ID
	_, err := f.Agents.Renew(t.Context(), stolen, a.KeySum, pub, authtest.Client)
	wantCode(t, "as another agent", err, api.CodeForbidden, "renews by")
	_, err = f.Agents.Renew(t.Context(), next.Identity, next.KeySum, pub, authtest.Client)
	wantCode(t, "by one that was not used yet", err, api.CodeForbidden, "generation 1 alone")
	wantGrant(t, f, "promotion", next)
	_, err = f.Agents.Renew(t.Context(), a.Identity, a.KeySum, pub, authtest.Client)
	wantCode(t, "by the old one", err, api.CodeForbidden, "generation 2 alone")
	if !agentNow(t, f, a.Identity.ID).Locked.IsZero() {
		t.Error("asking for a renewal is no use of a certificate") // a tunnel of the old one may live
	}
	_, err = f.Agents.Renew(t.Context(), next.Identity, next.KeySum, []byte("x"), authtest.Client)
	wantCode(t, "no key", err, api.CodeInvalid, "public key")
	_, err = f.Agents.Admit(t.Context(), next.Identity, next.KeySum, []string{"b"}, authtest.Client)
	wantCode(t, "another agent's cluster", err, api.CodeForbidden, "did not join")
	if got := agentNow(t, f, a.Identity.ID); cmp.Diff([]string{"a"}, got.KubeClusters) != "" {
		t.Error(got)
	}
	user := pki.UserIdentity{User: a.Identity.ID, SessionID: a.Identity.ID, ClusterName: authtest.ClusterName}
	if _, err := f.Access.Kube(user, "a", auth.KubeRequest{}); err == nil {
		t.Error("an agent's id is a session")
	}
}

func TestTwoRenewalsInParallel(t *testing.T) {
	f := authtest.New(t)
	replicas := []*auth.Service{f.Service, replica(t, f.DB)}
	first := f.JoinAgent(t, "", "a")
	type renewed struct {
		pub  []byte
		resp *api.JoinResponse
	}
	out := make([]renewed, 2)
	var wg sync.WaitGroup
	for i, r := range replicas {
		_, out[i].pub = authtest.NewKey(t)
		wg.Go(func() {
			var err error
			if out[i].resp, err = r.Agents.Renew(t.Context(), first.Identity, first.KeySum, out[i].pub, authtest.Client); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	in := 0
	for _, o := range out {
		id := first.Identity
		id.Generation = o.resp.Generation
		if _, err := f.Agents.Admit(t.Context(), id, pki.KeySum(o.pub), first.Clusters, authtest.Client); err == nil {
			in++
		}
	}
	if in > 1 {
		t.Error("both count")
	}
}

func TestAgentThatRenewsInALoopIsSlowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		a, b := f.JoinAgent(t, "", "a"), f.JoinAgent(t, "", "b")
		for range 5 {
			f.RenewAgent(t, a)
		}
		_, pub := authtest.NewKey(t)
		_, err := f.Agents.Renew(t.Context(), a.Identity, a.KeySum, pub, authtest.Client)
		wantCode(t, "the sixth", err, api.CodeUnavailable, "try again in a minute")
		f.RenewAgent(t, b)
		time.Sleep(time.Minute) // in the bubble
		f.RenewAgent(t, a)
	})
}

// A replica that is behind asks the leader before it locks or sends away the innocent.
func TestReplicaThatIsBehindLocksNobody(t *testing.T) {
	db := &behind{DB: authtest.NewDB(nil)}
	f := authtest.NewOn(t, db.DB)
	late := &authtest.Fixture{Service: replica(t, db), DB: db.DB}
	token := f.AddToken(t).Token
	for name, write := range map[string]func() *authtest.Agent{
		"joined a moment ago": func() *authtest.Agent {
			db.hold()
			return f.JoinAgent(t, token, "a")
		},
		"renewed a moment ago": func() *authtest.Agent {
			first := f.JoinAgent(t, token, "a")
			db.hold()
			return f.RenewAgent(t, first)
		},
		"used a moment ago": func() *authtest.Agent {
			first := f.JoinAgent(t, token, "a")
			db.hold()
			next := f.RenewAgent(t, first)
			wantGrant(t, f, "promotion", next)
			return next
		},
		"a cluster that was freed a moment ago": func() *authtest.Agent {
			f.JoinAgent(t, f.AddToken(t).Token, "freed")
			db.hold()
			must(t, f.KubeClusters.Delete(t.Context(), authtest.Admin(), "freed", true))
			return f.JoinAgent(t, token, "freed")
		},
	} {
		agent := write()
		wantGrant(t, late, name, agent)
		if !agentNow(t, f, agent.Identity.ID).Locked.IsZero() {
			t.Errorf("%s: locked", name)
		}
	}
	first := f.JoinAgent(t, token, "a")
	db.hold()
	next := f.RenewAgent(t, first)
	db.fail = context.DeadlineExceeded
	_, err := late.Admit(t, next)
	wantCode(t, "and the leader can't be asked", err, api.CodeUnavailable, "leader")
	_, err = late.Agents.Renew(t.Context(), next.Identity, next.KeySum, nil, authtest.Client)
	wantCode(t, "a renewal without a key", err, api.CodeInvalid, "public key")
	if !agentNow(t, f, first.Identity.ID).Locked.IsZero() {
		t.Error("locked")
	}
	db.fail = nil
	db.hold()
	must(t, f.Agents.Delete(t.Context(), authtest.Admin(), first.Identity.ID))
	_, err = late.Agents.Admit(t.Context(), first.Identity, strings.Repeat("0", 64), first.Clusters, authtest.Client)
	wantCode(t, "removed a moment ago", err, api.CodeUnauthenticated, "join anew")
}

func TestGrantEnds(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(t *testing.T, f *authtest.Fixture, a *authtest.Agent)
		code api.Code
		text string
	}{
		{"when the agent is locked", func(t *testing.T, f *authtest.Fixture, a *authtest.Agent) {
			wrong := *a
			wrong.KeySum = strings.Repeat("0", 64)
			_, err := f.Admit(t, &wrong)
			wantCode(t, "wrong key", err, api.CodeForbidden, "locked")
		}, api.CodeForbidden, "locked"},
		{"when the agent is removed", func(t *testing.T, f *authtest.Fixture, a *authtest.Agent) {
			must(t, f.Agents.Delete(t.Context(), authtest.Admin(), a.Identity.ID))
		}, api.CodeUnauthenticated, "join anew"},
		{"when another token's agents have the name", func(t *testing.T, f *authtest.Fixture, _ *authtest.Agent) {
			_, err := f.DB.Commit(t.Context(), auth.PutRaw("kube_clusters/a", `{"name":"a","owner":"0011223344556677"}`))
			must(t, err)
		}, api.CodeForbidden, "another token"},
		{"when a replica has the name", func(t *testing.T, f *authtest.Fixture, _ *authtest.Agent) {
			_, err := f.DB.Commit(t.Context(), auth.PutRaw("kube_clusters/a", `{"name":"a"}`))
			must(t, err)
		}, api.CodeForbidden, "serve themselves"},
		{"when a cluster is removed", func(t *testing.T, f *authtest.Fixture, _ *authtest.Agent) {
			must(t, f.KubeClusters.Delete(t.Context(), authtest.Admin(), "b", true))
		}, api.CodeUnavailable, `"b" was removed`},
		{"some time after a later certificate counts", func(*testing.T, *authtest.Fixture, *authtest.Agent) {
			time.Sleep(20 * time.Minute) // in the bubble
		}, api.CodeUnavailable, "come back with that one"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := authtest.New(t)
				a := f.JoinAgent(t, "", "a", "b")
				grant := wantGrant(t, f, "admission", a)
				ended := make(chan error, 1)
				go func() { ended <- grant.Watch(t.Context()) }()
				synctest.Wait()
				// What others do, and what does not narrow it.
				f.JoinAgent(t, "", "c")
				must(t, f.KubeClusters.SetLabels(t.Context(), a.Identity.ID, "a", map[string]string{"env": "prod"}))
				wantGrant(t, f, "promotion", f.RenewAgent(t, a))
				synctest.Wait()
				select {
				case err := <-ended:
					t.Fatal("ended before:", err)
				default:
				}
				before := time.Now()
				tc.do(t, f, a)
				synctest.Wait()
				select {
				case err := <-ended:
					wantCode(t, "the grant", err, tc.code, tc.text)
				default:
					t.Fatal("it goes on")
				}
				if !strings.Contains(tc.name, "some time") && time.Since(before) != 0 {
					t.Error("it took", time.Since(before))
				}
			})
		})
	}
}

// threats.md, a stolen identity: a tunnel that a thief opened in time, and then leaves
// alone, ends all the same, and opening another locks the identity.
func TestTunnelOfAStolenCertificateEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		owner := f.JoinAgent(t, "", "a")
		stolen := *owner
		watch := func(g *auth.AgentGrant) func() error {
			ended := make(chan error, 1)
			go func() { ended <- g.Watch(t.Context()) }()
			return func() error {
				synctest.Wait()
				select {
				case err := <-ended:
					return err
				default:
					return nil
				}
			}
		}
		thief := watch(wantGrant(t, f, "the thief's hello", &stolen))
		time.Sleep(36 * time.Hour) // in the bubble
		owner = f.RenewAgent(t, owner)
		second := watch(wantGrant(t, f, "promotion", owner))
		time.Sleep(15 * time.Minute) // in the bubble
		owner = f.RenewAgent(t, owner)
		third := watch(wantGrant(t, f, "promotion once more", owner))
		time.Sleep(5*time.Minute - time.Second) // in the bubble
		must(t, thief())
		time.Sleep(time.Second) // in the bubble
		wantCode(t, "20 minutes after its certificate was replaced", thief(), api.CodeUnavailable, "generation 1")
		must(t, second())
		time.Sleep(15 * time.Minute) // in the bubble
		wantCode(t, "the owner's tunnel of before", second(), api.CodeUnavailable, "generation 2")
		time.Sleep(24 * time.Hour) // in the bubble
		must(t, third())
		_, err := f.Admit(t, &stolen)
		wantCode(t, "the thief comes back", err, api.CodeForbidden, "two hold this identity")
		wantCode(t, "the owner's", third(), api.CodeForbidden, "locked")
	})
}

func TestTunnelEndsWithItsCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		a := f.JoinAgent(t, "", "a")
		grant := wantGrant(t, f, "admission", a)
		time.Sleep(24 * time.Hour) // in the bubble
		f.RenewAgent(t, a)         // and never uses it
		err := grant.Watch(t.Context())
		wantCode(t, "in the end", err, api.CodeUnauthenticated, "expired on "+a.TLS.Leaf.NotAfter.Format("2006-01-02 15:04:05"))
		if left := time.Until(a.TLS.Leaf.NotAfter); left > 0 || left < -time.Second {
			t.Error(left)
		}
		_, err = f.Admit(t, a)
		wantCode(t, "a certificate that is over", err, api.CodeUnauthenticated, "expired on")
		nobody := a.Identity
		nobody.NotAfter = time.Time{}
		_, err = f.Agents.Admit(t.Context(), nobody, a.KeySum, a.Clusters, authtest.Client)
		wantCode(t, "one of which nobody says when it ends", err, api.CodeUnauthenticated, "expired on")
	})
}

// One whose certificate is over can't come back, and is no longer listed; a locked one is
// for somebody to look at. Their records are kept, for the day on which a backup is restored.
func TestAgentsAreListedAsLongAsTheirCertificatesLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		gone, locked, pending, living := f.JoinAgent(t, "", "a"), f.JoinAgent(t, "", "b"), f.JoinAgent(t, "", "c"), f.JoinAgent(t, "", "d")
		old := *locked
		wantGrant(t, f, "renewed", f.RenewAgent(t, locked))
		_, err := f.Admit(t, &old)
		wantCode(t, "two hold it", err, api.CodeForbidden, "locked")
		listed := func() (ids []string) {
			for _, a := range f.Agents.List() {
				ids = append(ids, a.ID)
			}
			slices.Sort(ids)
			return ids
		}
		want := func(what string, agents ...*authtest.Agent) {
			t.Helper()
			var ids []string
			for _, a := range agents {
				ids = append(ids, a.Identity.ID)
			}
			slices.Sort(ids)
			if diff := cmp.Diff(ids, listed()); diff != "" {
				t.Errorf("%s: %s", what, diff)
			}
		}
		time.Sleep(6 * 24 * time.Hour) // in the bubble
		f.RenewAgent(t, pending)       // and has not used it yet
		wantGrant(t, f, "renewed", f.RenewAgent(t, living))
		want("all", gone, locked, pending, living)
		time.Sleep(24*time.Hour + time.Minute) // in the bubble
		want("the first has ended", locked, pending, living)
		time.Sleep(29 * 24 * time.Hour) // in the bubble
		want("four weeks later", locked)
	})
}

func TestGrantEndsWithItsContext(t *testing.T) {
	f := authtest.New(t)
	grant := wantGrant(t, f, "admission", f.JoinAgent(t, "", "a"))
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the tunnel is gone")
	cancel(why)
	if err := grant.Watch(ctx); !errors.Is(err, why) {
		t.Error(err)
	}
}

func TestAgentThatIsGoneIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		gone, kept := f.JoinAgent(t, "", "a"), f.JoinAgent(t, "", "b")
		time.Sleep(6 * 24 * time.Hour) // in the bubble
		kept = f.RenewAgent(t, kept)
		wantGrant(t, f, "promotion", kept)
		time.Sleep(30 * 24 * time.Hour) // in the bubble
		for _, a := range []*authtest.Agent{gone, kept} {
			if _, err := f.Agents.Get(a.Identity.ID); err != nil {
				t.Errorf("after 36 days: %v", err)
			}
		}
		time.Sleep(2 * 24 * time.Hour) // in the bubble
		_, err := f.Agents.Get(kept.Identity.ID)
		must(t, err)
		_, err = f.Agents.Get(gone.Identity.ID)
		wantCode(t, "after 38 days", err, api.CodeNotFound, "")
		err = f.Agents.Delete(t.Context(), authtest.Admin(), gone.Identity.ID)
		wantCode(t, "removing it", err, api.CodeNotFound, "tctl nodes ls")
	})
}

func TestDeletingAnAgent(t *testing.T) {
	f := authtest.New(t)
	a := f.JoinAgent(t, "", "a")
	for _, id := range []string{"", "a", "../users/alice", strings.ToUpper(a.Identity.ID) + "0"} {
		err := f.Agents.Delete(t.Context(), authtest.Admin(), id)
		wantCode(t, id, err, api.CodeInvalid, "32 hex digits")
	}
	must(t, f.Agents.Delete(t.Context(), authtest.Admin(), a.Identity.ID))
	if e := lastEvent(f); e.Event != api.EventAgentDelete || e.User != auth.SocketUser || e.Fields["host_id"] != a.Identity.ID {
		t.Errorf("%+v", e)
	}
	again := f.JoinAgent(t, a.Token, "a")
	wantGrant(t, f, "anew", again)
	_, err := f.DB.Commit(t.Context(), auth.PutRaw("agents/"+again.Identity.ID, `[]`))
	must(t, err)
	_, err = f.Admit(t, again)
	wantCode(t, "a record that can't be read", err, api.CodeInternal, "can't be read")
	if list := f.Agents.List(); len(list) != 1 || list[0].ID != again.Identity.ID {
		t.Error(list)
	}
	must(t, f.Agents.Delete(t.Context(), authtest.Admin(), again.Identity.ID))
}
