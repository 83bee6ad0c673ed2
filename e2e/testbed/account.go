package testbed

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
)

// Rule is a rule of a ClusterRole.
type Rule struct {
	APIGroups []string `json:"apiGroups"`
	Resources []string `json:"resources"`
	Verbs     []string `json:"verbs"`
}

// AgentRules are what an agent's service account may do, and no more: act as others.
func AgentRules() []Rule {
	return []Rule{
		{APIGroups: []string{""}, Resources: []string{"users", "groups", "serviceaccounts"}, Verbs: []string{"impersonate"}},
		{APIGroups: []string{"authorization.k8s.io"}, Resources: []string{"selfsubjectaccessreviews"}, Verbs: []string{"create"}},
	}
}

// ServiceAccount makes a service account in the namespace default that may do
// what the rules say, and a kubeconfig of it with a token that lasts a day.
func (cp *ControlPlane) ServiceAccount(ctx context.Context, name string, rules ...Rule) (kubeconfig string, err error) {
	const accounts = "/api/v1/namespaces/default/serviceaccounts"
	object := map[string]any{"metadata": map[string]any{"name": name}}
	if err := cp.do(ctx, http.MethodPost, accounts, object, nil); err != nil {
		return "", err
	}
	if len(rules) > 0 {
		if err := cp.SetRules(ctx, name, rules...); err != nil {
			return "", err
		}
	}
	var request struct {
		Status struct{ Token string }
	}
	in := map[string]any{"spec": map[string]any{"expirationSeconds": 24 * 3600}}
	if err := cp.do(ctx, http.MethodPost, accounts+"/"+name+"/token", in, &request); err != nil {
		return "", err
	}
	ca, err := os.ReadFile(cp.pki("ca.crt"))
	if err != nil {
		return "", err
	}
	file := filepath.Join(cp.Dir, name+".kubeconfig")
	return file, os.WriteFile(file, fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: testbed, cluster: {server: %q, certificate-authority-data: %s}}]
users: [{name: %[3]s, user: {token: %[4]q}}]
contexts: [{name: testbed, context: {cluster: testbed, user: %[3]s}}]
current-context: testbed
`, cp.URL, base64.StdEncoding.EncodeToString(ca), name, request.Status.Token), 0o600)
}

// SetRules gives a service account of ServiceAccount rules, which it had none of before.
func (cp *ControlPlane) SetRules(ctx context.Context, name string, rules ...Rule) error {
	const rbac = "/apis/rbac.authorization.k8s.io/v1/"
	role := map[string]any{"metadata": map[string]any{"name": name}, "rules": rules}
	if err := cp.do(ctx, http.MethodPost, rbac+"clusterroles", role, nil); err != nil {
		return err
	}
	return cp.do(ctx, http.MethodPost, rbac+"clusterrolebindings", map[string]any{
		"metadata": map[string]any{"name": name},
		"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
		"subjects": []any{map[string]any{"kind": "ServiceAccount", "namespace": "default", "name": name}},
	}, nil)
}
