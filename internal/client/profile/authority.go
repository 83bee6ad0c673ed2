package profile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/atomicfile"
)

const authorityName = "authority.json"

// Authority is whom a person trusts to sign the certificate of a proxy's web
// name. It stands in a file of its own, because it outlives logins: whoever had
// to decide anew after each logout would soon say yes to anybody.
type Authority struct {
	Version int    `json:"version"`
	CAPin   string `json:"ca_pin,omitempty"`  // of the one CA trusted
	WebCAs  string `json:"web_cas,omitempty"` // PEM given with --ca-file
}

// Nobody says that it names no authority: the system's roots count.
func (a Authority) Nobody() bool { return a.CAPin == "" && a.WebCAs == "" }

func (s *Store) authorityPath(proxy string) (string, error) {
	path, err := s.path(proxy)
	return filepath.Join(filepath.Dir(path), authorityName), err
}

// Authority is whom to trust at a proxy, as decided before. Older versions noted
// it with the login alone. What can't be read is an error: not knowing whom to
// trust must not become trusting others.
func (s *Store) Authority(proxy string) (Authority, error) {
	path, err := s.authorityPath(proxy)
	if err != nil {
		return Authority{}, err
	}
	b, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s.authorityOfLogin(proxy)
	}
	if err != nil {
		return Authority{}, err
	}
	a, err := parseAuthority(b)
	if err != nil {
		return Authority{}, forgotten(path, proxy, err)
	}
	return a, nil
}

func (s *Store) authorityOfLogin(proxy string) (Authority, error) {
	path, err := s.path(proxy)
	if err != nil {
		return Authority{}, err
	}
	b, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Authority{}, nil
	}
	if err != nil {
		return Authority{}, err
	}
	p, err := parse(b)
	if err != nil {
		return Authority{}, forgotten(path, proxy, err)
	}
	return Authority{Version: version, CAPin: p.CAPin, WebCAs: p.WebCAs}, nil
}

func forgotten(path, proxy string, err error) error {
	return api.Errorf(api.CodeForbidden, "%s: %w, so it is not known which authority of %s you trust; to decide anew: tsh logout --forget --proxy=%s", path, err, proxy, proxy)
}

// Noted says whether whom to trust at a proxy stands in the file of its own.
func (s *Store) Noted(proxy string) bool {
	path, err := s.authorityPath(proxy)
	return err == nil && exists(path)
}

func parseAuthority(b []byte) (Authority, error) {
	var a Authority
	if err := json.Unmarshal(b, &a); err != nil {
		return Authority{}, errors.New("the file is damaged")
	}
	if a.Version != version {
		return Authority{}, fmt.Errorf("the file has version %d, this tsh knows %d", a.Version, version)
	}
	if a.Nobody() {
		return Authority{}, errors.New("the file is damaged")
	}
	if a.CAPin != "" {
		if pin, err := api.ParsePin(a.CAPin); err != nil || pin != a.CAPin {
			return Authority{}, errors.New("the file is damaged")
		}
	}
	return a, nil
}

// Trust notes whom to trust at a proxy, in a Change.
func (s *Store) Trust(proxy string, a Authority) error {
	path, err := s.authorityPath(proxy)
	if err != nil {
		return err
	}
	a.Version = version
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("note the authority: %w", err)
	}
	b, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return fmt.Errorf("note the authority: %w", err)
	}
	return atomicfile.Write(path, append(b, '\n'), 0o600)
}

// Distrust forgets the authority of a proxy, in a Change; known is false if there
// was none.
func (s *Store) Distrust(proxy string) (known bool, err error) {
	path, err := s.authorityPath(proxy)
	if err != nil {
		return false, err
	}
	err = os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("forget the authority: %w", err)
	}
	_ = os.Remove(filepath.Dir(path)) // stays if something else is in it
	return true, nil
}

// Trusting are the proxies whose authority was noted.
func (s *Store) Trusting() ([]string, error) { return s.having(authorityName) }
