package proxy

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseResource(t *testing.T) {
	for _, tt := range []struct {
		method, path, query string
		want                resource
	}{
		{"GET", "/", "", resource{verb: "get"}},
		{"GET", "/version", "", resource{verb: "get"}},
		{"GET", "/api", "", resource{verb: "get"}},
		{"GET", "/api/v1", "", resource{verb: "get", version: "v1"}},
		{"GET", "/apis/apps/v1", "", resource{verb: "get"}},
		{"POST", "/healthz", "", resource{verb: "post"}},
		{"GET", "/api/v1/nodes", "", resource{verb: "list", version: "v1", kind: "nodes"}},
		{"GET", "/api/v1/nodes/", "watch=false", resource{verb: "list", version: "v1", kind: "nodes"}},
		{"GET", "/api/v1/nodes", "watch=true", resource{verb: "watch", version: "v1", kind: "nodes"}},
		{"GET", "/api/v1/nodes", "watch", resource{verb: "watch", version: "v1", kind: "nodes"}},
		{"GET", "/api/v1/nodes", "x=1&w%61tch=1", resource{verb: "watch", version: "v1", kind: "nodes"}},
		{"GET", "/api/v1/nodes", "watch=0;a&watch=1", resource{verb: "watch", version: "v1", kind: "nodes"}},
		{"GET", "/api/v1/nodes/n1", "", resource{verb: "get", version: "v1", kind: "nodes", name: "n1"}},
		{"HEAD", "/api/v1/nodes/n1", "", resource{verb: "get", version: "v1", kind: "nodes", name: "n1"}},
		{"GET", "/api/v1/namespaces", "", resource{verb: "list", version: "v1", kind: "namespaces"}},
		{"DELETE", "/api/v1/namespaces/a", "", resource{verb: "delete", version: "v1", kind: "namespaces", namespace: "a", name: "a"}},
		{"PUT", "/api/v1/namespaces/a/finalize", "", resource{verb: "update", version: "v1", kind: "namespaces", namespace: "a", name: "a", subresource: "finalize"}},
		{"GET", "/api/v1/namespaces/a/pods", "", resource{verb: "list", version: "v1", kind: "pods", namespace: "a"}},
		{"DELETE", "/api/v1/namespaces/a/pods", "", resource{verb: "deletecollection", version: "v1", kind: "pods", namespace: "a"}},
		{"POST", "/api/v1/namespaces/a/pods/b/exec", "command=x", resource{verb: "create", version: "v1", kind: "pods", namespace: "a", name: "b", subresource: "exec"}},
		{"GET", "/api/v1/namespaces/a/services/b/proxy/x/y", "", resource{verb: "get", version: "v1", kind: "services", namespace: "a", name: "b", subresource: "proxy", rest: "x/y"}},
		{"PATCH", "/apis/apps/v1/namespaces/a/deployments/d/scale", "", resource{verb: "patch", group: "apps", version: "v1", kind: "deployments", namespace: "a", name: "d", subresource: "scale"}},
		{"GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node", "", resource{verb: "get", group: "rbac.authorization.k8s.io", version: "v1", kind: "clusterroles", name: "system:node"}},
		{"GET", "/api/v1/watch/namespaces/a/pods/b", "", resource{verb: "watch", version: "v1", kind: "pods", namespace: "a", name: "b"}},
		{"GET", "/api/v1/proxy/nodes/n/x", "", resource{verb: "proxy", version: "v1", kind: "nodes", name: "n"}},
		{"GET", "/api/v1/watch", "", resource{verb: "get"}},
		{"OPTIONS", "/api/v1/pods", "", resource{verb: "", version: "v1", kind: "pods"}},
	} {
		got := parseResource(tt.method, tt.path, tt.query)
		if tt.want.kind == "" {
			tt.want.version, got.version = "", ""
		}
		if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(resource{})); diff != "" {
			t.Errorf("%s %s?%s (-want +got):\n%s", tt.method, tt.path, tt.query, diff)
		}
	}
}

func TestParseResourceDoesNotAllocate(t *testing.T) {
	n := testing.AllocsPerRun(100, func() {
		parseResource(http.MethodGet, "/apis/apps/v1/namespaces/a/deployments/d/scale", "watch=true&limit=500")
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzParseResource: never panics, and every part is a segment of the path.
func FuzzParseResource(f *testing.F) {
	f.Add("GET", "/api/v1/namespaces/a/pods/b/exec", "watch=1")
	f.Add("POST", "/apis/apps/v1/watch/deployments", "")
	f.Add("DELETE", "/api/v1/proxy/", "w%61tch=%zz&;")
	f.Fuzz(func(t *testing.T, method, path, query string) {
		got := parseResource(method, path, query)
		for _, part := range []string{got.group, got.version, got.kind, got.namespace, got.name, got.subresource} {
			if !strings.Contains(path, got.rest) || strings.Contains(part, "/") || !strings.Contains(path, part) {
				t.Fatalf("%q gave the part %q", path, part)
			}
		}
		if got.upgradable() && (got.kind == "" || got.name == "") {
			t.Fatalf("%q takes an upgrade without a named resource", path)
		}
	})
}
