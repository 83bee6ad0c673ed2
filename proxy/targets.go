package proxy

import (
	"fmt"

	"k8s.io/client-go/rest"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/upstream"
)

// StaticTargets are Targets that don't change, by name.
type StaticTargets map[string]upstream.Upstream

// Target implements Targets.
func (t StaticTargets) Target(kube string) (upstream.Upstream, error) {
	up, ok := t[kube]
	if !ok {
		return upstream.Upstream{}, api.Errorf(api.CodeNotFound, "no Kubernetes cluster %q is connected; `tsh kube ls` lists those you may use", kube)
	}
	return up, nil
}

// ConfigTargets is the replica's own Kubernetes cluster, under a name.
func ConfigTargets(name string, cfg *rest.Config) (StaticTargets, error) {
	up, err := upstream.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("kubernetes cluster %q: %w", name, err)
	}
	return StaticTargets{name: up}, nil
}

// FirstOf asks others in turn: the first that knows a name is asked no further, and
// the last one's refusal counts.
type FirstOf []Targets

// Target implements Targets.
func (f FirstOf) Target(kube string) (upstream.Upstream, error) {
	for i, t := range f {
		up, err := t.Target(kube)
		if i == len(f)-1 || !api.IsCode(err, api.CodeNotFound) {
			return up, err
		}
	}
	return StaticTargets{}.Target(kube)
}
