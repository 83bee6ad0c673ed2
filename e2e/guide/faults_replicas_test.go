package guide

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/release"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// patience is how long the clusters may take for what takes them seconds: tests measure,
// and a busy machine is no fault.
const patience = 3 * time.Minute

func replica(i int) string { return fmt.Sprintf("%s-%d", namespace, i) }

// inPod runs a command in a replica's pod.
func (w *world) inPod(ctx context.Context, pod string, args ...string) testbed.Result {
	return w.tele.Kubectl(ctx, append([]string{"exec", "-n", namespace, pod, "-c", "sallyport", "--"}, args...)...)
}

// status is what a replica knows.
func (w *world) status(ctx context.Context, pod string) (s api.Status, err error) {
	r := w.inPod(ctx, pod, "tctl", "status", "--format=json")
	if r.Err != nil {
		return s, r.Err
	}
	if err := json.Unmarshal([]byte(r.Stdout), &s); err != nil {
		return s, fmt.Errorf("%w in %q", err, r.Stdout)
	}
	return s, nil
}

// whole waits until all three replicas are ready and know each other, and returns what they say.
func (w *world) whole(t *testing.T) []api.Status {
	t.Helper()
	ctx := within(t, patience)
	var all []api.Status
	testbed.Wait(t, patience, "three replicas that know each other", func() error {
		all = nil
		for i := range 3 {
			s, err := w.status(ctx, replica(i))
			if err != nil {
				return err
			}
			voters := 0
			for _, srv := range s.Servers {
				if srv.Voter && srv.Alive {
					voters++
				}
			}
			if !s.Ready || len(s.Servers) != 3 || voters != 3 || s.LeaderID == "" {
				return fmt.Errorf("%s: ready: %v (%s), leader %q, servers %+v", replica(i), s.Ready, s.Reason, s.LeaderID, s.Servers)
			}
			all = append(all, s)
		}
		for _, s := range all[1:] {
			if s.ClusterID != all[0].ClusterID || s.LeaderID != all[0].LeaderID {
				return fmt.Errorf("clusters %s and %s, leaders %s and %s", s.ClusterID, all[0].ClusterID, s.LeaderID, all[0].LeaderID)
			}
		}
		return nil
	})
	return all
}

// leader is the number of the replica that leads.
func leader(t *testing.T, all []api.Status) int {
	t.Helper()
	i := slices.IndexFunc(all, func(s api.Status) bool { return s.State == "leader" })
	if i < 0 {
		t.Fatalf("none leads: %+v", all)
	}
	return i
}

func ids(all []api.Status) (ids []string) {
	for _, s := range all {
		ids = append(ids, s.ServerID)
	}
	return ids
}

// pod is what we read of one.
type pod struct {
	Metadata struct {
		Name, UID         string
		DeletionTimestamp *time.Time
	}
	Spec   struct{ NodeName string }
	Status struct {
		Conditions []struct{ Type, Status string }
	}
}

func (p pod) ready() bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c struct{ Type, Status string }) bool { return c.Type == "Ready" && c.Status == "True" })
}

func (w *world) pod(ctx context.Context, name string) (p pod, err error) {
	r := w.tele.Kubectl(ctx, "get", "pod", "-n", namespace, name, "-o", "json")
	if r.Err != nil {
		return p, r.Err
	}
	return p, json.Unmarshal([]byte(r.Stdout), &p)
}

// anew waits until a pod that isn't the one given is ready under its name.
func (w *world) anew(t *testing.T, old pod) pod {
	t.Helper()
	ctx := within(t, patience)
	var p pod
	testbed.Wait(t, patience, "a new "+old.Metadata.Name+" that is ready", func() (err error) {
		if p, err = w.pod(ctx, old.Metadata.Name); err == nil && (p.Metadata.UID == old.Metadata.UID || !p.ready()) {
			err = fmt.Errorf("%+v", p)
		}
		return err
	})
	return p
}

// podWatch writes down what becomes of the replicas' pods.
type podWatch struct {
	cancel context.CancelFunc
	done   chan error

	mu   sync.Mutex
	seen []podEvent
}

type podEvent struct {
	at  time.Time
	pod pod
}

func (w *world) watchPods(t *testing.T) *podWatch {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, testbed.Bin("kubectl"), "--kubeconfig", w.tele.Kubeconfig, "get", "pods", "-n", namespace, "-l", "app="+namespace, "--watch", "-o", "json")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	pw := &podWatch{cancel: cancel, done: make(chan error, 1)}
	go func() {
		err := pw.read(out)
		_ = cmd.Wait() // it is killed
		if ctx.Err() != nil {
			err = nil
		}
		pw.done <- err
	}()
	t.Cleanup(func() { cancel() })
	return pw
}

func (pw *podWatch) read(out io.Reader) error {
	for d := json.NewDecoder(out); ; {
		var p pod
		if err := d.Decode(&p); err != nil {
			return fmt.Errorf("the watch of pods: %w", err)
		}
		pw.mu.Lock()
		pw.seen = append(pw.seen, podEvent{time.Now(), p})
		pw.mu.Unlock()
	}
}

// replacement is a pod that was told to stop, and the one that took its place.
type replacement struct {
	name        string
	told, ready time.Time // the latter: zero, if it never was
}

// stop ends the watch, and returns which pods were replaced, in this order.
func (pw *podWatch) stop(t *testing.T) (list []replacement) {
	t.Helper()
	pw.cancel()
	if err := <-pw.done; err != nil {
		t.Fatal(err)
	}
	told := map[string]bool{}
	for _, e := range pw.seen {
		if e.pod.Metadata.DeletionTimestamp != nil {
			if !told[e.pod.Metadata.UID] {
				told[e.pod.Metadata.UID] = true
				list = append(list, replacement{name: e.pod.Metadata.Name, told: e.at})
			}
			continue
		}
		for i := range list {
			if r := &list[i]; r.name == e.pod.Metadata.Name && r.ready.IsZero() && !told[e.pod.Metadata.UID] && e.pod.ready() {
				r.ready = e.at
			}
		}
	}
	return list
}

// notReady waits until a replica answers its administrator, and is not ready; why it says so.
func (w *world) notReady(t *testing.T, name string) api.Status {
	t.Helper()
	ctx := within(t, patience)
	var s api.Status
	testbed.Wait(t, patience, name+" waits", func() (err error) {
		if s, err = w.status(ctx, name); err == nil && s.Ready {
			err = errors.New("it is ready")
		}
		return err
	})
	return s
}

// helm runs as the clusters' admin does, in tele.
func (w *world) helm(ctx context.Context, args ...string) testbed.Result {
	return testbed.Run(ctx, testbed.Command{Args: append([]string{testbed.Bin("helm"), "--kubeconfig", w.tele.Kubeconfig, "--namespace", namespace}, args...)})
}

// chart is the one that the guide installs.
func (w *world) chart() string {
	return filepath.Join(w.release.Out, release.ChartsDir, namespace+"-"+w.release.Version+".tgz")
}

// nodeOf is the number of the node on which a pod is.
func (w *world) nodeOf(t *testing.T, p pod) int {
	t.Helper()
	for i := range 3 {
		if w.tele.NodeName(i+1) == p.Spec.NodeName {
			return i + 1
		}
	}
	t.Fatalf("%s is on no node: %q", p.Metadata.Name, p.Spec.NodeName)
	return 0
}
