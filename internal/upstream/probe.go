package upstream

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// How often an API server is asked how it does, how long that may take, and after
// how many better answers they are believed (see Thresholds).
const (
	ProbeEvery   = 30 * time.Second
	ProbeTimeout = 5 * time.Second

	betterAfter = 2
)

// maxVersion bounds what an API server calls itself.
const maxVersion = 64

// ProbeResult is how an API server does.
type ProbeResult struct {
	Health  api.Health
	Reason  string // in words that name no inner address, unless healthy
	Version string // such as v1.34.1; "": not known
}

// Probe asks the API server whether it is ready, and whether our credentials may
// impersonate users and groups there, or some of them: without that right no request
// that is sent this way can succeed. It takes at most ProbeTimeout. The result is healthy or
// unhealthy, or unknown where only requests can show whether some are allowed; a ctx that
// ends makes it unhealthy.
func (u Upstream) Probe(ctx context.Context) ProbeResult {
	ctx, cancel := context.WithTimeout(ctx, ProbeTimeout)
	defer cancel()
	var version struct {
		GitVersion string `json:"gitVersion"`
	}
	unhealthy := func(reason string) ProbeResult {
		return ProbeResult{Health: api.HealthUnhealthy, Reason: reason, Version: cleanVersion(version.GitVersion)}
	}
	status, err := u.Call(ctx, http.MethodGet, "/version", nil, &version)
	if status == 0 { // else: one that says no version has none
		return unhealthy("its API server can't be reached: " + Why(err))
	}
	status, err = u.Call(ctx, http.MethodGet, "/readyz", nil, nil)
	switch {
	case status == 0:
		return unhealthy("its API server can't be reached: " + Why(err))
	case status == http.StatusUnauthorized:
		return unhealthy("its API server does not know our credentials (401): renew the service account's token or the kubeconfig")
	case status == http.StatusForbidden, status == http.StatusNotFound:
		// It hides that from us. What follows asks what matters.
	case status != http.StatusOK:
		return unhealthy(fmt.Sprintf("its API server is not ready (/readyz answers %d)", status))
	}
	var missing []string
	for _, resource := range []string{"users", "groups"} {
		allowed, why := u.mayImpersonate(ctx, resource)
		if why != "" {
			return unhealthy(why)
		}
		if !allowed {
			missing = append(missing, resource)
		}
	}
	var incomplete bool
	if len(missing) > 0 {
		missing, incomplete = u.maySomeNot(ctx, missing)
	}
	if len(missing) > 0 && incomplete {
		return ProbeResult{
			Health: api.HealthUnknown, Version: cleanVersion(version.GitVersion),
			Reason: "its API server shows no right to impersonate " + strings.Join(missing, " and ") + ", and says that it doesn't show all: if requests are refused, give its service account that right",
		}
	}
	if len(missing) > 0 {
		return unhealthy("its credentials may not impersonate " + strings.Join(missing, " and ") + ": give its service account that right")
	}
	return ProbeResult{Health: api.HealthHealthy, Version: cleanVersion(version.GitVersion)}
}

// mayImpersonate asks by a SelfSubjectAccessReview; why is set if there is no answer.
func (u Upstream) mayImpersonate(ctx context.Context, resource string) (allowed bool, why string) {
	review := map[string]any{
		"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
		"spec": map[string]any{"resourceAttributes": map[string]string{"verb": "impersonate", "resource": resource}},
	}
	var answer struct {
		Status struct {
			Allowed bool `json:"allowed"`
		} `json:"status"`
	}
	status, err := u.Call(ctx, http.MethodPost, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review, &answer)
	switch {
	case status == 0:
		return false, "its API server can't be reached: " + Why(err)
	case status == http.StatusUnauthorized:
		return false, "its API server does not know our credentials (401): renew the service account's token or the kubeconfig"
	case status == http.StatusForbidden:
		return false, "its credentials may not ask what they allow: give its service account the rights to create selfsubjectaccessreviews and to impersonate users and groups"
	case errors.Is(err, ErrNoJSON):
		return false, "its API server answers an access review with something else: is this a Kubernetes API server?"
	case err != nil:
		return false, fmt.Sprintf("its API server answers %d to an access review", status)
	}
	return answer.Status.Allowed, ""
}

// maySomeNot gives those of resources of which our credentials may impersonate none.
// What may not impersonate all may still impersonate some that a rule names: which
// those are only a SelfSubjectRulesReview tells. Without an answer it is as it seemed.
// A service account is a user, too, though a resource of its own to Kubernetes.
// incomplete: an authorizer beside RBAC may allow what it doesn't show.
func (u Upstream) maySomeNot(ctx context.Context, resources []string) (none []string, incomplete bool) {
	review := map[string]any{
		"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview",
		"spec": map[string]string{"namespace": "default"}, // rules of the whole cluster are in every answer
	}
	var answer struct {
		Status struct {
			Incomplete    bool `json:"incomplete"`
			ResourceRules []struct {
				Verbs         []string `json:"verbs"`
				APIGroups     []string `json:"apiGroups"`
				Resources     []string `json:"resources"`
				ResourceNames []string `json:"resourceNames"`
			} `json:"resourceRules"`
		} `json:"status"`
	}
	if _, err := u.Call(ctx, http.MethodPost, "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", review, &answer); err != nil {
		return resources, false
	}
	none = slices.DeleteFunc(resources, func(resource string) bool {
		for _, rule := range answer.Status.ResourceRules {
			if !has(rule.Verbs, "impersonate") || !has(rule.APIGroups, "") {
				continue
			}
			if has(rule.Resources, resource) && len(rule.ResourceNames) > 0 || resource == "users" && has(rule.Resources, "serviceaccounts") {
				return true
			}
		}
		return false
	})
	return none, answer.Status.Incomplete
}

// has says whether a list of an RBAC rule names s, or all.
func has(list []string, s string) bool { return slices.Contains(list, s) || slices.Contains(list, "*") }

// cleanVersion keeps an API server from saying more than a version.
func cleanVersion(s string) string {
	if len(s) > maxVersion || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return ""
	}
	return s
}

// Why puts a transport's error in a few words that name no inner address: those
// are for the log.
func Why(err error) string {
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		if dns.IsTimeout {
			return "its name resolves too slowly"
		}
		return "its name does not resolve"
	}
	timeout, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), ok && timeout.Timeout():
		return "timeout"
	case unknown, strings.Contains(err.Error(), "x509:"):
		return "its certificate is not trusted"
	}
	return "the connection failed"
}

// Thresholds turn the results of probes into what is said of an API server: one
// result that is worse than what is said counts at once, better ones when two come in a
// row, so that one that comes and goes is not announced each time. The very first result
// counts at once. The zero value is ready.
type Thresholds struct {
	said   ProbeResult
	better int // results in a row
}

// Add takes the result of a probe and gives what is to be said from now on.
func (t *Thresholds) Add(r ProbeResult) ProbeResult {
	if t.said.Health != "" && r.Health.Gravity(true) < t.said.Health.Gravity(true) {
		t.better++
	} else {
		t.better = betterAfter
	}
	version := r.Version
	if version == "" {
		version = t.said.Version // it has not forgotten which it is
	}
	if t.better >= betterAfter {
		t.said, t.better = r, 0
	}
	t.said.Version = version
	return t.said
}
