package agent

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/upstream"
)

// ServiceAccountDir is where Kubernetes puts a pod's service account.
const ServiceAccountDir = "/var/run/secrets/kubernetes.io/serviceaccount"

// InCluster is the cluster of the pod that this process runs in.
func InCluster(name string) (Cluster, error) {
	up, cas, err := inClusterUpstream()
	if err != nil {
		return Cluster{}, err
	}
	if name == "" {
		return Cluster{}, optionErrorf("kube-cluster-name", "is missing: say what the cluster is to be called, such as --kube-cluster-name=cookie")
	}
	return Cluster{Name: name, Upstream: up, CAs: cas}, nil
}

func inClusterUpstream() (up upstream.Upstream, cas []string, err error) {
	cfg, err := upstream.InCluster()
	if err != nil {
		return upstream.Upstream{}, nil, api.Errorf(api.CodeInvalid, "the pod's service account: %w", err)
	}
	up, err = upstream.New(cfg)
	return up, clusterCAs(cfg), err
}

// KubeconfigClusters are those of contexts of a kubeconfig: of none, the current
// one; of "*", all. The path "" means the one that kubectl uses. The name is for a
// single cluster; "": each has its context's.
func KubeconfigClusters(path string, contexts []string, name string) ([]Cluster, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules() // KUBECONFIG, ~/.kube/config
	rules.ExplicitPath, rules.WarnIfAllMissing = path, false
	raw, err := rules.Load()
	if err != nil {
		return nil, &OptionError{"kubeconfig", api.Errorf(api.CodeInvalid, "%w", err)}
	}
	all := slices.Sorted(maps.Keys(raw.Contexts))
	if path == "" {
		path = "kubectl's kubeconfig"
	}
	switch {
	case len(all) == 0:
		return nil, optionErrorf("kubeconfig", "is missing: outside of a pod, say how to reach the Kubernetes cluster with --kubeconfig=FILE, or set up kubectl")
	case slices.Contains(contexts, "*"):
		contexts = all
	case len(contexts) == 0 && raw.CurrentContext == "":
		return nil, optionErrorf("kube-contexts", "%s has no current context: name one or more of %s", path, strings.Join(all, ", "))
	case len(contexts) == 0:
		contexts = []string{raw.CurrentContext}
	}
	if name != "" && len(contexts) != 1 {
		return nil, optionErrorf("kube-cluster-name", "names one cluster, but --kube-contexts are %d: leave it out, and each is called as its context", len(contexts))
	}
	var out []Cluster
	for _, context := range contexts {
		if raw.Contexts[context] == nil {
			return nil, optionErrorf("kube-contexts", "%s has no context %q%s", path, context, api.DidYouMean(context, all))
		}
		cfg, err := clientcmd.NewNonInteractiveClientConfig(*raw, context, &clientcmd.ConfigOverrides{}, rules).ClientConfig()
		if err != nil {
			return nil, optionErrorf("kubeconfig", "%s, context %q: %w", path, context, err)
		}
		up, err := upstream.New(cfg)
		if err != nil {
			return nil, optionErrorf("kubeconfig", "%s, context %q: %w", path, context, err)
		}
		c := Cluster{Name: name, Upstream: up, CAs: clusterCAs(cfg)}
		if name == "" {
			if c.Name, err = cleanName(context); err != nil {
				return nil, optionErrorf("kube-contexts", "%q: no name can be made of it: serve it alone, and name it with --kube-cluster-name", context)
			}
		}
		out = append(out, c)
	}
	return out, nil
}

// cleanName makes a cluster's name of a context's, which may hold anything.
func cleanName(context string) (string, error) {
	name := strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-_.@+:", r) {
			return r
		}
		return '-'
	}, context)
	name = strings.TrimLeft(name, "-_.@+:")
	if len(name) > api.MaxNameLen {
		name = name[:api.MaxNameLen]
	}
	return name, api.ValidateKubeName(name)
}

// jwtSeconds is how long a token that was asked for is good: it is used at once.
const jwtSeconds = 600

// ServiceAccountJWT gives tokens of the pod's own service account that are meant
// for an audience, by a TokenRequest. dir is ServiceAccountDir but in tests.
func ServiceAccountJWT(dir string) func(ctx context.Context, audience string) (string, error) {
	return func(ctx context.Context, audience string) (string, error) {
		up, _, err := inClusterUpstream()
		if err != nil {
			return "", err
		}
		defer up.CloseIdle()
		token, err := os.ReadFile(dir + "/token") //nolint:gosec // where Kubernetes puts it
		if err != nil {
			return "", fmt.Errorf("the service account's token: %w", err)
		}
		return requestJWT(ctx, up, string(token), audience)
	}
}

func requestJWT(ctx context.Context, up upstream.Upstream, own, audience string) (string, error) {
	namespace, name, err := serviceAccount(own)
	if err != nil {
		return "", err
	}
	in := map[string]any{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
		"spec": map[string]any{"audiences": []string{audience}, "expirationSeconds": jwtSeconds},
	}
	var out struct {
		Status struct {
			Token string `json:"token"`
		} `json:"status"`
	}
	path := "/api/v1/namespaces/" + url.PathEscape(namespace) + "/serviceaccounts/" + url.PathEscape(name) + "/token"
	if _, err := up.Call(ctx, http.MethodPost, path, in, &out); err != nil {
		return "", fmt.Errorf("ask for a token of the service account %s:%s (mount a projected one, or allow create on serviceaccounts/token): %w", namespace, name, err)
	}
	if out.Status.Token == "" {
		return "", fmt.Errorf("the API server gives no token of the service account %s:%s", namespace, name)
	}
	return out.Status.Token, nil
}

// serviceAccount reads whose a service account's token is. Nothing hangs on it but
// what is asked for.
func serviceAccount(jwt string) (namespace, name string, err error) {
	parts := strings.Split(strings.TrimSpace(jwt), ".")
	var claims struct {
		Subject string `json:"sub"`
	}
	if len(parts) == 3 {
		if b, err := base64.RawURLEncoding.DecodeString(parts[1]); err == nil {
			_ = json.Unmarshal(b, &claims) // then it names nobody
		}
	}
	rest, ok := strings.CutPrefix(claims.Subject, "system:serviceaccount:")
	namespace, name, found := strings.Cut(rest, ":")
	if !ok || !found || namespace == "" || name == "" {
		return "", "", fmt.Errorf("the service account's token names no service account")
	}
	return namespace, name, nil
}
