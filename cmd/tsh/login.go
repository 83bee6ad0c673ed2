package main

import (
	"cmp"
	"context"
	"errors"
	"io"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/client"
	"github.com/sallyport-dev/sallyport/internal/client/profile"
)

// Values of --mfa-mode and --browser.
const (
	modeAuto    = "auto"
	modeOTP     = "otp"
	modeBrowser = "browser"
	browserNone = "none"
)

// minTTL is the shortest session that servers give.
const minTTL = time.Minute

func loginCommand() cliapp.Command {
	return cliapp.Command{
		Name: "login", Usage: "log in and point kubectl at the cluster",
		Description: "A local user is asked for a password and, if there is one, for a second factor:\n" +
			"the code of an authenticator app here, a passkey in the browser. Without a\n" +
			"terminal, the password and then the code are read as lines of standard input.\n" +
			"With --auth=CONNECTOR you log in at your identity provider, in the browser,\n" +
			"which opens by itself; the page must show the code that is shown here. On a\n" +
			"machine without a browser add --headless.\n\n" +
			"While a session lives, it asks nothing and only writes the kubeconfig. A current\n" +
			"context that is not Sallyport's stays.\n\n" +
			"If this machine does not know the cluster's authority, you are shown its pin, to\n" +
			"compare with the \"CA pin\" of 'tctl status', and asked whether to trust it.\n\n" +
			"What flags leave open is taken from the environment or from 'tsh config'.",
		Examples: []string{
			"tsh login --proxy=tele.example.com:443 --user=alice",
			"tsh login --proxy=tele.example.com:443 --user=alice --mfa-mode=browser",
			"tsh login --proxy=tele.example.com:443 --auth=github",
			"tsh login --proxy=tele.example.com:443 --auth=github --headless",
			"KUBECONFIG=${HOME?}/sallyport.yaml tsh login --proxy=tele.example.com:443 --user=alice",
		},
		Flags: append(settingFlags(),
			cliapp.Flag{Name: "headless", Kind: cliapp.Bool, Usage: "log in from a machine without a browser: open the link on another one, and type the code there"},
			cliapp.Flag{Name: "ca-pin", Usage: "trust the authority with this `PIN` (sha256:…, as 'tctl status' prints it) for the cluster's web certificate", Env: "SALLYPORT_CA_PIN"},
			cliapp.Flag{Name: "insecure", Kind: cliapp.Bool, Usage: "do not verify the cluster's web certificate, this once: whoever is on the way gets the password"},
		),
		Settings: readSettings, Run: login,
	}
}

// settingFlags are the flags of a login that can be kept with tsh config.
func settingFlags() []cliapp.Flag {
	return []cliapp.Flag{
		{Name: "user", Usage: "log in as `NAME`; default: the last one, else that of this machine; with a connector: whoever logs in, who must be NAME if it is on the command line", Env: "SALLYPORT_USER", Complete: completeUser},
		{Name: "ttl", Kind: cliapp.Duration, Usage: "end the session after `LIFE`; roles may end it earlier", Env: "SALLYPORT_TTL", Default: "12h"},
		{Name: "auth", Usage: "log in with `CONNECTOR`, or with local as a local user; default: the last connector, else what the cluster prefers", Env: "SALLYPORT_AUTH", Complete: completeAuth},
		{Name: "ca-file", Usage: "trust the authority in `FILE` (PEM) for the cluster's web certificate, instead of the system's", Env: "SALLYPORT_CA_FILE"},
		{Name: "mfa-mode", Usage: "log in by `MODE`: otp asks for the code of an app here, browser does all of the login there", Values: []string{modeAuto, modeOTP, modeBrowser}, Env: "SALLYPORT_MFA_MODE", Default: modeAuto},
		{Name: "browser", Usage: "open links in `WHAT`, besides printing them", Values: []string{modeAuto, browserNone}, Env: "SALLYPORT_BROWSER", Default: modeAuto},
		{Name: "kube-path", Kind: cliapp.Bool, Usage: "write a kubeconfig for clients that know no tls-server-name", Env: "SALLYPORT_KUBE_PATH"},
	}
}

func completeUser(*cliapp.Call) []string {
	_, users := profile.Known(os.Getenv)
	return users
}

func login(ctx context.Context, c *cliapp.Call) error {
	if c.IsSet("ttl") && c.Duration("ttl") < minTTL {
		return api.Errorf(api.CodeInvalid, "%s: a session lasts a minute or more", c.Source("ttl"))
	}
	if c.Typed("mfa-mode") && c.String("mfa-mode") == modeOTP && c.Bool("headless") {
		return api.Errorf(api.CodeInvalid, "give --headless or --mfa-mode=otp, not both")
	}
	store, proxy, err := openStore(c)
	if err != nil {
		return err
	}
	old, err := store.Load(proxy)
	if err != nil && !api.IsCode(err, api.CodeUnauthenticated) {
		return err
	}
	name, chosen, err := userName(c, old)
	if err != nil {
		return err
	}
	if old != nil && old.Valid(time.Now()) && fits(c, old) {
		done, err := resume(ctx, c, store, old)
		if done || err != nil {
			return err
		}
	}
	p, err := newSession(ctx, c, store, proxy, name, chosen, old)
	if err != nil {
		return err
	}
	if err := keep(ctx, c, store, p, endSession); err != nil {
		return err
	}
	if err := refresh(ctx, c, store, p, nil); err != nil {
		if !stands(store, p) {
			return api.Errorf(api.CodeConflict, "another login or logout at %s came meanwhile and ended this one: look at 'tsh status'", proxy)
		}
		return api.Errorf(api.CodeOf(err), "you are logged in, but kubectl is not set up: %w", err)
	}
	printStatus(c, p, selectedClusters(c)(p), true)
	return nil
}

// keep writes the login and makes it the one in use. The session that it
// replaces is ended, and so is this one if it can't be kept: nobody could end it later.
func keep(ctx context.Context, c *cliapp.Call, store *profile.Store, p *profile.Profile, end func(context.Context, *profile.Profile) error) error {
	var replaced *profile.Profile
	saved := false
	err := change(ctx, c, store, func() error {
		var err error
		if replaced, err = store.Load(p.Proxy); err != nil {
			replaced = nil // none, or nothing that could be ended
		} else {
			p.Kubeconfig, p.Kubeconfigs = replaced.Kubeconfig, replaced.Kubeconfigs
			p.ContextLabels, p.ContextQuery, p.ContextName = replaced.ContextLabels, replaced.ContextQuery, replaced.ContextName
		}
		if err := store.Save(p); err != nil {
			return err
		}
		saved = true
		return store.SetCurrent(p.Proxy)
	})
	if !saved {
		if ended := end(context.WithoutCancel(ctx), p); ended != nil {
			return api.Errorf(api.CodeOf(err), "%w\nThe session, which can't be used, lives until %s on the server", err, p.NotAfter.Local().Format(time.DateTime))
		}
		return api.Errorf(api.CodeOf(err), "%w\nThe session was ended again", err)
	}
	if replaced != nil && replaced.Valid(time.Now()) {
		defer waitingFor(c, p.Proxy)()
		_ = end(ctx, replaced) // if that fails, it ends by itself
	}
	return err
}

// stands says whether the login is the one on disk.
func stands(store *profile.Store, p *profile.Profile) bool {
	now, err := store.Load(p.Proxy)
	return err == nil && now.SessionID == p.SessionID && now.Cert == p.Cert
}

// resume goes on with a session that lives; false: it has ended on the server.
func resume(ctx context.Context, c *cliapp.Call, store *profile.Store, p *profile.Profile) (bool, error) {
	err := refresh(ctx, c, store, p, func(now *profile.Profile) {
		if c.IsSet("kube-path") {
			now.KubePath = c.Bool("kube-path")
		}
	})
	if api.IsCode(err, api.CodeUnauthenticated) {
		c.Notef("Your session has ended on the server.")
		return false, nil
	}
	if err != nil {
		return false, err
	}
	switch {
	case c.Typed("ttl"):
		c.Notef("You are logged in already; for a session of another length, run 'tsh logout' first.")
	case p.SSO():
		c.Notef("You are logged in already; 'tsh logout' first to log in anew, such as after a change of groups.")
	}
	printStatus(c, p, selectedClusters(c)(p), true)
	return true, nil
}

// userName is whom to log in, and whether somebody chose that name.
func userName(c *cliapp.Call, old *profile.Profile) (name string, chosen bool, err error) {
	name = c.String("user")
	if name == "" && old != nil && !old.SSO() {
		name = old.User
	}
	if name != "" {
		return name, true, api.ValidateName("user", name)
	}
	me, err := user.Current()
	if err != nil || api.ValidateName("user", me.Username) != nil {
		return "", false, nil //nolint:nilerr // only a password needs one
	}
	return me.Username, false, nil
}

// attempt is a login on its way.
type attempt struct {
	c      *cliapp.Call
	web    *client.Client
	proxy  string
	method method
	user   string // "": this machine's user has a name that nobody can have
	chosen bool   // somebody named the user; else the browser may say another
	ttl    time.Duration
}

// newSession logs in with whatever the cluster and the user's factors ask for.
func newSession(ctx context.Context, c *cliapp.Call, store *profile.Store, proxy, name string, chosen bool, old *profile.Profile) (*profile.Profile, error) {
	p := &profile.Profile{Proxy: proxy, KubePath: c.Bool("kube-path")}
	if old != nil && !c.IsSet("kube-path") {
		p.KubePath = old.KubePath
	}
	if err := store.Check(ctx, proxy); err != nil {
		return nil, err // rather than once somebody has typed a password
	}
	if !c.Interactive() {
		c.Stdin = oneByOne{c.Stdin} // several questions, each a line
	}
	web, ping, err := connect(ctx, c, store, p)
	if err != nil {
		return nil, err
	}
	defer web.Close()
	if err := checkVersions(c, proxy, ping); err != nil {
		return nil, err
	}
	how, err := chooseMethod(ctx, c, web, ping, proxy, old)
	if err != nil {
		return nil, err
	}
	if err := kubeAddresses(p, ping); err != nil {
		return nil, err
	}
	a := &attempt{c: c, web: web, proxy: proxy, method: how, user: name, chosen: chosen}
	if c.IsSet("ttl") {
		a.ttl = c.Duration("ttl")
	}
	p.Created = time.Now().UTC().Truncate(time.Second)
	login, err := a.choose(ping)
	if err != nil {
		return nil, err
	}
	resp, creds, err := login(ctx)
	if api.IsCode(err, api.CodeUnauthenticated) || api.IsCode(err, api.CodeSecondFactor) {
		return nil, api.Errorf(api.CodeOf(err), "%w\nTo try again: %s", err, a.line())
	}
	if err != nil {
		return nil, err
	}
	p.User, p.ClusterName, p.SessionID, p.Roles = resp.Username, resp.ClusterName, resp.SessionID, resp.Roles
	p.Connector, p.Connectors = cmp.Or(resp.Connector, api.AuthLocal), connectorNames(ping.Auth.Connectors)
	p.KubeGroups, p.KubeUsers = resp.KubeGroups, resp.KubeUsers
	if left := time.Until(creds.NotAfter); a.ttl-left > min(time.Minute, a.ttl/10) {
		c.Notef("The session ends after %s, not %s: roles limit it.", cliapp.ShortDuration(left.Round(time.Minute)), cliapp.ShortDuration(a.ttl))
	}
	p.NotAfter, p.Cert, p.Key, p.HostCAs = creds.NotAfter, string(creds.CertPEM), string(creds.KeyPEM), string(creds.HostCAs)
	return p, nil
}

// loginFunc is one way to log in.
type loginFunc = func(context.Context) (*api.LoginResponse, *client.Credentials, error)

// choose is how to log in, by the connector, the flags and what the cluster demands.
func (a *attempt) choose(ping *api.Ping) (loginFunc, error) {
	mode := a.c.String("mfa-mode")
	if a.method.sso() {
		if a.c.Typed("mfa-mode") && mode == modeOTP {
			return nil, api.Errorf(api.CodeInvalid, "--mfa-mode=otp is for local users, and %q logs people in in the browser: leave it out, or add --auth=local", a.method.name)
		}
		a.chosen = a.c.Typed("user") // other names, that of the last login too, are those of local users
	}
	switch {
	case a.c.Bool("headless"):
		return a.headless, nil
	case a.method.sso(), mode == modeBrowser, mode == modeAuto && ping.Auth.SecondFactor == api.SecondFactorWebAuthn:
		return a.browser, nil
	case a.user == "":
		return nil, api.Errorf(api.CodeInvalid, "say who you are with --user (SALLYPORT_USER)")
	}
	return a.password, nil
}

// line is the command by which to try this login again.
func (a *attempt) line() string {
	auth, name := "", ""
	if a.method.sso() || a.method.asked {
		auth = a.method.name
	}
	if a.chosen {
		name = a.user
	}
	line := profile.LoginLine(a.proxy, auth, name)
	if a.c.Bool("headless") {
		line += " --headless"
	}
	return line
}

// oneByOne reads a byte at a time, so that no reader takes more than its line.
type oneByOne struct{ r io.Reader }

func (o oneByOne) Read(b []byte) (int, error) { return o.r.Read(b[:min(1, len(b))]) }

// codeTries bounds how often a person may mistype a code before starting over;
// the server counts each as a failure.
const codeTries = 3

// password logs in with a password, and with a second factor if the answer asks
// for one.
func (a *attempt) password(ctx context.Context) (*api.LoginResponse, *client.Credentials, error) {
	password, err := a.readPassword(ctx)
	if err != nil {
		return nil, nil, err
	}
	resp, creds, err := a.send(ctx, password, "")
	needs, ok := errors.AsType[*api.Error](err)
	if !ok || needs.Code != api.CodeSecondFactor {
		return resp, creds, err
	}
	a.chosen = true // the password was this user's
	app, passkey := slices.Contains(needs.SecondFactors, api.FactorTOTP), slices.Contains(needs.SecondFactors, api.FactorWebAuthn)
	mode := a.c.String("mfa-mode")
	switch {
	case !app && passkey && mode == modeAuto:
		a.c.Notef("The second factor of %s is a passkey: the login goes on in the browser.", a.user)
		return a.browser(ctx)
	case !app && passkey:
		return nil, nil, api.Errorf(api.CodeSecondFactor, "the second factor of %s is a passkey, which works in the browser: add --mfa-mode=browser", a.user)
	case !app:
		return nil, nil, err // a kind that this version does not know
	}
	choice := passkey && mode == modeAuto && a.c.Interactive()
	for try := 1; ; try++ {
		code, err := a.readCode(ctx, choice)
		if err != nil {
			return nil, nil, err
		}
		if code == "" && choice {
			return a.browser(ctx)
		}
		resp, creds, err := a.send(ctx, password, code)
		if try < codeTries && a.c.Interactive() && api.IsCode(err, api.CodeSecondFactor) {
			a.c.Notef("Not accepted: %v.", err) // wrong, or used already
			continue
		}
		return resp, creds, err
	}
}

func (a *attempt) readPassword(ctx context.Context) (string, error) {
	password, err := a.c.ReadPassword(ctx, "Enter password for Sallyport user "+a.user+": ")
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case err != nil && !a.c.Interactive():
		return "", api.Errorf(api.CodeInvalid, "no password for %s: standard input is no terminal and has no line to read; give the password on it, run this on a terminal, or add --mfa-mode=browser", a.user)
	case err == nil && password == "":
		return "", api.Errorf(api.CodeInvalid, "the password of %s is empty: nothing was sent", a.user)
	}
	return password, err
}

func (a *attempt) send(ctx context.Context, password, code string) (*api.LoginResponse, *client.Credentials, error) {
	defer waitingFor(a.c, a.proxy)()
	return a.web.LoginWithPassword(ctx, a.user, password, code, a.ttl)
}

// readCode asks for the code of an authenticator app; choice offers the browser.
func (a *attempt) readCode(ctx context.Context, choice bool) (string, error) {
	prompt := "Enter the code of your authenticator app: "
	if choice {
		prompt = "Enter the code of your authenticator app, or nothing for your passkey in the browser: "
	}
	if !a.c.Interactive() {
		prompt = ""
	}
	for {
		line, err := a.c.ReadLine(ctx, prompt)
		if err != nil {
			return "", api.Errorf(api.CodeSecondFactor, "%s has a second factor: give the code of the authenticator app on the line after the password, or add --mfa-mode=browser (%w)", a.user, err)
		}
		code := strings.Join(strings.Fields(line), "") // apps show "123 456"
		if code != "" || choice || !a.c.Interactive() {
			return code, nil
		}
	}
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
