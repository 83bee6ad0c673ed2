// Package profile keeps logins on the client's disk: one directory per proxy
// under ~/.sallyport, and in it one file that holds all a login is, so that a
// certificate and its key change together and kubectl's credential plugin reads
// one file and takes no lock. What changes the store takes one (Change). Whom a
// person trusts at a proxy stands beside the login and outlives it.
//
// What an attacker might try: another user of the machine reading the key
// (directories are 0700 and files 0600 from the first byte), or a proxy's name
// that leads out of the directory (names are checked before they become a path).
package profile

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/atomicfile"
	"github.com/sallyport-dev/sallyport/internal/client"
)

const (
	fileName    = "profile.json"
	currentName = "current-profile" // holds the address of the proxy logged in to last
	version     = 1
	maxSize     = 4 << 20 // bytes read of a file; a real one is some KiB
	// margin is how long before its end a certificate is no longer given out: a
	// request takes time, and clocks differ. Of a short life it is marginPart only,
	// or a session of a minute would be over before it has begun.
	margin     = time.Minute
	marginPart = 10
)

// Profile is a login at a proxy.
type Profile struct {
	Version     int       `json:"version"`
	Proxy       string    `json:"proxy"` // host:port
	ClusterName string    `json:"cluster_name"`
	User        string    `json:"user"`
	Connector   string    `json:"connector,omitempty"` // by which the user came, or api.AuthLocal; "": a login of an older tsh, which knew none
	SessionID   string    `json:"session_id,omitempty"`
	Roles       []string  `json:"roles,omitempty"`
	KubeGroups  []string  `json:"kubernetes_groups,omitempty"`
	KubeUsers   []string  `json:"kubernetes_users,omitempty"`
	NotAfter    time.Time `json:"not_after"`         // of Cert
	Cert        string    `json:"cert"`              // PEM
	Key         string    `json:"key"`               // PEM
	HostCAs     string    `json:"host_cas"`          // PEM
	WebCAs      string    `json:"web_cas,omitempty"` // PEM given with --ca-file
	CAPin       string    `json:"ca_pin,omitempty"`  // of the one CA trusted for the web name, if pinned
	Created     time.Time `json:"created,omitzero"`  // when tsh logged in, by its own clock

	Connectors []string `json:"connectors,omitempty"` // all those of the cluster, as last listed; for completion

	KubeAddr     string   `json:"kube_addr"`                  // host:port of the shared port
	KubeListen   string   `json:"kube_listen_addr,omitempty"` // host:port of the kube-only port
	KubePath     bool     `json:"kube_path,omitempty"`        // --kube-path
	KubeClusters []string `json:"kube_clusters,omitempty"`    // as last listed; for completion
	Kubeconfig   string   `json:"kubeconfig,omitempty"`       // the file last written
	Kubeconfigs  []string `json:"kubeconfigs,omitempty"`      // all that were written, for logout

	// Of which clusters kubeconfigs get a context: with neither, of all.
	ContextLabels []string `json:"context_labels,omitempty"` // tsh kube login --all --labels
	ContextQuery  string   `json:"context_query,omitempty"`  // tsh kube login --all --query
	Contexts      []string `json:"contexts,omitempty"`       // those that were meant when last listed, and those switched to
	ContextName   string   `json:"context_name,omitempty"`   // template of contexts' names; "": the usual one
}

// Auth is what --auth says to log in so again.
func (p *Profile) Auth() string { return cmp.Or(p.Connector, api.AuthLocal) }

// SSO says whether a connector vouches for the user.
func (p *Profile) SSO() bool { return p.Auth() != api.AuthLocal }

// LoginLine is the command to log in as before. With a connector, who somebody is
// comes from there; without, that it is so must be said where there are some, one of
// which may be what the cluster prefers.
func (p *Profile) LoginLine() string {
	switch {
	case p.SSO():
		return LoginLine(p.Proxy, p.Connector, "")
	case len(p.Connectors) > 0:
		return LoginLine(p.Proxy, api.AuthLocal, p.User)
	}
	return LoginLine(p.Proxy, "", p.User)
}

// Reason is what a server says of a session that has ended, without its line to log in
// again: it does not know how somebody came whom it has forgotten, as LoginLine does.
func Reason(err error) string {
	reason, _, _ := strings.Cut(err.Error(), "; log in again: tsh login ")
	return reason
}

// LoginLine is a command to type; auth and user may be "".
func LoginLine(proxy, auth, user string) string {
	line := "tsh login --proxy=" + api.ShellQuote(proxy)
	if auth != "" {
		line += " --auth=" + api.ShellQuote(auth)
	}
	if user != "" {
		line += " --user=" + api.ShellQuote(user)
	}
	return line
}

// Expires is when the certificate is no longer given out: a minute before its
// end, or a tenth of a shorter life.
func (p *Profile) Expires() time.Time {
	before := margin
	if life := p.NotAfter.Sub(p.Created); !p.Created.IsZero() {
		before = max(0, min(margin, life/marginPart))
	}
	return p.NotAfter.Add(-before)
}

// Valid says whether the certificate can be used at now.
func (p *Profile) Valid(now time.Time) bool { return p.Cert != "" && now.Before(p.Expires()) }

// Store is the directory of all profiles.
type Store struct{ dir string }

// Open uses dir, which need not exist yet.
func Open(dir string) *Store { return &Store{dir} }

// DefaultDir is SALLYPORT_HOME, or .sallyport in the home directory.
func DefaultDir(getenv func(string) string) (string, error) {
	if dir := getenv("SALLYPORT_HOME"); dir != "" {
		return filepath.Abs(dir)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", api.Errorf(api.CodeInvalid, "no home directory (%w): say where logins are kept with SALLYPORT_HOME", err)
	}
	return filepath.Join(home, ".sallyport"), nil
}

// ProxyAddr is the one spelling of a proxy's address that profiles use.
func ProxyAddr(addr string) (string, error) {
	host, port, err := client.SplitProxy(addr)
	if err != nil {
		return "", err
	}
	return joinHostPort(host, port), nil
}

func joinHostPort(host, port string) string {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host + ":" + port
}

// path is the file of a proxy. "+" and "=" stand in no host name, so that no two
// addresses share one; colons of IPv6 addresses are not allowed everywhere.
func (s *Store) path(proxy string) (string, error) {
	host, port, err := client.SplitProxy(proxy)
	if err != nil {
		return "", err
	}
	dir := strings.ReplaceAll(host, ":", "=")
	if port != "443" {
		dir += "+" + port
	}
	return filepath.Join(s.dir, dir, fileName), nil
}

// Load reads the profile of a proxy; without one it is a CodeUnauthenticated error.
func (s *Store) Load(proxy string) (*Profile, error) {
	path, err := s.path(proxy)
	if err != nil {
		return nil, err
	}
	b, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, api.Errorf(api.CodeUnauthenticated, "not logged in to %s: run 'tsh login --proxy=%s'", proxy, proxy)
	}
	if err != nil {
		return nil, err
	}
	p, err := parse(b)
	if err != nil {
		return nil, api.Errorf(api.CodeUnauthenticated, "%s: %w; log in again with 'tsh login --proxy=%s'", path, err, proxy)
	}
	return p, nil
}

// Exists says whether a login at the proxy is on disk, even one that can't be read.
func (s *Store) Exists(proxy string) bool {
	path, err := s.path(proxy)
	return err == nil && exists(path)
}

func parse(b []byte) (*Profile, error) {
	p := new(Profile)
	if err := json.Unmarshal(b, p); err != nil {
		return nil, errors.New("the file is damaged")
	}
	if p.Version != version {
		return nil, fmt.Errorf("the file has version %d, this tsh knows %d", p.Version, version)
	}
	addr, err := ProxyAddr(p.Proxy)
	if err != nil || addr != p.Proxy || api.ValidateClusterName(p.ClusterName) != nil {
		return nil, errors.New("the file is damaged")
	}
	return p, nil
}

// Save writes the profile, in a Change.
func (s *Store) Save(p *Profile) error {
	p.Version = version
	path, err := s.path(p.Proxy)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("keep the login: %w", err)
	}
	b, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return fmt.Errorf("keep the login: %w", err)
	}
	return atomicfile.Write(path, append(b, '\n'), 0o600)
}

// SetCurrent makes the login at a proxy the one that commands mean unless told,
// in a Change.
func (s *Store) SetCurrent(proxy string) error {
	if current, err := s.Current(); err == nil && current == proxy {
		return nil
	}
	return atomicfile.Write(filepath.Join(s.dir, currentName), []byte(proxy+"\n"), 0o600)
}

// Remove forgets the login at a proxy, in a Change; it is no error if there is
// none. Whom to trust there stays known.
func (s *Store) Remove(proxy string) error {
	path, err := s.path(proxy)
	if err != nil {
		return err
	}
	if authority, err := s.Authority(proxy); err == nil && !authority.Nobody() {
		if err := s.Trust(proxy, authority); err != nil {
			return err
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget the login: %w", err)
	}
	_ = os.Remove(filepath.Dir(path)) // stays if something else is in it
	if current, err := s.Current(); err == nil && current == proxy {
		return s.UnsetCurrent()
	}
	return nil
}

// UnsetCurrent forgets which login commands mean, in a Change.
func (s *Store) UnsetCurrent() error {
	if err := os.Remove(filepath.Join(s.dir, currentName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget which login is in use: %w", err)
	}
	return nil
}

// List gives the logins, sorted by address. A file that does not load is an
// error among errs, by the address it is of; the others are given all the same.
func (s *Store) List() (profiles []*Profile, errs map[string]error, err error) {
	proxies, err := s.having(fileName)
	if err != nil {
		return nil, nil, err
	}
	errs = map[string]error{}
	for _, proxy := range proxies {
		if p, err := s.Load(proxy); err != nil {
			errs[proxy] = err
		} else {
			profiles = append(profiles, p)
		}
	}
	slices.SortFunc(profiles, func(a, b *Profile) int { return strings.Compare(a.Proxy, b.Proxy) })
	return profiles, errs, nil
}

// having are the proxies in whose directory a file of that name is.
func (s *Store) having(name string) ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the logins: %w", err)
	}
	var proxies []string
	for _, e := range entries {
		proxy, ok := proxyOf(e.Name())
		ok = ok && e.IsDir()
		if !ok {
			continue
		}
		path, err := s.path(proxy)
		if err != nil || filepath.Base(filepath.Dir(path)) != e.Name() {
			continue // not a name of our making
		}
		if _, err := os.Stat(filepath.Join(filepath.Dir(path), name)); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		proxies = append(proxies, proxy)
	}
	return proxies, nil
}

// proxyOf undoes path.
func proxyOf(dir string) (string, bool) {
	host, port, ok := strings.Cut(dir, "+")
	if !ok {
		port = "443"
	}
	proxy, err := ProxyAddr(joinHostPort(strings.ReplaceAll(host, "=", ":"), port))
	return proxy, err == nil
}

// Current is the address of the proxy logged in to last; without one it is a
// CodeUnauthenticated error.
func (s *Store) Current() (string, error) {
	b, err := readFile(filepath.Join(s.dir, currentName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	proxy, err := ProxyAddr(strings.TrimSpace(string(b)))
	if err != nil { // none, or nothing of ours
		return "", api.Errorf(api.CodeUnauthenticated, "not logged in: run 'tsh login --proxy=HOST:PORT' (or set SALLYPORT_PROXY)")
	}
	return proxy, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path) //nolint:gosec // in the user's own home, under a name of our making
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, maxSize))
}
