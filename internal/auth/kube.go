package auth

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	"golang.org/x/time/rate"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// KubeClusters are the Kubernetes clusters behind this address: those that
// replicas reach by themselves, and those of agents.
type KubeClusters struct {
	base   *base
	live   func(name string) *api.KubeStatus
	serves func(name string) bool

	mu     sync.Mutex
	writes *recent[string, rate.Limiter] // of labels, by cluster
}

func newKubeClusters(b *base, o Options) *KubeClusters {
	return &KubeClusters{
		base: b, live: o.KubeStatus, serves: o.KubeServed,
		writes: newRecent[string, rate.Limiter](maxClusters),
	}
}

// connected is how many agents serve a cluster now, through whichever replica.
func (k *KubeClusters) connected(name string) int {
	if k.live == nil {
		return 0
	}
	if s := k.live(name); s != nil {
		return s.Agents
	}
	return 0
}

// kubeClusterRecord is a cluster without its status.
type kubeClusterRecord struct {
	api.KubeCluster
	// Owner is the record's name of the token whose agents own the name, "" for a
	// cluster that replicas reach by themselves.
	Owner string `json:"owner,omitempty"`
}

// mayServe says whether an agent that joined for a cluster's name may serve it:
// its token's agents own it, or its token listed it. Nobody else, and nobody at all
// what replicas serve by themselves.
func (r *agentRecord) mayServe(name string, cluster *kubeClusterRecord) bool {
	return cluster.Owner != "" && (cluster.Owner == r.Token || slices.Contains(r.Granted, name))
}

func errNotItsCluster(name string, cluster *kubeClusterRecord) error {
	if cluster.Owner == "" {
		return api.Errorf(api.CodeForbidden, "Kubernetes cluster %q is one that the replicas serve themselves: give the agent's another name", name)
	}
	return api.Errorf(api.CodeForbidden, "Kubernetes cluster %q belongs to agents of another token: give this one another name, join by a token that lists it (tctl nodes add --roles=kube --kube-clusters=%s), or free the name (tctl kube rm %s)",
		name, api.ShellQuote(name), api.ShellQuote(name))
}

// claim checks that an agent may serve clusters, and gives what makes those known
// that are not: they belong to its token from then on.
func (a *Agents) claim(ctx context.Context, v fsm.View, id string, rec *agentRecord, names []string, h *held) (fsm.Txn, error) {
	var txn fsm.Txn
	for _, name := range names {
		if !slices.Contains(rec.KubeClusters, name) {
			return fsm.Txn{}, api.Errorf(api.CodeForbidden, "agent %s did not join for Kubernetes cluster %q: let it join anew (tctl nodes rm %s)", id, name, id)
		}
		cluster, _, err := kubeClusters.Get(v, name)
		switch {
		case errors.Is(err, fsm.ErrNotFound):
			more, err := a.createKube(ctx, v, kubeClusterRecord{api.KubeCluster{Name: name}, rec.Token}, map[string]any{"host_id": id}, h)
			if err != nil {
				return fsm.Txn{}, err
			}
			merge(&txn, more)
		case err != nil:
			return fsm.Txn{}, readError("Kubernetes cluster", name, err)
		case !rec.mayServe(name, cluster):
			return fsm.Txn{}, errNotItsCluster(name, cluster)
		}
	}
	return txn, nil
}

// createKube gives what makes a cluster of agents known.
func (a *Agents) createKube(ctx context.Context, v fsm.View, cluster kubeClusterRecord, fields map[string]any, h *held) (fsm.Txn, error) {
	if err := a.clusterRoom(v, cluster.Owner, h); err != nil {
		return fsm.Txn{}, err
	}
	txn, err := putKube(v, cluster, nil)
	if err != nil {
		return fsm.Txn{}, err
	}
	fields["name"], fields["token_name"] = cluster.Name, cluster.Owner
	line, err := a.base.event(ctx, v, api.EventKubeClusterCreate, api.EventCodeKubeClusterCreate, Actor{}, fields)
	txn.Events = [][]byte{line}
	return txn, err
}

// putKube gives what writes a cluster, and the alias by which its DNS label is
// found, over rec.
func putKube(v fsm.View, cluster kubeClusterRecord, rec *fsm.Record) (fsm.Txn, error) {
	label := api.KubeLabel(cluster.Name)
	alias, aliasRec, aliasErr := kubeAliases.Get(v, label)
	if aliasErr == nil && alias.Name != cluster.Name {
		return fsm.Txn{}, api.Errorf(api.CodeExists, "the DNS label %q of Kubernetes cluster %q belongs to %q: choose another name", label, cluster.Name, alias.Name)
	}
	cluster.Status = nil
	put, err := kubeClusters.Put(cluster.Name, &cluster, 0)
	if err != nil {
		return fsm.Txn{}, err
	}
	putAlias, err := kubeAliases.Put(label, &aliasRecord{Name: cluster.Name}, 0)
	if err != nil {
		return fsm.Txn{}, err
	}
	return fsm.Txn{
		Checks: []fsm.Check{{Key: put.Key, Revision: revision(rec)}, {Key: putAlias.Key, Revision: revision(aliasRec)}},
		Ops:    []fsm.Op{put, putAlias},
	}, nil
}

// Register makes a cluster known that replicas reach by themselves. It writes
// nothing if it is known with the same labels, and takes no name from agents.
func (k *KubeClusters) Register(ctx context.Context, cluster api.KubeCluster) error {
	if err := cluster.Validate(); err != nil {
		return err
	}
	_, err := k.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		old, rec, err := kubeClusters.Get(v, cluster.Name)
		if err == nil && old.Owner != "" {
			return fsm.Txn{}, api.Errorf(api.CodeExists, "Kubernetes cluster %q is served by agents: give the replicas' own another name (--kube-cluster-name), or free this one (tctl kube rm %s)", cluster.Name, api.ShellQuote(cluster.Name))
		}
		alias, _, aliasErr := kubeAliases.Get(v, api.KubeLabel(cluster.Name))
		if err == nil && aliasErr == nil && maps.Equal(old.Labels, cluster.Labels) && alias.Name == cluster.Name {
			return fsm.Txn{}, nil
		}
		return putKube(v, kubeClusterRecord{KubeCluster: cluster}, rec)
	})
	return err
}

// KubeOwner says whose the name of a Kubernetes cluster is.
type KubeOwner int

// The owners of names. Of a record that can't be read nobody knows, so the replicas
// serve nothing by it.
const (
	KubeOfNobody KubeOwner = iota
	KubeOfReplicas
	KubeOfAgents
)

// Owner of a name.
func (k *KubeClusters) Owner(name string) KubeOwner {
	cluster, _, err := kubeClusters.Get(k.base.db.View(), name)
	return ownerOf(cluster, err)
}

// WatchOwner is Owner, with a channel that closes when it may have changed.
func (k *KubeClusters) WatchOwner(name string) (KubeOwner, <-chan struct{}) {
	cluster, _, changed, err := kubeClusters.Watch(k.base.db.View(), name)
	return ownerOf(cluster, err), changed
}

func ownerOf(cluster *kubeClusterRecord, err error) KubeOwner {
	switch {
	case errors.Is(err, fsm.ErrNotFound):
		return KubeOfNobody
	case err == nil && cluster.Owner == "":
		return KubeOfReplicas
	}
	return KubeOfAgents
}

// Lookup finds the name of a cluster by the DNS label of its SNI name
// (api.KubeLabel).
func (k *KubeClusters) Lookup(label string) (name string, err error) {
	alias, _, err := kubeAliases.Get(k.base.db.View(), label)
	if errors.Is(err, fsm.ErrNotFound) {
		return "", errKubeNotFound(label)
	}
	if err != nil {
		return "", readError("Kubernetes cluster", label, err)
	}
	return alias.Name, nil
}

// Get finds a cluster by its name.
func (k *KubeClusters) Get(name string) (*api.KubeCluster, error) {
	v := k.base.db.View()
	cluster, _, err := getKube(v, name)
	if err != nil {
		return nil, err
	}
	out := k.seen(v, cluster)
	return &out, nil
}

func getKube(v fsm.View, name string) (*kubeClusterRecord, *fsm.Record, error) {
	cluster, rec, err := kubeClusters.Get(v, name)
	if errors.Is(err, fsm.ErrNotFound) {
		return nil, nil, errKubeNotFound(name)
	}
	if err != nil {
		return nil, rec, readError("Kubernetes cluster", name, err)
	}
	return cluster, rec, nil
}

// List gives all clusters, by name.
func (k *KubeClusters) List() []api.KubeCluster {
	var out []api.KubeCluster
	v := k.base.db.View()
	for _, cluster := range kubeClusters.List(v) {
		if cluster != nil {
			out = append(out, k.seen(v, cluster))
		}
	}
	return out
}

// AllLabels are those of all clusters, by name. Nobody changes them. They are for who
// looks often: how the clusters do, which List says too, costs more than all the rest.
func (k *KubeClusters) AllLabels() map[string]map[string]string {
	out := make(map[string]map[string]string)
	for _, cluster := range kubeClusters.List(k.base.db.View()) {
		if cluster != nil {
			out[cluster.Name] = cluster.Labels
		}
	}
	return out
}

// errKubeNotFound says the same of a cluster that does not exist and of one that
// is hidden, whether the client named it or its DNS label: a label that is a
// hash is not told, because only that of a cluster which exists leads to a name.
func errKubeNotFound(name string) *api.Error {
	if api.KubeLabel(name) != name {
		return api.Errorf(api.CodeNotFound, "this Kubernetes cluster was not found, check 'tsh kube ls' for a list of known clusters")
	}
	return api.Errorf(api.CodeNotFound, "kubernetes cluster %q not found, check 'tsh kube ls' for a list of known clusters", clip(name))
}

// revision is what a check needs: 0 for a record that is absent.
func revision(r *fsm.Record) uint64 {
	if r == nil {
		return 0
	}
	return r.Revision
}
