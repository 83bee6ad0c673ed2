package release

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

func TestApplets(t *testing.T) {
	for name, c := range map[string]struct {
		in   string
		want []string
		err  string
	}{
		"a list":           {"ELF\x00x\x00[\x00[[\x00ls\x00sh\x00\x00rest", []string{"[", "[[", "ls", "sh"}, ""},
		"no list":          {"ELF", nil, "no list"},
		"not sorted":       {"\x00[\x00[[\x00sh\x00ls\x00\x00", nil, `"ls" is no applet`},
		"no name":          {"\x00[\x00[[\x00../sh\x00\x00", nil, "is no applet"},
		"no shell":         {"\x00[\x00[[\x00ls\x00\x00", nil, "without a shell"},
		"it just ends":     {"\x00[\x00[[\x00sh", nil, "without a shell"},
		"it ends in a nul": {"\x00[\x00[[\x00sh\x00", []string{"[", "[[", "sh"}, ""},
	} {
		got, err := applets([]byte(c.in))
		if diff := cmp.Diff(c.want, got); diff != "" || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v\n%s", name, err, diff)
		}
	}
}

// What apt prints is parsed as if it were anyone's: a file is never looked for outside the cache.
func FuzzURIs(f *testing.F) {
	f.Add("'http://x/a.deb' a_1%3a2_amd64.deb 12 SHA256:" + strings.Repeat("a0", 32) + "\n")
	f.Add("Reading package lists...\n'x' ../a.deb 12 SHA256:" + strings.Repeat("a0", 32))
	f.Add("'x' a.deb 12 MD5Sum:00")
	f.Fuzz(func(t *testing.T, out string) {
		files, err := parseURIs(out)
		for _, file := range files {
			if err == nil && (strings.ContainsAny(file.File, "/ ") || filepath.Base(file.File) != file.File || len(file.SHA256) != 64) {
				t.Errorf("%+v", file)
			}
		}
	})
}

func FuzzApplets(f *testing.F) {
	f.Add([]byte("\x00[\x00[[\x00sh\x00\x00"))
	f.Add([]byte("\x00[\x00[[\x00../sh\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		names, err := applets(in)
		for _, name := range names {
			if err == nil && strings.ContainsAny(name, "/\x00") {
				t.Errorf("%q", name)
			}
		}
	})
}

func TestLinesOfAptWithoutASHA256AreRefused(t *testing.T) {
	if files, err := parseURIs("'x' a.deb 12 MD5Sum:00\n"); err == nil || !strings.Contains(err.Error(), "SHA-256") {
		t.Errorf("%v, %v", files, err)
	}
}

// A machine that is not Debian's is told so, and nothing is half done.
func TestWithoutAptGetAnErrorSaysWhereItWorks(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	r := &Release{Options: Options{Cache: t.TempDir(), Log: func(string) {}}}
	if _, err := r.debian(t.Context(), []string{"amd64"}); err == nil || !strings.Contains(err.Error(), "Run this on Debian") {
		t.Errorf("got %v", err)
	}
}

// Yesterday's packages do when the network doesn't; those that changed on disk never do.
func TestCachedPackagesAreCheckedAndServeWithoutANetwork(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "debian", "amd64.json")
	write(t, filepath.Join(dir, "debian", "archives", "a.deb"), "deb")
	if err := writeFetched(key, []fetchedFile{{"a.deb", fmt.Sprintf("%x", sha256.Sum256([]byte("deb")))}}); err != nil {
		t.Fatal(err)
	}
	files, _, err := readFetched(key)
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	write(t, filepath.Join(dir, "debian", "archives", "a.deb"), "bad")
	if files, _, err := readFetched(key); err == nil || !strings.Contains(err.Error(), "apt expects") || files != nil {
		t.Errorf("%v, %v", files, err)
	}
}

// The machine's own apt stays as it was: neither state nor cache nor hooks of it are ours.
func TestAptHasAConfigurationOfItsOwn(t *testing.T) {
	if _, err := os.Stat("/usr/bin/apt-config"); err != nil {
		t.Skip("not on Linux of Debian's kind: there is no apt to ask")
	}
	dir := t.TempDir()
	conf, err := aptConf(dir, []string{"amd64", "arm64"})
	if err != nil {
		t.Fatal(err)
	}
	res := testbed.Run(t.Context(), testbed.Command{Args: []string{"apt-config", "-c", conf, "dump"}})
	if res.Err != nil {
		t.Fatal(res.Err, res.Stderr)
	}
	for _, want := range []string{`Dir::State "` + dir + `/state";`, `Dir::Cache "` + dir + `/cache";`, `Dir::State::lists "` + dir + `/lists";`, `APT::Architectures:: "arm64";`} {
		if !strings.Contains(res.Stdout, want+"\n") {
			t.Errorf("apt's configuration lacks %s", want)
		}
	}
	for line := range strings.Lines(res.Stdout) {
		if strings.Contains(line, "-Invoke") && strings.HasPrefix(line, "APT::Update::") && !strings.HasSuffix(line, ` "";`+"\n") {
			t.Errorf("a hook of the machine's would run: %s", line)
		}
	}
	if _, err := aptConf(`a"b`, []string{"amd64"}); err == nil {
		t.Error("a quote gets into apt's configuration")
	}
}

// Packages of a distribution like Debian have the same names.
func TestPackagesThatAreNotDebiansAreRefused(t *testing.T) {
	for release, want := range map[string]string{
		"ID=debian\nVERSION_ID=\"12\"\n": "",
		"ID=debian\n":                    "",
		"ID=ubuntu\nVERSION_ID=24.04\n":  "are of ubuntu: the image is made of Debian's",
		"NAME=x\n":                       "no os-release with an ID",
	} {
		p := Package{Name: "base-files", files: tree{"usr/lib/os-release": {data: []byte(release)}}}
		_, err := withDistro([]Package{p})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", release, err)
		}
	}
}
