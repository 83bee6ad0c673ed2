package github

import (
	"net/url"
	"strings"
	"testing"
)

func TestNextPage(t *testing.T) {
	base := &url.URL{Scheme: "https", Host: "ghe.example.com", Path: "/api/v3"}
	const page = "https://ghe.example.com/api/v3/user/teams?page=2"
	for name, test := range map[string]struct {
		headers     []string
		want, wrong string
	}{
		"none":              {nil, "", ""},
		"GitHub's":          {[]string{`<https://ghe.example.com/api/v3/user/teams?page=1>; rel="prev", <` + page + `>; rel="next", <https://ghe.example.com/api/v3/user/teams?page=9>; rel="last"`}, page, ""},
		"last page":         {[]string{`<https://ghe.example.com/api/v3/user/teams?page=1>; rel="first"`}, "", ""},
		"two headers":       {[]string{`<https://ghe.example.com/x>; rel=first`, `<` + page + `>; rel=next`}, page, ""},
		"several relations": {[]string{`<` + page + `>; title="a"; REL="last NEXT"`}, page, ""},
		"port":              {[]string{`<https://GHE.example.com:443/api/v3/user/teams>; rel="next"`}, "https://GHE.example.com:443/api/v3/user/teams", ""},
		"http":              {[]string{`<http://ghe.example.com/api/v3/user/teams>; rel="next"`}, "", "is not at"},
		"another host":      {[]string{`<https://evil.example.com/api/v3/user/teams>; rel="next"`}, "", "is not at"},
		"another port":      {[]string{`<https://ghe.example.com:8443/api/v3/user/teams>; rel="next"`}, "", "is not at"},
		"user information":  {[]string{`<https://ghe.example.com@evil.example.com/api/v3/>; rel="next"`}, "", "is not at"},
		"outside the API":   {[]string{`<https://ghe.example.com/login/oauth/access_token>; rel="next"`}, "", "outside the API"},
		"dots":              {[]string{`<https://ghe.example.com/api/v3/../../x>; rel="next"`}, "", "outside the API"},
		"unclosed":          {[]string{`<https://ghe.example.com/api/v3/user`}, "", "can't be read"},
		"long":              {[]string{strings.Repeat("a", 20_000)}, "", "too long"},
	} {
		u, err := nextPage(base, test.headers)
		got := ""
		if u != nil {
			got = u.String()
		}
		if got != test.want || (err == nil) != (test.wrong == "") || err != nil && !strings.Contains(err.Error(), test.wrong) {
			t.Errorf("%s: %q, %v; want %q, %q", name, got, err, test.want, test.wrong)
		}
	}
}

// FuzzAnswers holds that whatever an API answers, ids are positive, names are plain, and
// pages stay where the connector says.
func FuzzAnswers(f *testing.F) {
	for _, seed := range []string{
		`{"id": 1, "login": "alice"}`, `[{"id": 1, "login": "octocats"}]`, `[{"slug": "devs", "organization": {"id": 7, "login": "octocats"}}]`,
		`[{"slug": "de\u0000vs", "organization": {"id": -7, "login": "\ud800"}}]`, `null`, `[null]`, `[{"organization": null}]`, `[[[[`, `{"id": 1e300, "login": 5}`,
		`{"ID": 1, "id": -1, "login": "a", "LOGIN": "b/c"}`, "\xff", `[{"slug": "a", "organization": {"id": 9223372036854775807, "login": "o"}}] `,
	} {
		f.Add([]byte(seed), `<https://ghe.example.com/api/v3/user/teams?page=2>; rel="next"`)
	}
	for _, link := range []string{
		"", `<>; rel="next"`, `<//evil>; rel=next`, `<https://ghe.example.com/api/v3/x#f>;rel=next`, `<https://ghe.example.com:443/api/v3/%2e%2e/x>; rel="next"`,
		`<https://[::1]/api/v3/>; rel="next"`, `<<<>>>`, `<a>;rel=prev,<https://ghe.example.com/api/v3/y>;rel="x next"`,
	} {
		f.Add([]byte(`[]`), link)
	}
	base := &url.URL{Scheme: "https", Host: "ghe.example.com", Path: "/api/v3"}
	f.Fuzz(func(t *testing.T, body []byte, link string) {
		if a, err := parseAccount(body); err == nil && (a.ID <= 0 || !plain(a.Login)) {
			t.Errorf("account %+v", a)
		}
		teams, err := parseTeams(body)
		if err != nil && teams != nil {
			t.Errorf("%v beside %v", teams, err)
		}
		for _, team := range teams {
			if team.OrganizationID <= 0 || !plain(team.Slug) || !plain(team.Organization) {
				t.Errorf("team %+v", team)
			}
		}
		orgs, err := parseOrgs(body)
		if err != nil && orgs != nil {
			t.Errorf("%v beside %v", orgs, err)
		}
		for _, login := range orgs {
			if !plain(login) {
				t.Errorf("organization %q", login)
			}
		}
		u, err := nextPage(base, []string{link})
		if u == nil || err != nil {
			return
		}
		again, err := url.Parse(u.String())
		if err != nil || again.Scheme != "https" || !strings.EqualFold(again.Hostname(), "ghe.example.com") || again.User != nil ||
			again.Port() != "" && again.Port() != "443" || !strings.HasPrefix(again.Path, "/api/v3/") || strings.Contains(again.Path, "/../") {
			t.Errorf("next page %q of %q", u, link)
		}
	})
}
