package proxy

import (
	"net/http"
	"net/url"
	"strings"
)

// resource is what a request is about, read from method, path and query by the
// rules of k8s.io/apiserver's RequestInfoFactory. All strings are slices of the
// path.
type resource struct {
	verb        string // get, list, watch, create, …; of a path that is no resource's: the method in lower case
	group       string // "" for core
	version     string
	kind        string // the resource in plural, as in the path: pods; "" if the path is no resource's
	namespace   string
	name        string
	subresource string
	rest        string // what follows the subresource: of proxy, the path there
}

// parseResource never fails: what it can't read is no resource.
func parseResource(method, path, query string) resource {
	res := resource{verb: plainVerb(method)}
	prefix, rest := segment(path)
	switch prefix {
	case "api":
	case "apis":
		res.group, rest = segment(rest)
	default:
		return res
	}
	res.version, rest = segment(rest)
	if rest == "" || prefix == "apis" && res.group == "" {
		return resource{verb: res.verb} // discovery
	}
	special := "" // a verb before the resource: how watch was spelled long ago, and may still be
	first, after := segment(rest)
	if first == "watch" || first == "proxy" {
		if after == "" {
			return resource{verb: res.verb}
		}
		special, rest = first, after
		first, after = segment(rest)
	}
	if first == "namespaces" {
		ns, more := segment(after)
		res.namespace = ns
		// The namespace's own subresources look like resources within it.
		if kind, _ := segment(more); more != "" && kind != "status" && kind != "finalize" {
			rest = more
		}
	}
	res.kind, rest = segment(rest)
	res.name, rest = segment(rest)
	if res.verb = special; special == "" {
		res.verb = resourceVerb(method, res.name, query)
	}
	if special != "proxy" {
		res.subresource, res.rest = segment(rest)
	}
	return res
}

// segment takes the first path segment off s.
func segment(s string) (first, rest string) {
	first, rest, _ = strings.Cut(strings.TrimPrefix(s, "/"), "/")
	return first, rest
}

func plainVerb(method string) string {
	switch method { // no allocation for the usual ones
	case http.MethodGet:
		return "get"
	case http.MethodHead:
		return "head"
	case http.MethodPost:
		return "post"
	case http.MethodPut:
		return "put"
	case http.MethodPatch:
		return "patch"
	case http.MethodDelete:
		return "delete"
	case http.MethodOptions:
		return "options"
	default:
		return strings.ToLower(method)
	}
}

func resourceVerb(method, name, query string) string {
	switch method {
	case http.MethodPost:
		return "create"
	case http.MethodPut:
		return "update"
	case http.MethodPatch:
		return "patch"
	case http.MethodDelete:
		if name == "" {
			return "deletecollection"
		}
		return "delete"
	case http.MethodGet, http.MethodHead:
		switch {
		case name != "":
			return "get"
		case queryTrue(query, "watch"):
			return "watch"
		}
		return "list"
	default:
		return ""
	}
}

// queryTrue reads a boolean parameter as the API server does: absent, "0" and
// "false" are false, any other value, an empty one too, is true; the first
// counts.
func queryTrue(query, key string) bool {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		if strings.Contains(pair, ";") {
			continue // net/url drops such a pair
		}
		k, v, _ := strings.Cut(pair, "=")
		if k != key && (!strings.ContainsAny(k, "%+") || unescapeQuery(k) != key) {
			continue
		}
		v = unescapeQuery(v)
		return v != "0" && !strings.EqualFold(v, "false")
	}
	return false
}

func unescapeQuery(s string) string {
	if !strings.ContainsAny(s, "%+") {
		return s
	}
	v, err := url.QueryUnescape(s)
	if err != nil {
		return ""
	}
	return v
}

// streams reports whether the answer is a watch's, in the old spelling of one
// for a single object too.
func (res resource) streams(query string) bool {
	return res.verb == "watch" || queryTrue(query, "watch")
}

// upgradable reports whether the path is one on which Kubernetes changes
// protocols. (Watches over WebSocket are possible there too, and refused here:
// no client in use needs them.)
func (res resource) upgradable() bool {
	if res.name == "" {
		return false
	}
	switch res.subresource {
	case "exec", "attach", "portforward", "log":
		return res.group != "" || res.kind == "pods"
	case "proxy":
		return res.group != "" || res.kind == "pods" || res.kind == "services" || res.kind == "nodes"
	}
	return false
}

// kubelet reports whether the path leads to a node's kubelet, whose own API starts
// processes too.
func (res resource) kubelet() bool {
	return res.group == "" && res.kind == "nodes" && res.subresource == "proxy"
}

// apiGroup is how events name group and version: core/v1, apps/v1.
func (res resource) apiGroup() string {
	switch {
	case res.kind == "":
		return ""
	case res.group == "" && res.version == "v1":
		return "core/v1"
	case res.group == "":
		return "core/" + res.version
	}
	return res.group + "/" + res.version
}

// resourceKind is how events name a resource with its subresource: pods/exec.
func (res resource) resourceKind() string {
	if res.subresource == "" {
		return res.kind
	}
	return res.kind + "/" + res.subresource
}
