package tests

import (
	"strings"
	"testing"
	"time"
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
	fill(t, other, "#code", a.code(t))
	atHome(t, submit(t, other))

	// tsh asks for it as well.
	ctx := within(t, 90*time.Second)
	tom, err := c.NewUser(ctx, c.Replicas[0], "tom")
	if err != nil {
		t.Fatal(err)
	}
	out := tom.TshStdin(ctx, webPassword+"\n"+a.at(a.last)+"\n", "login", "--proxy="+c.Replicas[2].WebAddr(), "--user=tom", "--ca-file="+tom.CAFile)
	if out.Err == nil {
		t.Errorf("tsh logs in with a code that was used: %s", out.Stdout)
	}
	out = ok(t, tom.TshStdin(ctx, webPassword+"\n"+a.code(t)+"\n", "login", "--proxy="+c.Replicas[2].WebAddr(), "--user=tom", "--ca-file="+tom.CAFile))
	if !strings.Contains(out.Stdout, "Logged in as:       tom") {
		t.Errorf("tsh login: %s", out.Stdout)
	}
}
