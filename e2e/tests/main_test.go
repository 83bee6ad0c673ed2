package tests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/browser"
	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// The one piece of state of this package: what is costly to start. TestMain ends it.
var fixture environment

func TestMain(m *testing.M) {
	code := m.Run()
	fixture.stop()
	os.Exit(code)
}

// environment is made by the first test that asks for it.
type environment struct {
	kubeOnce, clusterOnce, chromiumOnce sync.Once
	kubeErr, clusterErr, chromiumErr    error

	kube     *testbed.ControlPlane
	bin      sallyport.Binaries
	cluster  *sallyport.Cluster
	alice    *sallyport.User
	chromium *browser.Chromium
	agents   agentsEnvironment
	sso      signOn

	// Left by a test, for one that runs when its leader has given up looking for what no
	// backup holds.
	restored struct {
		cluster *sallyport.Cluster
		before  logged // the last event of the backup's cluster
	}

	// Made at the start with a short life: tests that run last find them expired.
	since      time.Time // before they were made
	linkOver   time.Time // when the link has expired at the latest
	briefLink  string
	briefOver  time.Time // when the user's session has
	briefUser  *sallyport.User
	briefWatch *testbed.Process
}

const (
	clusterName = "tele.example.com"
	pod         = "web" // in the namespace default
)

func (e *environment) stop() {
	e.agents.stop()
	e.sso.stop()
	if e.chromium != nil {
		e.chromium.Close()
	}
	if e.briefWatch != nil {
		e.briefWatch.Kill()
	}
	for _, c := range []*sallyport.Cluster{e.cluster, e.restored.cluster} {
		if c != nil {
			c.Stop()
		}
	}
	if e.kube != nil {
		e.kube.Stop()
	}
}

func (e *environment) startKube() error {
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Minute) // empty caches are filled first
	defer cancel()
	if err := testbed.Build(ctx, os.Stderr, testbed.Hyper, testbed.Etcd, testbed.Kwok); err != nil {
		return err
	}
	var err error
	if e.bin, err = sallyport.Build(ctx); err != nil {
		return err
	}
	start, stop := context.WithTimeout(ctx, 2*time.Minute)
	defer stop()
	if e.kube, err = testbed.Start(start, testbed.Options{}); err != nil {
		return err
	}
	if err := e.kube.StartKwok(start); err != nil {
		return err
	}
	if err := e.kube.AddNode(start, "n1"); err != nil {
		return err
	}
	return e.kube.AddPod(start, "default", pod)
}

func (e *environment) startCluster() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var err error
	// A name, because passkeys are bound to one.
	o := sallyport.Options{Bin: e.bin, Name: clusterName, PublicHost: "localhost", Kubeconfig: e.kube.Kubeconfig}
	if e.cluster, err = sallyport.Start(ctx, o); err != nil {
		return err
	}
	r := e.cluster.Replicas[0]
	if e.alice, err = e.cluster.AddUser(ctx, r, "alice", "--k8s-groups=system:masters"); err != nil {
		return err
	}
	if err := e.alice.Login(ctx, r).Err; err != nil {
		return err
	}
	e.since = time.Now()
	if e.briefLink, err = e.cluster.Invite(ctx, r, "late", "--ttl=1m"); err != nil {
		return err
	}
	e.linkOver = time.Now().Add(time.Minute)
	if e.briefUser, err = e.cluster.AddUser(ctx, r, "brief", "--k8s-groups=system:masters"); err != nil {
		return err
	}
	if err := e.briefUser.Login(ctx, r, "--ttl=2m").Err; err != nil {
		return err
	}
	e.briefOver = time.Now().Add(2 * time.Minute)
	e.briefWatch, err = e.briefUser.StartKubectl(filepath.Join(e.cluster.Dir, "brief-watch"), "get", "pods", "-w")
	return err
}

// kubernetes is the API server of all tests, with a node and a pod to exec into.
func kubernetes(t *testing.T) *testbed.ControlPlane {
	t.Helper()
	fixture.kubeOnce.Do(func() { fixture.kubeErr = fixture.startKube() })
	if fixture.kubeErr != nil {
		t.Fatal(fixture.kubeErr)
	}
	return fixture.kube
}

// shared is a cluster that no test harms, and alice, who is logged in and may do everything.
func shared(t *testing.T) (*sallyport.Cluster, *sallyport.User) {
	t.Helper()
	kubernetes(t)
	fixture.clusterOnce.Do(func() { fixture.clusterErr = fixture.startCluster() })
	if fixture.clusterErr != nil {
		t.Fatal(fixture.clusterErr)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s", fixture.cluster.Logs(5))
		}
	})
	return fixture.cluster, fixture.alice
}

// window opens a browser's window, in which no page of the shared cluster may
// complain of itself until the test ends.
func window(t *testing.T) *browser.Browser {
	t.Helper()
	c, alice := shared(t)
	fixture.chromiumOnce.Do(func() {
		if fixture.chromiumErr = testbed.Build(context.Background(), os.Stderr, testbed.Axe); fixture.chromiumErr != nil {
			return
		}
		var addrs []string
		for _, r := range c.Replicas {
			addrs = append(addrs, r.WebAddr())
		}
		fixture.chromium, fixture.chromiumErr = browser.Launch(context.Background(), alice.CAFile, addrs...)
	})
	if fixture.chromiumErr != nil {
		t.Fatal(fixture.chromiumErr)
	}
	w := fixture.chromium.Window(t)
	t.Cleanup(func() {
		for _, problem := range w.Problems() {
			t.Errorf("in the browser's console: %s", problem)
		}
	})
	return w
}

// ownCluster is one to be harmed, beside the same Kubernetes.
func ownCluster(t *testing.T, o sallyport.Options) *sallyport.Cluster {
	t.Helper()
	kube := kubernetes(t)
	o.Bin, o.Name, o.Kubeconfig = fixture.bin, clusterName, kube.Kubeconfig
	return sallyport.StartCluster(t, o)
}

// within is a deadline for the steps of a test, were the machine idle: a busy one has
// three times as long.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*d)
	t.Cleanup(cancel)
	return ctx
}

// ok fails the test for a command that failed.
func ok(t *testing.T, r testbed.Result) testbed.Result {
	t.Helper()
	if r.Err != nil {
		t.Fatalf("%v", r.Err)
	}
	return r
}

// refused fails the test for a command that did not fail, or not with these words on stderr.
func refused(t *testing.T, r testbed.Result, words ...string) {
	t.Helper()
	if r.Code == 0 {
		t.Errorf("it succeeded: %s", r.Stdout)
	}
	for _, w := range words {
		if !strings.Contains(r.Stderr, w) {
			t.Errorf("%q is not in what it said: %q (exit code %d)", w, r.Stderr, r.Code)
		}
	}
}

// newUser adds a user at r, who logs in there.
func newUser(t *testing.T, c *sallyport.Cluster, r *sallyport.Replica, name string, args ...string) *sallyport.User {
	t.Helper()
	ctx := within(t, 30*time.Second)
	u, err := c.AddUser(ctx, r, name, args...)
	if err != nil {
		t.Fatal(err)
	}
	ok(t, u.Login(ctx, r))
	return u
}

func leaderOf(t *testing.T, c *sallyport.Cluster) *sallyport.Replica {
	t.Helper()
	r, err := c.Leader(within(t, 20*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// followers are the running replicas that do not lead.
func followers(t *testing.T, c *sallyport.Cluster) (leader *sallyport.Replica, others []*sallyport.Replica) {
	t.Helper()
	leader = leaderOf(t, c)
	for _, r := range c.Replicas {
		if r != leader && r.Running() {
			others = append(others, r)
		}
	}
	return leader, others
}

// kubectl is a command line of the user's with more environment.
func kubectl(u *sallyport.User, env []string, args ...string) testbed.Command {
	return testbed.Command{
		Name: "kubectl", Args: append([]string{testbed.Bin("kubectl")}, args...), Env: append(u.Env(), env...), Dir: u.Home,
	}
}

// at is the flag that has kubectl go through r.
func at(t *testing.T, u *sallyport.User, r *sallyport.Replica) string {
	t.Helper()
	file, err := u.KubeconfigAt(r)
	if err != nil {
		t.Fatal(err)
	}
	return "--kubeconfig=" + file
}

// stream is a command that runs until it is ended, and what it has said so far.
type stream struct {
	*testbed.Process
	what string
}

func startStream(t *testing.T, what string, c testbed.Command) *stream {
	t.Helper()
	c.Log = filepath.Join(t.TempDir(), "out")
	p, err := testbed.StartProcess(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return &stream{p, what}
}

func (s *stream) said() string {
	b, err := os.ReadFile(s.Log)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// waitFor waits until the stream has said something.
func (s *stream) waitFor(t *testing.T, text string) {
	t.Helper()
	testbed.Wait(t, testbed.Patience, s.what, func() error {
		said := s.said()
		if !strings.Contains(said, text) {
			if !s.Running() {
				return fmt.Errorf("it ended and said %q: %w", said, errors.Join(s.Err(), errors.New("too early")))
			}
			return fmt.Errorf("%q is not in %q", text, said)
		}
		return nil
	})
}

// waitEnd waits until the stream has ended and returns when that was. As with
// testbed.Wait, a busy machine has more time than limit.
func (s *stream) waitEnd(t *testing.T, limit time.Duration) time.Time {
	t.Helper()
	select {
	case <-s.Exited():
		return time.Now()
	case <-time.After(max(limit, testbed.Patience)):
		t.Errorf("%s goes on after %v: %s", s.what, max(limit, testbed.Patience), s.said())
		return time.Now()
	}
}

// event is a line of events.log.
type event map[string]any

func (e event) text(field string) string { s, _ := e[field].(string); return s }

func (e event) time(t *testing.T) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, e.text("time"))
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// events are those of a replica's log that match.
func events(t *testing.T, r *sallyport.Replica, match func(event) bool) []event {
	t.Helper()
	b, err := os.ReadFile(r.EventsLog())
	if err != nil {
		t.Fatal(err)
	}
	var found []event
	for line := range strings.Lines(string(b)) {
		if !strings.HasSuffix(line, "\n") {
			break // is being written
		}
		var e event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%s: %v: %q", r.Name, err, line)
		}
		if match(e) {
			found = append(found, e)
		}
	}
	return found
}

// waitEvent waits for the first event that matches.
func waitEvent(t *testing.T, r *sallyport.Replica, what string, match func(event) bool) event {
	t.Helper()
	var found []event
	testbed.Wait(t, testbed.Patience, what+" in events.log of "+r.Name, func() error {
		if found = events(t, r, match); len(found) == 0 {
			return fmt.Errorf("none")
		}
		return nil
	})
	return found[0]
}
