package tests

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// The guide's failing login: the page, the terminal and the audit log of the replica
// that took it say what was wrong.
func TestSSOFailingLoginOfTheGuide(t *testing.T) {
	s := singleSignOn(t)
	const reason = `user "alice" does not belong to any teams configured in "github" connector`
	u, w := s.home(t, "failing"), s.window(t)
	took := s.cluster.Replicas[1]
	login := s.login(t, u, "--auth=github", "--browser=none")
	s.begin(t, w, login)
	s.to(took)
	ended := make(chan time.Time, 1)
	go func() { <-login.Exited(); ended <- time.Now() }()
	s.byGithub("alice")(t, w)
	page := s.arrive(t, w, reason, "octocats/devs", "Your terminal has been told", "--auth=github")
	shown := time.Now()
	login.ends(t, false, "ERROR: "+reason)
	after := (<-ended).Sub(shown)
	t.Logf("the terminal said it %d ms after the page was seen (the issue: 2000)", after.Milliseconds())
	if after > 10*time.Second {
		t.Errorf("the terminal said it %v after the page", after)
	}
	if !strings.Contains(page.Title, "no access") {
		t.Errorf("the page is called %q", page.Title)
	}
	look(t, w, "sso-guide-refused")
	line := ""
	testbed.Wait(t, 5*time.Second, "the guide's line in events.log of "+took.Name, func() error {
		b, err := os.ReadFile(took.EventsLog())
		if err != nil {
			return err
		}
		for l := range strings.Lines(string(b)) {
			if strings.Contains(l, `"T1001W"`) && strings.Contains(l, `"user":"alice"`) {
				line = l
				return nil
			}
		}
		return fmt.Errorf("none")
	})
	for _, want := range []string{
		`"error":"user \"alice\" does not belong to any teams configured in \"github\" connector"`, `"method":"github"`, `"attributes":{"octocats":["devs"]}`,
	} {
		if !strings.Contains(line, want) {
			t.Errorf("%s is not in the line: %s", want, line)
		}
	}
	cookies, err := w.Cookies(s.url())
	for _, c := range cookies {
		if err != nil || c.Name == "__Host-session" || strings.HasPrefix(c.Name, "__Host-sso-") {
			t.Errorf("the browser keeps %s, %v", c.Name, err)
		}
	}
	// The login of tsh is over: its link leads to no identity provider any more.
	if page := openAs(t, w, login.link, 409); page.URL != login.link || !strings.Contains(page.Text, "This login is over") {
		t.Errorf("the link leads to %+v", page)
	}
	refused(t, u.Kubectl(within(t, 20*time.Second), "get", "pods"))
}

// Groups that change at the identity provider count at the next login.
func TestSSOGroupsCountAtTheNextLogin(t *testing.T) {
	s := singleSignOn(t)
	ctx := within(t, 30*time.Second)
	u := s.loggedIn(t, "moving", "github", "gus", s.byGithub("gus"))
	ok(t, u.Kubectl(ctx, "get", "pods"))
	if err := s.github.Leave("octocats/admin", "gus"); err != nil {
		t.Fatal(err)
	}
	ok(t, u.Kubectl(ctx, "get", "pods"))
	ok(t, u.Tsh(ctx, "logout"))

	w := s.window(t)
	login := s.login(t, u, "--auth=github", "--browser=none")
	s.begin(t, w, login)
	s.byGithub("gus")(t, w)
	s.arrive(t, w, `user "gus" does not belong to any teams`)
	login.ends(t, false, `user "gus" does not belong to any teams configured in "github" connector`)

	if err := s.github.Join("octocats/admin", "gus"); err != nil {
		t.Fatal(err)
	}
	u = s.loggedIn(t, "moving", "github", "gus", s.byGithub("gus"))
	ok(t, u.Kubectl(ctx, "get", "pods"))
}

// An organization that is renamed stays the one that the connector names, and whoever
// takes the old name is a stranger (threats.md, GitHub: renamed organizations).
func TestSSORenamedOrganization(t *testing.T) {
	s := singleSignOn(t)
	s.loggedIn(t, "before-rename", "github", "grace", s.byGithub("grace")) // the connector knows its number by now
	if err := s.github.RenameOrg("octocats", "moved"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(s.github.RenameOrg("octocats", "squatters"), s.github.RenameOrg("moved", "octocats")); err != nil {
			t.Error(err)
		}
	})
	s.github.AddUser("mallory")
	if err := s.github.Join("octocats/admin", "mallory"); err != nil {
		t.Fatal(err)
	}
	s.loggedIn(t, "after-rename", "github", "grace", s.byGithub("grace"))
	u, w := s.home(t, "mallory"), s.window(t)
	login := s.login(t, u, "--auth=github", "--browser=none")
	s.begin(t, w, login)
	s.byGithub("mallory")(t, w)
	s.arrive(t, w, `user "mallory" does not belong to any teams`, "octocats/admin")
	login.ends(t, false, `user "mallory" does not belong to any teams configured in "github" connector`)
}

// tctl users rm, and tctl rm of a connector, end what people do at this moment.
func TestSSORemovalCutsStreams(t *testing.T) {
	s := singleSignOn(t)
	ctx := within(t, time.Minute)
	doc := strings.Replace(s.githubYAML(), "name: github", "name: brief", 1)
	ok(t, s.cluster.Replicas[0].TctlStdin(ctx, doc, "create", "-f"))
	t.Cleanup(func() { s.forget(t, "gus") }) // whom the connector that is gone has left behind
	for _, p := range []struct{ connector, removed string }{
		{"github", "users rm gus"}, // whose name the next connector's person then may have
		{"brief", "rm github/brief"},
	} {
		t.Run(p.removed, func(t *testing.T) {
			u := s.loggedIn(t, "cut-"+p.connector, p.connector, "gus", s.byGithub("gus"))
			watch := startStream(t, "kubectl get -w", kubectl(u, nil, "get", "pods", "-w"))
			watch.waitFor(t, pod)
			start := time.Now()
			ok(t, s.cluster.Replicas[2].Tctl(ctx, strings.Fields(p.removed)...))
			removed := time.Now()
			end := watch.waitEnd(t, 5*time.Second)
			t.Logf("the watch ended %d ms after tctl did", end.Sub(removed).Milliseconds())
			if took := end.Sub(start); took > 15*time.Second {
				t.Errorf("the watch went on for %v", took)
			}
			refused(t, u.Kubectl(ctx, "get", "--raw", "/api/v1/namespaces"), "session")
		})
	}
}
