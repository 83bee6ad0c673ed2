package tests

import (
	"context"
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // what RFC 6238 has authenticator apps use
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"

	"github.com/sallyport-dev/sallyport/e2e/browser"
	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

const webPassword = "four words in a row"

// invite makes a user and gives the link as another replica would print it:
// whatever follows happens on more than one.
func invite(t *testing.T, c *sallyport.Cluster, name string, args ...string) string {
	t.Helper()
	link, err := c.Invite(within(t, 10*time.Second), c.Replicas[0], name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Replace(link, c.Replicas[0].WebAddr(), c.Replicas[1].WebAddr(), 1)
}

var resetLinks = regexp.MustCompile(`https://\S+/web/reset/\S+`)

// resetLink has an admin reset a user, at another replica than the link's.
func resetLink(t *testing.T, c *sallyport.Cluster, user string) string {
	t.Helper()
	out := ok(t, c.Replicas[2].Tctl(within(t, 10*time.Second), "users", "reset", user))
	link := resetLinks.FindString(out.Stdout)
	if link == "" {
		t.Fatalf("tctl users reset printed no link: %s", out.Stdout)
	}
	return strings.Replace(link, c.Replicas[2].WebAddr(), c.Replicas[1].WebAddr(), 1)
}

// open goes to a page that must be answered 200.
func open(t *testing.T, w *browser.Browser, url string) browser.Page {
	t.Helper()
	return openAs(t, w, url, 200)
}

func openAs(t *testing.T, w *browser.Browser, url string, status int64) browser.Page {
	t.Helper()
	page, err := w.Open(url)
	if err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	if page.Status != status {
		t.Fatalf("%s: want %d: %+v", url, status, page)
	}
	return page
}

func fill(t *testing.T, w *browser.Browser, field, text string) {
	t.Helper()
	if err := w.Fill(field, text); err != nil {
		t.Fatalf("%s: %v", field, err)
	}
}

// press is for buttons that lead to another page.
func press(t *testing.T, w *browser.Browser, button string) browser.Page {
	t.Helper()
	page, err := w.Submit(button)
	if err != nil {
		here, _ := w.Here()
		t.Fatalf("%s: %v, at %+v", button, err, here)
	}
	return page
}

// submit sends the page's only form.
func submit(t *testing.T, w *browser.Browser) browser.Page {
	t.Helper()
	return press(t, w, "main form button[type=submit]")
}

// shows fails the test for a page that does not say all this, or not with this status.
func shows(t *testing.T, page browser.Page, status int64, texts ...string) {
	t.Helper()
	if page.Status != status {
		t.Errorf("want %d: %+v", status, page)
	}
	for _, text := range texts {
		if !strings.Contains(page.Text, text) {
			t.Errorf("%q is not in %+v", text, page)
		}
	}
}

// setPassword fills in the password fields of an invite.
func setPassword(t *testing.T, w *browser.Browser) {
	t.Helper()
	fill(t, w, "#password", webPassword)
	fill(t, w, "#repeat", webPassword)
}

// logIn goes through the first page of the web login.
func logIn(t *testing.T, w *browser.Browser, r *sallyport.Replica, user, password string) browser.Page {
	t.Helper()
	open(t, w, r.URL()+"/web/login")
	fill(t, w, "#username", user)
	fill(t, w, "#password", password)
	return submit(t, w)
}

// logOut ends the session of the window.
func logOut(t *testing.T, w *browser.Browser, r *sallyport.Replica) {
	t.Helper()
	open(t, w, r.URL()+"/web/logout")
	shows(t, submit(t, w), 200, "You are logged out")
}

// atHome fails the test unless the page is the home of who is logged in.
func atHome(t *testing.T, page browser.Page) {
	t.Helper()
	shows(t, page, 200, "tsh login --proxy=")
	if !strings.HasSuffix(page.URL, "/") || strings.Contains(page.URL, "/web/") {
		t.Fatalf("not at home: %+v", page)
	}
}

// sessionCookie is the login of the window.
func sessionCookie(t *testing.T, w *browser.Browser, r *sallyport.Replica) *network.Cookie {
	t.Helper()
	cookies, err := w.Cookies(r.URL())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cookies {
		if c.Name == "__Host-session" {
			return c
		}
	}
	t.Fatalf("no session among %d cookies", len(cookies))
	return nil
}

// app is an authenticator app (RFC 6238) with one secret.
type app struct {
	text   string // base32
	secret []byte
	last   int64 // the step of the last code
}

func newApp(t *testing.T, secret string) *app {
	t.Helper()
	secret = strings.Map(func(r rune) rune {
		if r == ' ' || r == '\n' {
			return -1
		}
		return r
	}, secret)
	b, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(secret)
	if err != nil || len(b) < 16 {
		t.Fatalf("no secret of an authenticator app: %q, %v", secret, err)
	}
	return &app{text: secret, secret: b}
}

// code is one that counts: not given before, and good for five seconds at least.
// Servers take the step before and the one after the present, so three can be had
// without waiting.
func (a *app) code(t *testing.T) string {
	t.Helper()
	const period = 30
	a.last = max(a.last+1, (time.Now().Unix()+5)/period-1)
	testbed.Wait(t, 2*period*time.Second, "the next code", func() error {
		if now := time.Now().Unix() / period; a.last > now+1 {
			return fmt.Errorf("step %d, at %d", a.last, now)
		}
		return nil
	})
	return a.at(a.last)
}

func (a *app) at(step int64) string {
	mac := hmac.New(sha1.New, a.secret)
	var counter [8]byte
	binary.BigEndian.PutUint64(counter[:], uint64(step)) //nolint:gosec // of this century
	mac.Write(counter[:])
	sum := mac.Sum(nil)
	n := binary.BigEndian.Uint32(sum[sum[len(sum)-1]&15:]) & 0x7fffffff
	return fmt.Sprintf("%06d", n%1000000)
}

// wrong is a code of no step around now.
func (a *app) wrong() string { return a.at(1) }

// look has a page looked at as people would: on a phone and a laptop, by day and
// by night, by axe-core, and with the keyboard alone. With PICTURES set, pictures
// are taken.
func look(t *testing.T, w *browser.Browser, name string) {
	t.Helper()
	for _, l := range browser.Looks() {
		if err := w.See(l); err != nil {
			t.Fatal(err)
		}
		if pixels, who, err := w.Overflow(); err != nil || pixels > 0 {
			t.Errorf("%s at %s: %d pixels too wide by %v, %v", name, l, pixels, who, err)
		}
		violations, err := w.Axe()
		if err != nil {
			t.Fatalf("%s at %s: %v", name, l, err)
		}
		for _, v := range violations {
			if v.Serious() {
				t.Errorf("%s at %s: %s", name, l, v)
			} else {
				t.Logf("%s at %s: %s", name, l, v)
			}
		}
		if dir := pictures(t); dir != "" {
			if err := w.Screenshot(filepath.Join(dir, name+"-"+l.String()+".png")); err != nil {
				t.Error(err)
			}
		}
	}
	stops, missed, err := w.TabWalk()
	if err != nil {
		t.Fatal(err)
	}
	if len(missed) > 0 {
		t.Errorf("%s: Tab never leads to %v", name, missed)
	}
	for _, s := range stops {
		if !s.Visible {
			t.Errorf("%s: one does not see that %s has the focus", name, s.Name)
		}
	}
	for _, problem := range w.Problems() {
		t.Errorf("%s: in the console: %s", name, problem)
	}
}

// pictures is where to put them; "": nowhere.
func pictures(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("PICTURES")
	if dir != "" && !filepath.IsAbs(dir) {
		root, err := testbed.Root()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(root, dir)
	}
	return dir
}

// policy puts a second_factor in force until the test ends.
func policy(t *testing.T, c *sallyport.Cluster, mode string) {
	t.Helper()
	ctx := within(t, 20*time.Second)
	ok(t, c.Replicas[0].TctlStdin(ctx, fmt.Sprintf(`kind: cluster_auth_preference
version: v2
metadata:
  name: cluster-auth-preference
spec:
  second_factor: %s
`, mode), "create", "-f"))
	t.Cleanup(func() {
		end, cancel := context.WithTimeout(context.Background(), 10*time.Second) // the test's own is over
		defer cancel()
		if out := c.Replicas[0].Tctl(end, "rm", "cap"); out.Err != nil {
			t.Errorf("the default is not back: %v", out.Err)
		}
	})
	for _, r := range c.Replicas {
		testbed.Wait(t, 5*time.Second, "the policy at "+r.Name, func() error {
			out := r.Tctl(ctx, "get", "cap")
			if out.Err != nil {
				return out.Err
			}
			if !strings.Contains(strings.ReplaceAll(out.Stdout, `"`, ""), "second_factor: "+mode) {
				return fmt.Errorf("%s", out.Stdout)
			}
			return nil
		})
	}
}

// The parts of pages about passkeys.
const passkeyButton = ".passkey button"

// createPasskey presses the button of an invite, and waits until the browser has one.
func createPasskey(t *testing.T, w *browser.Browser) {
	t.Helper()
	if err := w.Press(passkeyButton); err != nil {
		t.Fatal(err)
	}
	testbed.Wait(t, 10*time.Second, "a passkey in the form", func() error {
		v, err := w.Value("input[name=passkey]")
		if err == nil && v == "" {
			said, _ := w.Text(".passkey [role=status]")
			err = fmt.Errorf("none; the page says %q", said)
		}
		return err
	})
}

// enrolApp sets a password and adds an authenticator app by an invite link.
func enrolApp(t *testing.T, w *browser.Browser, link string) *app {
	t.Helper()
	open(t, w, link)
	setPassword(t, w)
	unfold(t, w)
	secret, err := w.Text(".secret")
	if err != nil {
		t.Fatal(err)
	}
	a := newApp(t, secret)
	fill(t, w, "#code", a.code(t))
	shows(t, submit(t, w), 200, "Your password is set", "with the second factor you have just added")
	return a
}

// unfold opens the part of an invite about second factors, where that is optional.
func unfold(t *testing.T, w *browser.Browser) {
	t.Helper()
	folded, err := w.Has("details.factor:not([open])")
	if err == nil && folded {
		err = w.Press("details.factor summary")
	}
	if err != nil {
		t.Fatal(err)
	}
}
