package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/agent"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
)

// fakeNames is a store with one name in it.
type fakeNames struct {
	mu      sync.Mutex
	owner   auth.KubeOwner
	changed chan struct{}
	err     error
	written []api.KubeCluster
}

func (f *fakeNames) Owner(string) auth.KubeOwner {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.owner
}

func (f *fakeNames) WatchOwner(string) (auth.KubeOwner, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.owner, f.changed
}

func (f *fakeNames) Register(_ context.Context, c api.KubeCluster) error {
	f.mu.Lock()
	err := f.err
	if err == nil {
		f.written = append(f.written, c)
	}
	f.mu.Unlock()
	if err == nil {
		f.set(auth.KubeOfReplicas)
	}
	return err
}

func (f *fakeNames) heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = nil
}

func (f *fakeNames) set(owner auth.KubeOwner) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.owner = owner
	close(f.changed)
	f.changed = make(chan struct{})
}

func TestOwnKube_isKnownUnderItsNameOrNotServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, heard := &testWriter{}, 0
		said := func() string { // since it was asked last
			all := log.text()
			defer func() { heard = len(all) }()
			return all[heard:]
		}
		names := &fakeNames{changed: make(chan struct{})}
		labels := map[string]string{"env": "prod"}
		o := &ownKube{name: "cookie", labels: labels, kube: names, log: slog.New(slog.NewTextHandler(log, nil))}
		ctx, cancel := context.WithCancel(t.Context())
		names.err = api.Errorf(api.CodeUnavailable, "no leader")
		o.first(ctx)
		done := make(chan struct{})
		go func() { defer close(done); o.keep(ctx) }()
		after := func(d time.Duration) { <-time.After(d); synctest.Wait() }
		after(10 * time.Second)
		if got := said(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "no leader") {
			t.Errorf("without a leader: %s", got)
		}
		names.heal()
		after(2 * time.Second)
		if diff := cmp.Diff([]api.KubeCluster{{Name: "cookie", Labels: labels}}, names.written); diff != "" {
			t.Fatalf("written (-want +got):\n%s", diff)
		}
		said()
		after(time.Hour)
		if len(names.written) != 1 {
			t.Errorf("what is known was written %d times", len(names.written))
		}
		names.set(auth.KubeOfNobody) // tctl kube rm --force, on a replica that does not serve it
		after(0)
		if len(names.written) != 2 || names.owner != auth.KubeOfReplicas {
			t.Error("a record that was removed is not back at once")
		}
		names.set(auth.KubeOfAgents)
		after(time.Hour)
		if got := said(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "level=ERROR") || !strings.Contains(got, "--kube-cluster-name") {
			t.Errorf("the name is agents': %s", got)
		}
		if _, err := o.Target("cookie"); !api.IsCode(err, api.CodeNotFound) || o.notServed() == "" {
			t.Errorf("a name of agents leads to the replica's own cluster: %v, %q", err, o.notServed())
		}
		names.set(auth.KubeOfNobody)
		after(0)
		if _, err := o.Target("cookie"); err != nil || o.notServed() != "" || len(names.written) != 3 || !strings.Contains(said(), "served now") {
			t.Errorf("the name is free again: %v, %q", err, o.notServed())
		}
		cancel()
		<-done
	})
}

// Whose cluster a name leads to must not depend on the replica that is asked.
func TestOwnKube_agentsThatServeItsNameKeepIt(t *testing.T) {
	t.Parallel()
	log := &testWriter{}
	r := startReplicas(t, 1, func(_ int, o *Options) {
		o.Kubeconfig = ""
		o.Logger = slog.New(slog.NewTextHandler(log, nil))
	})
	r.addUser(0, "alice", "devs")
	creds := r.login(0, "alice")
	r.startAgent("cookie", r.pinned(0), func(o *agent.Options) {
		o.Clusters[0].Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = fmt.Fprint(w, `{"of":"agents, for \"alice\""}`)
		})
	})
	k := r.kubectl(creds, "cookie")
	fromAgent := func() error {
		if status, body := k.get(0); status != http.StatusOK || !strings.Contains(body, "agents") {
			return fmt.Errorf("%d %s", status, body)
		}
		return nil
	}
	eventually(t, patience, "an answer", fromAgent)
	r.stop(0, r.run[0])
	if strings.Contains(log.text(), "level=ERROR") {
		t.Errorf("a clean stop logs errors:\n%s", log.text())
	}
	r.opts[0].Kubeconfig, r.opts[0].KubeClusterName = r.kube, "cookie"
	r.start(0)
	r.awaitReady(0)
	eventually(t, patience, "an answer of the agent", fromAgent)
	if n := strings.Count(log.text(), "own Kubernetes cluster is not served"); n != 1 {
		t.Errorf("the log says %d times that it is not served:\n%s", n, log.text())
	}
	all, err := r.admin(0).KubeClusters(t.Context())
	if err != nil || len(all) != 1 || all[0].Status == nil || all[0].Status.Own || !strings.Contains(all[0].Status.Reason, "--kube-cluster-name") {
		t.Errorf("%+v, %v", all, err)
	}
}

func TestOwnKube_itsNameIsNotFreedWhileItIsServed(t *testing.T) {
	t.Parallel()
	labels := map[string]string{"env": "prod", "region": "eu"}
	r := startReplicas(t, 2, func(i int, o *Options) {
		o.KubeClusterName = "main"
		if o.KubeLabels = labels; i == 1 {
			o.Kubeconfig = ""
		}
	})
	err := r.admin(0).Delete(t.Context(), api.KindKubeCluster, "main", true)
	if !api.IsCode(err, api.CodeConflict) || !strings.Contains(err.Error(), "start them without it, or under another --kube-cluster-name") {
		t.Errorf("removed by force, where it is served: %v", err)
	}
	doc := fmt.Sprintf(`{"kind":%q,"version":"v3","metadata":{"name":"main","labels":{"env":"dev"}}}`, api.KindKubeCluster)
	if _, err := r.admin(0).Put(t.Context(), json.RawMessage(doc), true); !api.IsCode(err, api.CodeForbidden) || !strings.Contains(err.Error(), "sallyport start --kube-labels") {
		t.Errorf("labels by a document: %v", err)
	}
	if err := r.admin(1).Delete(t.Context(), api.KindKubeCluster, "main", true); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "the name is the replicas' again", func() error {
		for _, run := range r.run {
			c, err := run.srv.auth.KubeClusters.Get("main")
			if err != nil {
				return err
			}
			if !cmp.Equal(labels, c.Labels) {
				return errors.New(cmp.Diff(labels, c.Labels))
			}
		}
		return nil
	})
}
