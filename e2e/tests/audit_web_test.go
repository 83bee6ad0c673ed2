package tests

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// Auditors search the log in a browser, at whichever replica.
func TestAuditPage(t *testing.T) {
	c, _ := shared(t)
	ctx := within(t, time.Minute)
	w := window(t)
	audra := newUser(t, c, c.Replicas[0], "audra", "--roles=auditor")
	curt := newUser(t, c, c.Replicas[1], "curt", "--k8s-groups=dev")
	for i := range 60 { // more than a page
		_ = sendH1(t, curt, c.Replicas[i%3], fmt.Sprintf("/api/v1/namespaces/page-%d/pods", i), "Accept: */*")
	}
	// Each replica sends its own requests' events, so the last request's are not the last to come.
	for i := range 60 {
		waitEvent(t, c.Replicas[2], "each request", func(e event) bool { return e.text("resource_namespace") == fmt.Sprintf("page-%d", i) })
	}

	at := c.Replicas[2].URL()
	atHome(t, logIn(t, w, c.Replicas[2], "audra", audra.Password))
	page := press(t, w, `a[href="/web/audit"]`)
	shows(t, page, 200, "Audit log", "curt", "kube.request")
	look(t, w, "audit")
	fill(t, w, "#user", "curt")
	fill(t, w, "#type", "kube.*")
	fill(t, w, "#grep", "page-")
	page = submit(t, w)
	shows(t, page, 200, "50 found", "page-59")
	if strings.Contains(page.Text, "user.login") {
		t.Errorf("the search found too much: %s", page.Text)
	}
	shows(t, press(t, w, ".actions.wide a"), 200, "10 found")
	fill(t, w, "#grep", "page-5[789]")
	shows(t, submit(t, w), 200, "3 found", "page-59")
	if err := w.Press("table.log details summary"); err != nil {
		t.Fatal(err)
	}
	raw, err := w.Text("table.log details[open] pre")
	if err != nil {
		t.Fatal(err)
	}
	last := regexp.MustCompile("^page-5[789]$")
	lines := events(t, c.Replicas[2], func(e event) bool { return last.MatchString(e.text("resource_namespace")) })
	line := lines[len(lines)-1]
	if want := fmt.Sprintf(`"hash":"%s"}`, line.text("hash")); !strings.HasSuffix(strings.TrimSpace(raw), want) {
		t.Errorf("the raw line of the newest is %s, not the one that ends with %s", raw, want)
	}
	look(t, w, "audit-row")
	open(t, w, at+"/web/audit")
	fill(t, w, "#grep", "(")
	shows(t, submit(t, w), 400, "Text")
	look(t, w, "audit-wrong")
	ok(t, c.Replicas[0].Tctl(ctx, "users", "update", "audra", "--set-roles=access")) // of the open session
	testbed.Wait(t, 5*time.Second, "the page to be closed to her", func() error {
		if page, err := w.Open(c.Replicas[1].URL() + "/web/audit"); err != nil || page.Status != 403 {
			return fmt.Errorf("%+v, %w", page, err)
		}
		return nil
	})
	look(t, w, "audit-denied")
}
