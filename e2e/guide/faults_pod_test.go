package guide

import (
	"slices"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// typing has the typist type the guide's commands for as long as things break.
func (p *typist) typing(t *testing.T) []*loop {
	t.Helper()
	var loops []*loop
	for what, do := range map[string]loopOptions{
		"kubectl get pods, tele":   {do: p.teleCommand},
		"kubectl get pods, cookie": {do: p.cookieCommand},
		"kubectl exec, cookie":     {do: p.execCommand},
		"tsh kube ls":              {do: p.lsCommand},
	} {
		do.what, do.every, do.limit = what, 400*time.Millisecond, time.Minute
		loops = append(loops, startLoop(t, do))
	}
	for _, l := range loops {
		l.more(t, 2)
	}
	return loops
}

// Reliability 7: the pod of the leader is deleted. Nothing that the guide shows fails, and
// the replica comes back as who it was.
func TestPodDeleted(t *testing.T) {
	w := guided(t)
	p := newTypist(t, w)
	before := w.whole(t)
	victim := leader(t, before)
	old, err := w.pod(within(t, patience), replica(victim))
	if err != nil {
		t.Fatal(err)
	}
	loops := p.typing(t)
	since := time.Now()
	ok(t, w.tele.Kubectl(within(t, patience), "delete", "pod", "-n", namespace, old.Metadata.Name, "--wait=false"))
	w.anew(t, old)
	after := w.whole(t)
	w.took("the leader's pod deleted, until all three are as before", since)
	for _, l := range loops {
		l.more(t, 2)
	}
	none(t, w, since, loops...)
	if !slices.Equal(ids(after), ids(before)) || after[0].ClusterID != before[0].ClusterID {
		t.Errorf("they were %v, and are %v", ids(before), ids(after))
	}
	testbed.Wait(t, 0, "a login", func() error { return p.loginCommand(t.Context()) })
}
