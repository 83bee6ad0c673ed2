package tests

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/browser"
	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

var (
	consoleLink = regexp.MustCompile(`https://\S+/web/cli/\S+`)
	matchCode   = regexp.MustCompile(`\b[0-9A-F]{4}-[0-9A-F]{4}\b`)
)

// browserLogin is `tsh login` that waits for a browser.
type browserLogin struct {
	*stream
	user *sallyport.User
	link string // as another replica has it than the one tsh speaks to
	code string
}

func startBrowserLogin(t *testing.T, c *sallyport.Cluster, u *sallyport.User, args ...string) *browserLogin {
	t.Helper()
	args = append([]string{"login", "--proxy=" + c.Replicas[0].WebAddr(), "--ca-file=" + u.CAFile, "--mfa-mode=browser", "--browser=none"}, args...)
	cmd := testbed.Command{Name: "tsh", Args: append([]string{c.Bin.Path("tsh")}, args...), Env: u.Env(), Dir: u.Home}
	b := &browserLogin{stream: startStream(t, "tsh login", cmd), user: u}
	b.waitFor(t, "Waiting for the browser")
	b.link, b.code = consoleLink.FindString(b.said()), matchCode.FindString(b.said())
	if b.link == "" || b.code == "" {
		t.Fatalf("tsh shows no link, or no code: %s", b.said())
	}
	b.link = strings.Replace(b.link, c.Replicas[0].WebAddr(), c.Replicas[2].WebAddr(), 1)
	return b
}

// ends waits for tsh, which must have succeeded or not.
func (b *browserLogin) ends(t *testing.T, well bool, said string) {
	t.Helper()
	b.waitEnd(t, 15*time.Second)
	if err := b.Err(); (err == nil) != well {
		t.Errorf("tsh ended with %v: %s", err, b.said())
	}
	if !strings.Contains(b.said(), said) {
		t.Errorf("%q is not in what tsh said: %s", said, b.said())
	}
}

// answer presses a button of the page about a login of tsh, and waits until the
// browser has been where tsh listens.
func answer(t *testing.T, w *browser.Browser, button, text string) {
	t.Helper()
	if err := w.Press("button[value=" + button + "]"); err != nil {
		t.Fatal(err)
	}
	told(t, w, text)
}

func told(t *testing.T, w *browser.Browser, text string) {
	t.Helper()
	testbed.Wait(t, 15*time.Second, "tsh's page in the browser", func() error {
		page, err := w.Here()
		if err == nil && (!strings.HasPrefix(page.URL, "http://127.0.0.1:") || !strings.Contains(page.Text, text)) {
			err = fmt.Errorf("%s says %s", page.URL, page.Text)
		}
		return err
	})
}

// tsh logs in through a browser at another replica, with a passkey; kubectl works
// with what it got, until the session is ended in the browser.
func TestTshThroughTheBrowser(t *testing.T) {
	c, _ := shared(t)
	ctx := within(t, time.Minute)
	w := window(t)
	if _, err := w.AddAuthenticator(); err != nil {
		t.Fatal(err)
	}
	open(t, w, invite(t, c, "tess", "--k8s-groups=system:masters"))
	setPassword(t, w)
	unfold(t, w)
	createPasskey(t, w)
	shows(t, submit(t, w), 200, "Your password is set")
	tess, err := c.NewUser(ctx, c.Replicas[0], "tess")
	if err != nil {
		t.Fatal(err)
	}

	login := startBrowserLogin(t, c, tess, "--user=tess", "--ttl=2h")
	page := open(t, w, login.link) // which leads to the login, and back
	shows(t, page, 200, "tsh in your terminal waits")
	look(t, w, "login-for-tsh")
	if name, err := w.Value("#username"); err != nil || name != "tess" {
		t.Errorf("the user whom tsh named is not filled in: %q, %v", name, err)
	}
	fill(t, w, "#password", webPassword)
	submit(t, w)
	page = press(t, w, passkeyButton)
	shows(t, page, 200, "Let tsh log in?", login.code, "127.0.0.1", "2 hours")
	look(t, w, "cli")
	leave, err := w.Stay("http://127.0.0.1:*")
	if err != nil {
		t.Fatal(err)
	}
	shows(t, press(t, w, "button[value=approve]"), 200, "Go back to your terminal")
	look(t, w, "cli-approved")
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	if err := w.Press("main a"); err != nil { // the way for browsers that stay
		t.Fatal(err)
	}
	told(t, w, "Back to the terminal")
	login.ends(t, true, "Logged in as:       tess")
	tess.LoggedInAt(c.Replicas[0])
	if out := ok(t, tess.Kubectl(ctx, "get", "pod", pod)); !strings.Contains(out.Stdout, pod) {
		t.Errorf("kubectl: %s", out.Stdout)
	}

	// The link is worth nothing any more.
	openAs(t, w, login.link, 404)
	look(t, w, "cli-over")

	// Its session ends in the browser: live streams and the next request.
	watch := startStream(t, "kubectl get -w", kubectl(tess, nil, "get", "pods", "-w"))
	watch.waitFor(t, pod)
	shows(t, open(t, w, c.Replicas[1].URL()+"/web/account"), 200, "tsh, in a terminal", "Web browser")
	look(t, w, "account")
	start := time.Now()
	page = press(t, w, "form[action$='/end'] button[aria-label*='tsh']")
	shows(t, page, 200, "The session has ended.")
	if strings.Contains(page.Text, "tsh, in a terminal") {
		t.Errorf("the session is listed on: %s", page.Text)
	}
	if took := watch.waitEnd(t, 5*time.Second).Sub(start); took > 15*time.Second {
		t.Errorf("the stream went on for %v", took)
	}
	for _, r := range c.Replicas {
		refused(t, tess.Kubectl(ctx, at(t, tess, r), "get", "--raw", "/api/v1/namespaces"), "session")
	}
}

func TestTshThroughTheBrowserRefused(t *testing.T) {
	c, _ := shared(t)
	ctx := within(t, time.Minute)
	w := window(t)
	open(t, w, invite(t, c, "dora", "--k8s-groups=dev"))
	setPassword(t, w)
	shows(t, submit(t, w), 200, "Your password is set")
	dora, err := c.NewUser(ctx, c.Replicas[0], "dora")
	if err != nil {
		t.Fatal(err)
	}
	atHome(t, logIn(t, w, c.Replicas[1], "dora", webPassword))

	// She says no.
	login := startBrowserLogin(t, c, dora, "--user=dora")
	shows(t, open(t, w, login.link), 200, login.code)
	answer(t, w, "deny", "The login was refused")
	login.ends(t, false, "refused in the browser")

	// It is another's: she can only say no, and it gives nothing to her.
	login = startBrowserLogin(t, c, dora, "--user=alice")
	shows(t, open(t, w, login.link), 200, "waits for alice", "you are logged in as dora")
	look(t, w, "cli-other-user")
	if has, err := w.Has("button[value=approve]"); err != nil || has {
		t.Errorf("a login of another can be approved: %v, %v", has, err)
	}
	answer(t, w, "deny", "The login was refused")
	login.ends(t, false, "refused in the browser")

	// Nobody named: whoever approves it is logged in.
	login = startBrowserLogin(t, c, dora)
	shows(t, open(t, w, login.link), 200, login.code)
	answer(t, w, "approve", "Back to the terminal")
	login.ends(t, true, "Logged in as:       dora")

	ok(t, dora.Tsh(ctx, "logout"))

	// Cut down while tsh waits: it says what happened, and nobody listens any more.
	login = startBrowserLogin(t, c, dora, "--user=dora")
	if err := login.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	login.waitEnd(t, 10*time.Second)
}
