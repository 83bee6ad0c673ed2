package proxy

import (
	"net/http"
	"net/textproto"
	"net/url"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/api"
)

const (
	headerImpUser  = "Impersonate-User"
	headerImpGroup = "Impersonate-Group"

	// maxAsGroups bounds what one request may ask to be; the cache key grows with it.
	maxAsGroups = 64

	// wsBearerPrefix begins the WebSocket subprotocol in which API servers take a
	// bearer token from browsers.
	wsBearerPrefix = "base64url.bearer.authorization.k8s.io." //nolint:gosec // no credential: what would precede one
)

// impersonation takes what the client asks to be from its header. Whatever else
// begins like an impersonation field is refused, with spellings of which some
// server may think that they are one (Impersonate_User), and with fields that
// Kubernetes may learn in the future.
func impersonation(h http.Header) (user string, groups []string, err error) {
	for name, values := range h {
		if len(name) < len("impersonate") || !strings.EqualFold(name[:len("impersonate")], "impersonate") {
			continue
		}
		switch name {
		case headerImpUser:
			if len(values) != 1 {
				return "", nil, api.Errorf(api.CodeForbidden, "more than one %s field was sent", headerImpUser)
			}
			user = values[0]
			if err := api.ValidateGroup(headerImpUser, user); err != nil {
				return "", nil, err
			}
		case headerImpGroup:
			if len(values) > maxAsGroups {
				return "", nil, api.Errorf(api.CodeForbidden, "%d %s fields were sent, at most %d are allowed", len(values), headerImpGroup, maxAsGroups)
			}
			for _, v := range values {
				if err := api.ValidateGroup(headerImpGroup, v); err != nil {
					return "", nil, err
				}
			}
			groups = values
		default:
			return "", nil, api.Errorf(api.CodeForbidden,
				"the request field %.64q is not allowed: of what kubectl can impersonate, only --as and --as-group are supported", name)
		}
	}
	return user, groups, nil
}

// requestHeader makes the header of the request to the API server. The client's
// fields are copied but for those that belong to its own connection or claim an
// identity or an origin; then ours are set. Values are shared with in, which the
// server never changes.
func requestHeader(in http.Header, upgrade, impUser string, impGroups []string) http.Header {
	out := make(http.Header, len(in)+4)
	for name, values := range in {
		if !dropRequestField(name) {
			out[name] = values
		}
	}
	for _, v := range in["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			if name = textproto.CanonicalMIMEHeaderKey(textproto.TrimString(name)); name != "" && !upgradeField(name, upgrade) {
				delete(out, name)
			}
		}
	}
	if upgrade != "" {
		out["Connection"] = []string{"Upgrade"}
		out["Upgrade"] = []string{upgrade}
		if values, ok := out["Sec-Websocket-Protocol"]; ok {
			setWebSocketProtocols(out, values)
		}
	}
	if _, ok := out["User-Agent"]; !ok {
		out["User-Agent"] = []string{""} // keeps Go from sending its own
	}
	out[headerImpUser] = []string{impUser}
	out[headerImpGroup] = impGroups
	return out
}

// upgradeField names the fields without which an upgrade can't be; Connection
// may list them in error, and dropping one would break the handshake.
func upgradeField(name, upgrade string) bool {
	return upgrade != "" && (strings.HasPrefix(name, "Sec-Websocket-") || name == "X-Stream-Protocol-Version")
}

// dropRequestField knows the fields that never reach an API server. Underscores
// count as hyphens, because some servers take them so.
func dropRequestField(name string) bool {
	if strings.IndexByte(name, '_') >= 0 {
		name = strings.ReplaceAll(name, "_", "-")
	}
	name = textproto.CanonicalMIMEHeaderKey(name) // is already, but for the above: no allocation
	switch name {
	case "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", // RFC 9110 §7.6.1
		"Te", "Trailer", "Transfer-Encoding", "Upgrade", "Http2-Settings",
		"Host", "Content-Length", "Expect", // net/http sends its own
		"Authorization", "Cookie", "Cookie2", // who the client is was settled by its certificate
		"Forwarded", "X-Forwarded", "X-Real-Ip", "X-Client-Ip", "X-Cluster-Client-Ip", "X-Original-Url", "X-Rewrite-Url":
		return true
	}
	return strings.HasPrefix(name, "X-Forwarded-") || strings.HasPrefix(name, "X-Remote-") || strings.HasPrefix(name, "Impersonate")
}

// setWebSocketProtocols keeps the subprotocols that carry no bearer token.
func setWebSocketProtocols(out http.Header, values []string) {
	var keep []string
	for _, v := range values {
		for p := range strings.SplitSeq(v, ",") {
			if p = textproto.TrimString(p); p != "" && (len(p) < len(wsBearerPrefix) || !strings.EqualFold(p[:len(wsBearerPrefix)], wsBearerPrefix)) {
				keep = append(keep, p)
			}
		}
	}
	if len(keep) == 0 {
		delete(out, "Sec-Websocket-Protocol")
		return
	}
	out["Sec-Websocket-Protocol"] = []string{strings.Join(keep, ", ")}
}

// responseHeader copies the API server's fields but for those of its own
// connection, and those by which a server could bind or steer the client beyond
// this answer: cookies, and where else to find it.
func responseHeader(out, in http.Header) {
	for name, values := range in {
		switch name {
		case "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
			"Set-Cookie", "Set-Cookie2", "Alt-Svc", "Refresh", "Strict-Transport-Security", "Public-Key-Pins":
		default:
			out[name] = values
		}
	}
	for _, v := range in["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			if name = textproto.CanonicalMIMEHeaderKey(textproto.TrimString(name)); name != "" {
				delete(out, name)
			}
		}
	}
}

// localizer turns an API server's addresses into the client's.
type localizer struct {
	base   *url.URL // of the API server
	prefix string   // that the client's paths have before ours
}

// location is what a client may see of a Location field: a path on the same
// server. Anything that leads elsewhere is not ok.
func (l localizer) location(location string) (_ string, ok bool) {
	base, prefix := l.base, l.prefix
	if strings.ContainsAny(location, "\\\r\n\t") {
		return "", false // browsers take \ for /
	}
	u, err := url.Parse(location)
	if err != nil || u.Opaque != "" || u.User != nil {
		return "", false
	}
	if u.Scheme != "" || u.Host != "" {
		if u.Scheme != base.Scheme && u.Scheme != "" || u.Host != base.Host {
			return "", false
		}
		u.Scheme, u.Host = "", ""
	}
	s := u.String()
	if strings.HasPrefix(s, "//") {
		return "", false
	}
	if strings.HasPrefix(s, "/") {
		if p := strings.TrimSuffix(base.EscapedPath(), "/"); p != "" {
			rest, below := strings.CutPrefix(s, p)
			if !below || rest != "" && rest[0] != '/' {
				return "", false
			}
			s = rest
		}
		return prefix + s, true
	}
	return s, u.Path != "" || u.RawQuery != "" || u.Fragment != ""
}

// upgradeRequest says which protocol the client wants to change to: "" for none.
// Any other than the two that Kubernetes speaks is refused (an h2c or TLS upgrade
// would carry requests past this proxy), and so is anything out of the ordinary
// about the two, where client, proxy and server could differ on what comes next.
func upgradeRequest(r *http.Request, res resource) (string, error) {
	values, ok := r.Header["Upgrade"]
	listed := false
	for _, v := range r.Header["Connection"] {
		for token := range strings.SplitSeq(v, ",") {
			listed = listed || strings.EqualFold(textproto.TrimString(token), "upgrade")
		}
	}
	if !ok && !listed {
		return "", nil
	}
	proto := ""
	if len(values) == 1 {
		switch {
		case strings.EqualFold(values[0], "websocket"):
			proto = "websocket"
		case strings.EqualFold(values[0], "SPDY/3.1"):
			proto = "SPDY/3.1"
		}
	}
	switch {
	case proto == "":
		return "", api.Errorf(api.CodeInvalid, "upgrade to %.64q is refused: only SPDY/3.1 and websocket are possible", strings.Join(values, ", "))
	case !listed || r.ProtoMajor != 1 || r.ProtoMinor != 1:
		return "", api.Errorf(api.CodeInvalid, "an upgrade needs HTTP/1.1 and \"Connection: Upgrade\"")
	case r.Method != http.MethodGet && (proto == "websocket" || r.Method != http.MethodPost):
		return "", api.Errorf(api.CodeInvalid, "upgrade with method %.16q is refused", r.Method)
	case r.ContentLength != 0:
		return "", api.Errorf(api.CodeInvalid, "upgrade of a request with a body is refused")
	case !res.upgradable():
		return "", api.Errorf(api.CodeInvalid, "upgrade is refused: only exec, attach, portforward, log and proxy of a named resource take one")
	}
	return proto, nil
}
