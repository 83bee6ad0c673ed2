package tests

import (
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// A code counts once, whichever replica it is shown to.
func TestAuthenticatorAppFromInviteToLogin(t *testing.T) {
	c, _ := shared(t)
	w := window(t)
	a := enrolApp(t, w, invite(t, c, "tom", "--k8s-groups=system:masters"))

	logIn(t, w, c.Replicas[1], "tom", webPassword)
	look(t, w, "factor-code")
	fill(t, w, "#code", a.wrong())
	shows(t, submit(t, w), 401, "The code is wrong")
	look(t, w, "factor-wrong")
	code := a.code(t)
	fill(t, w, "#code", code[:3]+" "+code[3:]) // as apps show it
	atHome(t, submit(t, w))

	other := window(t)
	logIn(t, other, c.Replicas[2], "tom", webPassword)
	fill(t, other, "#code", code)
	shows(t, submit(t, other), 401, "was used already")

	// tsh asks for it as well, and is no way around.
	ctx := within(t, 30*time.Second)
	tom, err := c.NewUser(ctx, c.Replicas[0], "tom")
	if err != nil {
		t.Fatal(err)
	}
	login := func(code string) testbed.Result {
		return tom.TshStdin(ctx, webPassword+"\n"+code+"\n", "login", "--proxy="+c.Replicas[2].WebAddr(), "--user=tom", "--ca-file="+tom.CAFile)
	}
	refused(t, login(code), "used already")
	if out := ok(t, login(a.code(t))); !strings.Contains(out.Stdout, "Logged in as:       tom") {
		t.Errorf("tsh login: %s", out.Stdout)
	}
}
