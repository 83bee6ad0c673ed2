package tests

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// The login page has a button for each connector, by its display name; who comes by
// one has an account page without what their identity provider keeps.
func TestSSOWebLoginByButtons(t *testing.T) {
	s := singleSignOn(t)
	for i, p := range []struct {
		display, user, attribute string
		by                       way
	}{
		{"Example Corp", "dora@example.com", "dex", s.byDex("dora")},
		{"Certified", "oscar", "certified", s.byOIDCProvider("oscar")},
		{"Github", "grace", "github", s.byGithub("grace")},
		{"Example Okta", "sam", "okta", s.bySAML("sam")},
	} {
		t.Run(p.display, func(t *testing.T) {
			if p.attribute == "okta" {
				s.needsSAML(t)
			}
			w := s.window(t)
			shows(t, open(t, w, s.url()+"/web/login?next=/web/account"), 200, "or log in with", p.display)
			if i == 0 {
				look(t, w, "sso-login")
			}
			button := ".others a[href*='connector_id=" + p.attribute + "&']"
			if text, err := w.Text(button); err != nil || text != p.display {
				t.Errorf("the button says %q, %v", text, err)
			}
			step(t, w, button)
			p.by(t, w)
			page := s.arrive(t, w, "Your account", "You are "+p.user, "You log in with "+p.display)
			for _, local := range []string{"Change your password", "Second factor", "Add a passkey"} {
				if strings.Contains(page.Text, local) {
					t.Errorf("%q is on the page of somebody who comes by %s", local, p.display)
				}
			}
			if i == 0 {
				look(t, w, "sso-account")
			}
			openAs(t, w, s.url()+"/web/account/password", 403)
			shows(t, open(t, w, s.url()+"/"), 200, "--auth="+p.attribute)
			open(t, w, s.url()+"/web/logout")
			shows(t, submit(t, w), 200, "You are logged out")
			if page := open(t, w, s.url()+"/web/account"); !strings.Contains(page.URL, "/web/login") {
				t.Errorf("after the logout: %+v", page)
			}
		})
	}
}

// From a machine without a browser: the code is typed, not compared.
func TestSSOHeadless(t *testing.T) {
	s := singleSignOn(t)
	u, w := s.home(t, "headless"), s.window(t)
	login := s.login(t, u, "--auth=dex", "--headless")
	s.begin(t, w, login)
	s.byDex("dana")(t, w)
	page := s.arrive(t, w, "Let another machine log in?", "tsh login --headless")
	if strings.Contains(page.Text, login.code) {
		t.Error("the page shows the code that is to be typed")
	}
	look(t, w, "sso-headless")
	fill(t, w, "#code", "0000-0000")
	shows(t, press(t, w, "button[value=approve]"), 400, "This is not the code")
	if !login.Running() {
		t.Fatalf("tsh has ended: %s", login.said())
	}
	fill(t, w, "#code", strings.ToLower(strings.Replace(login.code, "-", " ", 1)))
	shows(t, press(t, w, "button[value=approve]"), 200, "Go back to your terminal")
	login.ends(t, true, "Logged in as:       dana@example.com")
	if who := ok(t, u.Kubectl(within(t, 20*time.Second), "auth", "whoami")).Stdout; !strings.Contains(who, "dana@example.com") {
		t.Errorf("whoami: %s", who)
	}
	ok(t, u.Tsh(within(t, 20*time.Second), "logout"))

	// She says no, logged in as she is.
	login = s.login(t, u, "--auth=dex", "--headless")
	shows(t, open(t, w, login.link), 200, "Let another machine log in?")
	shows(t, press(t, w, "button[value=deny]"), 200, "tsh is refused")
	login.ends(t, false, "refused in the browser")
}

// tctl sso test walks a login and saves nothing; tctl sso configure writes what
// tctl create takes.
func TestSSOTestAndConfigure(t *testing.T) {
	s := singleSignOn(t)
	ctx := within(t, time.Minute)
	r := s.cluster.Replicas[1]
	file := filepath.Join(t.TempDir(), "tried.yaml")
	if err := os.WriteFile(file, []byte(s.oidcYAML("tried", "Tried", s.dex, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	try := func(t *testing.T, by way, args ...string) *stream {
		t.Helper()
		args = append([]string{s.cluster.Bin.Path("tctl"), "--socket=" + r.Socket(), "sso", "test"}, args...)
		tctl := startStream(t, "tctl sso test", testbed.Command{Name: "tctl", Args: args, Env: s.home(t, "nobody").Env(), Stdin: strings.NewReader("")})
		tctl.waitFor(t, "/web/sso/test/")
		link := ""
		for field := range strings.FieldsSeq(tctl.said()) {
			if strings.HasPrefix(field, s.url()+"/web/sso/test/") {
				link = field
			}
		}
		w := s.window(t)
		if _, err := w.Open(link); err != nil {
			t.Fatal(err)
		}
		by(t, w)
		s.arrive(t, w, "Go back to the terminal")
		tctl.waitEnd(t, 10*time.Second)
		openAs(t, w, link, 404)
		return tctl
	}
	says := func(t *testing.T, tctl *stream, well bool, texts ...string) {
		t.Helper()
		if (tctl.Err() == nil) != well {
			t.Errorf("tctl ended with %v: %s", tctl.Err(), tctl.said())
		}
		for _, text := range texts {
			if !strings.Contains(tctl.said(), text) {
				t.Errorf("%q is not in what tctl said: %s", text, tctl.said())
			}
		}
	}
	says(t, try(t, s.byDex("dana"), file), true, "dana@example.com", "admins", "devs", ssoRole+", auditor", "This login would work. Nothing was saved.")
	says(t, try(t, s.byDex("nora"), file), false, "nobody would be logged in", `user "nora@example.com" has no claims that match claims_to_roles of "tried" connector`, "accounting")
	refused(t, r.Tctl(ctx, "get", "oidc/tried"), "tried")
	if out := ok(t, r.Tctl(ctx, "users", "ls")).Stdout; strings.Contains(out, "nora") {
		t.Errorf("users ls: %s", out)
	}

	written := ok(t, r.TctlStdin(ctx, s.dex.ClientSecret+"\n", "sso", "configure", "oidc", "--name=written", "--issuer-url="+s.dex.Issuer, "--id="+s.dex.ClientID,
		"--secret=-", "--scope=email", "--scope=groups", "--claims-to-roles=groups=devs="+ssoRole)).Stdout
	t.Cleanup(func() { s.drop(t, "oidc/written") })
	if out := ok(t, s.cluster.Replicas[2].TctlStdin(ctx, written, "create")).Stdout; out != "authentication connector 'written' has been created\n" {
		t.Errorf("create said %q", out)
	}
	says(t, try(t, s.byDex("dana"), "--connector=written"), true, ssoRole, "This login would work")
	if out := ok(t, r.Tctl(ctx, "sso", "ls")).Stdout; !strings.Contains(out, s.callback("oidc")+"/written") {
		t.Errorf("sso ls: %s", out)
	}
	if out := ok(t, r.Tctl(ctx, "get", "oidc/written")).Stdout; strings.Contains(out, s.dex.ClientSecret) {
		t.Errorf("the secret is shown: %s", out)
	}
}
