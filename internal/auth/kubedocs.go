package auth

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
)

const (
	// Labels come from agents, which may make them by commands: those of one cluster
	// are written so often and no more.
	labelsEvery = time.Minute
	labelsBurst = 3

	statusesAtOnce = 500 // in one transaction
)

// kubeStatusRecord is what is worth knowing of a cluster when no agent of it is
// connected. Everything else about presence is never in the store.
type kubeStatusRecord struct {
	Health   api.Health `json:"health"`
	Reason   string     `json:"reason,omitempty"`
	Version  string     `json:"version,omitempty"`
	LastSeen time.Time  `json:"last_seen,omitzero"`
}

// SetLabels gives a cluster the labels that one of its agents says it has. It passes
// over what comes too soon after other changes: whoever decides what the labels are
// (one writer, see internal/server) goes on looking whether they are so.
func (k *KubeClusters) SetLabels(ctx context.Context, agentID, name string, labels map[string]string) error {
	if err := api.ValidateLabels(labels); err != nil { // the name: labelled
		return api.Errorf(api.CodeInvalid, "Kubernetes cluster %q: %w", name, err)
	}
	v := k.base.db.View()
	if _, _, err := labelled(v, agentID, name); err != nil { // nobody else uses up what it may write
		return err
	}
	k.mu.Lock()
	limit := k.writes.get(name, func() *rate.Limiter { return rate.NewLimiter(rate.Every(labelsEvery), labelsBurst) })
	k.mu.Unlock()
	now := v.Now()
	if limit.TokensAt(now) < 1 {
		return nil
	}
	wrote, err := k.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) { return k.label(ctx, v, agentID, name, labels) })
	if wrote != 0 {
		limit.AllowN(now, 1)
	}
	return err
}

// labelled reads a cluster whose labels an agent may say.
func labelled(v fsm.View, agentID, name string) (*kubeClusterRecord, *fsm.Record, error) {
	agent, _, err := agents.Get(v, agentID)
	if err != nil {
		return nil, nil, errAgentRemoved(agentID)
	}
	cluster, rec, err := getKube(v, name)
	switch {
	case err != nil:
		return nil, nil, err
	case !agent.Locked.IsZero():
		return nil, nil, errAgentLocked(agentID, agent.LockReason)
	case !slices.Contains(agent.KubeClusters, name) || !agent.mayServe(name, cluster):
		return nil, nil, errNotItsCluster(name, cluster)
	}
	return cluster, rec, nil
}

func (k *KubeClusters) label(ctx context.Context, v fsm.View, agentID, name string, labels map[string]string) (fsm.Txn, error) {
	old, rec, err := labelled(v, agentID, name)
	if err != nil || maps.Equal(old.Labels, labels) {
		return fsm.Txn{}, err
	}
	next := *old
	next.Labels = labels
	op, err := kubeClusters.Update(rec, &next, 0)
	if err != nil {
		return fsm.Txn{}, err
	}
	line, err := k.base.event(ctx, v, api.EventKubeClusterUpdate, api.EventCodeKubeClusterUpdate, Actor{}, map[string]any{
		"name": name, "kube_labels": labels, "host_id": agentID,
	})
	return fsm.Txn{Checks: []fsm.Check{kubeClusters.Unchanged(rec)}, Ops: []fsm.Op{op}, Events: [][]byte{line}}, err
}

// SaveStatus keeps how clusters do, for when nobody knows it any more. It passes
// over what is kept already and over clusters that there are not.
func (k *KubeClusters) SaveStatus(ctx context.Context, statuses map[string]api.KubeStatus) error {
	for names := range slices.Chunk(slices.Sorted(maps.Keys(statuses)), statusesAtOnce) {
		_, err := k.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
			var txn fsm.Txn
			for _, name := range names {
				more, err := saveStatus(v, name, statuses[name])
				if err != nil {
					return fsm.Txn{}, err
				}
				merge(&txn, more)
			}
			return txn, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func saveStatus(v fsm.View, name string, s api.KubeStatus) (fsm.Txn, error) {
	cluster, ok := v.Get(kubeClusters.Key(name))
	if !ok {
		return fsm.Txn{}, nil
	}
	s = cleanStatus(s)
	next := kubeStatusRecord{Health: s.Health, Reason: s.Reason, Version: s.Version, LastSeen: wholeSeconds(s.LastSeen)}
	old, _, err := kubeStatuses.Get(v, name)
	if err == nil && *old == next {
		return fsm.Txn{}, nil
	}
	op, err := kubeStatuses.Put(name, &next, 0)
	// Not of a cluster that is being removed: its status would stay for the next one.
	return fsm.Txn{Checks: []fsm.Check{{Key: cluster.Key, Revision: cluster.Revision}}, Ops: []fsm.Op{op}}, err
}

// cleanStatus makes what agents say fit to be shown.
func cleanStatus(s api.KubeStatus) api.KubeStatus {
	s.Reason, s.Version = api.CleanText(s.Reason, api.MaxStatusReason), api.CleanText(s.Version, api.MaxStatusVersion)
	switch s.Health {
	case api.HealthHealthy, api.HealthUnhealthy, api.HealthUnknown, api.HealthOffline:
	default:
		s.Health = api.HealthUnknown
	}
	return s
}

// Statuses reads what SaveStatus kept.
func (k *KubeClusters) Statuses() map[string]api.KubeStatus {
	out := map[string]api.KubeStatus{}
	for rec, s := range kubeStatuses.List(k.base.db.View()) {
		if s != nil {
			out[kubeStatuses.Name(rec)] = s.status()
		}
	}
	return out
}

func (s *kubeStatusRecord) status() api.KubeStatus {
	return api.KubeStatus{Health: s.Health, Reason: s.Reason, Version: s.Version, LastSeen: s.LastSeen}
}

// seen is a cluster as people see it: how it does now, or when it was last there.
func (k *KubeClusters) seen(v fsm.View, cluster *kubeClusterRecord) api.KubeCluster {
	out := api.KubeCluster{Name: cluster.Name, Labels: maps.Clone(cluster.Labels)}
	if k.live == nil {
		return out
	}
	var s api.KubeStatus
	kept, _, err := kubeStatuses.Get(v, cluster.Name)
	live := k.live(cluster.Name)
	switch {
	case live != nil:
		s = *live
		if err == nil && s.LastSeen.IsZero() {
			s.LastSeen = kept.LastSeen
		}
	case err == nil:
		s = kept.status()
	}
	if cluster.Owner == "" {
		s.Own = true
		if live == nil {
			s.Health, s.Reason = api.HealthUnknown, ""
		}
	} else if live == nil {
		version := s.Version
		s = api.Offline(s.LastSeen)
		s.Version = version
	}
	s = cleanStatus(s)
	out.Status = &s
	return out
}

// Document returns a cluster as a document.
func (k *KubeClusters) Document(name string) (json.RawMessage, error) {
	v := k.base.db.View()
	cluster, rec, err := getKube(v, name)
	if err != nil {
		return nil, err
	}
	return k.document(v, cluster, rec)
}

// Documents returns all clusters as documents, by name.
func (k *KubeClusters) Documents() ([]json.RawMessage, error) {
	var out []json.RawMessage
	v := k.base.db.View()
	for rec, cluster := range kubeClusters.List(v) {
		if cluster == nil {
			cluster = &kubeClusterRecord{KubeCluster: api.KubeCluster{Name: kubeClusters.Name(rec)}}
		}
		doc, err := k.document(v, cluster, rec)
		if err != nil {
			return nil, err
		}
		out = append(out, doc)
	}
	return out, nil
}

func (k *KubeClusters) document(v fsm.View, cluster *kubeClusterRecord, rec *fsm.Record) (json.RawMessage, error) {
	seen := k.seen(v, cluster)
	return json.Marshal(api.KubeClusterDocument{
		Header: api.Header{Kind: api.KindKubeCluster, Version: api.KubeClusterVersion, Metadata: api.Metadata{
			Name: cluster.Name, Labels: seen.Labels, Revision: rec.Revision,
		}},
		Spec:   api.KubeClusterSpec{Token: cluster.Owner},
		Status: seen.Status,
	})
}

// Put takes a document that says what is so already, and no other: clusters and
// their labels come from agents. So all that was read from a cluster can be written
// back.
func (k *KubeClusters) Put(_ context.Context, _ Actor, doc *api.KubeClusterDocument, force bool) (api.PutResponse, error) {
	if err := doc.Validate(); err != nil {
		return api.PutResponse{}, err
	}
	name := doc.Metadata.Name
	old, rec, err := getKube(k.base.db.View(), name)
	if api.IsCode(err, api.CodeNotFound) {
		return api.PutResponse{}, api.Errorf(api.CodeForbidden, "Kubernetes cluster %q is not made by a document: let an agent of that name join (tctl nodes add --roles=kube)", name)
	}
	if err != nil {
		return api.PutResponse{}, err
	}
	if err := putAllowed(api.KindKubeCluster, doc.Metadata, rec, force); err != nil {
		return api.PutResponse{}, err
	}
	if of := doc.Spec.Token; of != "" && of != old.Owner {
		return api.PutResponse{}, api.Errorf(api.CodeForbidden, "Kubernetes cluster %q can't be given to another token by a document: free its name (tctl kube rm), and let agents of that token join", name)
	}
	if !maps.Equal(old.Labels, doc.Metadata.Labels) || doc.Metadata.Description != "" {
		return api.PutResponse{}, api.Errorf(api.CodeForbidden, "Kubernetes cluster %q can't be changed by a document: its labels are those of %s", name, labelsFrom(old))
	}
	return api.PutResponse{Kind: api.KindKubeCluster, Name: name, Revision: rec.Revision, Unchanged: true}, nil
}

// labelsFrom says where a cluster's labels are to be changed.
func labelsFrom(cluster *kubeClusterRecord) string {
	if cluster.Owner == "" {
		return "the replicas that serve it (sallyport start --kube-labels)"
	}
	return "its agents (sallyport agent --labels)"
}

// Delete frees a cluster's name, for agents of any token, and cuts the tunnels of
// those that serve it. Agents that joined for it take it again when they come back,
// if it is still free; so one that is served is removed by force alone, and so is one
// of the replicas' own. What a replica serves at this moment can't be removed at all:
// an agent could take the name, and users of one cluster would get into another.
func (k *KubeClusters) Delete(ctx context.Context, by Actor, name string, force bool) error {
	_, err := k.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		cluster, rec, err := getKube(v, name)
		if rec == nil {
			return fsm.Txn{}, err
		}
		if k.serves != nil && k.serves(name) {
			return fsm.Txn{}, api.Errorf(api.CodeConflict, "Kubernetes cluster %q can't be removed, the replicas themselves serve it: start them without it, or under another --kube-cluster-name", name)
		}
		if err == nil && !force {
			if n := k.connected(name); n > 0 {
				return fsm.Txn{}, api.Errorf(api.CodeConflict, "Kubernetes cluster %q is served by %s at this moment: remove them first ('tctl nodes rm ID'; 'tctl nodes ls' shows them), or use --force, and those that are still there bring it back", name, agentsText(n))
			}
			if cluster.Owner == "" {
				return fsm.Txn{}, api.Errorf(api.CodeConflict, "Kubernetes cluster %q is one that the replicas serve themselves: use --force if none does any more", name)
			}
		}
		ops := []fsm.Op{fsm.Delete(rec.Key), fsm.Delete(kubeStatuses.Key(name))}
		checks := []fsm.Check{kubeClusters.Unchanged(rec)}
		label := api.KubeLabel(name)
		if alias, aliasRec, err := kubeAliases.Get(v, label); err == nil && alias.Name == name {
			checks = append(checks, kubeAliases.Unchanged(aliasRec))
			ops = append(ops, fsm.Delete(aliasRec.Key))
		}
		line, err := k.base.event(ctx, v, api.EventKubeClusterDelete, api.EventCodeKubeClusterDelete, by, map[string]any{"name": name})
		return fsm.Txn{Checks: checks, Ops: ops, Events: [][]byte{line}}, err
	})
	return err
}

func agentsText(n int) string {
	if n == 1 {
		return "1 agent"
	}
	return fmt.Sprintf("%d agents", n)
}
