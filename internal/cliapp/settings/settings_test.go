package settings

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

func demoFlags() []cliapp.Flag {
	return []cliapp.Flag{
		{Name: "cluster-name", Usage: "public DNS `NAME` of the cluster"},
		{Name: "listen-addr", Usage: "listen on `ADDR`", Default: ":3080"},
		{Name: "join", Kind: cliapp.Strings, Usage: "find other replicas at gossip addresses `ADDR`"},
		{Name: "max-stale", Kind: cliapp.Duration, Usage: "let sessions go on for `DURATION` on a replica that hears from no leader; 0 to be strict", Default: "15m"},
		{Name: "count", Kind: cliapp.Int, Usage: "how many"},
		{Name: "strict", Kind: cliapp.Bool, Usage: "be strict"},
		{Name: "mode", Usage: "the `MODE`", Values: []string{"off", "on"}, Default: "off"},
		{Name: "secret-thing", Hidden: true},
	}
}

func TestFilesAreReadAsTheyAreWritten(t *testing.T) {
	for _, test := range []struct {
		name, text string
		want       map[string]cliapp.Setting
	}{
		{"nothing", "", map[string]cliapp.Setting{}},
		{"comments", "# a\n\n# b\n", map[string]cliapp.Setting{}},
		{"a marker alone", "---\n", map[string]cliapp.Setting{}},
		{"each kind", "cluster_name: tele.example.com\njoin: [a:1, 'b:2']\nmax_stale: 1h\ncount: 3\nstrict: true\n", map[string]cliapp.Setting{
			"cluster-name": {Values: []string{"tele.example.com"}, Source: "f.yaml, line 1"},
			"join":         {Values: []string{"a:1", "b:2"}, Source: "f.yaml, line 2"},
			"max-stale":    {Values: []string{"1h"}, Source: "f.yaml, line 3"},
			"count":        {Values: []string{"3"}, Source: "f.yaml, line 4"},
			"strict":       {Values: []string{"true"}, Source: "f.yaml, line 5"},
		}},
		{"words that YAML has types for", "mode: on\nlisten_addr: 0700\ncluster_name: \"\"\n", map[string]cliapp.Setting{
			"mode":         {Values: []string{"on"}, Source: "f.yaml, line 1"},
			"listen-addr":  {Values: []string{"0700"}, Source: "f.yaml, line 2"},
			"cluster-name": {Values: []string{""}, Source: "f.yaml, line 3"},
		}},
		{"a list in lines, one in a line, none", "join:\n- a:1\n- b:2\n", map[string]cliapp.Setting{"join": {Values: []string{"a:1", "b:2"}, Source: "f.yaml, line 1"}}},
		{"a list as a flag has it", "join: a:1,b:2\n", map[string]cliapp.Setting{"join": {Values: []string{"a:1,b:2"}, Source: "f.yaml, line 1"}}},
		{"an empty list", "join: []\n", map[string]cliapp.Setting{"join": {Values: []string{}, Source: "f.yaml, line 1"}}},
		{"carriage returns", "count: 3\r\nstrict: true\r\n", map[string]cliapp.Setting{
			"count": {Values: []string{"3"}, Source: "f.yaml, line 1"}, "strict": {Values: []string{"true"}, Source: "f.yaml, line 2"},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Parse("f.yaml", []byte(test.text), demoFlags())
			if diff := cmp.Diff(test.want, got); diff != "" || err != nil {
				t.Error(err, diff)
			}
		})
	}
}

func TestMistakesAreNamedWithTheirLine(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"\nclustername: x\n", `f.yaml, line 2: unknown key "clustername", did you mean "cluster_name"?`},
		{"cluster-name: x\n", `f.yaml, line 1: unknown key "cluster-name", did you mean "cluster_name"?`},
		{"nonsense: x\n", `f.yaml, line 1: unknown key "nonsense"`},
		{"secret_thin: x\n", `f.yaml, line 1: unknown key "secret_thin"`},
		{"max_stale: soon\n", `f.yaml, line 1: max_stale: "soon" is not a duration such as 30m, 12h or 7d`},
		{"count: 1_000\n", `f.yaml, line 1: count: "1_000" is not a number`},
		{"strict: yes\n", `f.yaml, line 1: strict: "yes" is neither true nor false`},
		{"mode: onn\n", `f.yaml, line 1: mode: "onn" is none of off, on, did you mean "on"?`},
		{"count: 3\nstrict: true\ncount: 4\n", `f.yaml, line 3: count is set in line 1 already: remove one`},
		{"cluster_name: [a]\n", `f.yaml, line 1: cluster_name takes one value, not a list`},
		{"cluster_name:\n  name: a\n", `f.yaml, line 2: cluster_name takes a value, not keys of its own`},
		{"join:\n- a: 1\n", `f.yaml, line 2: join takes a value, not keys of its own`},
		{"join:\n- [a]\n", `f.yaml, line 2: join takes one value, not a list`},
		{"join:\n-\n", `f.yaml, line 2: join has no value: give one, or put # before the line for the default`},
		{"cluster_name:\n", `f.yaml, line 1: cluster_name has no value: give one, or put # before the line for the default`},
		{"cluster_name: ~\n", `f.yaml, line 1: cluster_name has no value: give one, or put # before the line for the default`},
		{"cluster_name: &a x\nlisten_addr: *a\n", `f.yaml, line 2: listen_addr: write the value out, there are no aliases here`},
		{"[a]: b\n", `f.yaml, line 1: unknown key ""`},
		{"- a\n", `f.yaml, line 1: lines of the form key: value are expected, such as cluster_name: …`},
		{"just text\n", `f.yaml, line 1: lines of the form key: value are expected, such as cluster_name: …`},
		{"join:\n\t- a:1\n", `f.yaml, line 2: a tab can't indent in YAML: use blanks`},
		{"count: 3\n---\ncount: 4\n", `f.yaml holds more than one document: remove the line --- and what follows`},
		{"count: 3\n---\ncount: [\n", `f.yaml, line 3: not YAML: did not find expected node content`},
		{"cluster_name: \"x\n", `f.yaml, line 2: not YAML: found unexpected end of stream`},
		{"cluster_name: a: b\n", `f.yaml, line 1: not YAML: mapping values are not allowed in this context`},
		{"count: 3\nmode: \xff", `f.yaml, line 2: not YAML: character 7 is not text in UTF-8`},
		{"a\x00b", `f.yaml, line 1: not YAML: character 2 is not text in UTF-8`},
	} {
		t.Run(test.text, func(t *testing.T) {
			_, err := Parse("f.yaml", []byte(test.text), demoFlags())
			if err == nil || err.Error() != test.want || !api.IsCode(err, api.CodeInvalid) {
				t.Errorf("\n%v\nwant\n%s", err, test.want)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f.yaml")
	if _, err := Load(path, demoFlags()); !errors.Is(err, fs.ErrNotExist) || !api.IsCode(err, api.CodeInvalid) || !strings.Contains(err.Error(), path) {
		t.Error(err)
	}
	if err := os.WriteFile(path, []byte("count: 3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Load(path, demoFlags())
	if diff := cmp.Diff(map[string]cliapp.Setting{"count": {Values: []string{"3"}, Source: path + ", line 1"}}, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	if _, err := Load(dir, demoFlags()); err == nil {
		t.Error("a directory was read")
	}
	if err := os.WriteFile(path, bytes.Repeat([]byte("#"), maxSize+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path, demoFlags()); err == nil || !strings.Contains(err.Error(), "is this the right file?") {
		t.Error(err)
	}
}

func TestPrint(t *testing.T) {
	var b bytes.Buffer
	given := map[string][]string{"join": {"a:1", "b:2"}, "count": {"3"}, "mode": {"on"}}
	if err := Print(&b, demoFlags(), "Settings of the demonstration.\n\nKeys are flags.", given); err != nil {
		t.Fatal(err)
	}
	want := `# Settings of the demonstration.
#
# Keys are flags.

# public DNS NAME of the cluster
#cluster_name: NAME

# listen on ADDR
#listen_addr: ":3080"

# find other replicas at gossip addresses ADDR
join:
    - a:1
    - b:2

# let sessions go on for DURATION on a replica that hears from no leader; 0 to
# be strict
#max_stale: 15m

# how many
count: 3

# be strict
#strict: false

# the MODE (off, on)
mode: "on"
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

// TestWhatIsPrintedCanBeRead: as it is, and with every comment sign before a key removed.
func TestWhatIsPrintedCanBeRead(t *testing.T) {
	flags := []cliapp.Flag{
		{Name: "a", Usage: "an `A:B`", Default: ":1"}, {Name: "b", Kind: cliapp.Strings, Default: "x,y"}, {Name: "c", Kind: cliapp.Bool},
		{Name: "d", Kind: cliapp.Duration, Default: "1h"}, {Name: "e-f", Kind: cliapp.Int, Default: "3"}, {Name: "g", Usage: "`DIR/FILE` of it"},
	}
	var b bytes.Buffer
	if err := Print(&b, flags, "h", nil); err != nil {
		t.Fatal(err)
	}
	if got, err := Parse("f", b.Bytes(), flags); len(got) != 0 || err != nil {
		t.Error(got, err)
	}
	uncommented := strings.ReplaceAll(b.String(), "\n#", "\n")
	uncommented = strings.ReplaceAll(uncommented, "\n ", "\n# ")
	got, err := Parse("f", []byte(uncommented), flags)
	if err != nil {
		t.Fatalf("%v\n%s", err, uncommented)
	}
	values := map[string][]string{}
	for name, s := range got {
		values[name] = s.Values
	}
	want := map[string][]string{"a": {":1"}, "b": {"x", "y"}, "c": {"false"}, "d": {"1h"}, "e-f": {"3"}, "g": {"DIR/FILE"}}
	if diff := cmp.Diff(want, values); diff != "" {
		t.Error(diff, uncommented)
	}
}

// FuzzParse: whatever is in a file, it is read quickly or refused by name, and a
// value that is read is printed so that it is read again.
func FuzzParse(f *testing.F) {
	f.Add("cluster_name: x\njoin: [a, b]\n")
	f.Add("a: &a [*a, *a]\n")
	f.Add("join:\n\t- a\n")
	f.Add("mode: |\n  on\nmax_stale: '1h'\n")
	f.Add("---\n...\n---\n")
	f.Fuzz(func(t *testing.T, text string) {
		start := time.Now()
		got, err := Parse("f.yaml", []byte(text), demoFlags())
		if took := time.Since(start); took > 2*time.Second {
			t.Fatalf("%s for %d bytes", took, len(text))
		}
		if err != nil {
			if !strings.HasPrefix(err.Error(), "f.yaml") {
				t.Fatal(err)
			}
			return
		}
		given := map[string][]string{}
		for name, s := range got {
			given[name] = s.Values
		}
		var b bytes.Buffer
		if err := Print(&b, demoFlags(), "", given); err != nil {
			t.Fatal(err)
		}
		again, err := Parse("f.yaml", b.Bytes(), demoFlags())
		if err != nil {
			t.Fatalf("%v\n%s", err, b.String())
		}
		for name, values := range given {
			if name == "secret-thing" {
				continue // hidden flags are not printed
			}
			if diff := cmp.Diff(values, again[name].Values); diff != "" {
				t.Fatalf("%s: %s\n%s", name, diff, b.String())
			}
		}
	})
}
