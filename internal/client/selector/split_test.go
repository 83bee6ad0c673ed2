package selector

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCommasInExpressionsSplitNothing(t *testing.T) {
	for _, tc := range []struct{ values, want []string }{
		{nil, nil},
		{[]string{""}, nil},
		{[]string{"a=b, c=d ,,e"}, []string{"a=b", "c=d", "e"}},
		{[]string{"a=b", "c=d,e=f"}, []string{"a=b", "c=d", "e=f"}},
		{[]string{"env=^a{1,2}$"}, []string{"env=^a{1,2}$"}},
		{[]string{"env=^a{1,2}$,region=eu,x=^(y|z, w)$ , v=w"}, []string{"env=^a{1,2}$", "region=eu", "x=^(y|z, w)$", "v=w"}},
		{[]string{"env = ^a{1,2}$"}, []string{"env = ^a{1,2}$"}},
		{[]string{"env=^dev|prod$,a=b"}, []string{"env=^dev|prod$", "a=b"}},
		{[]string{"env=^x,a=b"}, []string{"env=^x", "a=b"}}, // no expression
		{[]string{"a=b,env=^a{1,2}$"}, []string{"a=b", "env=^a{1,2}$"}},
		{[]string{"env=^a,b$,c=^d,e$"}, []string{"env=^a,b$", "c=^d,e$"}},
	} {
		if diff := cmp.Diff(tc.want, Split(tc.values)); diff != "" {
			t.Errorf("%q: (-want +got)\n%s", tc.values, diff)
		}
	}
}

// FuzzSplit: it ends, and loses nothing but commas and blanks.
func FuzzSplit(f *testing.F) {
	for _, seed := range []string{"a=b,c=^d,e$", "=^,$", ",,^", "a=^,,b", "a=^$,$"} {
		f.Add(seed)
	}
	bare := strings.NewReplacer(",", "")
	f.Fuzz(func(t *testing.T, text string) {
		got := bare.Replace(strings.Join(strings.Fields(strings.Join(Split([]string{text}), " ")), ""))
		if want := strings.Join(strings.Fields(bare.Replace(text)), ""); got != want {
			t.Fatalf("%q, want %q", got, want)
		}
	})
}
