package proxy

import (
	"errors"
	"net/http"
	"net/url"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/upstream"
)

type tripper func(*http.Request) (*http.Response, error)

func (t tripper) RoundTrip(r *http.Request) (*http.Response, error) { return t(r) }

func TestFirstOf_theFirstThatKnowsANameHasIt(t *testing.T) {
	to := func(host string) upstream.Upstream {
		return upstream.Upstream{URL: &url.URL{Scheme: "https", Host: host}}
	}
	gone := api.Errorf(api.CodeUnavailable, "gone")
	own := StaticTargets{"own": to("first")}
	tunnels := targetsFunc(func(kube string) (upstream.Upstream, error) {
		switch kube {
		case "own", "cookie":
			return to("second"), nil
		case "gone":
			return upstream.Upstream{}, gone
		}
		return upstream.Upstream{}, api.Errorf(api.CodeNotFound, "never heard of")
	})
	for kube, want := range map[string]string{"own": "first", "cookie": "second"} {
		up, err := FirstOf{own, tunnels}.Target(kube)
		if err != nil || up.URL.Host != want {
			t.Errorf("%s: %v %v", kube, up.URL, err)
		}
	}
	if _, err := (FirstOf{own, tunnels}).Target("gone"); !errors.Is(err, gone) {
		t.Error(err)
	}
	for _, f := range []FirstOf{{own, tunnels}, {tunnels, own}, {own}, nil} {
		if _, err := f.Target("x"); !api.IsCode(err, api.CodeNotFound) {
			t.Error(err)
		}
	}
}

type targetsFunc func(string) (upstream.Upstream, error)

func (f targetsFunc) Target(kube string) (upstream.Upstream, error) { return f(kube) }

// A way that ended while the request was under way says so in its own words.
func TestTripError_ofATunnelIsForTheClient(t *testing.T) {
	fails := tripper(func(*http.Request) (*http.Response, error) {
		return nil, api.Errorf(api.CodeUnavailable, "no agent of Kubernetes cluster %q is connected", "prod")
	})
	f := newFixture(t, nil, func(o *Options) {
		o.Targets = StaticTargets{"prod": {URL: &url.URL{Scheme: "http", Host: "prod"}, Plain: fails, Upgrade: fails}}
	})
	res, body := f.get("/api/v1/pods")
	wantStatus(t, res, body, http.StatusServiceUnavailable, `no agent of Kubernetes cluster "prod" is connected`)
}
