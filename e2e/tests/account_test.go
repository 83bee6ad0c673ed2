package tests

import (
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp/kb"

	"github.com/sallyport-dev/sallyport/e2e/browser"
)

// What people do with their account, each step at another replica.
func TestAccount(t *testing.T) {
	c, _ := shared(t)
	ctx := within(t, time.Minute)
	u := newUser(t, c, c.Replicas[0], "acca", "--k8s-groups=system:masters")
	w, phone := window(t), window(t)
	atHome(t, logIn(t, w, c.Replicas[1], "acca", u.Password))
	atHome(t, logIn(t, phone, c.Replicas[2], "acca", u.Password))
	account := func(i int) string { return c.Replicas[i].URL() + "/web/account" }

	// A second factor of each kind.
	if _, err := w.AddAuthenticator(); err != nil {
		t.Fatal(err)
	}
	open(t, w, account(0)+"/factors/app")
	look(t, w, "add-app")
	secret, err := w.Text(".secret")
	if err != nil {
		t.Fatal(err)
	}
	a := newApp(t, secret)
	fill(t, w, "#code", a.wrong())
	shows(t, submit(t, w), 400, "code")
	look(t, w, "add-app-wrong")
	fill(t, w, "#code", a.code(t))
	fill(t, w, "#name", `phone <b>"1"</b>`)
	shows(t, submit(t, w), 200, "The authenticator app is added.", `phone <b>"1"</b>`)
	open(t, w, account(1)+"/factors/passkey")
	look(t, w, "add-passkey")
	fill(t, w, "#name", "laptop")
	shows(t, press(t, w, passkeyButton), 200, "The passkey is added.", "laptop")
	look(t, w, "account-factors")

	// A new password ends all sessions but this one.
	open(t, w, account(2)+"/password")
	look(t, w, "password")
	code := a.code(t)
	changePassword(t, w, "not the old one", webPassword, code)
	page := submit(t, w)
	if page.Status < 400 || !strings.Contains(page.Text, "Change your password") {
		t.Errorf("with a wrong old password: %+v", page)
	}
	changePassword(t, w, u.Password, webPassword, code) // which the wrong password has not used up
	shows(t, submit(t, w), 200, "Your password is changed. Your other sessions have ended.")
	refused(t, u.KubectlAt(ctx, c.Replicas[1], "get", "--raw", "/api/v1/namespaces"), "session")
	shows(t, open(t, phone, account(0)), 200, "Log in")
	shows(t, logIn(t, phone, c.Replicas[0], "acca", u.Password), 401)
	shows(t, logIn(t, phone, c.Replicas[0], "acca", webPassword), 200, "passkey, or the code")
	look(t, phone, "factor-both")

	// Of two factors one is taken away, and then asked for no more.
	open(t, w, account(0))
	shows(t, press(t, w, `a[aria-label="Remove laptop"]`), 200, "Remove “laptop”?")
	look(t, w, "remove")
	shows(t, submit(t, w), 200, "The second factor is removed.")
	if has, err := w.Has(`a[aria-label="Remove laptop"]`); err != nil || has {
		t.Errorf("the factor is listed on, %v", err)
	}
	shows(t, logIn(t, phone, c.Replicas[1], "acca", webPassword), 200, "enter the code")
	fill(t, phone, "#code", a.code(t))
	atHome(t, submit(t, phone))

	// The other browser ends all others.
	shows(t, open(t, phone, account(2)), 200, "this one")
	shows(t, press(t, phone, "form[action$='end-others'] button"), 200, "All your other sessions have ended.")
	shows(t, open(t, w, account(1)), 200, "Log in")

	// Logged out is logged out, at every replica.
	open(t, phone, c.Replicas[0].URL()+"/web/logout")
	look(t, phone, "logout")
	shows(t, press(t, phone, "main form button"), 200, "You are logged out")
	look(t, phone, "logged-out")
	for _, r := range c.Replicas {
		shows(t, open(t, phone, r.URL()+"/web/account"), 200, "Log in")
	}
}

func changePassword(t *testing.T, w *browser.Browser, old, password, code string) {
	t.Helper()
	fill(t, w, "#old", old)
	fill(t, w, "#password", password)
	fill(t, w, "#repeat", password)
	fill(t, w, "#code", code)
}

// A login by keyboard alone, to the home page and out again.
func TestLoginByKeyboardAlone(t *testing.T) {
	c, alice := shared(t)
	w := window(t)
	open(t, w, c.Replicas[1].URL()+"/web/login")
	if err := w.Keys("alice" + kb.Tab + alice.Password); err != nil {
		t.Fatal(err)
	}
	page, err := w.Enter()
	if err != nil {
		t.Fatal(err)
	}
	atHome(t, page)
	if err := w.Keys(strings.Repeat(kb.Tab, 5)); err != nil { // skip link, brand, clusters, account, log out
		t.Fatal(err)
	}
	if page, err = w.Enter(); err != nil {
		t.Fatal(err)
	}
	shows(t, page, 200, "You are logged out")
}

// Without JavaScript everything works but passkeys, and their place says so.
func TestPagesWithoutScript(t *testing.T) {
	c, _ := shared(t)
	ctx := within(t, time.Minute)
	w := window(t)
	if err := w.WithoutScript(); err != nil {
		t.Fatal(err)
	}
	link := invite(t, c, "noel", "--k8s-groups=dev")
	open(t, w, link)
	unfold(t, w)
	if said, err := w.Text(".passkey [role=status]"); err != nil || !strings.Contains(said, "A passkey needs JavaScript") {
		t.Errorf("about passkeys the invite says %q, %v", said, err)
	}
	a := enrolApp(t, w, link)
	logIn(t, w, c.Replicas[2], "noel", webPassword)
	fill(t, w, "#code", a.code(t))
	atHome(t, submit(t, w))

	noel, err := c.NewUser(ctx, c.Replicas[0], "noel")
	if err != nil {
		t.Fatal(err)
	}
	login := startBrowserLogin(t, c, noel, "--user=noel")
	shows(t, open(t, w, login.link), 200, login.code)
	answer(t, w, "approve", "Back to the terminal")
	login.ends(t, true, "Logged in as:       noel")

	open(t, w, c.Replicas[1].URL()+"/web/account")
	shows(t, press(t, w, "form[action$='/end'] button[aria-label*='tsh']"), 200, "The session has ended.")
	open(t, w, c.Replicas[0].URL()+"/web/account/password")
	changePassword(t, w, webPassword, webPassword+" more", a.code(t))
	shows(t, submit(t, w), 200, "Your password is changed.")
	shows(t, press(t, w, "nav form button"), 200, "You are logged out")
}
