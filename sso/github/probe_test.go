package github

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/sso"
)

func (s *server) options() sso.Options {
	return sso.Options{HTTP: sso.NewClient(s.Client().Transport)}
}

func TestProbeFindsTheIDsOfOrganizations(t *testing.T) {
	s := newServer(t)
	s.paths["/api/v3/orgs/octocats"] = answer(`{"id": 7, "login": "OctoCats"}`)
	s.paths["/api/v3/orgs/renamed"] = answer(`{"id": 8, "login": "somebody-else"}`)
	s.paths["/api/v3/orgs/broken"] = answer(`{"id": -8, "login": "broken"}`)
	doc := document(s.URL)
	doc.Spec.TeamsToLogins = []api.TeamToLogins{{Organization: "OctoCats", Team: "devs"}, {Organization: "private", Team: "devs"}, {Organization: "renamed"}}
	doc.Spec.TeamsToRoles = []api.TeamToRoles{{Organization: "octocats", Team: "ops"}, {Organization: "../../user", Team: "x"}}
	facts, warned, err := Probe(t.Context(), doc, s.options())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]int64{"octocats": 7}, facts.Organizations); diff != "" {
		t.Error(diff)
	}
	warnings := strings.Join(warned, "\n")
	for _, want := range []string{`"private" is not known yet`, `"renamed" is not known yet`, "answers with another organization", `"../../user"`, "shows none of that name"} {
		if !strings.Contains(warnings, want) {
			t.Errorf("no %s in\n%s", want, warnings)
		}
	}
	for _, request := range s.requests() {
		if !strings.HasPrefix(request, "GET /api/v3/orgs/") {
			t.Errorf("it asked %s", request)
		}
	}
	doc = document(s.URL)
	doc.Spec.TeamsToRoles = []api.TeamToRoles{{Organization: "broken"}}
	if facts, warned, err = Probe(t.Context(), doc, s.options()); err != nil || facts.Organizations != nil || len(warned) != 1 {
		t.Errorf("%v, %v", facts, err)
	}
}

// An organization's id is not learned from a server that sends elsewhere, limits or is down.
func TestProbeGivesUpQuietly(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"limit": fail(403, `{}`, "X-RateLimit-Remaining", "0"), "500": fail(500, ``), "hang": hang,
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://127.0.0.1:1/", http.StatusMovedPermanently)
		},
	} {
		s := newServer(t)
		doc := document(s.URL)
		for i := range 3 {
			org := fmt.Sprintf("org%d", i)
			s.paths["/api/v3/orgs/"+org] = h
			doc.Spec.TeamsToRoles = append(doc.Spec.TeamsToRoles, api.TeamToRoles{Organization: org, Team: "t"})
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		if name == "hang" {
			cancel()
			ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
		}
		facts, warned, err := Probe(ctx, doc, s.options())
		cancel()
		if err != nil || facts.Organizations != nil || len(warned) != 1 || len(s.requests()) != 1 {
			t.Errorf("%s: %v, %v after %q", name, facts, err, s.requests())
		}
	}
	if _, _, err := Probe(t.Context(), document("http://ghe.example.com"), sso.Options{}); err == nil {
		t.Error("an address without TLS was taken")
	}
}

func TestProbeAsksForAFewOrganizationsAlone(t *testing.T) {
	s := newServer(t)
	doc := document(s.URL)
	for i := range 3 * maxProbes {
		doc.Spec.TeamsToRoles = append(doc.Spec.TeamsToRoles, api.TeamToRoles{Organization: fmt.Sprintf("org%d", i)})
	}
	if _, _, err := Probe(t.Context(), doc, s.options()); err != nil || len(s.requests()) != maxProbes {
		t.Errorf("%v after %d requests", err, len(s.requests()))
	}
}
