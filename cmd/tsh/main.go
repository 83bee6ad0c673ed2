// Command tsh logs a person in to a Sallyport cluster and leads kubectl through it.
//
// kubectl runs "tsh kube credentials" before almost every request, so nothing
// with a costly start is linked here: no client-go, no Raft.
package main

import (
	"os"
	"os/exec"
	"path/filepath"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/client"
	"github.com/sallyport-dev/sallyport/internal/client/profile"
)

// version is set by the linker (-X main.version=…).
var version = "0.1.0-dev"

func main() { app().Exec() }

func app() *cliapp.App {
	return &cliapp.App{
		Name: "tsh", Version: version, Usage: "log in to a Sallyport cluster and use kubectl through it",
		Flags: []cliapp.Flag{
			proxyFlag(),
		},
		Environment: []cliapp.Variable{
			{Name: "SALLYPORT_HOME", Usage: "directory of logins and config.yaml; default: ~/.sallyport"},
			{Name: "KUBECONFIG", Usage: "kubeconfig to write; of several, the first"},
			{Name: "HTTPS_PROXY", Usage: "proxy on the way to the cluster"},
		},
		Commands: []cliapp.Command{
			loginCommand(), logoutCommand(), statusCommand(), kubeCommand(), configCommand(),
		},
	}
}

func proxyFlag() cliapp.Flag {
	return cliapp.Flag{
		Name: "proxy", Usage: "use the cluster at `HOST:PORT`; default: the one logged in to last", Env: "SALLYPORT_PROXY",
		Complete: func(*cliapp.Call) []string {
			proxies, _ := profile.Known(os.Getenv)
			return proxies
		},
	}
}

func agent() string { return "tsh/" + version }

func profileDir() (string, error) { return profile.DefaultDir(os.Getenv) }

// openStore opens the directory of logins and says at which proxy to work.
func openStore(c *cliapp.Call) (store *profile.Store, proxy string, err error) {
	dir, err := profileDir()
	if err != nil {
		return nil, "", err
	}
	store = profile.Open(dir)
	if flag := c.String("proxy"); flag != "" {
		proxy, err = profile.ProxyAddr(flag)
		return store, proxy, err
	}
	proxy, err = store.Current()
	return store, proxy, err
}

// openProfile is openStore and the login there, even an expired one.
func openProfile(c *cliapp.Call) (*profile.Store, *profile.Profile, error) {
	store, proxy, err := openStore(c)
	if err != nil {
		return nil, nil, err
	}
	p, err := store.Load(proxy)
	return store, p, err
}

func expired(p *profile.Profile) error {
	return api.Errorf(api.CodeUnauthenticated, "your session at %s has expired: run '%s'", p.Proxy, p.LoginLine())
}

// apiClient calls the cluster as the user of the login.
func apiClient(p *profile.Profile) (*client.Client, error) { return profile.APIClient(p, agent()) }

// selfPath is the path of tsh for kubectl: the one it was called by where that
// is this program, because behind it an upgrade may put another file.
func selfPath() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	called, err := exec.LookPath(os.Args[0])
	if err != nil {
		return self, nil //nolint:nilerr // called in an unusual way
	}
	if called, err = filepath.Abs(called); err != nil {
		return self, nil //nolint:nilerr // as above
	}
	a, errA := os.Stat(self)
	b, errB := os.Stat(called)
	if errA == nil && errB == nil && os.SameFile(a, b) {
		return called, nil
	}
	return self, nil
}
