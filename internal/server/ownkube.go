package server

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/upstream"
)

// ownKube is the Kubernetes cluster that a replica reaches by itself. It is served
// under its name only as long as the store says that the name is the replicas': one
// that agents serve elsewhere would otherwise be two clusters, and which of them a
// user gets would be decided by the load balancer.
type ownKube struct {
	name   string
	labels map[string]string
	up     upstream.Upstream
	kube   kubeNames // set by openIdentity
	log    *slog.Logger

	// keep's own:
	registered bool   // with these labels, once since the start
	told       string // why it is not served or known, as the log has it
}

// kubeNames are the names of Kubernetes clusters and their owners; an
// *auth.KubeClusters.
type kubeNames interface {
	Owner(name string) auth.KubeOwner
	WatchOwner(name string) (auth.KubeOwner, <-chan struct{})
	Register(ctx context.Context, cluster api.KubeCluster) error
}

// Target implements proxy.Targets.
func (o *ownKube) Target(kube string) (upstream.Upstream, error) {
	if !o.serves(kube) {
		return upstream.Upstream{}, api.Errorf(api.CodeNotFound, "this replica serves no Kubernetes cluster %q by itself", kube)
	}
	return o.up, nil
}

// serves says whether requests for a name go to this replica's own cluster. A replica
// without one has a nil ownKube.
func (o *ownKube) serves(name string) bool {
	return o != nil && name == o.name && o.kube.Owner(name) == auth.KubeOfReplicas
}

// notServed says why the replica's own cluster is not served; "" if it is, or is about to be.
func (o *ownKube) notServed() string {
	if o == nil || o.kube.Owner(o.name) != auth.KubeOfAgents {
		return ""
	}
	return "a replica's own Kubernetes cluster has the same name and is not served: start it with another --kube-cluster-name"
}

const (
	registerFirst = 2 * time.Second  // for what is done before a replica serves
	registerEvery = 20 * time.Second // the record is looked at, beside when it changes
	registerAgain = time.Second      // after it could not be written
)

// first makes the cluster known before this replica serves, if that can be done now.
func (o *ownKube) first(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, registerFirst)
	defer cancel()
	o.look(ctx)
}

// keep keeps the cluster known until ctx ends, so that roles and tsh kube ls know it on
// every replica: on each replica that has it, and at once when its record is removed,
// because the name would be any agent's.
func (o *ownKube) keep(ctx context.Context) {
	for {
		again, changed := o.look(ctx)
		wait := time.NewTimer(again - time.Duration(rand.Int64N(int64(again/4)))) //nolint:gosec // no secret
		select {
		case <-ctx.Done():
			wait.Stop()
			return
		case <-changed:
			wait.Stop()
		case <-wait.C:
		}
	}
}

// look does what is due, and says when to look again.
func (o *ownKube) look(ctx context.Context) (again time.Duration, changed <-chan struct{}) {
	owner, changed := o.kube.WatchOwner(o.name)
	switch {
	case owner == auth.KubeOfAgents:
		o.registered = false
		o.tell("agents serve another one under that name: start the replica with another --kube-cluster-name, or free the name (tctl kube rm)")
		return registerEvery, changed
	// Labels are written once: two replicas that were given different ones would
	// otherwise write them over and over.
	case o.registered && owner == auth.KubeOfReplicas:
		return registerEvery, changed
	}
	err := o.kube.Register(ctx, api.KubeCluster{Name: o.name, Labels: o.labels})
	_, changed = o.kube.WatchOwner(o.name)
	if err == nil {
		o.registered = true
		if o.told != "" {
			o.log.Info("this replica's own Kubernetes cluster is served now", "kube_cluster", o.name)
			o.told = ""
		}
		return registerEvery, changed
	}
	if ctx.Err() == nil {
		o.tell(err.Error())
	}
	return registerAgain, changed
}

func (o *ownKube) tell(why string) {
	if o.told != why {
		o.log.Error("this replica's own Kubernetes cluster is not served", "kube_cluster", o.name, "reason", why)
		o.told = why
	}
}
