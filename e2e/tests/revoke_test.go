package tests

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/sallyport"
)

// cutWithin is how soon live streams end after the change is committed: most of them, for
// a single process may have to wait its turn on a busy machine before it can end.
const cutWithin = time.Second

// openStreams starts a watch and an exec through every replica.
func openStreams(t *testing.T, c *sallyport.Cluster, u *sallyport.User) []*stream {
	t.Helper()
	var all []*stream
	for i, r := range c.Replicas {
		watch := startStream(t, "get pods -w at "+r.Name, kubectl(u, nil, at(t, u, r), "get", "pods", "-w"))
		exec := startStream(t, "exec at "+r.Name, kubectl(u, protocols[i%2].env, at(t, u, r), "exec", pod, "--", "sh", "-c", "echo begun; sleep 60"))
		all = append(all, watch, exec)
	}
	for i, s := range all {
		s.waitFor(t, [2]string{pod, "begun"}[i%2])
	}
	return all
}

// checkCut says which streams had not ended in time after the commit.
func checkCut(t *testing.T, streams []*stream, committed time.Time) {
	t.Helper()
	var all []time.Duration
	for _, s := range streams {
		took := s.waitEnd(t, 10*time.Second).Sub(committed)
		all = append(all, took)
		if took > 10*cutWithin {
			t.Errorf("%s ended %v after the commit", s.what, took)
		}
		t.Logf("%-20s ended after %4d ms, %v: %q", s.what, took.Milliseconds(), s.Err(), lastLine(s.said()))
	}
	slices.Sort(all)
	if middle := all[len(all)/2]; middle > cutWithin {
		t.Errorf("half of the streams ended %v after the commit or later, not within %v", middle, cutWithin)
	}
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

// committed is when a change was written, by its event.
func committed(t *testing.T, r *sallyport.Replica, kind, user string, since time.Time) time.Time {
	t.Helper()
	return waitEvent(t, r, kind+" of "+user, func(e event) bool {
		return e.text("event") == kind && (e.text("name") == user || e.text("user") == user) && e.time(t).After(since)
	}).time(t)
}

func TestRemovedUserIsCutOffEverywhere(t *testing.T) {
	c, _ := shared(t)
	for i, r := range c.Replicas {
		name := fmt.Sprintf("rm%d", i)
		t.Run("removed at "+r.Name, func(t *testing.T) {
			ctx := within(t, time.Minute)
			u := newUser(t, c, c.Replicas[(i+1)%3], name, "--k8s-groups=system:masters")
			streams := openStreams(t, c, u)
			since := time.Now()
			if got := ok(t, r.Tctl(ctx, "users", "rm", name)); got.Stdout != "User '"+name+"' has been deleted\n" {
				t.Errorf("users rm printed %q", got.Stdout)
			}
			checkCut(t, streams, committed(t, r, "user.delete", name, since))
			for _, other := range c.Replicas {
				refused(t, u.KubectlAt(ctx, other, "get", "pods"), "You must be logged in", "session of user \""+name+"\" has ended", "log in again")
			}
			refused(t, u.Login(ctx, r), "invalid user name or password")
		})
	}
}

func TestLogoutCutsOffEverywhere(t *testing.T) {
	c, _ := shared(t)
	ctx := within(t, time.Minute)
	u := newUser(t, c, c.Replicas[0], "leaver", "--k8s-groups=system:masters")
	streams := openStreams(t, c, u)
	since := time.Now()
	if got := ok(t, u.Tsh(ctx, "logout")); !strings.Contains(got.Stdout, "Logged out leaver from "+c.Replicas[0].WebAddr()) {
		t.Errorf("logout: %s", got.Stdout)
	}
	checkCut(t, streams, since) // before tsh began, so before the commit
}
