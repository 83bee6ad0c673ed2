package settings

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

func editFlags() []cliapp.Flag {
	return []cliapp.Flag{{Name: "user"}, {Name: "ttl", Kind: cliapp.Duration}, {Name: "browser", Values: []string{"auto", "none"}}}
}

func TestSetLeavesTheRest(t *testing.T) {
	ttl := &editFlags()[1]
	for name, test := range map[string]struct{ src, want string }{
		"nothing":          {"", "ttl: 1h\n"},
		"comments alone":   {"# a\n", "# a\nttl: 1h\n"},
		"no end of line":   {"user: x", "user: x\nttl: 1h\n"},
		"in its place":     {"ttl: 2h\nuser: x\n", "ttl: 1h\nuser: x\n"},
		"comment stays":    {"ttl:   '2h'   # c\n# d\n", "ttl: 1h # c\n# d\n"},
		"below its sample": {"# life\n#ttl: 12h\n\n#user: x\n", "# life\n#ttl: 12h\nttl: 1h\n\n#user: x\n"},
		"Windows":          {"ttl: 2h\r\nuser: x\r\n", "ttl: 1h\r\nuser: x\r\n"},
		"no value":         {"ttl:\nuser: x\n", "ttl: 1h\nuser: x\n"},
		"marker":           {"---\nttl: 2h\n", "---\nttl: 1h\n"},
	} {
		got, err := Set([]byte(test.src), ttl, "1h")
		if err != nil || string(got) != test.want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, test.want)
		}
	}
	for _, src := range []string{"{ttl: 1h}\n", "- ttl\n", "ttl: |\n  2h\n", "ttl:\n  2h\n", "ttl: [2h,\n 3h]\n", "ttl: \"2h\n  3h\"\n", "ttl: 2\n  h\n", "x: [\n"} {
		if got, err := Set([]byte(src), ttl, "1h"); err == nil {
			t.Errorf("%q became %q", src, got)
		}
	}
}

// FuzzEdit: an edit of a right file gives a right file with that one setting
// changed, or is refused.
func FuzzEdit(f *testing.F) {
	for _, src := range []string{"", "# c\nuser: alice # me\n\nttl: 2h\n", "#user: NAME\n", "user: 'a b'\r\nbrowser: none", "---\nuser: x\n...\n", "user: x # y\n  # z\n", "? user\n: x\n", "user: |-\n  x\n"} {
		f.Add([]byte(src), "bob")
		f.Add([]byte(src), "a # b: c")
	}
	f.Add([]byte(nil), "\xbd")
	f.Add([]byte("~"), "0")
	f.Add([]byte("\r "), "0")
	f.Fuzz(func(t *testing.T, src []byte, value string) {
		flags := editFlags()
		before, err := Parse("f", src, flags)
		if err != nil || strings.TrimSpace(value) == "" {
			return
		}
		plain := func(b []byte) map[string]string {
			got, err := Parse("f", b, flags)
			if err != nil {
				t.Fatalf("%q became %q: %v", src, b, err)
			}
			out := map[string]string{}
			for name, s := range got {
				out[name] = s.Values[0]
			}
			return out
		}
		want := map[string]string{}
		for name, s := range before {
			want[name] = s.Values[0]
		}
		edited, err := Set(src, &flags[0], value)
		if err != nil {
			return
		}
		want["user"] = value
		if diff := cmp.Diff(want, plain(edited)); diff != "" {
			t.Fatalf("%q became %q\n%s", src, edited, diff)
		}
		removed, err := Unset(edited, "user")
		if err != nil {
			return // an unusual line break, say
		}
		delete(want, "user")
		if diff := cmp.Diff(want, plain(removed)); diff != "" {
			t.Fatalf("%q became %q\n%s", edited, removed, diff)
		}
		if i := bytes.Count(src, []byte("#")); bytes.Count(edited, []byte("#")) < i && !strings.Contains(string(src), "user") {
			t.Fatalf("%q lost a comment: %q", src, edited)
		}
	})
}
