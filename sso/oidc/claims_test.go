package oidc

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
)

func fails(w http.ResponseWriter, _ *http.Request) {
	w.WriteHeader(http.StatusInternalServerError)
	_, _ = w.Write([]byte("trace of the program"))
}

func answers(body string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(body))
	}
}

// Row OIDC linking: who somebody is is issuer and sub, whatever the address says.
func TestIdentityIsNeverTheEmail(t *testing.T) {
	d := newDouble(t)
	p := d.provider()
	subjects := map[string]string{}
	for _, email := range []string{"alice@example.com", "ALICE@example.com", "Alice@Example.COM"} {
		for _, sub := range []string{"alice-1", "Alice-1", "mallory"} {
			d.person = map[string]any{"email": email, "email_verified": true, "sub": sub}
			id, err := d.login(p)
			if err != nil {
				t.Fatal(err)
			}
			if id.Subject != d.issuer+" "+sub || id.Username != email {
				t.Errorf("%s of %s is %q called %q", email, sub, id.Subject, id.Username)
			}
			subjects[id.Subject] = sub
		}
	}
	if len(subjects) != 3 {
		t.Errorf("subjects %v", subjects)
	}
}

func TestUsername(t *testing.T) {
	for name, tc := range map[string]struct {
		claim  string
		person map[string]any
		want   string
		part   string // of the error
	}{
		"verified email":             {"", map[string]any{"email": "a@x.org", "email_verified": true, "preferred_username": "a"}, "a@x.org", ""},
		"verified as a string":       {"", map[string]any{"email": "a@x.org", "email_verified": "true"}, "a@x.org", ""},
		"not verified":               {"", map[string]any{"email": "a@x.org", "email_verified": false, "preferred_username": "a"}, "a", ""},
		"verified by a number":       {"", map[string]any{"email": "a@x.org", "email_verified": 1, "preferred_username": "a"}, "a", ""},
		"verified absent":            {"", map[string]any{"email": "a@x.org", "preferred_username": "a"}, "a", ""},
		"not verified, nothing else": {"", map[string]any{"email": "a@x.org", "email_verified": false}, "", `spec.username_claim of connector "dex"`},
		"nothing":                    {"", map[string]any{"nickname": "al"}, "", "it sends aud, exp, iat, iss, nickname, nonce, sub"},
		"claim":                      {"upn", map[string]any{"upn": "alice", "email": "a@x.org", "email_verified": true}, "alice", ""},
		// Who may choose a name must not choose one that reads as somebody's address.
		"an address for a name":     {"", map[string]any{"preferred_username": "ceo@corp.example.com"}, "", `spec.username_claim: preferred_username`},
		"another's address":         {"", map[string]any{"email": "a@x.org", "email_verified": false, "preferred_username": "a@x.org"}, "", `"a@x.org"`},
		"an address, chosen so":     {"preferred_username", map[string]any{"preferred_username": "a@x.org"}, "a@x.org", ""},
		"claim is a number":         {"uid", map[string]any{"uid": 1007}, "1007", ""},
		"claim is sub":              {"sub", nil, "alice-1", ""},
		"claim missing":             {"upn", map[string]any{"email": "a@x.org", "email_verified": true}, "", `sends no claim "upn", which spec.username_claim of connector "dex" names; it sends aud, email,`},
		"claim a list":              {"upn", map[string]any{"upn": []string{"alice"}}, "", `no claim "upn"`},
		"claim email, not verified": {"email", map[string]any{"email": "a@x.org", "email_verified": false}, "", "is not verified"},
		"claim email, said nothing": {"email", map[string]any{"email": "a@x.org"}, "a@x.org", ""},
		"no name of ours":           {"name", map[string]any{"name": "Alice Liddell"}, "", "use ASCII letters"},
		"a line end":                {"name", map[string]any{"name": "alice\nroot"}, "", "use ASCII letters"},
		"confusable":                {"name", map[string]any{"name": "аlice"}, "", "use ASCII letters"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDouble(t)
			d.person = tc.person
			id, err := d.login(d.provider(func(s *api.OIDCSpec) { s.UsernameClaim, s.ClaimsToRoles = tc.claim, nil }))
			if tc.part != "" {
				wantError(t, err, api.CodeForbidden, tc.part)
			} else if err != nil || id.Username != tc.want {
				t.Errorf("%+v, %v", id, err)
			}
		})
	}
}

func TestAttributes(t *testing.T) {
	d := newDouble(t)
	d.person = map[string]any{
		"preferred_username": "alice", "groups": []any{"ops", "devs", "devs", "", 7, true, nil, []any{"nested"}, map[string]any{"a": "b"}, "a\nb", "a\u202eb", strings.Repeat("g", 257)},
		"level": json.Number("1e400"), "ratio": json.Number("0.10"), "admin": false, "amr": []string{"pwd", "otp"}, "acr": "mfa",
		"address": map[string]any{"country": "IS"}, "nothing": nil, "empty": []any{}, "blank": "", "na\nme": "x",
		"sid": "session", "jti": "id", "c_hash": "x", "email": "evil@corp.example.com", "email_verified": false,
		"picture": "data:" + strings.Repeat("x", 70_000), "kubernetes_groups": "system:masters", "_claim_names": map[string]string{}, "_claim_sources": map[string]any{},
	}
	id, err := d.login(d.provider())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{
		"preferred_username": {"alice"}, "groups": {"7", "devs", "ops", "true"}, "level": {"1e400"}, "ratio": {"0.10"}, "admin": {"false"},
		"amr": {"otp", "pwd"}, "acr": {"mfa"}, "email_verified": {"false"}, "kubernetes_groups": {"system:masters"},
	}
	if diff := cmp.Diff(want, id.Attributes); diff != "" {
		t.Error(diff)
	}
}

func TestTooManyAttributesAreRefused(t *testing.T) {
	var many []string
	for i := range 1001 {
		many = append(many, fmt.Sprint("group", i))
	}
	d := newDouble(t)
	d.person["groups"] = many
	_, err := d.login(d.provider())
	wantError(t, err, api.CodeForbidden, `"groups" has 1001 values, at most 1000 are allowed`)
}

func TestUserinfo(t *testing.T) {
	named := func(s *api.OIDCSpec) { s.ClaimsToRoles = []api.ClaimToRole{{Claim: "team", Value: "x"}} }
	ok := map[string]any{"preferred_username": "alice", "team": "token"}
	for name, tc := range map[string]struct {
		token, info map[string]any
		h           func(http.ResponseWriter, *http.Request)
		want        map[string][]string
		code        api.Code
		part        string
	}{
		"adds":            {ok, map[string]any{"phone": "1"}, nil, map[string][]string{"preferred_username": {"alice"}, "team": {"token"}, "phone": {"1"}}, "", ""},
		"token wins":      {ok, map[string]any{"team": "info", "preferred_username": "root"}, nil, map[string][]string{"preferred_username": {"alice"}, "team": {"token"}}, "", ""},
		"another's":       {ok, map[string]any{"sub": "bob-1"}, nil, nil, api.CodeUnauthenticated, "about different people (sub)"},
		"nobody's":        {ok, map[string]any{"sub": nil}, nil, nil, api.CodeUnauthenticated, "about different people (sub)"},
		"sub a list":      {ok, map[string]any{"sub": []string{"alice-1"}}, nil, nil, api.CodeUnauthenticated, "about different people (sub)"},
		"fails, spared":   {ok, map[string]any{}, fails, map[string][]string{"preferred_username": {"alice"}, "team": {"token"}}, "", ""},
		"fails, needed":   {map[string]any{"preferred_username": "alice"}, map[string]any{}, fails, nil, api.CodeUnavailable, "it answered 500 Internal Server Error"},
		"fails, nameless": {map[string]any{"team": "token"}, map[string]any{}, fails, nil, api.CodeForbidden, "spec.username_claim"},
		"garbage":         {map[string]any{}, map[string]any{}, answers("garbage"), nil, api.CodeUnavailable, "its userinfo has claims that can't be read"},
		"null":            {map[string]any{}, map[string]any{}, answers("null"), nil, api.CodeUnavailable, "its userinfo has claims that can't be read"},
		"twice":           {map[string]any{}, map[string]any{}, answers(`{"sub":"bob","sub":"alice-1"}`), nil, api.CodeUnavailable, "one of them twice"},
		"signed": {map[string]any{}, map[string]any{}, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/jwt")
		}, nil, api.CodeUnavailable, "a signed token"},
		"too large": {map[string]any{}, map[string]any{}, answers(strings.Repeat(" ", 1<<20+1)), nil, api.CodeUnavailable, "its answer is larger than 1024 KiB"},
		// whether an address is verified is said of one address
		"email of both, verified by info":  {map[string]any{"email": "a@x.org", "team": 1}, map[string]any{"email": "a@x.org", "email_verified": true}, nil, map[string][]string{"email": {"a@x.org"}, "email_verified": {"true"}, "team": {"1"}}, "", ""},
		"another email verified by info":   {map[string]any{"email": "boss@x.org", "team": 1}, map[string]any{"email": "a@x.org", "email_verified": true}, nil, nil, api.CodeForbidden, "spec.username_claim"},
		"no email in info, verified there": {map[string]any{"email": "boss@x.org", "team": 1}, map[string]any{"email_verified": true}, nil, nil, api.CodeForbidden, "spec.username_claim"},
		"email of info, verified by token": {map[string]any{"email_verified": true, "team": 1}, map[string]any{"email": "boss@x.org"}, nil, nil, api.CodeForbidden, "spec.username_claim"},
		"email of info":                    {map[string]any{"team": 1}, map[string]any{"email": "a@x.org", "email_verified": true}, nil, map[string][]string{"email": {"a@x.org"}, "email_verified": {"true"}, "team": {"1"}}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDouble(t)
			d.person, d.info = tc.token, tc.info
			if tc.h != nil {
				d.handlers["/userinfo"] = tc.h
			}
			id, err := d.login(d.provider(named))
			if tc.code != "" {
				wantError(t, err, tc.code, tc.part)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, id.Attributes); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestClaimsThatLieElsewhere(t *testing.T) {
	overage := map[string]any{
		"preferred_username": "alice", "_claim_names": map[string]string{"groups": "src1"},
		"_claim_sources": map[string]any{"src1": map[string]string{"endpoint": "https://graph.example.com/x", "access_token": "graph-token"}},
	}
	for name, tc := range map[string]struct {
		extra map[string]any
		edit  func(*api.OIDCSpec)
		part  string
	}{
		"named by the connector": {nil, func(*api.OIDCSpec) {}, `left claim "groups" out`},
		"named by nobody":        {nil, func(s *api.OIDCSpec) { s.ClaimsToRoles = nil }, ""},
		"there all the same":     {map[string]any{"groups": "devs"}, func(*api.OIDCSpec) {}, ""},
		"as username":            {nil, func(s *api.OIDCSpec) { s.ClaimsToRoles, s.UsernameClaim = nil, "groups" }, `left claim "groups" out`},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDouble(t)
			d.person = maps.Clone(overage)
			maps.Copy(d.person, tc.extra)
			id, err := d.login(d.provider(tc.edit))
			if tc.part != "" {
				wantError(t, err, api.CodeForbidden, tc.part)
			} else if err != nil || id.Attributes["_claim_names"] != nil {
				t.Errorf("%+v, %v", id, err)
			}
		})
	}
	d := newDouble(t)
	d.person = map[string]any{"preferred_username": "alice", "hasgroups": true}
	_, err := d.login(d.provider())
	wantError(t, err, api.CodeForbidden, "groups overage")
}
