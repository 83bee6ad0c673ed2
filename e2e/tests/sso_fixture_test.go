package tests

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/browser"
	"github.com/sallyport-dev/sallyport/e2e/githubd"
	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// signOn is what tests of single sign-on share: three replicas behind one address, as
// a load balancer gives them, which trust the identity providers beside them. Each
// replica gets every third connection, unless a test pins the balancer.
type signOn struct {
	once sync.Once
	err  error

	dir      string
	ports    *testbed.Ports
	relay    *testbed.Relay
	ca       *testbed.Authority
	cluster  *sallyport.Cluster
	caFile   string // the cluster's authority
	dex, op  *testbed.IDP
	saml     *testbed.IDP // nil: samlErr
	samlErr  error
	github   *githubd.Server
	chromium *browser.Chromium
	homes    atomic.Int64 // so that each has a name of its own
}

// Connectors are named by their identity providers. Those of OpenID Connect and SAML
// give a role that reads the groups of the person.
const (
	ssoPassword = "password"
	ssoRole     = "by-groups"
)

func (s *signOn) addr() string { return fmt.Sprintf("localhost:%d", s.ports.Port(0)) }
func (s *signOn) url() string  { return "https://" + s.addr() }

func (s *signOn) callback(kind string) string {
	if kind == "saml" {
		return s.url() + "/v1/webapi/saml/acs"
	}
	return s.url() + "/v1/webapi/" + kind + "/callback"
}

// backend is a replica as the relay knows it.
func backend(r *sallyport.Replica) string { return r.ListenAddr() }

func (s *signOn) stop() {
	if s.chromium != nil {
		s.chromium.Close()
	}
	if s.relay != nil {
		s.relay.Stop()
	}
	if s.cluster != nil {
		s.cluster.Stop()
	}
	for _, p := range []*testbed.IDP{s.dex, s.op, s.saml} {
		if p != nil {
			p.Close()
		}
	}
	if s.github != nil {
		_ = s.github.Close() // the test process ends
	}
	if s.ports != nil {
		s.ports.Release()
	}
	if s.dir != "" {
		os.RemoveAll(s.dir)
	}
}

func (s *signOn) start() error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute) // empty caches are filled first
	defer cancel()
	if err := testbed.Build(ctx, os.Stderr, testbed.Dex, testbed.OIDCProvider, testbed.Axe); err != nil {
		return err
	}
	ctx, cancel = context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	var err error
	if s.dir, err = os.MkdirTemp("", "sso-"); err != nil {
		return err
	}
	if s.ports, err = testbed.ReservePorts(); err != nil {
		return err
	}
	if s.ca, err = testbed.NewAuthority(s.dir); err != nil {
		return err
	}
	if err := s.startProviders(ctx); err != nil {
		return err
	}
	if err := s.startReplicas(ctx); err != nil {
		return err
	}
	if err := s.create(ctx); err != nil {
		return err
	}
	return s.startBrowser()
}

func person(name string, groups ...string) testbed.Person {
	return testbed.Person{Name: name, Email: name + "@example.com", Password: ssoPassword, Groups: groups}
}

// startProviders gives each provider people of its own: names are unique over all.
func (s *signOn) startProviders(ctx context.Context) error {
	var err error
	oidc := testbed.IDPOptions{Authority: s.ca, Redirects: []string{s.callback("oidc"), s.callback("oidc") + "/written"}}
	oidc.People = []testbed.Person{person("dana", "devs", "admins"), person("dora", "devs"), person("nora", "accounting")}
	if s.dex, err = testbed.OpenIDP(ctx, testbed.DexIDP, oidc); err != nil {
		return err
	}
	oidc.People = []testbed.Person{person("oscar", "devs", "admins")}
	if s.op, err = testbed.OpenIDP(ctx, testbed.OIDCProviderIDP, oidc); err != nil {
		return err
	}
	acs := s.callback("saml")
	s.saml, s.samlErr = testbed.OpenIDP(ctx, testbed.SimpleSAMLphpIDP, testbed.IDPOptions{
		Authority: s.ca, SP: testbed.ServiceProvider{EntityID: acs, ACS: acs}, People: []testbed.Person{person("sam", "devs", "okta-admin")},
	})
	cert, err := s.ca.Certificate("127.0.0.1")
	if err != nil {
		return err
	}
	if s.github, err = githubd.Start(githubd.Options{
		Certificate: cert, ClientID: "client-id", ClientSecret: "client-secret", Callbacks: []string{s.callback("github")}, MaxPage: 2,
	}); err != nil {
		return err
	}
	for _, login := range []string{"alice", "grace", "gus"} {
		s.github.AddUser(login)
	}
	return errors.Join(
		s.github.Join("octocats/devs", "alice", "grace", "gus"), s.github.Join("octocats/ops", "grace"), // the team that counts is on page 2
		s.github.Join("octocats/admin", "grace", "gus"))
}

func (s *signOn) startReplicas(ctx context.Context) error {
	var err error
	s.cluster, err = sallyport.New(ctx, sallyport.Options{
		Bin: fixture.bin, Name: clusterName, PublicHost: "localhost", Kubeconfig: fixture.kube.Kubeconfig,
		Args: []string{"--public-addr=" + s.addr(), "--public-kube-addr=" + s.addr()},
		Env:  []string{"SSL_CERT_FILE=" + s.ca.File},
	})
	if err != nil {
		return err
	}
	var backends []string
	for _, r := range s.cluster.Replicas {
		backends = append(backends, backend(r))
		if err := r.Start(); err != nil {
			return err
		}
	}
	if s.relay, err = testbed.NewRelay(s.ports.Addr(0), backends...); err != nil {
		return err
	}
	if err := s.cluster.WaitReady(ctx); err != nil {
		return fmt.Errorf("%w\n%s", err, s.cluster.Logs(20))
	}
	nobody, err := s.cluster.NewUser(ctx, s.cluster.Replicas[0], "nobody")
	if err == nil {
		s.caFile = nobody.CAFile
	}
	return err
}

// startBrowser trusts everybody that people meet on their way.
func (s *signOn) startBrowser() error {
	both := filepath.Join(s.dir, "all-ca.pem")
	var pem []byte
	for _, file := range []string{s.caFile, s.ca.File} {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		pem = append(append(pem, b...), '\n')
	}
	if err := os.WriteFile(both, pem, 0o600); err != nil {
		return err
	}
	addrs := []string{s.dex.Addr, s.op.Addr, s.github.Addr}
	if s.saml != nil {
		addrs = append(addrs, s.saml.Addr)
	}
	for _, r := range s.cluster.Replicas {
		addrs = append(addrs, r.WebAddr()) // each shows a certificate of its own
	}
	var err error
	s.chromium, err = browser.Launch(context.Background(), both, addrs...)
	return err
}

// githubYAML is the guide's, word for word, but for the addresses.
func (s *signOn) githubYAML() string {
	return `kind: github
version: v3
metadata:
  # connector name that will be used with ` + "`tsh --auth=github login`" + `
  name: github
spec:
  # client ID of Github OAuth app
  client_id: client-id
  # client secret of Github OAuth app
  client_secret: client-secret
  # This name will be shown on UI login screen
  display: Github
  # Change tele.example.com to your domain name
  redirect_url: ` + s.callback("github") + `
  # Map github teams to kubernetes groups
  teams_to_logins:
    - organization: octocats # Github organization name
      team: admin           # Github team name within that organization
      # list of Kubernetes groups this Github team is allowed to connect to
      kubernetes_groups: ["system:masters"]
      # keep this field as is for now
      logins: ["{{external.username}}"]
  endpoint_url: ` + s.github.URL + `
  api_endpoint_url: ` + s.github.URL + `/api/v3
`
}

func (s *signOn) oidcYAML(name, display string, p *testbed.IDP, more string) string {
	return fmt.Sprintf(`kind: oidc
version: v3
metadata: {name: %s}
spec:
  issuer_url: %s
  client_id: %s
  client_secret: %s
  redirect_url: %s
  display: %s
  scope: [email, profile, groups]
  claims_to_roles:
    - {claim: groups, value: devs, roles: [%s]}
    - {claim: groups, value: "adm*", roles: [auditor]}
%s`, name, p.Issuer, p.ClientID, p.ClientSecret, s.callback("oidc"), display, ssoRole, more)
}

// samlYAML holds the provider's metadata, as the guide's does.
func (s *signOn) samlYAML(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.saml.Metadata, http.NoBody)
	if err != nil {
		return "", err
	}
	client := s.ca.Client()
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s, %w", s.saml.Metadata, resp.Status, err)
	}
	return fmt.Sprintf(`kind: saml
version: v2
metadata:
  name: okta
spec:
  acs: %s
  display: Example Okta
  username_attribute: uid
  attributes_to_roles:
  - {name: "groups", value: "okta-admin", roles: [%q]}
  entity_descriptor: |
    %s
`, s.callback("saml"), ssoRole, strings.ReplaceAll(strings.TrimSpace(string(b)), "\n", "\n    ")), nil
}

// create saves role and connectors, each through another replica, as the guide has it:
// tctl create -f < FILE. The lines are the guide's, and so are their quotes.
func (s *signOn) create(ctx context.Context) error {
	docs := []struct{ said, doc string }{
		{"", roleYAML(ssoRole, `"{{external.groups}}"`, "")},
		{"authentication connector \"github\" has been created\n", s.githubYAML()},
		{"authentication connector 'dex' has been created\n", s.oidcYAML("dex", "Example Corp", s.dex, "")},
		{"authentication connector 'certified' has been created\n", s.oidcYAML("certified", "Certified", s.op, "  username_claim: preferred_username\n")},
	}
	if s.saml != nil {
		doc, err := s.samlYAML(ctx)
		if err != nil {
			return err
		}
		docs = append(docs, struct{ said, doc string }{"authentication connector 'okta' has been created\n", doc})
	}
	for i, d := range docs {
		out := s.cluster.Replicas[i%3].TctlStdin(ctx, d.doc, "create", "-f")
		if out.Err != nil {
			return out.Err
		}
		if d.said != "" && out.Stdout != d.said {
			return fmt.Errorf("tctl create printed %q, want %q", out.Stdout, d.said)
		}
	}
	return nil
}

// singleSignOn is the fixture, and the balancer shares connections out again after the test.
func singleSignOn(t *testing.T) *signOn {
	t.Helper()
	kubernetes(t)
	s := &fixture.sso
	s.once.Do(func() { s.err = s.start() })
	if s.err != nil {
		t.Fatal(s.err)
	}
	t.Cleanup(func() {
		s.relay.Pin("")
		s.github.SetFault(githubd.Fault{})
		if t.Failed() {
			t.Logf("%s\n%s", s.relay, s.cluster.Logs(8))
		}
	})
	return s
}

// needsSAML skips the test where there is no SimpleSAMLphp.
func (s *signOn) needsSAML(t *testing.T) {
	t.Helper()
	if s.saml == nil {
		t.Skipf("%v", s.samlErr)
	}
}

// to sends everybody's next connection to one replica, and ends those that there are.
func (s *signOn) to(r *sallyport.Replica) {
	s.relay.Pin(backend(r))
	s.relay.Cut()
}

// restart starts a replica again, and with it the browser: the replica has another certificate.
func (s *signOn) restart(r *sallyport.Replica) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute) // a test's own may be over
	defer cancel()
	if err := r.Start(); err != nil {
		return err
	}
	if err := r.WaitReady(ctx); err != nil {
		return err
	}
	s.chromium.Close()
	return s.startBrowser()
}

// window opens a window of the fixture's browser. No page of ours may complain of itself.
func (s *signOn) window(t *testing.T) *browser.Browser {
	t.Helper()
	w := s.chromium.Window(t)
	t.Cleanup(func() {
		for _, problem := range w.Problems() {
			if !strings.Contains(problem, "https://127.0.0.1:") { // of identity providers, which are not ours
				t.Errorf("in the browser's console: %s", problem)
			}
		}
	})
	return w
}

// home is a new machine of somebody's.
func (s *signOn) home(t *testing.T, name string) *sallyport.User {
	t.Helper()
	name = fmt.Sprintf("%s-%d", name, s.homes.Add(1))
	u, err := s.cluster.NewUser(within(t, 10*time.Second), s.cluster.Replicas[0], name)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// tsh is a login at the address of the cluster.
func (s *signOn) tsh(u *sallyport.User, args ...string) testbed.Command {
	args = append([]string{s.cluster.Bin.Path("tsh"), "login", "--proxy=" + s.addr(), "--ca-file=" + u.CAFile}, args...)
	return testbed.Command{Name: "tsh", Args: args, Env: u.Env(), Dir: u.Home, Stdin: strings.NewReader("")}
}

// login is tsh login by a connector, in its own process, that waits for a browser.
func (s *signOn) login(t *testing.T, u *sallyport.User, args ...string) *browserLogin {
	t.Helper()
	b := &browserLogin{stream: startStream(t, "tsh login", s.tsh(u, args...)), user: u}
	b.waitFor(t, "Waiting for ")
	b.link, b.code = consoleLink.FindString(b.said()), matchCode.FindString(b.said())
	if !strings.HasPrefix(b.link, s.url()+"/") || b.code == "" {
		t.Fatalf("tsh shows no link, or no code: %s", b.said())
	}
	return b
}

// way is how a person logs in at an identity provider, from its first page on, to
// where the window shows our page again.
type way func(t *testing.T, w *browser.Browser)

// arrive waits for a page of ours that says all this.
func (s *signOn) arrive(t *testing.T, w *browser.Browser, texts ...string) browser.Page {
	t.Helper()
	return arriveAt(t, w, s.url()+"/", texts...)
}

func arriveAt(t *testing.T, w *browser.Browser, prefix string, texts ...string) (page browser.Page) {
	t.Helper()
	testbed.Wait(t, 15*time.Second, "the page "+prefix, func() (err error) {
		if page, err = w.Here(); err != nil {
			return err
		}
		if !strings.HasPrefix(page.URL, prefix) {
			return fmt.Errorf("the browser is at %s: %.300q", page.URL, page.Text)
		}
		for _, text := range texts {
			if !strings.Contains(page.Text, text) {
				return fmt.Errorf("%q is not in %+v", text, page)
			}
		}
		if loaded, err := w.Loaded(); err != nil || !loaded {
			return fmt.Errorf("it is not all there, %w", err)
		}
		return nil
	})
	return page
}

// step presses what leads on, through as many pages as it takes.
func step(t *testing.T, w *browser.Browser, button string) {
	t.Helper()
	if err := w.Press(button); err != nil {
		here, _ := w.Here()
		t.Fatalf("%s: %v, at %+v", button, err, here)
	}
}

// byDex logs in as whom a proxy in front of Dex vouches for, with groups.
func (s *signOn) byDex(name string) way {
	return func(t *testing.T, w *browser.Browser) {
		t.Helper()
		arriveAt(t, w, s.dex.URL, "Log in with "+name)
		step(t, w, "a[href*='/auth/"+name+"?'] button")
	}
}

func (s *signOn) byOIDCProvider(name string) way {
	return func(t *testing.T, w *browser.Browser) {
		t.Helper()
		arriveAt(t, w, s.op.URL, "Sign in")
		fill(t, w, "#user", name)
		fill(t, w, "#password", ssoPassword)
		step(t, w, "#login")
	}
}

func (s *signOn) bySAML(name string) way {
	return func(t *testing.T, w *browser.Browser) {
		t.Helper()
		arriveAt(t, w, s.saml.URL, "password")
		fill(t, w, "#username", name)
		fill(t, w, "#password", ssoPassword)
		step(t, w, "#submit_button")
	}
}

func (s *signOn) byGithub(name string) way {
	return func(t *testing.T, w *browser.Browser) {
		t.Helper()
		arriveAt(t, w, s.github.URL, "Authorize client-id")
		fill(t, w, "#user", name)
		step(t, w, "#authorize")
	}
}

// loggedIn is somebody who has logged in by a connector, through the browser.
func (s *signOn) loggedIn(t *testing.T, home, connector, name string, by way) *sallyport.User {
	t.Helper()
	u, w := s.home(t, home), s.window(t)
	login := s.login(t, u, "--auth="+connector, "--browser=none")
	s.begin(t, w, login)
	by(t, w)
	s.arrive(t, w, "Let tsh log in?", login.code)
	answer(t, w, "approve", "Back to the terminal")
	login.ends(t, true, "Logged in as:       "+name)
	return u
}

// begin opens the link that tsh shows: no page of ours comes before the identity provider's.
func (s *signOn) begin(t *testing.T, w *browser.Browser, login *browserLogin) {
	t.Helper()
	page, err := w.Open(login.link)
	if err != nil {
		t.Fatal(err)
	}
	if page.Status != 200 || strings.HasPrefix(page.URL, s.url()) {
		t.Fatalf("the link leads to %+v, not to the identity provider", page)
	}
}

// ssoEvent is the last login by a connector, whichever replica took it.
func (s *signOn) ssoEvent(t *testing.T, code string, match func(event) bool) (found event) {
	t.Helper()
	testbed.Wait(t, 5*time.Second, "an event "+code, func() error {
		all := events(t, s.cluster.Replicas[0], func(e event) bool { return e.text("code") == code && match(e) })
		if len(all) == 0 {
			return errors.New("none")
		}
		found = all[len(all)-1]
		return nil
	})
	return found
}
