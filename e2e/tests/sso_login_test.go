package tests

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/browser"
	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// From tsh login --auth=NAME to kubectl, by identity providers that others wrote.
func TestSSOFromTshToKubectl(t *testing.T) {
	s := singleSignOn(t)
	for _, p := range []struct {
		connector, kind, user string
		by                    way
		groups                []string
	}{
		{"dex", "oidc", "dana@example.com", s.byDex("dana"), []string{"devs", "admins"}},
		{"certified", "oidc", "oscar", s.byOIDCProvider("oscar"), []string{"devs", "admins"}},
		{"okta", "saml", "sam", s.bySAML("sam"), []string{"devs", "okta-admin"}},
		{"github", "github", "grace", s.byGithub("grace"), []string{"system:masters"}},
	} {
		t.Run(p.connector, func(t *testing.T) {
			if p.kind == "saml" {
				s.needsSAML(t)
			}
			ctx := within(t, 30*time.Second)
			u := s.loggedIn(t, "guide-"+p.connector, p.connector, p.user, p.by)
			who := ok(t, u.Kubectl(ctx, "auth", "whoami")).Stdout
			for _, want := range append([]string{p.user, "system:authenticated"}, p.groups...) {
				if !strings.Contains(who, want) {
					t.Errorf("kubectl auth whoami does not say %q:\n%s", want, who)
				}
			}
			if p.connector == "github" { // the guide's next command
				if out := ok(t, u.Kubectl(ctx, "get", "pods")); !strings.Contains(out.Stdout, pod) {
					t.Errorf("kubectl get pods: %s", out.Stdout)
				}
				if tokens := s.github.Tokens(); len(tokens) > 0 {
					t.Errorf("%d access tokens of GitHub are good for something after the login", len(tokens))
				}
			}
			from := p.kind + ":" + p.connector
			for _, r := range s.cluster.Replicas {
				if out := ok(t, r.Tctl(ctx, "users", "ls")).Stdout; !listedAs(out, p.user, from) {
					t.Errorf("%s: users ls does not say that %s is of %s:\n%s", r.Name, p.user, from, out)
				}
			}
			e := s.ssoEvent(t, "T1001I", func(e event) bool { return e.text("user") == p.user && e.text("kind") == "web" })
			if e.text("event") != "user.login" || e.text("method") != p.kind || e.text("connector") != p.connector || e["success"] != true || e.text("sid") == "" {
				t.Errorf("the event of the login: %v", e)
			}
		})
	}
}

// listedAs finds the line of somebody in a table.
func listedAs(table, user, from string) bool {
	for line := range strings.Lines(table) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == user {
			return fields[len(fields)-1] == from
		}
	}
	return false
}

// A login begins on one replica and ends on another, though all connections break
// between; and if the one that it began on, and that leads, is no more.
func TestSSOBegunHereFinishedThere(t *testing.T) {
	s := singleSignOn(t)
	u := s.home(t, "wanderer")
	goOn := func(t *testing.T, from, to *sallyport.Replica, between func()) {
		t.Helper()
		w := s.window(t)
		s.to(from)
		since := time.Now()
		login := s.login(t, u, "--auth=github", "--browser=none")
		s.begin(t, w, login)
		arriveAt(t, w, s.github.URL, "Authorize client-id")
		between()
		s.to(to)
		s.byGithub("grace")(t, w)
		s.arrive(t, w, "Let tsh log in?", login.code)
		answer(t, w, "approve", "Back to the terminal")
		login.ends(t, true, "Logged in as:       grace")
		is, err := to.Status(within(t, 20*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		waitEvent(t, to, "the login", func(e event) bool {
			return e.text("code") == "T1001I" && e.text("sid") != "" && e.text("method") == "github" && e.text("user") == "grace" &&
				e.text("replica") == is.ServerID && e.time(t).After(since)
		})
		ok(t, u.Kubectl(within(t, 20*time.Second), "get", "pods"))
		ok(t, u.Tsh(within(t, 20*time.Second), "logout"))
	}
	t.Run("another replica", func(t *testing.T) {
		goOn(t, s.cluster.Replicas[0], s.cluster.Replicas[1], func() {})
	})
	t.Run("the leader is killed", func(t *testing.T) {
		leader, others := followers(t, s.cluster)
		var killed time.Time
		t.Cleanup(func() {
			s.relay.Pin("")
			if leader.Running() {
				return
			}
			if err := s.restart(leader); err != nil {
				t.Errorf("the leader is not back: %v", err)
			}
		})
		goOn(t, leader, others[0], func() { leader.Kill(); killed = time.Now() })
		t.Logf("kubectl %d ms after kill -9 of the leader", time.Since(killed).Milliseconds())
	})
}

// What the browser brought back once is worth nothing to who has overheard it, with
// its cookie even, at whatever replica (threats.md, OAuth and SAML: replay).
func TestSSOAnswersAreUsedOnce(t *testing.T) {
	s := singleSignOn(t)
	for _, p := range []struct {
		connector, pattern string
		by                 way
	}{
		{"github", "*/webapi/github/callback*", s.byGithub("grace")},
		{"okta", "*/webapi/saml/acs", s.bySAML("sam")},
	} {
		t.Run(p.connector, func(t *testing.T) {
			if p.connector == "okta" {
				s.needsSAML(t)
			}
			w := s.window(t)
			open(t, w, s.url()+"/web/login")
			held, _, err := w.Hold(p.pattern)
			if err != nil {
				t.Fatal(err)
			}
			step(t, w, ".others a[href*='connector_id="+p.connector+"']")
			p.by(t, w)
			var answer browser.Held
			select {
			case answer = <-held:
			case <-time.After(testbed.Patience):
				here, _ := w.Here()
				t.Fatalf("the browser brought nothing back: %+v", here)
			}
			flow := s.flowCookie(t, w)
			// The first to bring it is logged in, as the person's browser would be.
			for i, r := range s.cluster.Replicas {
				s.relay.Pin(backend(r))
				status, session := s.bring(t, answer, flow)
				if first := i == 0; session != first || first != (status < 400) {
					t.Errorf("time %d, at %s: status %d, a session: %v", i+1, r.Name, status, session)
				}
				// Without the cookie it is nobody's.
				if status, session := s.bring(t, answer, ""); status != http.StatusForbidden || session {
					t.Errorf("without the cookie, at %s: status %d, a session: %v", r.Name, status, session)
				}
			}
		})
	}
}

// flowCookie is that of the only login that the window has begun.
func (s *signOn) flowCookie(t *testing.T, w *browser.Browser) string {
	t.Helper()
	cookies, err := w.Cookies(s.url())
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, c := range cookies {
		if strings.HasPrefix(c.Name, "__Host-sso-") && c.HTTPOnly && c.Secure {
			found = append(found, c.Name+"="+c.Value)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d flows among %d cookies", len(found), len(cookies))
	}
	return found[0]
}

// bring sends what the browser would have, on a connection of its own.
func (s *signOn) bring(t *testing.T, h browser.Held, cookie string) (status int, session bool) {
	t.Helper()
	u := s.home(t, "thief")
	client, err := u.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer client.CloseIdleConnections()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	req, err := http.NewRequestWithContext(within(t, 20*time.Second), h.Method, h.URL, bytes.NewReader(h.Body))
	if err != nil {
		t.Fatal(err)
	}
	if h.Method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if cookie != "" {
		req.Header.Set("Cookie", cookie)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for _, c := range resp.Cookies() {
		if c.Name == "__Host-session" && c.Value != "" {
			session = true
		}
	}
	return resp.StatusCode, session
}
