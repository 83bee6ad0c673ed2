package release

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Who runs in the image: a number, so that a pod may demand runAsNonRoot.
const (
	nonroot  = 65532
	userGID  = "65532:65532"
	stateDir = "var/lib/sallyport"
)

// programs of the product, and the names that stand for tctl: it looks at
// what it was called by, because `kubectl exec POD tctl -- users add` runs only
// what follows the dashes.
var (
	programs  = []string{"sallyport", "tctl", "tsh"}
	tctlNames = []string{"users", "create"}
)

const passwd = `root:x:0:0:root:/root:/sbin/nologin
nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin
`

const group = `root:x:0:
nonroot:x:65532:
nogroup:x:65534:
`

// base is the layer that both variants stand on: Debian's certificates and
// zones, who there is, and where may be written.
func base(packages []Package, arch string) (tree, error) {
	t := tree{}
	t.dir("tmp", 0o777|fs.ModeSticky, 0, 0)
	t.dir("home/nonroot", 0o700, nonroot, nonroot)
	t.dir(stateDir, 0o700, nonroot, nonroot)
	t.dir("root", 0o700, 0, 0)
	t.file("etc/passwd", 0o644, []byte(passwd))
	t.file("etc/group", 0o644, []byte(group))
	t.file("etc/nsswitch.conf", 0o644, []byte("passwd: files\ngroup: files\nhosts: files dns\n"))
	var bundle []byte
	for _, p := range forArch(packages, arch) {
		if p.Name == "busybox-static" {
			continue
		}
		p.describe(t)
		for _, name := range slices.Sorted(maps.Keys(p.files)) {
			n := p.files[name]
			switch {
			case inDir(name, "usr/share/ca-certificates") && path.Ext(name) == ".crt":
				bundle = append(append(bundle, bytes.TrimSpace(n.data)...), '\n')
			case inDir(name, "usr/share/zoneinfo"):
				// posix is the same again, right counts leap seconds, which no clock here does; localtime leads out of the image.
				if !inDir(name, "usr/share/zoneinfo/posix") && !inDir(name, "usr/share/zoneinfo/right") && path.Base(name) != "localtime" {
					t[name] = n
				}
			case name == "usr/lib/os-release", inDir(name, "usr/share/common-licenses"):
				t[name] = n
			}
		}
	}
	if len(bundle) == 0 {
		return nil, errors.New("no certificates below usr/share/ca-certificates in Debian's packages")
	}
	// The bundle alone, as every program here reads it; the single files would be the same a second time.
	t.file("etc/ssl/certs/ca-certificates.crt", 0o644, bundle)
	t.link("etc/os-release", "../usr/lib/os-release")
	return t, nil
}

// shell is the layer with busybox and a link for each of its applets.
func shell(packages []Package, arch string) (tree, error) {
	t := tree{}
	for _, p := range forArch(packages, arch) {
		if p.Name != "busybox-static" {
			continue
		}
		p.describe(t)
		for _, name := range []string{"bin/busybox", "usr/bin/busybox"} { // before and after Debian merged them
			n, ok := p.files[name]
			if !ok {
				continue
			}
			names, err := applets(n.data)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			t.file("bin/busybox", 0o755, n.data)
			for _, applet := range names {
				if applet != "busybox" {
					t.link("bin/"+applet, "busybox")
				}
			}
			return t, nil
		}
	}
	return nil, fmt.Errorf("no busybox for %s in Debian's packages", arch)
}

var appletName = regexp.MustCompile(`^[a-z0-9\[_.+-]+$`)

// applets are the names that a busybox answers to. They stand in it one after
// the other, sorted, the first being [ and [[: to run it and ask would need a
// machine of its architecture.
func applets(busybox []byte) ([]string, error) {
	start := bytes.Index(busybox, []byte("\x00[\x00[[\x00"))
	if start < 0 {
		return nil, errors.New("no list of applets in this busybox")
	}
	var names []string
	for rest := busybox[start+1:]; ; {
		name, after, ok := bytes.Cut(rest, []byte{0})
		if !ok || len(name) == 0 {
			break
		}
		if !appletName.Match(name) || len(names) > 0 && string(name) <= names[len(names)-1] {
			return nil, fmt.Errorf("%q is no applet that may follow those of busybox's list", name)
		}
		names, rest = append(names, string(name)), after
	}
	if !slices.Contains(names, "sh") {
		return nil, fmt.Errorf("busybox without a shell: %s", strings.Join(names, " "))
	}
	return names, nil
}

// product is the layer of our own binaries, and of the licences they bring.
func product(binaries map[string][]byte, texts tree) tree {
	t := tree{}
	for name, b := range binaries {
		t.file("usr/local/bin/"+name, 0o755, b)
	}
	for _, name := range tctlNames {
		t.link("usr/local/bin/"+name, "tctl")
	}
	for _, name := range []string{"LICENSE", thirdParty} {
		t["usr/share/doc/sallyport/"+name] = texts[name]
	}
	return t
}

// forArch are the packages of an architecture, those for all among them.
func forArch(packages []Package, arch string) []Package {
	return slices.DeleteFunc(slices.Clone(packages), func(p Package) bool { return p.Arch != arch && p.Arch != "all" })
}

// describe puts a package's licence into t, and its control file where
// vulnerability scanners look for the packages of images without dpkg.
func (p Package) describe(t tree) {
	t.file("var/lib/dpkg/status.d/"+p.Name, 0o644, []byte(p.Control))
	if n, ok := p.files["usr/share/doc/"+p.Name+"/copyright"]; ok {
		t["usr/share/doc/"+p.Name+"/copyright"] = n
	}
}

func inDir(name, dir string) bool { return strings.HasPrefix(name, dir+"/") }
