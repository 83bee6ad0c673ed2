package profile

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
)

func sample(proxy string) *Profile {
	return &Profile{
		Proxy: proxy, ClusterName: "tele.example.com", User: "alice", Roles: []string{"access"},
		NotAfter: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC), Cert: "cert", Key: "key", HostCAs: "ca",
	}
}

func TestWhatIsSavedIsLoadedAndNobodyElseCanReadIt(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "home")
	store := Open(dir)
	want := map[string]*Profile{}
	for _, proxy := range []string{"tele.example.com:443", "tele.example.com:3080", "[::1]:443", "127.0.0.1:3081"} {
		want[proxy] = sample(proxy)
		if err := store.Save(want[proxy]); err != nil {
			t.Fatal(err)
		}
		if err := store.SetCurrent(proxy); err != nil {
			t.Fatal(err)
		}
		if current, err := store.Current(); current != proxy || err != nil {
			t.Errorf("current %q, %v; want %q", current, err, proxy)
		}
	}
	for proxy, p := range want {
		got, err := store.Load(proxy)
		if diff := cmp.Diff(p, got); diff != "" || err != nil {
			t.Errorf("%s: %v\n%s", proxy, err, diff)
		}
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		wantPerm := fs.FileMode(0o600)
		if d.IsDir() {
			wantPerm = 0o700
		}
		if info.Mode().Perm() != wantPerm {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestRemoveForgetsOneLogin(t *testing.T) {
	store := Open(t.TempDir())
	for _, proxy := range []string{"a:443", "b:443"} {
		if err := store.Save(sample(proxy)); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.SetCurrent("b:443"); err != nil {
		t.Fatal(err)
	}
	if err := store.Remove("b:443"); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Load("b:443"); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Error(err)
	}
	if _, err := store.Current(); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Error(err)
	}
	if _, err := store.Load("a:443"); err != nil {
		t.Error(err)
	}
	if err := store.Remove("b:443"); err != nil {
		t.Errorf("removing nothing: %v", err)
	}
}

func TestProxyCannotLeadOutOfTheDirectory(t *testing.T) {
	store := Open(t.TempDir())
	for _, proxy := range []string{"../x:443", "..:443", ".:443", "a/b:443", `a\b:443`, ":443", "", "a..b:443", "x:99999", "x:0", "a b:1"} {
		if _, err := store.Load(proxy); !api.IsCode(err, api.CodeInvalid) {
			t.Errorf("%q: %v", proxy, err)
		}
		if err := store.Save(sample(proxy)); err == nil {
			t.Errorf("%q saved", proxy)
		}
	}
}

func TestProxyAddr(t *testing.T) {
	for in, want := range map[string]string{
		"tele.example.com": "tele.example.com:443", "Tele.Example.com:3080": "tele.example.com:3080",
		"https://tele.example.com/": "tele.example.com:443", "https://tele.example.com:3080": "tele.example.com:3080",
		"::1": "[::1]:443", "[::1]:80": "[::1]:80", "127.0.0.1": "127.0.0.1:443",
	} {
		if got, err := ProxyAddr(in); got != want || err != nil {
			t.Errorf("ProxyAddr(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}

func TestDamagedFilesSayLogInAgain(t *testing.T) {
	dir := t.TempDir()
	store := Open(dir)
	for _, content := range []string{"", "{", `{"version":2}`, `{"version":1}`, `{"version":1,"proxy":"../x","cluster_name":"c"}`} {
		if err := os.MkdirAll(filepath.Join(dir, "p"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "p", fileName), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := store.Load("p:443"); !api.IsCode(err, api.CodeUnauthenticated) {
			t.Errorf("%q: %v", content, err)
		}
	}
}

func TestCertificateIsGivenOutUntilShortlyBeforeItsEnd(t *testing.T) {
	end := sample("p:443").NotAfter
	for name, test := range map[string]struct {
		created time.Time
		before  time.Duration
	}{
		"12 hours":            {end.Add(-12 * time.Hour), time.Minute},
		"ten minutes":         {end.Add(-10 * time.Minute), time.Minute},
		"a minute":            {end.Add(-time.Minute), 6 * time.Second},
		"over before it came": {end.Add(time.Minute), 0},
		"of an older tsh":     {time.Time{}, time.Minute},
	} {
		p := sample("p:443")
		p.Created = test.created
		if last := end.Add(-test.before); !p.Valid(last.Add(-time.Second)) || p.Valid(last) || !p.Expires().Equal(last) {
			t.Errorf("%s: given out until %s before its end", name, end.Sub(p.Expires()))
		}
	}
}

func TestListGivesAllLogins(t *testing.T) {
	dir := t.TempDir()
	store := Open(dir)
	if profiles, errs, err := Open(filepath.Join(dir, "none")).List(); len(profiles)+len(errs) > 0 || err != nil {
		t.Error(profiles, errs, err)
	}
	want := []string{"127.0.0.1:3081", "[::1]:443", "a:443", "b.example.com:3080"}
	for _, proxy := range want {
		if err := store.Save(sample(proxy)); err != nil {
			t.Fatal(err)
		}
	}
	for path, content := range map[string]string{"config.yaml": "user: x\n", "damaged/profile.json": "{", "Upper/profile.json": "{", "no+port+x/profile.json": "{", "empty/other": ""} {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	profiles, errs, err := store.List()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range profiles {
		got = append(got, p.Proxy)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if len(errs) != 1 || !api.IsCode(errs["damaged:443"], api.CodeUnauthenticated) {
		t.Error(errs)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"version":1,"proxy":"p:443","cluster_name":"c"}`))
	f.Add([]byte(`{"version":1,"proxy":"[::1]:443","cluster_name":"c","not_after":"2030-01-02T03:04:05Z"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parse(b)
		if err != nil {
			return
		}
		store := Open("/store")
		path, err := store.path(p.Proxy)
		if err != nil {
			t.Fatal(err)
		}
		if rel, err := filepath.Rel("/store", path); err != nil || !filepath.IsLocal(rel) || filepath.Dir(filepath.Dir(rel)) != "." || filepath.Dir(rel) == "." {
			t.Fatalf("%q leads to %q", p.Proxy, path)
		}
	})
}

// TestProfilesWithoutConnectorAreOfLocalUsers: those of older versions.
func TestProfilesWithoutConnectorAreOfLocalUsers(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "tele.example.com", fileName)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	old := `{"version":1,"proxy":"tele.example.com:443","cluster_name":"tele.example.com","user":"alice","cert":"c","key":"k","host_cas":"h"}`
	if err := os.WriteFile(path, []byte(old), 0o600); err != nil {
		t.Fatal(err)
	}
	store := Open(dir)
	p, err := store.Load("tele.example.com:443")
	if err != nil || p.SSO() || p.Connector != "" {
		t.Fatalf("%+v, %v", p, err)
	}
	for connector, sso := range map[string]bool{"github": true, api.AuthLocal: false} {
		p.Connector, p.Connectors = connector, []string{"github", "okta"}
		if err := store.Save(p); err != nil {
			t.Fatal(err)
		}
		got, err := store.Load(p.Proxy)
		if diff := cmp.Diff(p, got); diff != "" || err != nil || got.SSO() != sso {
			t.Errorf("%v\n%s", err, diff)
		}
	}
}

func TestLoginLine(t *testing.T) {
	const proxy = "tele.example.com:443"
	for want, p := range map[string]Profile{
		"tsh login --proxy=tele.example.com:443 --user=alice":              {Connector: api.AuthLocal},
		"tsh login --proxy=tele.example.com:443 --user=alice ":             {}, // an old file
		"tsh login --proxy=tele.example.com:443 --auth=local --user=alice": {Connector: api.AuthLocal, Connectors: []string{"github"}},
		"tsh login --proxy=tele.example.com:443 --auth=github":             {Connector: "github"},
	} {
		p.Proxy, p.User = proxy, "alice"
		if got := p.LoginLine(); got != strings.TrimSpace(want) {
			t.Errorf("%+v: %s", p, got)
		}
	}
	if got := LoginLine(proxy, "a b", "c'd"); got != `tsh login --proxy=tele.example.com:443 --auth='a b' --user='c'\''d'` {
		t.Error(got)
	}
}
