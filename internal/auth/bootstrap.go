package auth

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/pki"
	"github.com/sallyport-dev/sallyport/internal/seal"
)

// Names of the roles that exist from birth and can't be changed.
const (
	RoleAccess  = api.RoleAccess
	RoleAdmin   = "admin"
	RoleAuditor = "auditor"
)

func isBuiltIn(name string) bool {
	return name == RoleAccess || name == RoleAdmin || name == RoleAuditor
}

func builtInRoles() []*api.Role {
	everywhere := map[string]api.Values{"*": {"*"}}
	const groups, users = "{{internal.kubernetes_groups}}", "{{internal.kubernetes_users}}"
	builtIn := func(name, description string, allow api.RoleConditions) *api.Role {
		return &api.Role{
			Header: api.Header{Kind: api.KindRole, Version: api.RoleVersion, Metadata: api.Metadata{Name: name, Description: description}},
			Spec:   api.RoleSpec{Allow: allow},
		}
	}
	return []*api.Role{
		builtIn(RoleAccess, "Every Kubernetes cluster, with the groups and users of the person", api.RoleConditions{
			KubernetesGroups: []string{groups}, KubernetesUsers: []string{users}, KubernetesLabels: everywhere,
		}),
		builtIn(RoleAdmin, "Everything: access, every administrative rule, system:masters", api.RoleConditions{
			KubernetesGroups: []string{groups, "system:masters"}, KubernetesUsers: []string{users}, KubernetesLabels: everywhere,
			Rules: []api.Rule{{Resources: []string{"*"}, Verbs: []string{"*"}}},
		}),
		builtIn(RoleAuditor, "Reads events and sessions, nothing else", api.RoleConditions{
			Rules: []api.Rule{{Resources: []string{api.KindEvent, api.KindSession}, Verbs: []string{api.VerbList, api.VerbRead}}},
		}),
	}
}

// Bootstrap makes what a cluster has from birth: the data key (rewrapped when
// the cluster secret was rotated), the authorities and the built-in roles. It
// is a leader's duty and idempotent: each step is a transaction that does
// nothing when it has been done, whoever did it.
func (s *Service) Bootstrap(ctx context.Context) error {
	b := s.base
	if err := b.db.Linearize(ctx); err != nil {
		return fmt.Errorf("bootstrap: %w", err)
	}
	for _, step := range []struct {
		name string
		fn   decide
	}{
		{"cluster name", s.bootstrapClusterName},
		{"data key", s.Authorities.keys.bootstrap},
		{"built-in roles", bootstrapRoles},
		{"agent CA", func(v fsm.View) (fsm.Txn, error) { return s.Authorities.bootstrap(v, pki.AgentCA) }},
		// Last: without them nobody can be served, so who waits for them (see
		// Authorities.States) has waited for everything.
		{"user CA", func(v fsm.View) (fsm.Txn, error) { return s.Authorities.bootstrap(v, pki.UserCA) }},
		{"host CA", func(v fsm.View) (fsm.Txn, error) { return s.Authorities.bootstrap(v, pki.HostCA) }},
	} {
		if _, err := b.transact(ctx, step.fn); err != nil {
			return fmt.Errorf("bootstrap: %s: %w", step.name, err)
		}
	}
	return nil
}

// bootstrapClusterName binds the state to its name: certificates of every user
// carry it, so a changed option must be noticed and not half obeyed.
func (s *Service) bootstrapClusterName(v fsm.View) (fsm.Txn, error) {
	rec, ok := v.Get(keyClusterName)
	if !ok {
		name, err := json.Marshal(s.base.clusterName)
		return fsm.Txn{Checks: []fsm.Check{{Key: keyClusterName}}, Ops: []fsm.Op{fsm.Put(keyClusterName, name)}}, err
	}
	var name string
	if err := json.Unmarshal(rec.Value, &name); err != nil {
		return fsm.Txn{}, err
	}
	if name != s.base.clusterName {
		return fsm.Txn{}, api.Errorf(api.CodeInvalid, "the state belongs to cluster %q, the configuration says %q: set the cluster name back", name, s.base.clusterName)
	}
	return fsm.Txn{}, nil
}

// bootstrapRoles writes each built-in role that is missing or older. One with
// fields that this version does not know was written by a newer one: it stays.
func bootstrapRoles(v fsm.View) (fsm.Txn, error) {
	var txn fsm.Txn
	for _, doc := range builtInRoles() {
		name := doc.Metadata.Name
		stored, rec, err := roles.Get(v, name)
		check := roles.Absent(name)
		if rec != nil {
			if err != nil || stored.unknown != nil || reflect.DeepEqual(stored.doc, *doc) {
				continue
			}
			check = roles.Unchanged(rec)
		}
		op, err := roles.Put(name, &role{doc: *doc}, 0)
		if err != nil {
			return fsm.Txn{}, err
		}
		txn.Checks = append(txn.Checks, check)
		txn.Ops = append(txn.Ops, op)
	}
	return txn, nil
}

// bootstrap makes the data key, or rewraps it when the active line of the
// cluster secret is another one now.
func (k *keys) bootstrap(v fsm.View) (fsm.Txn, error) {
	rec, ok := v.Get(keyDataKey)
	if !ok {
		ring, err := seal.NewKeyring(k.rand)
		if err != nil {
			return fsm.Txn{}, err
		}
		wrapped, err := ring.Wrap(k.secret)
		return fsm.Txn{Checks: []fsm.Check{{Key: keyDataKey}}, Ops: []fsm.Op{fsm.Put(keyDataKey, wrapped)}}, err
	}
	ring, err := k.ring(v)
	if err != nil {
		return fsm.Txn{}, err
	}
	if again, err := seal.NeedsRewrap(k.secret, rec.Value); err != nil || !again {
		return fsm.Txn{}, err
	}
	wrapped, err := ring.Wrap(k.secret)
	return fsm.Txn{Checks: []fsm.Check{{Key: keyDataKey, Revision: rec.Revision}}, Ops: []fsm.Op{fsm.Put(keyDataKey, wrapped)}}, err
}

func (a *Authorities) bootstrap(v fsm.View, typ pki.CAType) (fsm.Txn, error) {
	if _, rec, err := authorities.Get(v, string(typ)); rec != nil {
		return fsm.Txn{}, err
	}
	ca, err := pki.NewAuthority(typ, a.base.clusterName, v.Now(), a.base.rand)
	if err != nil {
		return fsm.Txn{}, err
	}
	key, err := ca.KeyPEM()
	if err != nil {
		return fsm.Txn{}, err
	}
	ring, err := a.keys.ring(v)
	if err != nil {
		return fsm.Txn{}, err
	}
	sealed, err := ring.Seal(authorities.Key(string(typ)), key)
	if err != nil {
		return fsm.Txn{}, err
	}
	op, err := authorities.Put(string(typ), &authorityRecord{
		ClusterName: a.base.clusterName, Cert: string(ca.CertPEM()), SealedKey: sealed, Rotation: api.RotationStandby,
	}, 0)
	return fsm.Txn{Checks: []fsm.Check{authorities.Absent(string(typ))}, Ops: []fsm.Op{op}}, err
}
