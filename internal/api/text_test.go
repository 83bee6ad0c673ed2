package api

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestTextOfStrangersIsOnePrintableLine(t *testing.T) {
	for name, tc := range map[string]struct {
		in   string
		most int
		want string
	}{
		"as it is":            {"v1.34.1 grün 日本", 64, "v1.34.1 grün 日本"},
		"escapes":             {"it says\x1b[31m no\n", 64, "it says [31m no"},
		"lines":               {"a\r\nb\u2028c\u2029d\u0085e", 64, "a  b c d e"},
		"unseen and reversed": {"a\u200bb\u202ec\u2066d\ufeffe", 64, "abcde"},
		"broken UTF-8":        {"a\xff\xfeb\ufffd", 64, "a  b"},
		"long":                {strings.Repeat("a", 100), 10, strings.Repeat("a", 10)},
		"cut between":         {"aé", 2, "a"},
		"cut to nothing":      {"日本", 2, ""},
		"broken to the end":   {strings.Repeat("\x80", 9), 3, ""},
		"spaces around":       {" \t a ", 64, "a"},
	} {
		if got := CleanText(tc.in, tc.most); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

func FuzzCleanText(f *testing.F) {
	f.Add("a\x1b[0m\u202e\xff", 4)
	f.Fuzz(func(t *testing.T, s string, most int) {
		most = min(max(most, 0), 1<<16)
		got := CleanText(s, most)
		if len(got) > most || !utf8.ValidString(got) || checkText(got, most) != nil || CleanText(got, most) != got {
			t.Errorf("%q becomes %q", s, got)
		}
	})
}

func TestShapesOfIDs(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 2)
	for s, want := range map[string]struct{ agent, token bool }{
		id: {agent: true}, id[:16]: {token: true}, TokenID("secret"): {token: true},
		"": {}, id[1:]: {}, id + "0": {}, strings.ToUpper(id): {}, strings.ToUpper(id[:16]): {}, id[:15] + "g": {}, id[:31] + "g": {}, id[:15] + "\n": {},
		id[:8] + "-" + id[:7]: {},
	} {
		if ValidAgentID(s) != want.agent || IsTokenID(s) != want.token {
			t.Errorf("%q: agent %v, token %v", s, ValidAgentID(s), IsTokenID(s))
		}
	}
}
