package api

import (
	"regexp"
	"strings"
	"testing"
)

func TestHalfAnExpressionIsTakenForNone(t *testing.T) {
	for v, want := range map[string]bool{
		"^(dev|ops)": true, "^dev": true, "^dev-*": true, "(dev|ops)$": true, "dev$": true,
		"^(dev|ops)$": false, "^$": false, "dev": false, "dev-*": false, "*": false, "": false, "^": false, "$": false, "a^b$c": false,
	} {
		if got := HalfExpression(v); got != want {
			t.Errorf("%q: %v", v, got)
		}
	}
}

func TestPatterns(t *testing.T) {
	for _, tc := range []struct {
		pattern string
		yes, no []string
	}{
		{"", []string{""}, []string{"a"}},
		{"prod", []string{"prod"}, []string{"Prod", "prod1", ""}},
		{"*", []string{"", "a", "a\nb"}, nil},
		{"**", []string{"", "a"}, nil},
		{"eu-*", []string{"eu-", "eu-west"}, []string{"eu", "us-eu-"}},
		{"*-1", []string{"-1", "a-1"}, []string{"1", "a-12"}},
		{"eu-*-1", []string{"eu-west-1", "eu--1", "eu-a\nb-1"}, []string{"eu-1", "eu-west-2"}},
		{"a*b*c", []string{"abc", "a1b2c", "abbbc"}, []string{"acb", "ab", "ac"}},
		{"aba*aba", []string{"abaaba"}, []string{"aba", "ababa"}},
		{"eu.west.*", []string{"eu.west."}, []string{"eu-west-1"}},
		{"^eu-(west|north)-[0-9]$", []string{"eu-west-1"}, []string{"eu-west-12", "xeu-west-1"}},
		{"^eu|us$", []string{"eu", "us"}, []string{"eu-1", "the-us"}},
		{"^(?m)prod$", []string{"prod"}, []string{"prod\nevil"}},
		{"^$", []string{""}, []string{"a"}},
		{"^", []string{"^"}, []string{""}},
		{"$", []string{"$"}, []string{""}},
	} {
		p, err := CompilePattern(tc.pattern)
		if err != nil {
			t.Errorf("%s: %v", tc.pattern, err)
		}
		for _, v := range append(tc.yes, tc.no...) {
			if got, want := p.Match(v), len(tc.yes) > 0 && strings.Contains("\x00"+strings.Join(tc.yes, "\x00")+"\x00", "\x00"+v+"\x00"); got != want {
				t.Errorf("%q against %q: %v", tc.pattern, v, got)
			}
		}
	}
	for _, bad := range []string{"^($", "^a)|(?:b$", `^a\$`} {
		if _, err := CompilePattern(bad); err == nil {
			t.Errorf("%s: accepted", bad)
		}
	}
}

// FuzzPattern compares globs with the regular expressions that they stand for.
func FuzzPattern(f *testing.F) {
	f.Add("*", "x")
	f.Add("a*b", "ab")
	f.Add("^a.*$", "ab")
	f.Fuzz(func(t *testing.T, pattern, v string) {
		p, err := CompilePattern(pattern)
		if err != nil || p.re != nil {
			return
		}
		want := pattern == v
		if strings.Contains(pattern, "*") {
			re, err := regexp.Compile(`(?s)\A` + strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, ".*") + `\z`)
			if err != nil { // not UTF-8
				return
			}
			want = re.MatchString(v)
		}
		if p.Match(v) != want {
			t.Fatalf("%q against %q: %v", pattern, v, !want)
		}
	})
}
