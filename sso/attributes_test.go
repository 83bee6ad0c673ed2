package sso

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
)

func values(n int, text string) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprint(text, i)
	}
	return out
}

func TestCleanLeavesOutWhatNoRuleCouldName(t *testing.T) {
	got, err := Clean(map[string][]string{
		"groups":                   {"ops", "devs", "ops", "", "a\nb", "a\x00b", "a\x7fb", "a\u0085b", "a\u2028b", "a\u202eb", "a\u2066b", "\xff", "a\ufffdb", strings.Repeat("g", 257), strings.Repeat("g", 256), "größe", "می\u200cخواهم"},
		"":                         {"x"},
		"a\rb":                     {"x"},
		"\xff":                     {"x"},
		strings.Repeat("n", 257):   {"x"},
		"nothing":                  {},
		"nothing that is readable": {"\x1b[31m"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{"groups": {"devs", strings.Repeat("g", 256), "größe", "ops", "می\u200cخواهم"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestCleanBoundsWhatSessionsCarry(t *testing.T) {
	many := func(n int) map[string][]string {
		m := map[string][]string{}
		for _, name := range values(n, "name") {
			m[name] = []string{"x"}
		}
		return m
	}
	for name, tc := range map[string]struct {
		raw  map[string][]string
		part string
	}{
		"values":             {map[string][]string{"groups": values(1000, "g")}, ""},
		"values twice":       {map[string][]string{"groups": append(values(1000, "g"), values(1000, "g")...)}, ""},
		"too many values":    {map[string][]string{"groups": values(1001, "g")}, `"groups" has 1001 values, at most 1000 are allowed`},
		"names":              {many(100), ""},
		"too many names":     {many(101), "101 of them, at most 100 are allowed"},
		"too many bytes":     {map[string][]string{"groups": values(300, strings.Repeat("g", 240))}, "at most 65536 are allowed"},
		"what is left out":   {map[string][]string{"picture": {strings.Repeat("p", 1<<20)}}, ""},
		"the first is named": {map[string][]string{"b": values(2000, "g"), "a": values(1001, "g")}, `"a" has 1001 values`},
		"nothing":            {nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Clean(tc.raw)
			if tc.part == "" && err != nil || tc.part != "" && (!api.IsCode(err, api.CodeForbidden) || !strings.Contains(err.Error(), tc.part)) {
				t.Errorf("%v, want %q", err, tc.part)
			}
		})
	}
}

func FuzzClean(f *testing.F) {
	f.Add("groups", "devs", "a\u202eb")
	f.Add("\xff", "\x00", strings.Repeat("x", 300))
	f.Fuzz(func(t *testing.T, name, a, b string) {
		out, err := Clean(map[string][]string{name: {a, b}})
		if err != nil {
			t.Fatal(err)
		}
		for name, values := range out {
			for _, v := range append(values, name) {
				if !Readable(v) {
					t.Fatalf("%q was kept", v)
				}
			}
		}
		again, err := Clean(out)
		if diff := cmp.Diff(out, again); err != nil || diff != "" {
			t.Fatalf("%v: not stable: %s", err, diff)
		}
	})
}
