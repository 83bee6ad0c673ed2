package api

import (
	"strings"
	"testing"
)

func TestParseServerName(t *testing.T) {
	for name, want := range map[string]struct {
		to    Audience
		label string
	}{
		"":                                  {AudienceWeb, ""},
		"tele.example.com":                  {AudienceWeb, ""},
		"api.tele.example.com":              {AudienceAPI, ""},
		"API.Tele.Example.COM.":             {AudienceAPI, ""},
		"cookie.kube.tele.example.com":      {AudienceKube, "cookie"},
		"COOKIE.KUBE.tele.example.com":      {AudienceKube, "cookie"},
		"a.b.kube.tele.example.com":         {AudienceKube, ""},
		".kube.tele.example.com":            {AudienceKube, ""},
		"join.tele.example.com":             {AudienceJoin, ""},
		"JOIN.Tele.Example.com.":            {AudienceJoin, ""},
		"a.join.tele.example.com":           {AudienceWeb, ""},
		".join.tele.example.com":            {AudienceWeb, ""},
		"rejoin.tele.example.com":           {AudienceWeb, ""},
		"join.kube.tele.example.com":        {AudienceKube, "join"},
		"join.tunnel.tele.example.com":      {AudienceTunnel, "join"},
		"join.tele.example.com.evil":        {AudienceWeb, ""},
		"tunnel.tele.example.com":           {AudienceTunnel, ""},
		"R0.Tunnel.tele.example.com":        {AudienceTunnel, "r0"},
		"a.b.tunnel.tele.example.com":       {AudienceWeb, ""},
		".tunnel.tele.example.com":          {AudienceWeb, ""},
		"kube.tele.example.com":             {AudienceWeb, ""},
		"cookie.kube.tele.example.com.evil": {AudienceWeb, ""},
		"xapi.tele.example.com":             {AudienceWeb, ""},
		"apitele.example.com":               {AudienceWeb, ""},
	} {
		if to, label := ParseServerName(name, "Tele.example.com"); to != want.to || label != want.label {
			t.Errorf("%q: %v %q, want %v %q", name, to, label, want.to, want.label)
		}
	}
}

// FuzzParseServerName: whatever a cluster is called, its server name leads back
// to its label, and no other name leads to the API or to where agents join.
func FuzzParseServerName(f *testing.F) {
	for _, s := range []string{"cookie", "Prod_1", "x-ab", "a.b", "api", "join.c.example", "JOIN.c.example.", "a.join.c.example", "", ".kube.", "api.c.example.kube.c.example"} {
		f.Add(s)
	}
	const cluster = "c.example"
	f.Fuzz(func(t *testing.T, name string) {
		if to, label := ParseServerName(KubeServerName(name, cluster), cluster); to != AudienceKube || label != KubeLabel(name) {
			t.Errorf("%q: %v %q", name, to, label)
		}
		to, label := ParseServerName(name, cluster)
		if to == AudienceAPI && strings.ToLower(strings.TrimSuffix(name, ".")) != APIServerName(cluster) {
			t.Errorf("%q is taken for the API", name)
		}
		if to == AudienceJoin && strings.ToLower(strings.TrimSuffix(name, ".")) != JoinServerName(cluster) {
			t.Errorf("%q is taken for where agents join", name)
		}
		if to != AudienceKube && to != AudienceTunnel && label != "" {
			t.Errorf("%q: %v with label %q", name, to, label)
		}
	})
}

func TestValidateClusterName(t *testing.T) {
	for name, want := range map[string]bool{
		"x": true, "tele.example.com": true, "a-b.0": true,
		"": false, "Tele.example.com": false, "-a.b": false, "a-.b": false, "a..b": false, "a.b.": false, "a_b": false, "*.a": false,
		strings.Repeat("a", 64): false, strings.Repeat("a.", 89) + "aa": true, strings.Repeat("a.", 90) + "a": false,
	} {
		if err := ValidateClusterName(name); (err == nil) != want {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestHostnameHasOneSpelling(t *testing.T) {
	for from, want := range map[string]string{
		"": "", "tele.example.com": "tele.example.com", "Tele.Example.COM.": "tele.example.com", "TELE.example.com:443": "tele.example.com",
		"tele.example.com.:80": "tele.example.com", "tele.example.com:": "tele.example.com", "[::1]:443": "::1", "::1": "::1", "127.0.0.1:3080": "127.0.0.1",
	} {
		if got := Hostname(from); got != want {
			t.Errorf("%q: %q", from, got)
		}
	}
}
