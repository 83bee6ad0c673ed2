package tests

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/browser"
)

var guideLines = regexp.MustCompile(`^User "ivy" has been created but requires a password\. ` +
	`Share this URL with the user to complete user setup, link is valid for 1h:
(https://(\S+)/web/invite/[0-9a-f]{64})

NOTE: Make sure (\S+) points at a Sallyport proxy which users can access\.
$`)

func TestInviteInABrowser(t *testing.T) {
	c, _ := shared(t)
	ctx := within(t, time.Minute)
	_, others := followers(t, c)
	r := others[0]
	out := ok(t, r.Tctl(ctx, "users", "add", "ivy", "--k8s-groups=dev"))
	m := guideLines.FindStringSubmatch(out.Stdout)
	if m == nil || m[2] != r.WebAddr() || m[3] != r.WebAddr() {
		t.Fatalf("a follower does not print the guide's lines:\n%s", out.Stdout)
	}
	link := m[1]

	b := window(t)
	page, err := b.Open(link)
	if err != nil {
		t.Fatal(err)
	}
	if page.Status != 200 || !strings.Contains(page.Text, "invited to "+clusterName) {
		t.Fatalf("the invite: %+v", page)
	}
	screenshot(t, b, "1-invite.png")
	const password = "four words in a row"
	fill(t, b, "#password", password)
	fill(t, b, "#repeat", password+"!")
	page = submit(t, b)
	if page.Status != 400 || !strings.Contains(page.Text, "The two entries differ") {
		t.Errorf("two different passwords: %+v", page)
	}
	fill(t, b, "#password", password)
	fill(t, b, "#repeat", password)
	page = submit(t, b)
	line := "tsh login --proxy=" + r.WebAddr() + " --user=ivy"
	if page.Status != 200 || !strings.Contains(page.Text, "Your password is set") || !strings.Contains(page.Text, line) {
		t.Fatalf("no success with the line %q: %+v", line, page)
	}
	screenshot(t, b, "2-done.png")

	// The line on the page is what works.
	ivy, err := c.NewUser(ctx, r, "ivy")
	if err != nil {
		t.Fatal(err)
	}
	got := ok(t, ivy.TshStdin(ctx, password+"\n", append(strings.Fields(line)[1:], "--ca-file="+ivy.CAFile)...))
	if !strings.Contains(got.Stdout, "Logged in as:       ivy") {
		t.Errorf("tsh login: %s", got.Stdout)
	}

	// The second use says why not, at every replica.
	for _, other := range c.Replicas {
		page, err = b.Open(strings.Replace(link, r.WebAddr(), other.WebAddr(), 1))
		if err != nil {
			t.Fatal(err)
		}
		if page.Status != 410 || !strings.Contains(page.Text, "This link has been used") || !strings.Contains(page.Text, "used already, on 20") {
			t.Errorf("second use at %s: %+v", other.Name, page)
		}
	}
	screenshot(t, b, "3-used.png")
	if page, err = b.Open(link[:len(link)-4]); err != nil || page.Status != 404 || !strings.Contains(page.Text, "This link is not known") {
		t.Errorf("a cut link: %+v, %v", page, err)
	}
}

func TestExpiredInviteSaysSo(t *testing.T) {
	shared(t)
	t.Parallel()                                                             // runs after all that are not, when the link's minute is over or nearly
	over := time.NewTimer(time.Until(fixture.linkOver.Add(5 * time.Second))) // the cluster's time may be a little behind
	defer over.Stop()
	select {
	case <-over.C:
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	}
	b := window(t)
	page, err := b.Open(fixture.briefLink)
	if err != nil {
		t.Fatal(err)
	}
	if page.Status != 404 || !strings.Contains(page.Text, "This link expired on 20") || !strings.Contains(page.Text, "ask for a new one") {
		t.Errorf("%+v", page)
	}
	screenshot(t, b, "expired.png")
}

func screenshot(t *testing.T, b *browser.Browser, name string) {
	t.Helper()
	if err := b.Screenshot(filepath.Join(t.ArtifactDir(), name)); err != nil {
		t.Error(err)
	}
}
