package arch

import (
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// listed is what `go list` says of a package.
type listed struct {
	ImportPath string
	Doc        string
	Imports    []string
	Standard   bool
}

// graph lists the module's packages and all they depend on.
func graph(t *testing.T) []listed {
	t.Helper()
	// -e: a package that does not compile is the compiler's to report.
	cmd := exec.Command("go", "list", "-e", "-deps", "-json=ImportPath,Doc,Imports,Standard", "./...")
	cmd.Dir = root(t)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var all []listed
	for decoder := json.NewDecoder(out); ; {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return all
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestImportsPointDown(t *testing.T) {
	var packages []Package
	for _, p := range graph(t) {
		packages = append(packages, Package{p.ImportPath, p.Imports})
	}
	for _, breach := range Check(packages, Rules(), Bans()) {
		t.Error(breach)
	}
}

func TestEndToEndKnowsTheProductByItsBinaries(t *testing.T) {
	root := root(t)
	packages := map[string]*Package{}
	fset := token.NewFileSet()
	err := filepath.WalkDir(filepath.Join(root, "e2e"), func(file string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && file == filepath.Join(root, "e2e", "testbed", "go"): // modules of their own, of tools
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(file, ".go"):
			return nil
		}
		dir, err := filepath.Rel(root, filepath.Dir(file))
		if err != nil {
			return err
		}
		parsed, err := parser.ParseFile(fset, file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		at := filepath.ToSlash(dir)
		if packages[at] == nil {
			packages[at] = &Package{Path: Module + "/" + at}
		}
		for _, i := range parsed.Imports {
			path, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			packages[at].Imports = append(packages[at].Imports, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var graph []Package
	needed := map[string]bool{}
	for _, p := range packages {
		slices.Sort(p.Imports)
		p.Imports = slices.Compact(p.Imports)
		graph = append(graph, *p)
		for _, i := range p.Imports {
			needed[p.Path+" "+i] = true
		}
	}
	for _, breach := range Check(graph, EndToEnd(), nil) {
		t.Error(breach)
	}
	for _, r := range EndToEnd() {
		for _, allowed := range r.Allow {
			if !strings.HasPrefix(allowed, "e2e") && !needed[Module+"/"+r.Path+" "+Module+"/"+allowed] {
				t.Errorf("%s has no need of %s any more: take it out of the rules", r.Path, allowed)
			}
		}
	}
}

func TestRulesAllowWhatStandsBelowThem(t *testing.T) {
	rules := Rules()
	for i, r := range rules {
		for _, allowed := range r.Allow {
			to, ok := ruleFor(rules, strings.TrimSuffix(allowed, "/..."))
			if !ok {
				continue // nothing but packages below it
			}
			if j := slices.IndexFunc(rules, func(r Rule) bool { return r.Path == to.Path }); j < i {
				t.Errorf("%s may import %s, which stands above it", r.Path, allowed)
			}
		}
	}
}

func TestEveryPackageSaysItsJob(t *testing.T) {
	for _, p := range graph(t) {
		if strings.HasPrefix(p.ImportPath, Module) && p.Doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

// Whoever opens the repository sees the architecture.
func TestTopLevel(t *testing.T) {
	want := []string{
		"LICENSE", "Makefile", "README.md", "agent", "charts", "cluster", "cmd", "docs", "e2e", "fsm", "go.mod", "go.sum",
		"internal", "proxy", "sso",
	}
	built := []string{"bin", "dist"} // ignored by git
	entries, err := os.ReadDir(root(t))
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, e := range entries {
		if name := e.Name(); name[0] != '.' && !slices.Contains(built, name) {
			have = append(have, name)
		}
	}
	if d := cmp.Diff(want, have); d != "" {
		t.Errorf("top level (-want +have):\n%s", d)
	}
}

// Violations planted in a made-up graph are found, and what is allowed is not.
func TestCheckFindsPlantedViolations(t *testing.T) {
	const raft = "github.com/hashicorp/raft"
	rules := []Rule{
		{"cmd/...", []string{"agent", "internal/api"}},
		{"cmd/special", []string{"fsm"}},
		{"agent", []string{"internal/api"}},
		{"internal/api/...", []string{"internal/api"}},
		{"internal/api", nil},
		{"cluster/...", []string{"cluster/...", "internal/api"}},
		{"fsm", nil},
	}
	bans := []Ban{{"agent", []string{raft + "/...", "cluster/..."}, "small"}}
	pkg := func(path string, imports ...string) Package {
		full := func(s string) string {
			if strings.Contains(s, ".") || s == "fmt" {
				return s
			}
			return Module + "/" + s
		}
		p := Package{Path: full(path)}
		for _, i := range imports {
			p.Imports = append(p.Imports, full(i))
		}
		return p
	}
	for _, c := range []struct {
		name  string
		graph []Package
		want  []string
	}{
		{"all is well", []Package{
			pkg("cmd/x", "agent", "fmt"), pkg("cmd/special", "fsm"), pkg("agent", "internal/api", "example.com/a"), pkg("internal/api", "fmt"),
			pkg("cluster", "cluster/peer", raft), pkg("cluster/peer", "internal/api"), pkg("fsm", "fmt"), pkg(raft, "example.com/b"),
		}, nil},
		{"the rule for a package itself wins", []Package{pkg("internal/api", "internal/api/deep"), pkg("internal/api/deep", "internal/api")}, []string{
			"internal/api imports internal/api/deep; it may import nothing of ours",
		}},
		{"an arrow that points up", []Package{pkg("internal/api", "agent")}, []string{
			"internal/api imports agent; it may import nothing of ours",
		}},
		{"a sibling below an allowed package", []Package{pkg("agent", "internal/api/deep")}, []string{
			"agent imports internal/api/deep; it may import internal/api",
		}},
		{"the specific rule wins", []Package{pkg("cmd/special", "agent")}, []string{
			"cmd/special imports agent; it may import fsm",
		}},
		{"a package without a rule", []Package{pkg("util", "fmt")}, []string{
			"util has no rule in internal/arch/rules.go: say there what it may import",
		}},
		{"Raft through a stranger", []Package{pkg("agent", "example.com/a"), pkg("example.com/a", raft+"/v2"), pkg(raft + "/v2")}, []string{
			"agent reaches " + raft + "/...: agent -> example.com/a -> " + raft + "/v2 (small)",
		}},
		{"ours through an allowed package", []Package{pkg("agent", "internal/api"), pkg("internal/api", "cluster"), pkg("cluster")}, []string{
			"agent reaches cluster/...: agent -> internal/api -> cluster (small)",
			"internal/api imports cluster; it may import nothing of ours",
		}},
		{"cycles end", []Package{pkg("agent", "example.com/a"), pkg("example.com/a", "example.com/b"), pkg("example.com/b", "example.com/a")}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if d := cmp.Diff(c.want, Check(c.graph, rules, bans)); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}
