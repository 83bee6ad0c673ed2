package release

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"debug/elf"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// The real thing, for this machine: programs as `make build` makes them,
// Debian's packages, charts. Twice, which must give the same.
func TestRelease(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("not on Linux: the image's packages come by apt")
	}
	bin, err := sallyport.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	build := func() *Release {
		o := testOptions(t.TempDir(), runtime.GOARCH)
		o.Log = func(line string) { t.Log(line) }
		o.Created = time.Unix(1_700_000_000, 0) // somebody may commit meanwhile, or change a source
		o.Revision = strings.Repeat("ab", 20)
		o.binaries = func(context.Context, string, string) (string, error) { return string(bin), nil }
		r, err := New(t.Context(), o)
		if err == nil {
			err = r.All(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := build()
	t.Run("image", func(t *testing.T) { imageOf(t, r, false) })
	t.Run("distroless", func(t *testing.T) { imageOf(t, r, true) })
	t.Run("archive", func(t *testing.T) { archiveOf(t, r) })
	t.Run("charts", func(t *testing.T) { chartsOf(t, r) })
	t.Run("bills of materials", func(t *testing.T) {
		for _, name := range []string{"sallyport-" + r.Version + "-image-linux-" + runtime.GOARCH, strings.TrimSuffix(r.ArchiveName("linux", runtime.GOARCH), ".tar.gz")} {
			if bom := read(t, r.path(name+".cdx.json")); !strings.Contains(bom, `"purl": "pkg:golang/github.com/hashicorp/raft@v`) {
				t.Errorf("%s lacks Raft:\n%.500s", name, bom)
			}
		}
	})
	t.Run("checksums", func(t *testing.T) {
		res := testbed.Run(t.Context(), testbed.Command{Args: []string{"sha256sum", "--check", "--strict", "--quiet", SumsFile}, Dir: r.Out})
		if res.Err != nil {
			t.Errorf("%v\n%s%s", res.Err, res.Stdout, res.Stderr)
		}
	})
	t.Run("again", func(t *testing.T) {
		if diff := cmp.Diff(read(t, r.path(SumsFile)), read(t, build().path(SumsFile))); diff != "" {
			t.Errorf("checksums differ (-first +second):\n%s", diff)
		}
	})
}

// file of an image.
type file struct {
	tar.Header
	data []byte
}

func imageOf(t *testing.T, r *Release, distroless bool) {
	img := openImage(t, r, distroless)
	configOf(t, r, img, distroless)
	files := filesOf(t, img)
	placesOf(t, files)
	rootsOf(t, files)
	for name, f := range files {
		if f.Mode&0o7000 != 0 && name != "tmp" {
			t.Errorf("%s has mode %o", name, f.Mode)
		}
		if f.Mode&0o002 != 0 && name != "tmp" && f.Typeflag != tar.TypeSymlink {
			t.Errorf("anyone may write %s: mode %o", name, f.Mode)
		}
		if f.Uid != 0 && name != stateDir && name != "home/nonroot" {
			t.Errorf("%s is of user %d", name, f.Uid)
		}
		if !f.ModTime.Equal(time.Unix(0, 0)) {
			t.Errorf("%s is of %v", name, f.ModTime)
		}
		if f.Typeflag == tar.TypeReg && f.Mode&0o111 != 0 {
			static(t, name, f.data)
		}
		if target := resolve(files, name); target == "" {
			t.Errorf("%s leads nowhere: %s", name, f.Linkname)
		}
	}
	var commands []string
	for name := range files {
		if path.Dir(name) == "usr/local/bin" {
			commands = append(commands, path.Base(name)+" "+path.Base(resolve(files, name)))
		}
	}
	slices.Sort(commands)
	if diff := cmp.Diff([]string{"create tctl", "sallyport sallyport", "tctl tctl", "tsh tsh", "users tctl"}, commands); diff != "" {
		t.Errorf("in /usr/local/bin (-want +got):\n%s", diff)
	}
	_, shell := files["bin/busybox"]
	if shell == distroless {
		t.Errorf("busybox is there: %v", shell)
	}
	if distroless {
		for name := range files {
			if strings.HasPrefix(name, "bin/") || strings.Contains(name, "busybox") {
				t.Errorf("the variant without a shell has %s", name)
			}
		}
		return
	}
	for _, name := range []string{"sh", "tail", "ls", "cat", "grep", "vi", "ps", "wget", "nslookup", "env", "["} {
		if got := resolve(files, "bin/"+name); got != "bin/busybox" {
			t.Errorf("/bin/%s is %q", name, got)
		}
	}
	appletsOf(t, files)
}

// appletsOf asks busybox itself for its applets.
func appletsOf(t *testing.T, files map[string]file) {
	busybox := filepath.Join(t.TempDir(), "busybox")
	if err := os.WriteFile(busybox, files["bin/busybox"].data, 0o700); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), busybox, "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for name := range files {
		if path.Dir(name) == "bin" {
			got = append(got, path.Base(name))
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff(strings.Fields(string(out)), got); diff != "" {
		t.Errorf("applets (-busybox's list +links):\n%s", diff)
	}
}

// openImage reads the tar as whoever imports it does, and checks every digest.
func openImage(t *testing.T, r *Release, distroless bool) v1.Image {
	t.Helper()
	dir := t.TempDir()
	var names []string
	eachInTar(t, r.path(r.ImageTar(distroless)), func(h *tar.Header, in io.Reader) {
		names = append(names, h.Name)
		b, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, h.Name), string(b))
	})
	if names[0] != "oci-layout" || names[1] != "index.json" {
		t.Errorf("the tar begins with %q", names[:2])
	}
	top, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := top.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	tag := r.Tag(distroless)
	want := map[string]string{"io.containerd.image.name": ImageName + ":" + tag, "org.opencontainers.image.ref.name": tag}
	if len(m.Manifests) != 1 || m.Manifests[0].MediaType != types.OCIImageIndex || !maps.Equal(m.Manifests[0].Annotations, want) {
		t.Fatalf("index.json: %+v", m)
	}
	index, err := top.ImageIndex(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Fatal(err)
	}
	if m, err = index.IndexManifest(); err != nil || len(m.Manifests) != 1 {
		t.Fatalf("%v: %+v", err, m)
	}
	if p := m.Manifests[0].Platform; p == nil || p.OS != "linux" || p.Architecture != runtime.GOARCH {
		t.Errorf("platform %+v", p)
	}
	img, err := index.Image(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func configOf(t *testing.T, r *Release, img v1.Image, distroless bool) {
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	if m.MediaType != types.OCIManifestSchema1 || m.Config.MediaType != types.OCIConfigJSON || m.Layers[0].MediaType != types.OCILayer {
		t.Errorf("media types %s, %s, %s", m.MediaType, m.Config.MediaType, m.Layers[0].MediaType)
	}
	c := cfg.Config
	if c.User != "65532:65532" || c.WorkingDir != "/" || !slices.Equal(c.Entrypoint, []string{"/usr/local/bin/sallyport"}) || len(c.Cmd) != 0 || c.StopSignal != "SIGTERM" || len(c.Volumes) != 0 {
		t.Errorf("config %+v", c)
	}
	if !slices.Contains(c.Env, "PATH=/usr/local/bin:/usr/bin:/bin") || len(c.ExposedPorts) != 7 || !cfg.Created.Equal(r.Created) {
		t.Errorf("environment %q, ports %v, created %v", c.Env, c.ExposedPorts, cfg.Created)
	}
	for key, want := range map[string]string{"version": r.Tag(distroless), "revision": r.Revision, "created": "2023-11-14T22:13:20Z", "source": sourceURL} {
		key = "org.opencontainers.image." + key
		if c.Labels[key] != want || m.Annotations[key] != want {
			t.Errorf("%s: label %q, annotation %q, want %q", key, c.Labels[key], m.Annotations[key], want)
		}
	}
	if gpl := strings.Contains(c.Labels["org.opencontainers.image.licenses"], "GPL"); gpl == distroless {
		t.Errorf("licenses %s", c.Labels["org.opencontainers.image.licenses"])
	}
}

// filesOf is what a container sees.
func filesOf(t *testing.T, img v1.Image) map[string]file {
	t.Helper()
	in := mutate.Extract(img)
	defer in.Close()
	files := map[string]file{}
	for tr := tar.NewReader(in); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		files[path.Clean(h.Name)] = file{*h, b}
	}
}

// resolve follows links to a file or directory; "" if there is none.
func resolve(files map[string]file, name string) string {
	for range 5 {
		f, ok := files[name]
		switch {
		case !ok:
			return ""
		case f.Typeflag != tar.TypeSymlink:
			return name
		case path.IsAbs(f.Linkname):
			name = path.Clean(f.Linkname)[1:]
		default:
			name = path.Join(path.Dir(name), f.Linkname)
		}
	}
	return ""
}

func placesOf(t *testing.T, files map[string]file) {
	for name, want := range map[string]string{
		"tmp": "1777 0:0", stateDir: "700 65532:65532", "home/nonroot": "700 65532:65532", "var/lib": "755 0:0", "etc/passwd": "644 0:0",
		"usr/local/bin/sallyport": "755 0:0",
	} {
		f := files[name]
		if got := fmt.Sprintf("%o %d:%d", f.Mode, f.Uid, f.Gid); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	for name, want := range map[string]string{
		"etc/passwd": "\nnonroot:x:65532:65532:", "etc/group": "\nnonroot:x:65532:", "etc/nsswitch.conf": "hosts: files dns",
		"etc/os-release": "ID=", "var/lib/dpkg/status.d/ca-certificates": "Package: ca-certificates\n", "usr/share/doc/tzdata/copyright": "public domain",
		"usr/share/doc/sallyport/LICENSE": "Apache License", "usr/share/doc/sallyport/" + thirdParty: "github.com/caddyserver/certmagic",
		"usr/share/common-licenses/MPL-2.0": "Mozilla Public License", "usr/share/doc/ca-certificates/copyright": "MPL",
	} {
		if !strings.Contains(string(files[resolve(files, name)].data), want) {
			t.Errorf("%s lacks %q:\n%.300s", name, want, files[name].data)
		}
	}
	for _, zone := range []string{"UTC", "Europe/Berlin", "America/New_York", "Asia/Tokyo", "Asia/Kolkata"} {
		if _, err := time.LoadLocationFromTZData(zone, files[resolve(files, "usr/share/zoneinfo/"+zone)].data); err != nil {
			t.Errorf("zone %s: %v", zone, err)
		}
	}
}

// rootsOf finds the root of the authority that ACME asks unless told
// otherwise. Tests that bring their own roots would never notice its absence.
func rootsOf(t *testing.T, files map[string]file) {
	const isrgRootX1 = "96bcec06264976f37460779acf28c5a7cfe8a3c0aae11a8ffcee05c0bddf08c6"
	rest, n, found := files["etc/ssl/certs/ca-certificates.crt"].data, 0, false
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatalf("certificate %d: %v", n, err)
		}
		n++
		if fmt.Sprintf("%x", sha256.Sum256(cert.Raw)) == isrgRootX1 {
			found = cert.Subject.CommonName == "ISRG Root X1" && cert.IsCA
		}
	}
	if len(bytes.TrimSpace(rest)) != 0 || n < 100 || !found {
		t.Errorf("%d certificates, ISRG Root X1 among them: %v; %d bytes are none", n, found, len(rest))
	}
}

// static fails if a program needs a loader or a library, which are not there.
func static(t *testing.T, name string, program []byte) {
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	defer f.Close()
	if libs, err := f.ImportedLibraries(); err == nil && len(libs) > 0 {
		t.Errorf("%s needs %q", name, libs)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Errorf("%s needs a loader", name)
		}
	}
	if want := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[runtime.GOARCH]; f.Machine != want {
		t.Errorf("%s is for %s", name, f.Machine)
	}
}

func archiveOf(t *testing.T, r *Release) {
	name := r.ArchiveName("linux", runtime.GOARCH)
	if want := "sallyport-v" + r.Version + "-linux-" + runtime.GOARCH + "-bin.tar.gz"; name != want {
		t.Errorf("named %s, want %s", name, want)
	}
	names := archived(t, r.path(name))
	for _, want := range []string{"sallyport/sallyport*", "sallyport/tctl*", "sallyport/tsh*", "sallyport/LICENSE", "sallyport/README.md", "sallyport/completions/tsh.bash", "sallyport/completions/_tctl", "sallyport/completions/sallyport.fish", "sallyport/man/tsh.1"} {
		if !slices.Contains(names, want) {
			t.Errorf("no %s in %q", want, names)
		}
	}
	linksOf(t, r.path(name))
	dir := t.TempDir() // unpacked as the guide does, it runs and says what it is
	if res := testbed.Run(t.Context(), testbed.Command{Args: []string{"tar", "-xzf", r.path(name), "-C", dir}}); res.Err != nil {
		t.Fatal(res.Err, res.Stderr)
	}
	for _, program := range programs {
		res := testbed.Run(t.Context(), testbed.Command{Args: []string{filepath.Join(dir, "sallyport", program), "version"}})
		if res.Err != nil || res.Stdout != "Sallyport v"+r.Version+"\n" {
			t.Errorf("%s version: %v\n%s%s", program, res.Err, res.Stdout, res.Stderr)
		}
	}
}

func chartsOf(t *testing.T, r *Release) {
	// Helm's own rule: what has a dash is offered to nobody who doesn't ask for it.
	var said []string
	pre := *r
	pre.Out, pre.Log = t.TempDir(), func(line string) { said = append(said, line) }
	for version, want := range map[string]bool{"1.2.3": false, "1.2.3-rc.1": true} {
		pre.Version, said = version, nil
		if err := pre.Charts(t.Context()); err != nil {
			t.Fatal(err)
		}
		if text := strings.Join(said, "\n"); strings.Contains(text, "helm finds them with --devel or --version="+version) != want {
			t.Errorf("%s: said is\n%s", version, text)
		}
	}
	index := read(t, r.path(ChartsDir, "index.yaml"))
	for _, chart := range Charts() {
		file := chart + "-" + r.Version + ".tgz"
		if !strings.Contains(index, "- "+file+"\n") {
			t.Errorf("no relative URL %s in\n%s", file, index)
		}
		found := false
		eachInTar(t, r.path(ChartsDir, file), func(h *tar.Header, in io.Reader) {
			if h.Name == chart+"/Chart.yaml" {
				b, _ := io.ReadAll(in)
				found = strings.Contains(string(b), "version: "+r.Version) && strings.Contains(string(b), "appVersion: "+r.Version)
			}
		})
		if !found {
			t.Errorf("%s has no Chart.yaml of version %s", file, r.Version)
		}
		linksOf(t, r.path(ChartsDir, file))
		res := testbed.Run(t.Context(), testbed.Command{Args: []string{testbed.Bin("helm"), "show", "chart", r.path(ChartsDir, file)}})
		if res.Err != nil {
			t.Errorf("helm show chart: %v\n%s", res.Err, res.Stderr)
		}
	}
}

// testOptions are those of a release for Linux from the binaries that the other
// end-to-end tests run, which spares a build.
func testOptions(dir, arch string) Options {
	o := Options{Out: dir, Arches: []string{arch}, Systems: []string{"linux"}}
	if arch == runtime.GOARCH && runtime.GOOS == "linux" {
		o.binaries = testBinaries
	}
	return o
}

// testBinaries are those that end-to-end tests run.
func testBinaries(ctx context.Context, _, _ string) (string, error) {
	bin, err := sallyport.Build(ctx)
	return string(bin), err
}
