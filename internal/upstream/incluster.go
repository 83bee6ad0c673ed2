package upstream

import (
	"net/http"
	"net/url"

	"k8s.io/client-go/rest"
)

// InCluster is how a pod reaches its own API server, as its service account; outside
// of a pod it is rest.ErrNotInCluster. Never through HTTPS_PROXY: that is for the way
// out, and no proxy knows the way to the cluster's inside.
func InCluster() (*rest.Config, error) { return direct(rest.InClusterConfig()) }

func direct(cfg *rest.Config, err error) (*rest.Config, error) {
	if err != nil {
		return nil, err //nolint:wrapcheck // who calls knows what it is of
	}
	cfg.Proxy = func(*http.Request) (*url.URL, error) { return nil, nil } //nolint:nilnil // no proxy, as http.Transport has it
	return cfg, nil
}
