package release

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// Names of the texts in archives.
const (
	thirdParty    = "THIRD-PARTY-LICENSES.txt"
	completionDir = "completions"
	manDir        = "man"
)

// allTexts are licences (ours, and those of what is linked in, which their
// terms demand of who hands out binaries), a README, man pages and completions.
func (r *Release) allTexts(ctx context.Context) (tree, error) {
	t := tree{}
	license, err := os.ReadFile(filepath.Join(r.Root, "LICENSE"))
	if err != nil {
		return nil, err
	}
	t.file("LICENSE", 0o644, license)
	t.file("README.md", 0o644, r.readme())
	pages, err := filepath.Glob(filepath.Join(r.Root, "docs", "man", "*.1"))
	if err != nil {
		return nil, err
	}
	for _, page := range pages {
		b, err := os.ReadFile(page)
		if err != nil {
			return nil, err
		}
		t.file(manDir+"/"+filepath.Base(page), 0o644, b)
	}
	licenses, err := r.licenses(ctx)
	if err != nil {
		return nil, err
	}
	t.file(thirdParty, 0o644, licenses)
	return t, r.completions(ctx, t)
}

// completions asks this machine's binaries; what they print is the same everywhere.
func (r *Release) completions(ctx context.Context, t tree) error {
	dir, err := r.binaries(ctx, runtime.GOOS, runtime.GOARCH)
	if err != nil {
		return err
	}
	for _, program := range shipped(runtime.GOOS) {
		for shell, name := range map[string]string{"bash": program + ".bash", "zsh": "_" + program, "fish": program + ".fish"} {
			res := testbed.Run(ctx, testbed.Command{Args: []string{filepath.Join(dir, program), "completion", shell}})
			if res.Err != nil {
				return fmt.Errorf("%s completion %s: %w\n%s", program, shell, res.Err, res.Stderr)
			}
			t.file(completionDir+"/"+name, 0o644, []byte(res.Stdout))
		}
	}
	return nil
}

var licenseName = regexp.MustCompile(`(?i)^(licen[cs]e|copying|copyright|notice|patents)([-._].*)?$`)

// licenses of all modules that a program of any system has linked in.
func (r *Release) licenses(ctx context.Context) ([]byte, error) {
	dirs := map[string]string{}
	for _, system := range []string{"linux", "darwin", "windows"} {
		args := []string{"go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}}\t{{.Dir}}{{end}}{{end}}"}
		for _, p := range shipped(system) {
			args = append(args, "./cmd/"+p)
		}
		env, err := r.goEnv(ctx, system, runtime.GOARCH)
		if err != nil {
			return nil, err
		}
		res := testbed.Run(ctx, testbed.Command{Args: args, Dir: r.Root, Env: env})
		if res.Err != nil {
			return nil, fmt.Errorf("go list: %w\n%s", res.Err, res.Stderr)
		}
		for line := range strings.Lines(res.Stdout) {
			if module, dir, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok {
				dirs[module] = dir
			}
		}
	}
	goroot := testbed.Run(ctx, testbed.Command{Args: []string{"go", "env", "GOROOT", "GOVERSION"}, Dir: r.Root})
	if goroot.Err != nil {
		return nil, goroot.Err
	}
	if dir, version, ok := strings.Cut(strings.TrimSpace(goroot.Stdout), "\n"); ok {
		dirs["Go's standard library "+version] = dir
	}
	return joinLicenses(dirs)
}

// joinLicenses puts the licences of modules, by their directories, into one text.
func joinLicenses(dirs map[string]string) ([]byte, error) {
	var out bytes.Buffer
	out.WriteString("The programs have these modules linked in. Their licences follow, each under the module's name.\n")
	modules := make([]string, 0, len(dirs))
	for m := range dirs {
		modules = append(modules, m)
	}
	slices.Sort(modules)
	for _, m := range modules {
		entries, err := os.ReadDir(dirs[m])
		if err != nil {
			return nil, err
		}
		found := false
		for _, e := range entries {
			if !e.Type().IsRegular() || !licenseName.MatchString(e.Name()) || strings.HasSuffix(e.Name(), ".go") {
				continue
			}
			b, err := os.ReadFile(filepath.Join(dirs[m], e.Name()))
			if err != nil {
				return nil, err
			}
			fmt.Fprintf(&out, "\n%s\n%s (%s)\n\n%s\n", strings.Repeat("=", 80), m, e.Name(), bytes.TrimSpace(b))
			found = true
		}
		if !found && !strings.HasPrefix(m, "Go's") {
			return nil, fmt.Errorf("module %s has no licence file in %s: it can't be shipped without", m, dirs[m])
		}
	}
	return out.Bytes(), nil
}
