package tests

import (
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/network"
)

// What another site can have a browser do to somebody who is logged in: nothing.
func TestAnotherSiteCanDoNothing(t *testing.T) {
	c, alice := shared(t)
	w := window(t)
	target := c.Replicas[1].URL()
	evil := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "text/html")
		to := html.EscapeString(target + r.URL.Query().Get("to"))
		if r.URL.Path == "/frame" {
			fmt.Fprintf(rw, `<!doctype html><title>Frame</title><main><iframe src="%s"></iframe></main>`, to)
			return
		}
		fmt.Fprintf(rw, `<!doctype html><title>Post</title><main><form method=post action="%s"><input name=id value=x><input name=answer value=approve><button>Win</button></form></main>`, to)
	}))
	t.Cleanup(evil.Close)
	// On the site's own host too, as a page on another port: for cookies that is the same site.
	sibling := strings.Replace(evil.URL, "127.0.0.1", "localhost", 1)

	atHome(t, logIn(t, w, c.Replicas[1], "alice", alice.Password))
	cookie := sessionCookie(t, w, c.Replicas[1])
	if !cookie.Secure || !cookie.HTTPOnly || cookie.SameSite != network.CookieSameSiteLax || cookie.Path != "/" || cookie.Domain != "localhost" {
		t.Errorf("the session's cookie: %+v", cookie)
	}
	for _, from := range []string{evil.URL, sibling} {
		for _, to := range []string{
			"/web/login", "/web/logout", "/web/account/password", "/web/account/sessions/end", "/web/account/sessions/end-others",
			"/web/account/factors/app", "/web/account/factors/x/remove", "/web/cli/abcdefghijklmnopqrstuvwxyz", "/web/invite/" + strings.Repeat("0", 64),
		} {
			open(t, w, from+"/post?to="+to)
			if page := press(t, w, "button"); page.Status != 403 || !strings.Contains(page.Text, "This was not sent by our page") {
				t.Errorf("%s posts to %s: %+v", from, to, page)
			}
		}
		w.Problems()
		open(t, w, from+"/frame?to=/web/login")
		if refused := strings.Join(w.Problems(), "\n"); !strings.Contains(refused, "frame-ancestors") {
			t.Errorf("a frame of %s: %q", from, refused)
		}
	}
	shows(t, open(t, w, target+"/web/account"), 200, "You are alice")
	if now := sessionCookie(t, w, c.Replicas[1]); now.Value != cookie.Value {
		t.Error("the session is another")
	}

	// A new login is a new session, and ends the old one everywhere.
	cookies, err := w.Cookies(target)
	if err != nil || len(cookies) != 1 {
		t.Errorf("cookies beside the session's: %v, %v", cookies, err)
	}
	logOut(t, w, c.Replicas[0])
	atHome(t, logIn(t, w, c.Replicas[2], "alice", alice.Password))
	if now := sessionCookie(t, w, c.Replicas[1]); now.Value == cookie.Value {
		t.Error("the new session is the old one")
	}
}
