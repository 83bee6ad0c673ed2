package tests

import (
	"testing"
	"time"
)

// Everyone needs a second factor: who is invited adds one, who has none is told
// the way, and the last one can't be taken away.
func TestSecondFactorForEveryone(t *testing.T) {
	c, _ := shared(t)
	ctx := within(t, 90*time.Second)
	before := newUser(t, c, c.Replicas[0], "otto", "--k8s-groups=dev") // who has none
	w := window(t)
	open(t, w, invite(t, c, "late-comer"))
	policy(t, c, "on")

	// A page that was open when the policy came does not let past it.
	setPassword(t, w)
	page := submit(t, w)
	shows(t, page, 400, "second factor")
	link := page.URL
	look(t, w, "invite-required-error")
	open(t, w, link)
	look(t, w, "invite-required")
	a := enrolApp(t, w, link)

	logIn(t, w, c.Replicas[2], "late-comer", webPassword)
	fill(t, w, "#code", a.code(t))
	atHome(t, submit(t, w))
	open(t, w, c.Replicas[0].URL()+"/web/account")
	page = press(t, w, "a[href$='/remove']")
	shows(t, page, 200, "Remove")
	page = submit(t, w)
	shows(t, page, 403, "It has to stay for now")
	look(t, w, "factor-must-stay")

	// Who has none is refused, after the right password alone, and told the way.
	other := window(t)
	shows(t, logIn(t, other, c.Replicas[1], "otto", "a wrong password"), 401)
	shows(t, logIn(t, other, c.Replicas[1], "otto", before.Password), 403, "tctl users reset otto")
	look(t, other, "login-needs-reset")
	ok(t, before.Tsh(ctx, "logout"))
	refused(t, before.Login(ctx, c.Replicas[1]), "tctl users reset otto")
	open(t, other, resetLink(t, c, "otto"))
	look(t, other, "reset-required")
	a = enrolApp(t, other, resetLink(t, c, "otto"))
	logIn(t, other, c.Replicas[1], "otto", webPassword)
	fill(t, other, "#code", a.code(t))
	atHome(t, submit(t, other))
}

// Passkeys alone count where the policy is webauthn.
func TestPasskeysForEveryone(t *testing.T) {
	c, _ := shared(t)
	w := window(t)
	enrolApp(t, w, invite(t, c, "ada"))
	policy(t, c, "webauthn")
	shows(t, logIn(t, w, c.Replicas[1], "ada", webPassword), 403, "tctl users reset ada")

	key, err := w.AddAuthenticator()
	if err != nil {
		t.Fatal(err)
	}
	open(t, w, resetLink(t, c, "ada"))
	look(t, w, "reset-passkey")
	if has, err := w.Has("#code"); err != nil || has {
		t.Errorf("an app is offered, %v", err)
	}
	setPassword(t, w)
	shows(t, submit(t, w), 400, "A passkey is needed")
	setPassword(t, w)
	createPasskey(t, w)
	shows(t, submit(t, w), 200, "Your password is set")
	if kept, err := key.Credentials(); err != nil || len(kept) != 1 {
		t.Errorf("the authenticator keeps %v, %v", kept, err)
	}
	shows(t, logIn(t, w, c.Replicas[2], "ada", webPassword), 200, "Now use your passkey.")
	atHome(t, press(t, w, passkeyButton))
}
