package release

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// program is a small one: a bill of materials is read from what a linker noted.
func program(t *testing.T, system, arch string) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "go.mod"), "module example.com/program\n")
	write(t, filepath.Join(dir, "main.go"), "package main\n\nfunc main() {}\n")
	cmd := testbed.Command{Args: []string{"go", "build", "-trimpath", "-ldflags=-s -w", "-o", "program", "."}, Dir: dir, Env: append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0", "GOOS="+system, "GOARCH="+arch)}
	if res := testbed.Run(t.Context(), cmd); res.Err != nil {
		t.Fatal(res.Err, res.Stderr)
	}
	return filepath.Join(dir, "program")
}

// stub is a release of made-up contents.
func stub(t *testing.T, change func(*Options)) *Release {
	t.Helper()
	binaries := map[string]string{}
	o := Options{
		Out: t.TempDir(), Version: "1.2.3", Revision: "abc", Created: time.Unix(1_700_000_000, 0), Cache: t.TempDir(),
		binaries: func(_ context.Context, system, arch string) (string, error) {
			dir, target := t.TempDir(), system+"/"+arch
			if binaries[target] == "" {
				binaries[target] = program(t, system, arch)
			}
			for _, p := range shipped(system) {
				if system == "windows" {
					p += ".exe"
				}
				if err := os.Symlink(binaries[target], filepath.Join(dir, p)); err != nil {
					return "", err
				}
			}
			return dir, nil
		},
		packages: func(_ context.Context, arches []string) ([]Package, error) {
			packages := []Package{
				{Name: "ca-certificates", Version: "1", Arch: "all", Distro: "debian-12", files: tree{"usr/share/ca-certificates/mozilla/a.crt": {data: []byte("A")}}},
				{Name: "tzdata", Version: "2026a+b", Arch: "all", Distro: "debian-12", files: tree{"usr/share/zoneinfo/UTC": {data: []byte("TZif")}}},
			}
			for _, arch := range arches {
				packages = append(packages, Package{Name: "busybox-static", Source: "busybox (1:0)", Version: "1:1", Arch: arch, Distro: "debian-12", files: tree{"bin/busybox": {data: []byte("\x00[\x00[[\x00sh\x00\x00")}}})
			}
			return packages, nil
		},
		texts: func(context.Context) (tree, error) {
			return tree{"LICENSE": {mode: 0o644, data: []byte("may")}, thirdParty: {mode: 0o644}, "README.md": {mode: 0o644}}, nil
		},
	}
	if change != nil {
		change(&o)
	}
	r, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestDefaultsAreTheSourcesAndTheirCommit(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "cmd/sallyport/main.go"), "package main\n\nvar version = \"0.1.0-dev\"\n")
	t.Setenv("SOURCE_DATE_EPOCH", "")
	r, err := New(t.Context(), Options{Out: t.TempDir(), Root: root})
	if err != nil {
		t.Fatal(err)
	}
	if r.Version != "0.1.0-dev" || r.Revision != "" || !r.Created.Equal(time.Unix(0, 0)) {
		t.Errorf("version %q, revision %q, created %v without a repository", r.Version, r.Revision, r.Created)
	}
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	if r, err = New(t.Context(), Options{Out: t.TempDir(), Root: root}); err != nil || !r.Created.Equal(time.Unix(1_700_000_000, 0)) {
		t.Errorf("created %v, %v", r.Created, err)
	}
	gitRepository(t, root)
	t.Setenv("SOURCE_DATE_EPOCH", "")
	if r, err = New(t.Context(), Options{Out: t.TempDir(), Root: root}); err != nil || r.Created.Format(time.DateOnly) != "2001-02-03" || len(r.Revision) != 40 {
		t.Errorf("created %v, revision %q, %v", r.Created, r.Revision, err)
	}
}

func TestWrongVersionsAndTimesAreRefused(t *testing.T) {
	for _, version := range []string{"v1.2.3", "1.2", "1.2.3+meta", "1.2.3-", "1.2.3 4", "../1.2.3"} {
		if _, err := New(t.Context(), Options{Out: t.TempDir(), Version: version}); err == nil || !strings.Contains(err.Error(), "write 1.2.3") {
			t.Errorf("version %q: %v", version, err)
		}
	}
	for _, epoch := range []string{"yesterday", "-1"} {
		t.Setenv("SOURCE_DATE_EPOCH", epoch)
		if _, err := New(t.Context(), Options{Out: t.TempDir(), Version: "1.2.3"}); err == nil || !strings.Contains(err.Error(), "SOURCE_DATE_EPOCH") {
			t.Errorf("SOURCE_DATE_EPOCH=%s: %v", epoch, err)
		}
	}
}

func TestArchivesHoldTheProgramsOfTheirSystem(t *testing.T) {
	r := stub(t, func(o *Options) { o.Arches = []string{"amd64"} })
	if err := r.Archives(t.Context()); err != nil {
		t.Fatal(err)
	}
	unix := []string{"sallyport/LICENSE", "sallyport/README.md", "sallyport/" + thirdParty, "sallyport/sallyport*", "sallyport/tctl*", "sallyport/tsh*"}
	for name, want := range map[string][]string{
		"sallyport-v1.2.3-linux-amd64-bin.tar.gz":  unix,
		"sallyport-v1.2.3-darwin-amd64-bin.tar.gz": unix,
		"sallyport-v1.2.3-windows-amd64-bin.zip":   {"sallyport/LICENSE", "sallyport/README.md", "sallyport/" + thirdParty, "sallyport/tctl.exe*", "sallyport/tsh.exe*"},
	} {
		got := archived(t, r.path(name))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// archived are the names of an archive's files, executable ones with a star.
func archived(t *testing.T, path string) []string {
	t.Helper()
	var names []string
	add := func(name string, mode fs.FileMode) {
		if mode.IsDir() {
			return
		}
		if mode&0o111 != 0 {
			name += "*"
		}
		names = append(names, name)
	}
	if strings.HasSuffix(path, ".zip") {
		zr, err := zip.OpenReader(path)
		if err != nil {
			t.Fatal(err)
		}
		defer zr.Close()
		for _, f := range zr.File {
			add(f.Name, f.Mode())
		}
	} else {
		eachInTar(t, path, func(h *tar.Header, _ io.Reader) { add(h.Name, h.FileInfo().Mode()) })
	}
	slices.Sort(names)
	return names
}

func eachInTar(t *testing.T, path string, visit func(*tar.Header, io.Reader)) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var in io.Reader = f
	if strings.HasSuffix(path, "gz") {
		if in, err = gzip.NewReader(f); err != nil {
			t.Fatal(err)
		}
	}
	for tr := tar.NewReader(in); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		visit(h, tr)
	}
}

// Somebody waits for ten minutes before this.
func TestOutputTellsWhatGoesOn(t *testing.T) {
	var said []string
	r := stub(t, func(o *Options) {
		o.Arches, o.Systems = []string{"amd64"}, []string{"linux"}
		o.Log = func(line string) { said = append(said, line) }
	})
	for _, err := range []error{r.Archives(t.Context()), r.Image(t.Context()), r.Sums()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(r.Out)
	if err != nil {
		t.Fatal(err)
	}
	text := "\n" + strings.Join(said, "\n") + "\n"
	for _, e := range entries {
		if !regexp.MustCompile(`\n +[0-9.]+ [kM]B  ` + regexp.QuoteMeta(e.Name()) + `\n`).MatchString(text) {
			t.Errorf("%s and its size are not told:%s", e.Name(), text)
		}
	}
	last := fmt.Sprintf("%d files of ", len(entries))
	if got := said[len(said)-1]; !strings.HasPrefix(got, last) || !strings.Contains(got, " are in "+r.Out+";") {
		t.Errorf("at the end it says %q", got)
	}
	for n, want := range map[int64]string{0: "0 kB", 1: "1 kB", 1_000: "1 kB", 999_000: "999 kB", 1_000_000: "1.0 MB", 61_260_000: "61.3 MB"} {
		if got := size(n); got != want {
			t.Errorf("%d bytes are %s, want %s", n, got, want)
		}
	}
}

func TestASecondBuildGivesTheSameBytes(t *testing.T) {
	sums := func() string {
		r := stub(t, nil)
		for _, err := range []error{r.Archives(t.Context()), r.Image(t.Context()), r.Sums()} {
			if err != nil {
				t.Fatal(err)
			}
		}
		return read(t, r.path(SumsFile))
	}
	first, second := sums(), sums()
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("checksums differ (-first +second):\n%s", diff)
	}
	for _, name := range []string{"sallyport-1.2.3.oci.tar", "sallyport-1.2.3-distroless.oci.tar", "sallyport-v1.2.3-windows-arm64-bin.zip", "sallyport-v1.2.3-linux-arm64-bin.cdx.json"} {
		if !strings.Contains(first, "  "+name+"\n") {
			t.Errorf("no %s in\n%s", name, first)
		}
	}
	if strings.Contains(first, ".new-") || strings.Contains(first, ".layout-") || strings.Contains(first, "  "+SumsFile) {
		t.Errorf("what is of no use to anyone has a checksum:\n%s", first)
	}
}

func TestBillOfMaterialsNamesModulesAndPackages(t *testing.T) {
	r := stub(t, func(o *Options) { o.Arches = []string{"arm64"}; o.Systems = []string{"windows"} })
	if err := errors.Join(r.Archives(t.Context()), r.Image(t.Context())); err != nil {
		t.Fatal(err)
	}
	deb := []string{"pkg:deb/debian/tzdata@2026a+b?arch=all&distro=debian-12", "pkg:deb/debian/busybox-static@1:1?arch=arm64&distro=debian-12&upstream=busybox%401%3A0"}
	for name, c := range map[string]struct{ has, lacks []string }{
		"sallyport-v1.2.3-windows-arm64-bin.cdx.json":           {[]string{"binary:tsh.exe", "pkg:golang/std@" + strings.TrimPrefix(runtime.Version(), "go")}, deb},
		"sallyport-1.2.3-image-linux-arm64.cdx.json":            {append([]string{"binary:tctl"}, deb...), nil},
		"sallyport-1.2.3-distroless-image-linux-arm64.cdx.json": {deb[:1], deb[1:]},
	} {
		f, err := os.Open(r.path(name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var bom cdx.BOM
		if err := cdx.NewBOMDecoder(f, cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
			t.Fatal(err)
		}
		refs := map[string]int{}
		for _, c := range *bom.Components {
			refs[c.BOMRef]++
		}
		for ref, n := range refs {
			if n != 1 {
				t.Errorf("%s: %s stands there %d times", name, ref, n)
			}
		}
		for _, want := range c.has {
			if refs[want] == 0 {
				t.Errorf("%s lacks %s: %v", name, want, refs)
			}
		}
		for _, lacks := range c.lacks {
			if refs[lacks] != 0 {
				t.Errorf("%s has %s", name, lacks)
			}
		}
		if bom.Metadata.Timestamp != "2023-11-14T22:13:20Z" || !strings.HasPrefix(bom.SerialNumber, "urn:uuid:") || len(bom.SerialNumber) != 45 {
			t.Errorf("%s: timestamp %s, serial number %s", name, bom.Metadata.Timestamp, bom.SerialNumber)
		}
	}
}

func TestModulesWithoutALicenceAreNotShipped(t *testing.T) {
	with, without := t.TempDir(), t.TempDir()
	write(t, filepath.Join(with, "LICENSE.md"), "be nice\n")
	write(t, filepath.Join(with, "license.go"), "package x\n")
	b, err := joinLicenses(map[string]string{"example.com/a v1": with})
	if err != nil || !strings.Contains(string(b), "example.com/a v1 (LICENSE.md)\n\nbe nice\n") || strings.Contains(string(b), "package x") {
		t.Errorf("%v: %s", err, b)
	}
	if _, err := joinLicenses(map[string]string{"example.com/b v1": without}); err == nil || !strings.Contains(err.Error(), "example.com/b v1 has no licence") {
		t.Errorf("got %v", err)
	}
}

// Replicas are not built for Windows; people's programs are, and must not rot.
func TestProgramsCompileForOtherSystems(t *testing.T) {
	root, err := testbed.Root()
	if err != nil {
		t.Fatal(err)
	}
	for system, arch := range map[string]string{"windows": "amd64", "darwin": "arm64"} {
		args := []string{"go", "list", "-export", "-trimpath", "-f="} // which compiles, but links nothing
		for _, p := range shipped(system) {
			args = append(args, "./cmd/"+p)
		}
		res := testbed.Run(t.Context(), testbed.Command{Args: args, Dir: root, Env: append(os.Environ(), "GOOS="+system, "GOARCH="+arch, "CGO_ENABLED=0", "GOWORK=off", "GOTOOLCHAIN=local")})
		if res.Err != nil {
			t.Errorf("%s: %v\n%s", system, res.Err, res.Stderr)
		}
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
