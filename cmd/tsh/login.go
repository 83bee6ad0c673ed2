package main

import (
	"context"
	"errors"
	"os"
	"os/user"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/client"
	"github.com/sallyport-dev/sallyport/internal/client/profile"
)

func loginCommand() cliapp.Command {
	return cliapp.Command{
		Name: "login", Usage: "log in and point kubectl at the cluster",
		Description: "Asks for a password, or reads one line of standard input if that is no terminal. While a session\n" +
			"lives, it asks nothing and only writes the kubeconfig. A current context that is not Sallyport's stays.",
		Examples: []string{
			"tsh login --proxy=tele.example.com:443 --user=alice",
			"KUBECONFIG=${HOME?}/sallyport.yaml tsh login --proxy=tele.example.com:443 --user=alice",
		},
		Flags: []cliapp.Flag{
			{Name: "user", Usage: "log in as `NAME`; default: the last one, else that of this machine", Env: "SALLYPORT_USER"},
			{Name: "ttl", Kind: cliapp.Duration, Usage: "end the session after `LIFE`; roles may end it earlier", Default: "12h"},
			{Name: "auth", Usage: "log in with `CONNECTOR`", Default: "local"},
			{Name: "ca-file", Usage: "trust the authority in `FILE` (PEM) for the cluster's web certificate, instead of the system's", Env: "SALLYPORT_CA_FILE"},
			{Name: "insecure", Kind: cliapp.Bool, Usage: "do not verify the cluster's web certificate: whoever is on the way gets the password"},
			{Name: "kube-path", Kind: cliapp.Bool, Usage: "write a kubeconfig for clients that know no tls-server-name"},
		},
		Run: login,
	}
}

func login(ctx context.Context, c *cliapp.Call) error {
	store, proxy, err := openStore(c)
	if err != nil {
		return err
	}
	old, err := store.Load(proxy)
	if err != nil && !api.IsCode(err, api.CodeUnauthenticated) {
		return err
	}
	name, err := userName(c, old)
	if err != nil {
		return err
	}
	if old != nil && old.Valid(time.Now()) && old.User == name {
		done, err := resume(ctx, c, store, old)
		if done || err != nil {
			return err
		}
	}
	p, err := newSession(ctx, c, proxy, name, old)
	if err != nil {
		return err
	}
	if err := errors.Join(store.Save(p), store.SetCurrent(proxy)); err != nil {
		return err
	}
	if old != nil && old.Valid(time.Now()) {
		_ = endSession(ctx, old) // replaced; if that fails, it ends by itself
	}
	if err := refresh(ctx, c, store, p, ""); err != nil {
		return api.Errorf(api.CodeOf(err), "you are logged in, but kubectl is not set up: %w", err)
	}
	return printStatus(c, p)
}

// resume goes on with a session that lives; false: it has ended on the server.
func resume(ctx context.Context, c *cliapp.Call, store *profile.Store, p *profile.Profile) (bool, error) {
	if c.IsSet("kube-path") {
		p.KubePath = c.Bool("kube-path")
	}
	err := errors.Join(refresh(ctx, c, store, p, ""), store.SetCurrent(p.Proxy))
	if api.IsCode(err, api.CodeUnauthenticated) {
		c.Notef("Your session has ended on the server.")
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if c.IsSet("ttl") {
		c.Notef("You are logged in already; for a session of another length, run 'tsh logout' first.")
	}
	return true, printStatus(c, p)
}

func userName(c *cliapp.Call, old *profile.Profile) (string, error) {
	name := c.String("user")
	if name == "" && old != nil {
		name = old.User
	}
	if name == "" {
		me, err := user.Current()
		if err != nil {
			return "", api.Errorf(api.CodeInvalid, "say who you are with --user (SALLYPORT_USER)")
		}
		name = me.Username
	}
	return name, api.ValidateName("user", name)
}

// newSession logs in with a password.
func newSession(ctx context.Context, c *cliapp.Call, proxy, name string, old *profile.Profile) (*profile.Profile, error) {
	p := &profile.Profile{Proxy: proxy, User: name, KubePath: c.Bool("kube-path")}
	if !c.IsSet("kube-path") && old != nil {
		p.KubePath = old.KubePath
	}
	web, err := webClient(c, p, old)
	if err != nil {
		return nil, err
	}
	defer web.Close()
	ping, err := web.Ping(ctx)
	if err != nil {
		return nil, err
	}
	if auth := c.String("auth"); auth != ping.Auth.Type && auth != "local" {
		return nil, api.Errorf(api.CodeInvalid, "%s has no connector %q: it logs people in with %q", proxy, auth, ping.Auth.Type)
	}
	if err := kubeAddresses(p, ping); err != nil {
		return nil, err
	}
	password, err := c.ReadPassword(ctx, "Enter password for Sallyport user "+name+": ")
	if err != nil {
		return nil, err
	}
	var ttl time.Duration
	if c.IsSet("ttl") {
		ttl = c.Duration("ttl")
	}
	if ttl < 0 {
		return nil, api.Errorf(api.CodeInvalid, "--ttl must be more than nothing")
	}
	resp, creds, err := web.LoginWithPassword(ctx, name, password, "", ttl)
	if err != nil {
		return nil, err
	}
	p.ClusterName, p.SessionID, p.Roles = resp.ClusterName, resp.SessionID, resp.Roles
	p.KubeGroups, p.KubeUsers = resp.KubeGroups, resp.KubeUsers
	p.NotAfter, p.Cert, p.Key, p.HostCAs = creds.NotAfter, string(creds.CertPEM), string(creds.KeyPEM), string(creds.HostCAs)
	return p, nil
}

// webClient speaks with the web name, trusting what the flags say, or what they
// said at the last login there.
func webClient(c *cliapp.Call, p, old *profile.Profile) (*client.Client, error) {
	if file := c.String("ca-file"); file != "" {
		pem, err := os.ReadFile(file) //nolint:gosec // the user's own file, named by the user
		if err != nil {
			return nil, api.Errorf(api.CodeInvalid, "--ca-file: %w", err)
		}
		certs, err := client.Certificates(pem)
		if err != nil {
			return nil, api.Errorf(api.CodeInvalid, "--ca-file %s: %w", file, err)
		}
		p.WebCAs = string(certs)
	} else if old != nil {
		p.WebCAs = old.WebCAs
	}
	if c.Bool("insecure") {
		c.Warnf("--insecure: the certificate of %s is NOT verified. Whoever is between you and it can read your password and act as you. Use --ca-file instead.", p.Proxy)
	}
	return client.NewWeb(p.Proxy, client.WebOptions{CAs: []byte(p.WebCAs), Insecure: c.Bool("insecure"), Agent: "tsh/" + version})
}

// kubeAddresses takes over where kubectl should go.
func kubeAddresses(p *profile.Profile, ping *api.Ping) error {
	p.KubeAddr = p.Proxy
	for from, to := range map[string]*string{ping.Proxy.Kube.PublicAddr: &p.KubeAddr, ping.Proxy.Kube.ListenAddr: &p.KubeListen} {
		if from == "" {
			continue
		}
		addr, err := profile.ProxyAddr(from)
		if err != nil {
			return api.Errorf(api.CodeInternal, "%s names %q as its address for kubectl, which is none", p.Proxy, from)
		}
		*to = addr
	}
	return nil
}

// logoutPatience bounds the wait for a server when there is nothing to gain by waiting.
const logoutPatience = 10 * time.Second

func endSession(ctx context.Context, p *profile.Profile) error {
	cl, err := apiClient(p)
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, logoutPatience)
	defer cancel()
	err = cl.Logout(ctx)
	if api.IsCode(err, api.CodeUnauthenticated) {
		return nil // has ended already
	}
	return err
}

func logoutCommand() cliapp.Command {
	return cliapp.Command{
		Name: "logout", Usage: "end the session, and remove it and its kubeconfig entries from this machine",
		Run: func(ctx context.Context, c *cliapp.Call) error {
			store, p, err := openProfile(c)
			if api.IsCode(err, api.CodeUnauthenticated) {
				c.Notef("Not logged in.")
				return nil
			}
			if err != nil {
				return err
			}
			// Whatever fails, the rest is done: a person who logs out wants to be out.
			var ended error
			if p.Valid(time.Now()) {
				if ended = endSession(ctx, p); ended != nil {
					ended = api.Errorf(api.CodeOf(ended), "the session could not be ended on the server and lives there until %s: %w", p.NotAfter.Local().Format(time.DateTime), ended)
				}
			}
			if err := errors.Join(ended, forgetKubeconfig(ctx, p), store.Remove(p.Proxy)); err != nil {
				return err
			}
			c.Printf("Logged out %s from %s.\n", p.User, p.Proxy)
			return nil
		},
	}
}
