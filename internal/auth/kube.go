package auth

import (
	"context"
	"errors"
	"maps"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// KubeClusters are the Kubernetes clusters behind this address.
type KubeClusters struct{ base *base }

// Register makes a cluster known, with the alias by which its DNS label is
// found. It writes nothing if it is known with the same labels.
func (k *KubeClusters) Register(ctx context.Context, cluster api.KubeCluster) error {
	if err := cluster.Validate(); err != nil {
		return err
	}
	label := api.KubeLabel(cluster.Name)
	_, err := k.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		old, rec, err := kubeClusters.Get(v, cluster.Name)
		alias, aliasRec, aliasErr := kubeAliases.Get(v, label)
		if err == nil && aliasErr == nil && maps.Equal(old.Labels, cluster.Labels) && alias.Name == cluster.Name {
			return fsm.Txn{}, nil
		}
		if aliasErr == nil && alias.Name != cluster.Name {
			return fsm.Txn{}, api.Errorf(api.CodeExists, "the DNS label %q of Kubernetes cluster %q belongs to %q: choose another name", label, cluster.Name, alias.Name)
		}
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
	})
	return err
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
	cluster, _, err := kubeClusters.Get(k.base.db.View(), name)
	if errors.Is(err, fsm.ErrNotFound) {
		return nil, errKubeNotFound(name)
	}
	if err != nil {
		return nil, readError("Kubernetes cluster", name, err)
	}
	return cluster, nil
}

// List gives all clusters, by name.
func (k *KubeClusters) List() []api.KubeCluster {
	var out []api.KubeCluster
	for _, cluster := range kubeClusters.List(k.base.db.View()) {
		if cluster != nil {
			out = append(out, *cluster)
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
