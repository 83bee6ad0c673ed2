package auth_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
)

func kubeDoc(t testing.TB, f *authtest.Fixture, name string) *api.KubeClusterDocument {
	t.Helper()
	raw, err := f.KubeClusters.Document(name)
	must(t, err)
	doc, err := api.DecodeDocument(raw)
	must(t, err)
	return doc.(*api.KubeClusterDocument)
}

func TestClusterWrittenByAnOlderVersionIsTheReplicasOwn(t *testing.T) {
	f := authtest.New(t)
	_, err := f.DB.Commit(t.Context(), auth.PutRaw("kube_clusters/old", `{"name":"old","labels":{"env":"prod"}}`))
	must(t, err)
	must(t, f.KubeClusters.Register(t.Context(), api.KubeCluster{Name: "old", Labels: map[string]string{"env": "prod"}}))
	_, err = join(t, f, f.AddToken(t).Token, "old")
	wantCode(t, "an agent takes it", err, api.CodeForbidden, "serve themselves")
}

func TestLabelsOfAgentsClusters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		token := f.AddToken(t).Token
		a, b := f.JoinAgent(t, token, "a"), f.JoinAgent(t, token, "b")
		set := func(agent *authtest.Agent, name string, labels map[string]string) error {
			return f.KubeClusters.SetLabels(t.Context(), agent.Identity.ID, name, labels)
		}
		have := func(name string) map[string]string {
			c, err := f.KubeClusters.Get(name)
			must(t, err)
			return c.Labels
		}
		must(t, set(a, "a", map[string]string{"env": "prod"}))
		if d := cmp.Diff(map[string]string{"env": "prod"}, have("a")); d != "" {
			t.Error(d)
		}
		if e := lastEvent(f); e.Event != api.EventKubeClusterUpdate || e.Code != api.EventCodeKubeClusterUpdate || e.Fields["name"] != "a" {
			t.Errorf("%+v", e)
		}
		commits := f.DB.Commits()
		for range 100 {
			must(t, set(a, "a", map[string]string{"env": "prod"}))
		}
		if f.DB.Commits() != commits {
			t.Error("labels that did not change were written")
		}
		for i := range 100 {
			must(t, set(a, "a", map[string]string{"n": fmt.Sprint(i)}))
		}
		if n := f.DB.Commits() - commits; n > 3 {
			t.Errorf("%d writes at once", n)
		}
		time.Sleep(time.Minute) // in the bubble
		must(t, set(a, "a", map[string]string{"n": "100"}))
		if d := cmp.Diff(map[string]string{"n": "100"}, have("a")); d != "" {
			t.Error("nothing is written any more:", d)
		}
		err := set(b, "a", map[string]string{"env": "dev"})
		wantCode(t, "of another agent's cluster", err, api.CodeForbidden, "belongs to agents")
		must(t, set(b, "b", nil))
		err = set(b, authtest.KubeCluster, map[string]string{"env": "prod"})
		wantCode(t, "of the replicas' own", err, api.CodeForbidden, "serve themselves")
		err = set(a, "a", map[string]string{"a\nb": "c"})
		wantCode(t, "that are none", err, api.CodeInvalid, "labels")
		err = set(&authtest.Agent{}, "b", map[string]string{"env": "x"})
		wantCode(t, "of nobody", err, api.CodeUnauthenticated, "join anew")
		if d := cmp.Diff(map[string]string{"env": "test"}, have(authtest.KubeCluster)); d != "" {
			t.Error(d)
		}
	})
}

// Issue 4, item 5: labels of agents decide who sees a cluster.
func TestAgentsLabelsDecideWhoSeesACluster(t *testing.T) {
	f := authtest.New(t)
	role := func(name string, labels map[string]api.Values) {
		f.PutRole(t, name, api.RoleSpec{Allow: api.RoleConditions{KubernetesGroups: []string{"dev"}, KubernetesLabels: labels}})
		f.AddUser(t, name, nil, name)
	}
	role("everything", map[string]api.Values{"*": {"*"}})
	role("prod", map[string]api.Values{"env": {"prod"}})
	role("either", map[string]api.Values{"env": {"prod", "dev"}})
	role("both", map[string]api.Values{"env": {"prod", "dev"}, "region": {"^eu-(west|north)-[0-9]$"}})
	role("glob", map[string]api.Values{"region": {"us-*"}})
	role("nothing", nil)
	token := f.AddToken(t).Token
	for name, labels := range map[string]map[string]string{
		"eu-prod": {"env": "prod", "region": "eu-west-1"}, "us-prod": {"env": "prod", "region": "us-east-2"},
		"eu-dev": {"env": "dev", "region": "eu-north-1"}, "bare": nil,
	} {
		agent := f.JoinAgent(t, token, name)
		must(t, f.KubeClusters.SetLabels(t.Context(), agent.Identity.ID, name, labels))
	}
	for user, want := range map[string][]string{
		"everything": {"bare", authtest.KubeCluster, "eu-dev", "eu-prod", "us-prod"}, "prod": {"eu-prod", "us-prod"},
		"either": {"eu-dev", "eu-prod", "us-prod"}, "both": {"eu-dev", "eu-prod"}, "glob": {"us-prod"}, "nothing": nil,
	} {
		id, _ := f.Login(t, user)
		v := f.DB.View()
		p, err := f.Access.Certificate(v, id)
		must(t, err)
		var got []string
		for _, c := range f.Access.KubeClusters(v, p) {
			got = append(got, c.Name)
			if c.Status != nil {
				t.Errorf("%s: a status that nobody knows", c.Name)
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", user, d)
		}
		for _, c := range f.KubeClusters.List() {
			_, err := f.Access.Kube(id, c.Name, auth.KubeRequest{})
			if seen := strings.Contains(" "+strings.Join(want, " ")+" ", " "+c.Name+" "); seen == api.IsCode(err, api.CodeNotFound) {
				t.Errorf("%s on %s: %v", user, c.Name, err)
			}
		}
	}
}

func TestHowClustersDo(t *testing.T) {
	seen := time.Date(2026, 11, 20, 10, 0, 0, 5, time.UTC)
	live := map[string]*api.KubeStatus{
		authtest.KubeCluster: {Health: api.HealthHealthy, Version: "v1.34.1"},
		"up":                 {Health: api.HealthUnhealthy, Reason: "it says\x1b[31m no\n", Agents: 2, Version: strings.Repeat("v", 500)},
		"odd":                {Health: "<script>", Agents: 1},
	}
	f := authtest.New(t, func(o *auth.Options) { o.KubeStatus = func(name string) *api.KubeStatus { return live[name] } })
	f.JoinAgent(t, "", "up", "odd", "away", "new")
	commits := f.DB.Commits()
	statuses := map[string]api.KubeStatus{
		"away":    {Health: api.HealthHealthy, Version: "v1.33.0", LastSeen: seen, Agents: 3},
		"up":      {Health: api.HealthOffline, LastSeen: seen},
		"unknown": {Health: api.HealthHealthy},
	}
	for range 2 {
		must(t, f.KubeClusters.SaveStatus(t.Context(), statuses))
	}
	if n := f.DB.Commits() - commits; n != 1 {
		t.Errorf("%d writes for three statuses", n)
	}
	whole := seen.Truncate(time.Second)
	if d := cmp.Diff(map[string]api.KubeStatus{
		"away": {Health: api.HealthHealthy, Version: "v1.33.0", LastSeen: whole}, "up": {Health: api.HealthOffline, LastSeen: whole},
	}, f.KubeClusters.Statuses()); d != "" {
		t.Error(d)
	}
	want := map[string]api.KubeStatus{
		authtest.KubeCluster: {Health: api.HealthHealthy, Version: "v1.34.1", Own: true},
		"up":                 {Health: api.HealthUnhealthy, Reason: "it says [31m no", Agents: 2, Version: strings.Repeat("v", 64), LastSeen: whole},
		"odd":                {Health: api.HealthUnknown, Agents: 1},
		"away":               {Health: api.HealthOffline, Reason: "no agent of it is connected", Version: "v1.33.0", LastSeen: whole},
		"new":                {Health: api.HealthOffline, Reason: "no agent of it is connected"},
	}
	got := map[string]api.KubeStatus{}
	for _, c := range f.KubeClusters.List() {
		got[c.Name] = *c.Status
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(want["away"], *kubeDoc(t, f, "away").Status); d != "" {
		t.Error(d)
	}
	must(t, f.KubeClusters.Delete(t.Context(), authtest.Admin(), "away", false))
	if _, ok := f.KubeClusters.Statuses()["away"]; ok {
		t.Error("the status outlives its cluster")
	}
}

func TestManyStatusesAreSavedInParts(t *testing.T) {
	f := authtest.New(t)
	statuses := map[string]api.KubeStatus{}
	for i := range 12 {
		var names []string
		for j := range 100 {
			names = append(names, fmt.Sprintf("k%d-%d", i, j))
			statuses[names[j]] = api.KubeStatus{Health: api.HealthUnhealthy, Reason: strings.Repeat("because ", 100)}
		}
		f.JoinAgent(t, "", names...)
	}
	must(t, f.KubeClusters.SaveStatus(t.Context(), statuses))
	if n := len(f.KubeClusters.Statuses()); n != 1200 {
		t.Error(n)
	}
}

func TestClusterAsADocument(t *testing.T) {
	f := authtest.New(t)
	token := f.AddToken(t)
	a := f.JoinAgent(t, token.Token, "prod")
	must(t, f.KubeClusters.SetLabels(t.Context(), a.Identity.ID, "prod", map[string]string{"env": "prod"}))
	if own := kubeDoc(t, f, authtest.KubeCluster); own.Spec.Token != "" {
		t.Error("the replicas' own belongs to a token:", own.Spec.Token)
	}
	doc := kubeDoc(t, f, "prod")
	want := &api.KubeClusterDocument{Header: api.Header{Kind: "kube_cluster", Version: "v3", Metadata: api.Metadata{
		Name: "prod", Labels: map[string]string{"env": "prod"}, Revision: doc.Metadata.Revision,
	}}, Spec: api.KubeClusterSpec{Token: token.ID}}
	if d := cmp.Diff(want, doc); d != "" || doc.Metadata.Revision == 0 {
		t.Error(d)
	}
	put := func(edit func(*api.KubeClusterDocument), force bool) (api.PutResponse, error) {
		next := *doc
		edit(&next)
		return f.KubeClusters.Put(t.Context(), authtest.Admin(), &next, force)
	}
	commits := f.DB.Commits()
	_, err := put(func(*api.KubeClusterDocument) {}, false)
	wantCode(t, "unforced", err, api.CodeExists, "--force")
	resp, err := put(func(d *api.KubeClusterDocument) { d.Metadata.Revision = 0 }, true)
	if err != nil || !resp.Unchanged {
		t.Error(resp, err)
	}
	_, err = put(func(d *api.KubeClusterDocument) { d.Metadata.Labels = map[string]string{"env": "dev"} }, true)
	wantCode(t, "other labels", err, api.CodeForbidden, "sallyport agent --labels")
	_, err = put(func(d *api.KubeClusterDocument) { d.Spec.Token = "0011223344556677" }, true)
	wantCode(t, "another token's", err, api.CodeForbidden, "tctl kube rm")
	_, err = put(func(d *api.KubeClusterDocument) { d.Metadata.Name = "other" }, true)
	wantCode(t, "a new one", err, api.CodeForbidden, "tctl nodes add")
	_, err = put(func(d *api.KubeClusterDocument) { d.Metadata.Revision = 1 }, true)
	wantCode(t, "an old one", err, api.CodeConflict, "changed since")
	if f.DB.Commits() != commits {
		t.Error("it wrote")
	}
	docs, err := f.KubeClusters.Documents()
	if err != nil || len(docs) != 2 || !json.Valid(docs[0]) {
		t.Error(docs, err)
	}
}

func TestRemovingACluster(t *testing.T) {
	connected := 0
	f := authtest.New(t, func(o *auth.Options) {
		o.KubeStatus = func(string) *api.KubeStatus { return &api.KubeStatus{Health: api.HealthHealthy, Agents: connected} }
	})
	a := f.JoinAgent(t, "", "prod", "Prod_2")
	remove := func(name string, force bool) error {
		return f.KubeClusters.Delete(t.Context(), authtest.Admin(), name, force)
	}
	connected = 2
	wantCode(t, "while it is served", remove("prod", false), api.CodeConflict, "served by 2 agents")
	wantCode(t, "it says what to do", remove("prod", false), api.CodeConflict, "tctl nodes rm ID")
	must(t, remove("prod", true))
	if e := lastEvent(f); e.Event != api.EventKubeClusterDelete || e.Fields["name"] != "prod" {
		t.Errorf("%+v", e)
	}
	connected = 0
	must(t, remove("Prod_2", false))
	_, err := f.KubeClusters.Lookup(api.KubeLabel("Prod_2"))
	wantCode(t, "its DNS label", err, api.CodeNotFound, "")
	wantCode(t, "again", remove("prod", true), api.CodeNotFound, "not found")
	wantCode(t, "the replicas' own", remove(authtest.KubeCluster, false), api.CodeConflict, "serve themselves")
	must(t, remove(authtest.KubeCluster, true))
	wantGrant(t, f, "an agent that comes back takes its names again", &authtest.Agent{Identity: a.Identity, KeySum: a.KeySum, Clusters: []string{"Prod_2", "prod"}})
	for _, name := range []string{"prod", "Prod_2"} {
		if _, err := f.KubeClusters.Get(name); err != nil {
			t.Error(err)
		}
	}
	must(t, remove("prod", false))
	f.JoinAgent(t, "", "prod")
	_, err = f.Admit(t, a)
	wantCode(t, "unless another has it", err, api.CodeForbidden, "another token")
}

// A cluster that is removed under its agents is theirs again when they come back, and
// nobody serves what people do not see.
func TestRemovingAClusterUnderItsAgents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		a, bystander := f.JoinAgent(t, "", "prod", "stage"), f.JoinAgent(t, "", "dev")
		watch := func(a *authtest.Agent) chan error {
			ended := make(chan error, 1)
			grant := wantGrant(t, f, "a tunnel", a)
			go func() { ended <- grant.Watch(t.Context()) }()
			synctest.Wait()
			return ended
		}
		other := watch(bystander)
		remove := func() {
			ended := watch(a)
			must(t, f.KubeClusters.Delete(t.Context(), authtest.Admin(), "prod", true))
			synctest.Wait()
			wantCode(t, "its tunnel", <-ended, api.CodeUnavailable, `"prod" was removed`)
			if _, err := f.KubeClusters.Get("stage"); err != nil {
				t.Error(err)
			}
		}
		remove()
		wantGrant(t, f, "it comes back", a)
		if _, err := f.KubeClusters.Get("prod"); err != nil {
			t.Error(err)
		}
		if e := lastEvent(f); e.Event != api.EventKubeClusterCreate || e.Fields["name"] != "prod" || e.Fields["host_id"] != a.Identity.ID {
			t.Errorf("%+v", e)
		}
		select {
		case err := <-watch(a):
			t.Error("it is cut again:", err)
		default:
		}
		remove()
		f.JoinAgent(t, "", "prod")
		_, err := f.Admit(t, a)
		wantCode(t, "too late", err, api.CodeForbidden, "another token")
		select {
		case err := <-other:
			t.Error("another's tunnel:", err)
		default:
		}
	})
}
