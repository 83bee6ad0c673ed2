package api

import (
	"strings"
	"testing"
)

func TestAddressesOfTheClusterLeaveTheDefaultPortOut(t *testing.T) {
	for public, want := range map[string]string{
		"tele.example.com:443":  "https://tele.example.com/v1/webapi/oidc/callback",
		"tele.example.com":      "https://tele.example.com/v1/webapi/oidc/callback",
		"tele.example.com:3080": "https://tele.example.com:3080/v1/webapi/oidc/callback",
		"[2001:db8::1]:443":     "https://[2001:db8::1]/v1/webapi/oidc/callback",
	} {
		if got := CallbackURL(public, PathOIDCCallback); got != want {
			t.Errorf("%s: %s, want %s", public, got, want)
		}
	}
}

func TestAddressesOfIdentityProviders(t *testing.T) {
	for address, want := range map[string]string{
		"https://idp.example.com":              "",
		"https://idp.example.com:8443/a/b?x=1": "",
		"https://[::1]/":                       "",
		"http://idp.example.com":               "want https",
		"http://127.0.0.1":                     "want https",
		"https:idp.example.com":                "is no address",
		"https://":                             "is no address",
		"https://[::1":                         "is no address",
		"idp.example.com":                      "is no address",
		"https://u:geheim@idp.example.com":     "must not hold a user",
		"https://idp.example.com#":             "begins with #",
		"https://idp.example.com:0":            "port 0",
		"https://idp.example.com:65536":        "port 65536",
		"https://id\u0440.example.com":         "xn--",
		"https://idp.example.com/a b":          "without spaces",
		"https://" + strings.Repeat("x", 2048): "2048",
		"":                                     "is no address",
	} {
		u, err := HTTPSURL(address, true)
		if want == "" {
			if err != nil || u.String() != address {
				t.Errorf("%s: %v, %v", address, u, err)
			}
			continue
		}
		if u != nil || err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s: %v, want …%s…", address, err, want)
		}
	}
	if _, err := HTTPSURL("https://idp.example.com?", false); err == nil {
		t.Error("a query that may not be there was taken")
	}
}

// A kind of connectors is known as a whole or not at all.
func TestConnectorsOfAllKinds(t *testing.T) {
	for _, kind := range ConnectorKinds() {
		c := NewConnector(kind)
		if c == nil || c.ConnectorKind() != kind {
			t.Fatal(kind, c)
		}
		c.Head().Metadata.Name = "my idp"
		field, paths := c.Callback()
		if field.Value != "" || len(paths) != 2 || paths[0] == paths[1] || !strings.HasSuffix(strings.Join(paths, ""), "/my%20idp") && !strings.Contains(paths[0], "/my%20idp") {
			t.Error(kind, field, paths)
		}
		c.SetCallback("https://a.example.com/x")
		if field, _ = c.Callback(); field.Value != "https://a.example.com/x" {
			t.Error(kind, field)
		}
		if rows := c.Rows(); len(rows) != 0 || c.RowNoun() == "" {
			t.Error(kind, rows)
		}
	}
	if c := NewConnector(KindRole); c != nil {
		t.Error(c)
	}
	c := githubConnector(func(s *GithubSpec) {
		s.TeamsToLogins = []TeamToLogins{{Organization: "OctoCats", Team: "admin"}}
		s.TeamsToRoles = append(s.TeamsToRoles, TeamToRoles{"b", "t", []string{"dev"}})
	})
	if rows := c.Rows(); len(rows) != 3 || rows[0].Roles[0] != RoleAccess || rows[2].Path != "spec.teams_to_roles[1]" || rows[2].List() != "spec.teams_to_roles" {
		t.Error(rows)
	}
	if names := c.Organizations(); strings.Join(names, " ") != "b octocats" {
		t.Error(names)
	}
}
