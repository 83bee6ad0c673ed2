package tests

import (
	"strings"
	"testing"
)

// Every page that no other test looks at on its way.
func TestPages(t *testing.T) {
	c, alice := shared(t)
	at := c.Replicas[1].URL()
	w := window(t)
	for _, p := range []struct {
		name, path string
		status     int64
	}{
		{"home", "/", 200},
		{"login", "/web/login", 200},
		{"404", "/nowhere", 404},
		{"invite-unknown", "/web/invite/" + strings.Repeat("0", 64), 404},
		{"reset-unknown", "/web/reset/" + strings.Repeat("0", 64), 404},
		{"cli-unknown-logged-out", "/web/cli/abcdefghijklmnopqrstuvwxyz", 200}, // the login comes first
		{"message-login-success", "/web/msg/info/login_success", 200},
		{"message-error", "/web/msg/error/login/callback", 200},
	} {
		openAs(t, w, at+p.path, p.status)
		look(t, w, p.name)
	}

	open(t, w, invite(t, c, "paige", "--k8s-groups=dev"))
	look(t, w, "invite")
	unfold(t, w)
	look(t, w, "invite-unfolded")
	fill(t, w, "#password", webPassword)
	fill(t, w, "#repeat", "something else")
	shows(t, submit(t, w), 400, "The two entries differ")
	look(t, w, "invite-error")
	setPassword(t, w)
	shows(t, submit(t, w), 200, "Your password is set")
	look(t, w, "done")

	page := logIn(t, w, c.Replicas[0], "paige", "a wrong password")
	shows(t, page, 401)
	look(t, w, "login-error")
	atHome(t, logIn(t, w, c.Replicas[0], "alice", alice.Password))
	look(t, w, "clusters")
}
