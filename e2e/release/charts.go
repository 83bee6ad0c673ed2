package release

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// Charts are the names of the charts, which are their folders too.
func Charts() []string { return []string{"sallyport-cluster", "sallyport-kube-agent"} }

// ChartsDir below Out is a Helm repository: wherever it is served,
// `helm repo add` takes it, because its index names files without a host.
const ChartsDir = "charts"

// Charts packages the charts with the release's version.
func (r *Release) Charts(ctx context.Context) error {
	helm, err := r.helm(ctx)
	if err != nil {
		return err
	}
	dir := r.path(ChartsDir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// Helm's own index, and no archive of another version: an old one in Out would be listed as well.
	stage, err := os.MkdirTemp(r.Out, ".charts-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(stage)
	run := func(args ...string) error {
		if res := testbed.Run(ctx, testbed.Command{Args: append([]string{helm}, args...)}); res.Err != nil {
			return fmt.Errorf("helm %s: %w\n%s", args[0], res.Err, res.Stderr)
		}
		return nil
	}
	r.logf("packing the charts")
	var files []string
	for _, chart := range Charts() {
		from := filepath.Join(r.Root, "charts", chart)
		if err := run("package", from, "--destination", stage, "--version", r.Version, "--app-version", r.Version); err != nil {
			return err
		}
		file := chart + "-" + r.Version + ".tgz"
		if err := r.normalize(filepath.Join(stage, file)); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		files = append(files, file)
	}
	if err := run("repo", "index", stage); err != nil {
		return err
	}
	if err := r.settleIndex(filepath.Join(stage, "index.yaml")); err != nil {
		return err
	}
	for _, name := range append(files, "index.yaml") {
		b, err := os.ReadFile(filepath.Join(stage, name))
		if err != nil {
			return err
		}
		if err := r.write(path.Join(ChartsDir, name), func(f *os.File) error { _, err := f.Write(b); return err }); err != nil {
			return err
		}
	}
	if strings.Contains(r.Version, "-") {
		r.logf("the charts are pre-releases: helm finds them with --devel or --version=%s alone. For a release, make release VERSION=1.2.3", r.Version)
	}
	return nil
}

// helm's path: the testbed's, or the one in PATH.
func (r *Release) helm(ctx context.Context) (string, error) {
	if r.Helm != "" {
		return r.Helm, nil
	}
	if ours := testbed.Bin("helm"); fileExists(ours) {
		return ours, nil
	}
	if helm, err := exec.LookPath("helm"); err == nil {
		return helm, nil
	}
	r.logf("helm is neither built nor in PATH: building it")
	if err := testbed.Build(ctx, logWriter{r}, "helm"); err != nil {
		return "", err
	}
	return testbed.Bin("helm"), nil
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// logWriter passes what is written on to Log.
type logWriter struct{ r *Release }

func (w logWriter) Write(b []byte) (int, error) {
	w.r.Log(string(bytes.TrimRight(b, "\n")))
	return len(b), nil
}

// normalize rewrites what helm packaged: it notes the time at which it did.
func (r *Release) normalize(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	zr, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return err
	}
	t := tree{}
	for tr := tar.NewReader(zr); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if h.FileInfo().Mode().Type() != 0 {
			return fmt.Errorf("%s is %s: a chart has files", h.Name, h.FileInfo().Mode().Type()&fs.ModeType)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			return err
		}
		t.file(h.Name, 0o644, data)
	}
	has := func(file string) bool { _, ok := t[strings.TrimPrefix(file, "charts/")]; return ok }
	for name, n := range t {
		if path.Ext(name) == ".md" {
			t.file(name, 0o644, unlinked("charts/"+name, n.data, has))
		}
	}
	packed, err := t.gzipped(r.Created)
	if err != nil {
		return err
	}
	return os.WriteFile(file, packed, 0o644)
}

// settleIndex gives an index the release's time for the clock's.
func (r *Release) settleIndex(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	stamp := regexp.MustCompile(`(?m)^(\s*(?:created|generated): ).*$`)
	settled := stamp.ReplaceAll(b, []byte(`${1}"`+r.Created.Format("2006-01-02T15:04:05Z")+`"`))
	if slices.Equal(settled, b) {
		return errors.New("helm's index bears no time: has its format changed?")
	}
	return os.WriteFile(file, settled, 0o644)
}
