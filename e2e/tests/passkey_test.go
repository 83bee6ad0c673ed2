package tests

import (
	"errors"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// A passkey made at an invite's page opens the door at every replica, and only there.
func TestPasskeyFromInviteToLogin(t *testing.T) {
	c, _ := shared(t)
	w := window(t)
	key, err := w.AddAuthenticator()
	if err != nil {
		t.Fatal(err)
	}
	open(t, w, invite(t, c, "petra", "--k8s-groups=system:masters"))
	setPassword(t, w)
	unfold(t, w)
	createPasskey(t, w)
	look(t, w, "invite-passkey-made")
	shows(t, submit(t, w), 200, "Your password is set", "with the second factor you have just added")
	kept, err := key.Credentials()
	if err != nil || len(kept) != 1 || kept[0].RpID != "localhost" {
		t.Fatalf("the authenticator keeps %+v, %v", kept, err)
	}
	early := kept[0]

	// The wrong password is told first, and of a passkey nothing is said before the right one.
	page := logIn(t, w, c.Replicas[2], "petra", "not her password")
	if page.Status != 401 || page.Title == "" {
		t.Errorf("a wrong password: %+v", page)
	}
	shows(t, logIn(t, w, c.Replicas[2], "petra", webPassword), 200, "Now use your passkey.")
	look(t, w, "factor-passkey")
	atHome(t, press(t, w, passkeyButton))
	shows(t, open(t, w, c.Replicas[0].URL()+"/web/account"), 200, "You are petra", "Passkey", "last used just now", "Web browser")

	// Where nobody is recognised by the authenticator, there is no login, and the page says so.
	other := window(t)
	if _, err := other.AddAuthenticator(); err != nil {
		t.Fatal(err)
	}
	logIn(t, other, c.Replicas[1], "petra", webPassword)
	if err := other.Press(passkeyButton); err != nil {
		t.Fatal(err)
	}
	testbed.Wait(t, 15*time.Second, "what the page says where the passkey is not", func() error {
		said, err := other.Text(".passkey [role=status]")
		if err == nil && said == "" {
			err = errors.New("nothing")
		}
		return err
	})
	look(t, other, "factor-no-passkey")

	// A copy of the passkey with an older counter locks it.
	if err := key.Put(early); err != nil {
		t.Fatal(err)
	}
	logOut(t, w, c.Replicas[0])
	logIn(t, w, c.Replicas[1], "petra", webPassword)
	shows(t, press(t, w, passkeyButton), 403, "may be a copy", "tctl users reset petra") // and there is no other
	look(t, w, "factor-copy")
	late := logIn(t, w, c.Replicas[2], "petra", webPassword)
	if late.Status == 200 {
		late = press(t, w, passkeyButton)
	}
	if late.Status < 400 {
		t.Errorf("the locked passkey still opens: %+v", late)
	}

	// tctl users reset is the way back, from the beginning.
	link := resetLink(t, c, "petra")
	shows(t, open(t, w, link), 200, "Choose a new password")
	look(t, w, "reset")
	setPassword(t, w)
	shows(t, submit(t, w), 200, "Your password is set")
	atHome(t, logIn(t, w, c.Replicas[0], "petra", webPassword))
}
