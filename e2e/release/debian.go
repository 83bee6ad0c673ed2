package release

import (
	"context"
	"crypto/sha256"
	"encoding/json"
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
	"time"

	"pault.ag/go/debian/deb"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// Package is one of Debian's, unpacked.
type Package struct {
	Name, Version, Arch string // Arch: amd64, arm64, or all
	Source              string // the source package, with its version if it differs
	Distro              string // debian-12: a part of its name in a bill of materials
	Control             string // the control file, for scanners
	files               tree
}

// wanted are the packages of an image. Of base-files only what says which
// Debian this is (vulnerability scanners ask), and the licences' texts.
func wanted(arches []string) []string {
	names := []string{"ca-certificates", "tzdata"} // the same for all architectures
	for _, arch := range arches {
		names = append(names, "base-files:"+arch, "busybox-static:"+arch)
	}
	return names
}

// listsAge is how old lists of packages may be: a day's security updates.
const listsAge = 24 * time.Hour

// debian fetches the packages for arches, or takes them from the cache.
func (r *Release) debian(ctx context.Context, arches []string) ([]Package, error) {
	dir := filepath.Join(r.Cache, "debian")
	unlock, err := testbed.Lock(ctx, dir+".lock")
	if err != nil {
		return nil, err
	}
	defer unlock()
	key := filepath.Join(dir, strings.Join(arches, "-")+".json")
	fetched, age, err := readFetched(key)
	if err != nil || age > listsAge {
		fresh, err := r.apt(ctx, dir, arches)
		switch {
		case err == nil:
			fetched = fresh
			if err := writeFetched(key, fresh); err != nil {
				return nil, err
			}
		case len(fetched) == 0 || ctx.Err() != nil:
			return nil, err
		default: // no network: what was good yesterday is, but it may lack a security update
			r.logf("warning: packages are %.0f days old: %v", age.Hours()/24, err)
		}
	}
	packages := make([]Package, 0, len(fetched))
	for _, f := range fetched {
		p, err := readPackage(filepath.Join(dir, "archives", f.File))
		if err != nil {
			return nil, err
		}
		packages = append(packages, p)
	}
	slices.SortFunc(packages, func(a, b Package) int { return strings.Compare(a.Name+":"+a.Arch, b.Name+":"+b.Arch) })
	return withDistro(packages)
}

// fetchedFile is a package in the cache, and the checksum that apt vouches for.
type fetchedFile struct{ File, SHA256 string }

// readFetched reads which files were fetched and checks them. A file that is
// gone or not what it was is an error: they are fetched again.
func readFetched(key string) ([]fetchedFile, time.Duration, error) {
	info, err := os.Stat(key)
	if err != nil {
		return nil, 0, err
	}
	b, err := os.ReadFile(key)
	if err != nil {
		return nil, 0, err
	}
	var files []fetchedFile
	if err := json.Unmarshal(b, &files); err != nil {
		return nil, 0, err
	}
	for _, f := range files {
		if err := f.check(filepath.Join(filepath.Dir(key), "archives")); err != nil {
			return nil, 0, err
		}
	}
	return files, time.Since(info.ModTime()), nil
}

func writeFetched(key string, files []fetchedFile) error {
	b, err := json.Marshal(files)
	if err != nil {
		return err
	}
	return os.WriteFile(key, b, 0o600)
}

func (f fetchedFile) check(dir string) error {
	in, err := os.Open(filepath.Join(dir, filepath.Base(f.File)))
	if err != nil {
		return err
	}
	defer in.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, in); err != nil {
		return err
	}
	if got := fmt.Sprintf("%x", sum.Sum(nil)); got != f.SHA256 {
		return fmt.Errorf("%s has SHA-256 %s, apt expects %s: delete it and try again", in.Name(), got, f.SHA256)
	}
	return nil
}

// apt updates lists of its own and downloads the packages for arches.
func (r *Release) apt(ctx context.Context, dir string, arches []string) ([]fetchedFile, error) {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return nil, errors.New("no apt-get here: the image's certificates, time zones and busybox are Debian's packages. Run this on Debian (or in a container of it)")
	}
	r.logf("fetching packages of Debian, with lists of their own in %s: 25 MB, about 10 s, once a day", dir)
	conf, err := aptConf(dir, arches)
	if err != nil {
		return nil, err
	}
	archives := filepath.Join(dir, "archives")
	run := func(dir string, args ...string) testbed.Result {
		env := append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
		return testbed.Run(ctx, testbed.Command{Args: append([]string{"apt-get", "-q", "-c", conf}, args...), Dir: dir, Env: env})
	}
	// One source that doesn't answer spoils an update, and may not be the one that is needed: the download decides.
	updated := run(dir, "update")
	download := append([]string{"download"}, wanted(arches)...)
	listed := run(dir, append(download, "--print-uris")...) // not in archives: what is there isn't listed
	got := listed
	if listed.Err == nil {
		got = run(archives, download...)
	}
	if got.Err != nil {
		return nil, fmt.Errorf("apt-get %s: %w\n%s%s", strings.Join(download, " "), got.Err, got.Stderr, updated.Stderr)
	}
	files, err := parseURIs(listed.Stdout)
	if err != nil {
		return nil, err
	}
	if len(files) != len(wanted(arches)) {
		return nil, fmt.Errorf("apt-get download --print-uris names %d packages of %d:\n%s", len(files), len(wanted(arches)), listed.Stdout)
	}
	for _, f := range files {
		if err := f.check(archives); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// uriLine is a line of --print-uris: 'where' file size SHA256:hash.
var uriLine = regexp.MustCompile(`^'[^']+' ([^ /]+\.deb) [0-9]+ SHA256:([0-9a-f]{64})$`)

func parseURIs(out string) ([]fetchedFile, error) {
	var files []fetchedFile
	for line := range strings.Lines(out) {
		if !strings.HasPrefix(line, "'") {
			continue
		}
		m := uriLine.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			return nil, fmt.Errorf("apt-get gives no SHA-256 for a package: %s", line)
		}
		files = append(files, fetchedFile{File: m[1], SHA256: m[2]})
	}
	return files, nil
}

// aptConf writes a configuration that comes after the machine's own: its
// sources, keys and proxies hold, its state and hooks don't.
func aptConf(dir string, arches []string) (string, error) {
	if strings.ContainsAny(dir, "\"\n") {
		return "", fmt.Errorf("apt takes no quotes in the name of a directory: %s", dir)
	}
	for _, d := range []string{"state", "lists/partial", "cache/archives/partial", "archives"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return "", err
		}
	}
	status := filepath.Join(dir, "state", "status") // nothing is installed
	if err := os.WriteFile(status, nil, 0o600); err != nil {
		return "", err
	}
	conf := fmt.Sprintf(`#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Architectures;
Dir::State "%[1]s/state";
Dir::State::status "%[1]s/state/status";
Dir::State::lists "%[1]s/lists";
Dir::Cache "%[1]s/cache";
Dir::Cache::archives "archives";
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Cache::srcpkgcache "";
APT::Architecture "%[2]s";
APT::Architectures { "%[3]s"; };
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
`, dir, arches[0], strings.Join(arches, `"; "`))
	file := filepath.Join(dir, "apt.conf")
	return file, os.WriteFile(file, []byte(conf), 0o600)
}

// readPackage unpacks a .deb into memory.
func readPackage(file string) (Package, error) {
	d, closeDeb, err := deb.LoadFile(file)
	if err != nil {
		return Package{}, fmt.Errorf("%s: %w", filepath.Base(file), err)
	}
	defer func() { _ = closeDeb() }() // was read only
	var control strings.Builder
	if err := d.Control.WriteTo(&control); err != nil {
		return Package{}, err
	}
	field := d.Control.Values // as written: the library's own types would normalize them
	p := Package{Name: d.Control.Package, Version: field["Version"], Arch: field["Architecture"], Source: d.Control.SourceName(), Control: control.String(), files: tree{}}
	for {
		h, err := d.Data.Next()
		if errors.Is(err, io.EOF) {
			return p, nil
		}
		if err != nil {
			return Package{}, fmt.Errorf("%s: %w", filepath.Base(file), err)
		}
		name := path.Clean(h.Name)
		mode := h.FileInfo().Mode()
		switch {
		case mode.IsRegular() && h.Linkname == "":
			b, err := io.ReadAll(d.Data)
			if err != nil {
				return Package{}, fmt.Errorf("%s: %w", filepath.Base(file), err)
			}
			p.files.file(name, mode, b)
		case mode&fs.ModeSymlink != 0:
			p.files.link(name, h.Linkname)
		case h.Linkname != "": // a hard link: tzdata's zones of two names
			p.files[name] = p.files[path.Clean(h.Linkname)]
		}
	}
}

// withDistro gives packages the name of the distribution that base-files tells.
func withDistro(packages []Package) ([]Package, error) {
	for _, p := range packages {
		if p.Name != "base-files" {
			continue
		}
		id := regexp.MustCompile(`(?m)^ID="?([^"\n]+)`).FindSubmatch(p.files["usr/lib/os-release"].data)
		version := regexp.MustCompile(`(?m)^VERSION_ID="?([^"\n]+)`).FindSubmatch(p.files["usr/lib/os-release"].data)
		if id == nil {
			return nil, errors.New("base-files has no os-release with an ID")
		}
		distro := string(id[1])
		if distro != "debian" { // by its packages, not by the machine's own os-release: they are what is shipped
			return nil, fmt.Errorf("the packages that apt gives here are of %s: the image is made of Debian's. Run this on Debian (or in a container of it)", distro)
		}
		if version != nil { // Debian's testing has none
			distro += "-" + string(version[1])
		}
		for i := range packages {
			packages[i].Distro = distro
		}
		return packages, nil
	}
	return nil, errors.New("no package base-files")
}
