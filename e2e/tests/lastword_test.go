package tests

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// A watch that is cut says why: what a person sees who ran kubectl get -w.
func TestKubectlSaysWhyItsWatchWasCut(t *testing.T) {
	c, _ := shared(t)
	ctx := within(t, time.Minute)
	u := newUser(t, c, c.Replicas[0], "lastword", "--k8s-groups=system:masters")
	begun := time.Now()
	watches := []*stream{
		startStream(t, "get pods -w", kubectl(u, nil, "get", "pods", "-w")),
		startStream(t, "over HTTP/1.1", kubectl(u, []string{"DISABLE_HTTP2=1"}, "get", "pods", "-w")),
		startStream(t, "as JSON", kubectl(u, nil, "get", "pods", "-w", "-o=json")),
		startStream(t, "by an informer", kubectl(u, nil, "wait", "--for=delete", "pod/"+pod, "--timeout=50s")),
	}
	for _, s := range watches[:3] {
		s.waitFor(t, pod)
	}
	// The informer prints nothing: the log says when its watch has begun, too.
	testbed.Wait(t, testbed.Patience, "four watches in events.log", func() error {
		n := len(events(t, c.Replicas[0], func(e event) bool {
			return e.text("user") == "lastword" && e.text("kubernetes_verb") == "watch" && e.text("code") == "T3009I" && e.time(t).After(begun)
		}))
		if n < len(watches) {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	ok(t, c.Replicas[1].Tctl(ctx, "users", "rm", "lastword"))
	for _, s := range watches[:3] {
		s.waitEnd(t, 10*time.Second)
		if said := s.said(); !strings.Contains(said, `has ended`) || !strings.Contains(said, "tsh login") || strings.Contains(said, "stream error") {
			t.Errorf("%s: %q", s.what, said)
		}
	}
	watches[3].waitFor(t, `watch ended with error`) // it tries again: perhaps somebody logs in
	watches[3].waitFor(t, `the session of user \"lastword\" has ended`)
}

// kubectl begins with discovery, of whose refusal it shows little.
func TestKubectlsFirstRequestNamesAnUnknownCluster(t *testing.T) {
	_, alice := shared(t)
	ctx := within(t, time.Minute)
	refused(t, alice.Kubectl(ctx, "--tls-server-name=cookie.kube."+clusterName, "--cache-dir="+t.TempDir(), "get", "namespaces"),
		`kubernetes cluster "cookie" not found, check 'tsh kube ls'`)
}
