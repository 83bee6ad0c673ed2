package tests

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/githubd"
	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// soon is how long what needs no identity provider may take; the figures are logged.
const soon = 10 * time.Second

// drop removes a connector that a test has made.
func (s *signOn) drop(t *testing.T, ref string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second) // the test's own is over
	defer cancel()
	if out := s.cluster.Replicas[0].Tctl(ctx, "rm", ref); out.Err != nil {
		t.Errorf("%v", out.Err)
	}
}

// forget removes somebody whose name others need.
func (s *signOn) forget(t *testing.T, user string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second) // the test's own is over
	defer cancel()
	if out := s.cluster.Replicas[0].Tctl(ctx, "users", "rm", user); out.Err != nil {
		t.Errorf("%v", out.Err)
	}
}

// An identity provider that is down, hangs or answers 500 delays nothing but logins
// by it, and these say what else there is.
func TestSSOProviderOutOfOrder(t *testing.T) {
	s := singleSignOn(t)
	ctx := within(t, 2*time.Minute)
	lena, err := s.cluster.AddUser(ctx, s.cluster.Replicas[0], "lena", "--k8s-groups=system:masters")
	if err != nil {
		t.Fatal(err)
	}
	restarted := s.cluster.Replicas[2]
	for _, p := range []struct {
		name  string
		fault testbed.FaultKind
	}{{"down", testbed.FaultDown}, {"hangs", testbed.FaultHang}, {"error500", testbed.FaultError}} {
		t.Run(p.name, func(t *testing.T) {
			// A connector of its own: what is known of a provider is kept for ten seconds.
			ok(t, s.cluster.Replicas[0].TctlStdin(ctx, s.oidcYAML(p.name, "It "+p.name, s.op, ""), "create", "-f"))
			t.Cleanup(func() { s.drop(t, "oidc/"+p.name) })
			t.Cleanup(func() {
				if err := s.op.SetFault(); err != nil {
					t.Error(err)
				}
			})
			if err := s.op.SetFault(testbed.Fault{Kind: p.fault}); err != nil {
				t.Fatal(err)
			}
			took := func(what string, limit time.Duration, do func()) {
				start := time.Now()
				do()
				d := time.Since(start)
				t.Logf("%s took %d ms", what, d.Milliseconds())
				if d > limit {
					t.Errorf("%s took %v", what, d)
				}
			}
			if p.fault == testbed.FaultHang {
				if err := restarted.Stop(ctx); err != nil {
					t.Fatal(err)
				}
				took("the start of a replica", 3*soon, func() {
					if err := s.restart(restarted); err != nil {
						t.Fatal(err)
					}
				})
			}
			w := s.window(t)
			took("the login page", soon, func() { shows(t, open(t, w, s.url()+"/web/login"), 200, "It "+p.name) })
			testbed.Run(ctx, testbed.Command{Args: []string{s.cluster.Bin.Path("tsh"), "logout"}, Env: lena.Env(), Dir: lena.Home}) // of the login before, if there was one
			took("a local login", soon, func() { ok(t, s.localLogin(ctx, lena)) })
			took("tsh login --auth="+p.name, soon, func() {
				u := s.home(t, "waiting")
				refused(t, testbed.Run(ctx, s.tsh(u, "--auth="+p.name, "--browser=none")),
					`the identity provider of connector "`+p.name+`" does not answer`, "tsh login --proxy="+s.addr()+" --auth=local --user=")
			})
		})
	}
}

func (s *signOn) localLogin(ctx context.Context, u *sallyport.User) testbed.Result {
	c := s.tsh(u, "--auth=local", "--user="+u.Name)
	c.Stdin = strings.NewReader(u.Password + "\n")
	return testbed.Run(ctx, c)
}

// The provider fails while somebody is there: page and terminal say so, and nobody waits long.
func TestSSOProviderFailsOnTheWay(t *testing.T) {
	s := singleSignOn(t)
	for _, p := range []struct {
		name  string
		fault githubd.Fault
	}{
		{"answers 500", githubd.Fault{Kind: githubd.Error500, Path: "/user/teams"}},
		{"limits", githubd.Fault{Kind: githubd.RateLimit, Path: "/user"}},
		{"hangs", githubd.Fault{Kind: githubd.Hang, Path: "/login/oauth/access_token"}},
	} {
		t.Run(p.name, func(t *testing.T) {
			u, w := s.home(t, "on-the-way"), s.window(t)
			login := s.login(t, u, "--auth=github", "--browser=none")
			s.begin(t, w, login)
			s.github.SetFault(p.fault)
			t.Cleanup(func() { s.github.SetFault(githubd.Fault{}) })
			start := time.Now()
			ended := make(chan time.Time, 1)
			go func() { <-login.Exited(); ended <- time.Now() }()
			s.byGithub("grace")(t, w)
			page := s.arrive(t, w, "Your terminal has been told", "--auth=github")
			shown := time.Now()
			login.ends(t, false, "ERROR: ")
			told := (<-ended).Sub(shown)
			t.Logf("the page came after %d ms, the terminal %d ms later: %s", shown.Sub(start).Milliseconds(), told.Milliseconds(), lastLine(login.said()))
			if shown.Sub(start) > 3*soon || told > soon {
				t.Errorf("the page came after %v, the terminal %v later", shown.Sub(start), told)
			}
			if page.Title == "" || !strings.Contains(page.Text, "GitHub") && !strings.Contains(page.Text, "Github") {
				t.Errorf("%+v", page)
			}
			look(t, w, "sso-"+strings.ReplaceAll(p.name, " ", "-"))
		})
	}
}
