package upstream

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
)

func TestProbe(t *testing.T) {
	type answers struct {
		version, readyz, review int // status; 0: as healthy
		deny                    string
		body                    string // of the review
		rules                   string // that a review of rules shows; "": none, -: it is refused
		incomplete              bool   // it says that there are others
	}
	for _, test := range []struct {
		name string
		answers
		want ProbeResult
	}{
		{"healthy", answers{}, ProbeResult{Health: api.HealthHealthy, Version: "v1.34.1"}},
		{"not ready", answers{readyz: 500}, ProbeResult{api.HealthUnhealthy, "its API server is not ready (/readyz answers 500)", "v1.34.1"}},
		{"readyz is hidden", answers{readyz: 403}, ProbeResult{Health: api.HealthHealthy, Version: "v1.34.1"}},
		{"the version is hidden", answers{version: 403}, ProbeResult{Health: api.HealthHealthy}},
		{"old credentials", answers{readyz: 401}, ProbeResult{api.HealthUnhealthy, "its API server does not know our credentials (401): renew the service account's token or the kubeconfig", "v1.34.1"}},
		{"no right at all", answers{deny: "users groups"}, ProbeResult{api.HealthUnhealthy, "its credentials may not impersonate users and groups: give its service account that right", "v1.34.1"}},
		{"half a right", answers{deny: "groups"}, ProbeResult{api.HealthUnhealthy, "its credentials may not impersonate groups: give its service account that right", "v1.34.1"}},
		{"a right to some", answers{deny: "users groups", rules: `{"verbs":["impersonate"],"apiGroups":[""],"resources":["users","groups"],"resourceNames":["dev"]}`}, ProbeResult{Health: api.HealthHealthy, Version: "v1.34.1"}},
		{"a right to some of one kind", answers{deny: "users groups", rules: `{"verbs":["*"],"apiGroups":["*"],"resources":["users"],"resourceNames":["dev"]},{"verbs":["get"],"apiGroups":[""],"resources":["groups"],"resourceNames":["dev"]}`}, ProbeResult{api.HealthUnhealthy, "its credentials may not impersonate groups: give its service account that right", "v1.34.1"}},
		{"a rule in another group", answers{deny: "groups", rules: `{"verbs":["impersonate"],"apiGroups":["apps"],"resources":["groups"],"resourceNames":["dev"]}`}, ProbeResult{api.HealthUnhealthy, "its credentials may not impersonate groups: give its service account that right", "v1.34.1"}},
		{"a right to service accounts alone", answers{deny: "users", rules: `{"verbs":["impersonate"],"apiGroups":[""],"resources":["serviceaccounts"],"resourceNames":["deployer"]}`}, ProbeResult{Health: api.HealthHealthy, Version: "v1.34.1"}},
		{"service accounts are no groups", answers{deny: "groups", rules: `{"verbs":["impersonate"],"apiGroups":[""],"resources":["serviceaccounts"]}`}, ProbeResult{api.HealthUnhealthy, "its credentials may not impersonate groups: give its service account that right", "v1.34.1"}},
		{"rules that are not all", answers{deny: "users groups", rules: `{"verbs":["impersonate"],"apiGroups":[""],"resources":["users"],"resourceNames":["dev"]}`, incomplete: true}, ProbeResult{api.HealthUnknown, "its API server shows no right to impersonate groups, and says that it doesn't show all: if requests are refused, give its service account that right", "v1.34.1"}},
		{"all that is needed among rules that are not all", answers{deny: "users", rules: `{"verbs":["impersonate"],"apiGroups":[""],"resources":["users"],"resourceNames":["dev"]}`, incomplete: true}, ProbeResult{Health: api.HealthHealthy, Version: "v1.34.1"}},
		{"no right to see rules", answers{deny: "groups", rules: "-"}, ProbeResult{api.HealthUnhealthy, "its credentials may not impersonate groups: give its service account that right", "v1.34.1"}},
		{"no right to ask", answers{review: 403}, ProbeResult{api.HealthUnhealthy, "its credentials may not ask what they allow: give its service account the rights to create selfsubjectaccessreviews and to impersonate users and groups", "v1.34.1"}},
		{"a broken review", answers{review: 503}, ProbeResult{api.HealthUnhealthy, "its API server answers 503 to an access review", "v1.34.1"}},
		{"no Kubernetes", answers{body: "<html>"}, ProbeResult{api.HealthUnhealthy, "its API server answers an access review with something else: is this a Kubernetes API server?", "v1.34.1"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				for name := range r.Header {
					if strings.HasPrefix(name, "Impersonate-") {
						t.Errorf("a probe asks as itself, not with %s", name)
					}
				}
				status := func(code int) {
					if code != 0 {
						w.WriteHeader(code)
					}
				}
				switch r.Method + " " + r.URL.Path {
				case "GET /prefix/version":
					status(test.version)
					if test.version == 0 {
						fmt.Fprint(w, `{"gitVersion":"v1.34.1"}`)
					}
				case "GET /prefix/readyz":
					status(test.readyz)
				case "POST /prefix/apis/authorization.k8s.io/v1/selfsubjectaccessreviews":
					var review struct {
						Spec struct {
							ResourceAttributes struct{ Verb, Resource string }
						}
					}
					b, _ := io.ReadAll(r.Body)
					if err := json.Unmarshal(b, &review); err != nil || review.Spec.ResourceAttributes.Verb != "impersonate" {
						t.Errorf("%s: %v", b, err)
					}
					status(test.review)
					if test.body != "" {
						fmt.Fprint(w, test.body)
						return
					}
					fmt.Fprintf(w, `{"status":{"allowed":%v}}`, !strings.Contains(test.deny, review.Spec.ResourceAttributes.Resource))
				case "POST /prefix/apis/authorization.k8s.io/v1/selfsubjectrulesreviews":
					if test.rules == "-" {
						status(http.StatusForbidden)
						return
					}
					fmt.Fprintf(w, `{"status":{"resourceRules":[%s],"incomplete":%v}}`, test.rules, test.incomplete)
				default:
					t.Errorf("%s %s", r.Method, r.URL)
				}
			}))
			defer srv.Close()
			u, err := url.Parse(srv.URL + "/prefix")
			if err != nil {
				t.Fatal(err)
			}
			up := Upstream{URL: u, Plain: srv.Client().Transport}
			if diff := cmp.Diff(test.want, up.Probe(t.Context())); diff != "" {
				t.Error(diff)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if got := up.Probe(ctx); got.Health != api.HealthUnhealthy {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestWhyNamesNoAddress(t *testing.T) {
	for want, err := range map[string]error{
		"connection refused":             &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED},
		"timeout":                        fmt.Errorf("x: %w", context.DeadlineExceeded),
		"its name does not resolve":      &net.DNSError{Err: "no such host", Name: "inner.example"},
		"its name resolves too slowly":   &net.DNSError{IsTimeout: true, Name: "inner.example"},
		"its certificate is not trusted": x509.UnknownAuthorityError{},
		"the connection failed":          errors.New("read tcp 10.0.0.1: reset"),
	} {
		if got := Why(err); got != want {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
}

// One bad result counts, two good ones do, and the first of all does.
func TestThresholds(t *testing.T) {
	good := ProbeResult{Health: api.HealthHealthy, Version: "v1"}
	bad := ProbeResult{Health: api.HealthUnhealthy, Reason: "r"}
	var said []string
	var th Thresholds
	for _, r := range []ProbeResult{good, bad, good, bad, good, good, good, {Health: api.HealthUnhealthy, Reason: "other"}} {
		s := th.Add(r)
		said = append(said, string(s.Health)+" "+s.Reason+" "+s.Version)
	}
	want := []string{"healthy  v1", "unhealthy r v1", "unhealthy r v1", "unhealthy r v1", "unhealthy r v1", "healthy  v1", "healthy  v1", "unhealthy other v1"}
	if diff := cmp.Diff(want, said); diff != "" {
		t.Error(diff)
	}
	th = Thresholds{}
	if s := th.Add(bad); s.Health != api.HealthUnhealthy {
		t.Errorf("%+v", s)
	}
}

// What can't be told is a health of its own: worse than healthy, and said at once;
// better than unhealthy, and said when it stays.
func TestThresholds_whatCannotBeTold(t *testing.T) {
	good := ProbeResult{Health: api.HealthHealthy}
	bad := ProbeResult{Health: api.HealthUnhealthy, Reason: "r"}
	open := ProbeResult{Health: api.HealthUnknown, Reason: "shows no right", Version: "v2"}
	for name, c := range map[string]struct {
		probes []ProbeResult
		want   []api.Health
	}{
		"from the start":        {[]ProbeResult{open, open, good, good}, []api.Health{"unknown", "unknown", "unknown", "healthy"}},
		"after a healthy time":  {[]ProbeResult{good, open}, []api.Health{"healthy", "unknown"}},
		"after an unhealthy":    {[]ProbeResult{bad, open, open}, []api.Health{"unhealthy", "unhealthy", "unknown"}},
		"one that comes, goes":  {[]ProbeResult{bad, open, bad, open, bad}, []api.Health{"unhealthy", "unhealthy", "unhealthy", "unhealthy", "unhealthy"}},
		"better, then the best": {[]ProbeResult{bad, good, open, good, good}, []api.Health{"unhealthy", "unhealthy", "unknown", "unknown", "healthy"}},
	} {
		var th Thresholds
		var said []api.Health
		for _, r := range c.probes {
			s := th.Add(r)
			if said = append(said, s.Health); s.Health == api.HealthUnknown && (s.Reason != open.Reason || s.Version != "v2") {
				t.Errorf("%s: %+v", name, s)
			}
		}
		if diff := cmp.Diff(c.want, said); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
