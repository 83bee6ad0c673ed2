package client_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/client"
)

func TestTokensAreSeenOnceAndKeptByTheirIDs(t *testing.T) {
	srv := start(t)
	cl := client.NewUnix(srv.Socket, "test")
	defer cl.Close()
	resp, err := cl.AddToken(t.Context(), &api.AddTokenRequest{Roles: []string{api.TokenRoleKube}, TTL: api.Duration(10000 * time.Hour), MaxUses: 1})
	if err != nil || resp.Token == "" || resp.ID != api.TokenID(resp.Token) || time.Duration(resp.TTL) != 10000*time.Hour || len(resp.CAPins) != 1 {
		t.Fatalf("%+v, %v", resp, err)
	}
	items, err := cl.List(t.Context(), api.KindToken, "")
	if err != nil || len(items) != 1 {
		t.Fatal(items, err)
	}
	var doc api.Token
	if err := json.Unmarshal(items[0], &doc); err != nil || doc.Metadata.Name != resp.ID || doc.Spec.MaxUses != 1 {
		t.Errorf("%s, %v", items[0], err)
	}
	if err := cl.Delete(t.Context(), api.KindToken, resp.ID, false); err != nil {
		t.Error(err)
	}
}

func TestAdminsListAndRemoveAgents(t *testing.T) {
	srv := start(t)
	cl := client.NewUnix(srv.Socket, "test")
	defer cl.Close()
	if agents, err := cl.Agents(t.Context()); err != nil || agents == nil || len(agents) != 0 {
		t.Fatalf("%#v, %v: want an empty list, which is no null as JSON", agents, err)
	}
	want := []api.Agent{{ID: "a", KubeClusters: []string{"cookie"}}, {ID: "b/c?d", Replicas: []string{"id-0"}}}
	for _, a := range want {
		srv.AddAgent(a)
	}
	agents, err := cl.Agents(t.Context())
	if diff := cmp.Diff(want, agents); diff != "" || err != nil {
		t.Error(err, diff)
	}
	if err := cl.RemoveAgent(t.Context(), "b/c?d"); err != nil {
		t.Error(err)
	}
	if err := cl.RemoveAgent(t.Context(), "b/c?d"); !api.IsCode(err, api.CodeNotFound) {
		t.Error(err)
	}
	if agents, err = cl.Agents(t.Context()); err != nil || len(agents) != 1 || agents[0].ID != "a" {
		t.Error(agents, err)
	}
}

func TestWhoHasReplacedAnAgent(t *testing.T) {
	at := func(id, name, cluster string, day int, replicas ...string) api.Agent {
		return api.Agent{ID: id, Name: name, KubeClusters: []string{cluster}, Joined: time.Date(2036, 1, day, 0, 0, 0, 0, time.UTC), Replicas: replicas}
	}
	got := client.ReplacedBy([]api.Agent{
		at("first", "pod-0", "cookie", 1), at("last", "pod-0", "cookie", 3, "r1"), at("second", "pod-0", "cookie", 2),
		at("both up", "pod-1", "cookie", 1, "r1"), at("both up too", "pod-1", "cookie", 2, "r1"),
		at("another pod", "pod-2", "cookie", 1), at("another cluster", "pod-0", "tea", 1),
		at("down", "pod-3", "cookie", 1), at("down, later", "pod-3", "cookie", 2),
		at("nameless", "", "cookie", 1), at("nameless, later", "", "cookie", 2),
	})
	if diff := cmp.Diff(map[string]string{"first": "last", "second": "last", "down": "down, later"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestHealthAsText(t *testing.T) {
	for _, tc := range []struct {
		status *api.KubeStatus
		want   string
		usable bool
	}{
		{nil, "unknown", true},
		{&api.KubeStatus{}, "unknown", true},
		{&api.KubeStatus{Health: api.HealthHealthy, Reason: "its agents\nsay different labels"}, "healthy, but its agents say different labels", true},
		{&api.KubeStatus{Health: api.HealthUnknown, Reason: "not asked yet"}, "unknown: not asked yet", true},
		{&api.KubeStatus{Health: api.HealthUnhealthy, Reason: "says\n  no"}, "unhealthy: says no", false},
		{&api.KubeStatus{Health: api.HealthOffline}, "offline", false},
	} {
		if got := client.HealthText(tc.status); got != tc.want || client.Usable(tc.status) != tc.usable {
			t.Errorf("%+v: %q, %v", tc.status, got, client.Usable(tc.status))
		}
	}
	if got := client.LabelsText(map[string]string{"b": "2", "a": "1"}); got != "a=1,b=2" {
		t.Error(got)
	}
	if got := client.LabelsText(nil); got != "-" {
		t.Error(got)
	}
	if got := client.Cell(" v1\nfake  row\t" + strings.Repeat("ä", 300)); !strings.HasPrefix(got, "v1 fake row ää") || len([]rune(got)) != 200 || !strings.HasSuffix(got, "ä…") {
		t.Error(got)
	}
	if got := client.Minute(time.Time{}); got != "-" {
		t.Error(got)
	}
}
