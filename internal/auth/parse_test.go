package auth

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
)

func TestTemplates(t *testing.T) {
	have := localTraits(map[string][]string{"g": {"dev", "ops"}, "http://x/claims": {"c"}, "empty": {""}, "evil": {"a\r\nImpersonate-Group: b"}, "comma": {"a,b"}})
	for _, tc := range []struct {
		in   string
		want []string
		err  string
	}{
		{"viewers", []string{"viewers"}, ""},
		{"{{internal.g}}", []string{"dev", "ops"}, ""},
		{"{{ external.g }}", []string{"dev", "ops"}, ""},
		{"team-{{external.g}}-x", []string{"team-dev-x", "team-ops-x"}, ""},
		{`{{external["http://x/claims"]}}`, []string{"c"}, ""},
		{"{{internal.absent}}", nil, ""},
		{"p-{{internal.absent}}", nil, ""},
		{"{{internal.empty}}", nil, ""},
		{"{{internal.evil}}", nil, "printable ASCII"},
		{"{{internal.comma}}", nil, "without commas"},
		{"{{internal.g", nil, "without }}"},
		{"internal.g}}", nil, "without {{"},
		{"{{internal.g}}{{internal.g}}", nil, "one {{"},
		{"{{g}}", nil, "want internal.TRAIT"},
		{"{{internal.}}", nil, "want internal.TRAIT"},
		{"{{email.local(external.g)}}", nil, "functions"},
		{"{{internalg}}", nil, "want internal.TRAIT"},
	} {
		tpl, err := parseTemplate(tc.in)
		var got []string
		if err == nil {
			got, err = tpl.expand("kubernetes_groups", have, nil)
		}
		if tc.err == "" && err != nil || tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) {
			t.Errorf("%s: error %v, want %q", tc.in, err, tc.err)
			continue
		}
		if d := cmp.Diff(tc.want, got); d != "" {
			t.Errorf("%s: %s", tc.in, d)
		}
	}
}

func TestLabels(t *testing.T) {
	prod := map[string]string{"env": "prod", "region": "eu-west-1"}
	for _, tc := range []struct {
		name   string
		labels map[string]api.Values
		have   map[string]string
		want   bool
	}{
		{"no labels allow nothing", nil, prod, false},
		{"everything", map[string]api.Values{"*": {"*"}}, prod, true},
		{"everything, cluster without labels", map[string]api.Values{"*": {"*"}}, nil, true},
		{"exact", map[string]api.Values{"env": {"prod"}}, prod, true},
		{"exact, other value", map[string]api.Values{"env": {"dev"}}, prod, false},
		{"key is exact", map[string]api.Values{"En*": {"prod"}}, prod, false},
		{"value is case-sensitive", map[string]api.Values{"env": {"Prod"}}, prod, false},
		{"any value", map[string]api.Values{"env": {"*"}}, prod, true},
		{"any value needs the key", map[string]api.Values{"team": {"*"}}, prod, false},
		{"values or", map[string]api.Values{"env": {"dev", "prod"}}, prod, true},
		{"keys and", map[string]api.Values{"env": {"prod"}, "region": {"us-*"}}, prod, false},
		{"keys and, all", map[string]api.Values{"env": {"prod"}, "region": {"eu-*"}}, prod, true},
		{"everything and a key", map[string]api.Values{"*": {"*"}, "env": {"dev"}}, prod, false},
		{"glob is whole", map[string]api.Values{"region": {"eu"}}, prod, false},
		{"glob in the middle", map[string]api.Values{"region": {"eu-*-1"}}, prod, true},
		{"glob does not read regexp", map[string]api.Values{"region": {"eu.west.*"}}, prod, false},
		{"regexp", map[string]api.Values{"region": {"^eu-(west|north)-[0-9]$"}}, prod, true},
		{"regexp is anchored", map[string]api.Values{"region": {"^west$"}}, prod, false},
		{"each branch of a regexp is whole", map[string]api.Values{"region": {"^eu|us$"}}, prod, false},
		{"the last branch too", map[string]api.Values{"region": {"^us|west-1$"}}, prod, false},
		{"a branch of a regexp", map[string]api.Values{"region": {"^us-1|eu-west-1$"}}, prod, true},
		{"regexp of lines is whole", map[string]api.Values{"env": {"^(?m)prod$"}}, map[string]string{"env": "prod\nevil"}, false},
		{"empty regexp", map[string]api.Values{"env": {"^$"}}, map[string]string{"env": ""}, true},
		{"glob and line break", map[string]api.Values{"env": {"pr*"}}, map[string]string{"env": "pr\nod"}, true},
	} {
		m, err := compileLabels(tc.labels)
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
		} else if got := m.match(tc.have); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
	for name, labels := range map[string]map[string]api.Values{
		"broken regexp": {"env": {"^($"}}, "regexp that closes our group": {"env": {"^a)|(?:b$"}}, "regexp without an end": {"env": {`^a\$`}},
		"wildcard key with a value": {"*": {"prod"}}, "wildcard key with values": {"*": {"*", "prod"}},
	} {
		if _, err := compileLabels(labels); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestStoredRoleWithUnknownFieldKnowsSo(t *testing.T) {
	for name, want := range map[string]bool{
		`{"kind":"role","version":"v7","metadata":{"name":"a"},"spec":{}}`:                                                             false,
		`{"kind":"role","version":"v7","metadata":{"name":"a"},"spec":{"deny":{"kubernetes_resources":[]}}}`:                           true,
		`{"kind":"role","version":"v7","metadata":{"name":"a"},"spec":{"options":{"require_session_mfa":true}}}`:                       true,
		`{"kind":"role","version":"v7","metadata":{"name":"a"},"spec":{"deny":{"kubernetes_groups":["{{email.local(external.g)}}"]}}}`: true,
	} {
		var r role
		if err := json.Unmarshal([]byte(name), &r); err != nil {
			t.Fatal(err)
		}
		if (r.unknown != nil) != want {
			t.Errorf("%s: %v", name, r.unknown)
		}
	}
}

func TestPHC(t *testing.T) {
	good := phc{argonParams{19456, 2, 1}, []byte("0123456789abcdef"), []byte("0123456789abcdef0123456789abcdef")}.String()
	if h, err := parsePHC(good); err != nil || h.String() != good || !strings.HasPrefix(good, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Fatal(h, err)
	}
	for _, bad := range []string{
		"", "$", "$$$$$", good + "$", good + "\n", strings.Replace(good, "argon2id", "argon2i", 1), strings.Replace(good, "v=19", "v=16", 1),
		strings.Replace(good, "m=19456", "m=4294967295", 1), strings.Replace(good, "t=2", "t=0", 1), strings.Replace(good, "t=2", "t=1000", 1),
		strings.Replace(good, "p=1", "p=255", 1), strings.Replace(good, "p=1", "p=+1", 1), strings.Replace(good, "m=19456,t=2", "t=2,m=19456", 1),
		strings.Replace(good, "m=19456", "m=019456", 1), "$argon2id$v=19$m=19456,t=2,p=1$$", "$argon2id$v=19$m=19456,t=2,p=1$AAAA$AAAA",
	} {
		if h, err := parsePHC(bad); err == nil {
			t.Errorf("%q accepted as %+v", bad, h)
		}
	}
}

func FuzzParsePHC(f *testing.F) {
	f.Add(phc{argonParams{19456, 2, 1}, make([]byte, 16), make([]byte, 32)}.String())
	f.Add("$argon2id$v=19$m=1,t=1,p=1$AA$AA")
	f.Fuzz(func(t *testing.T, s string) {
		if h, err := parsePHC(s); err == nil && (h.String() != s || h.memory > 1<<20 || h.time > 16) {
			t.Fatalf("%q reads as %q", s, h)
		}
	})
}

func FuzzTemplate(f *testing.F) {
	for _, s := range []string{"a", "{{internal.g}}", "x-{{external.g}}-y", `{{external["g"]}}`, "{{", "}}", "{{}}"} {
		f.Add(s, "value")
	}
	f.Fuzz(func(t *testing.T, s, value string) {
		tpl, err := parseTemplate(s)
		if err != nil || tpl.trait == "" {
			return
		}
		out, err := tpl.expand("g", localTraits(map[string][]string{tpl.trait: {value}}), nil)
		if err != nil {
			return
		}
		for _, name := range out {
			if api.ValidateGroup("g", name) != nil {
				t.Fatalf("%q gives %q", s, name)
			}
		}
	})
}
