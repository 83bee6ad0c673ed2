package api

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"strings"
	"unicode/utf8"
)

// MaxNameLen bounds names of users, roles and Kubernetes clusters, in bytes.
const MaxNameLen = 128

// ValidateName refuses what could change its meaning in a store key, a
// certificate subject, an HTTP header, a log line or a terminal: anything but
// ASCII letters and digits and -_.@+: (a user name is often an e-mail address),
// beginning with a letter or digit. ASCII alone rules out confusable letters.
func ValidateName(kind, name string) error {
	switch {
	case name == "":
		return Errorf(CodeInvalid, "a %s needs a name", kind)
	case len(name) > MaxNameLen:
		return Errorf(CodeInvalid, "the %s's name is %d bytes long, at most %d are allowed", kind, len(name), MaxNameLen)
	case !utf8.ValidString(name):
		return Errorf(CodeInvalid, "the %s's name is not valid UTF-8", kind)
	}
	for i := range len(name) {
		if c := name[i]; !isAlnum(c) && (i == 0 || !strings.ContainsRune("-_.@+:", rune(c))) {
			return Errorf(CodeInvalid, "%suse ASCII letters, digits and -_.@+: only, and begin with a letter or digit", nameSubject(kind, name))
		}
	}
	return nil
}

// nameSubject begins errors about a name where nothing before it names it.
func nameSubject(kind, name string) string { return fmt.Sprintf("%s name %q: ", kind, name) }

// ValidateKubeName is ValidateName for a Kubernetes cluster; names beginning
// with x- are reserved for the hashed form of KubeLabel.
func ValidateKubeName(name string) error {
	if err := ValidateName("Kubernetes cluster", name); err != nil {
		return err
	}
	if strings.HasPrefix(strings.ToLower(name), "x-") {
		return Errorf(CodeInvalid, "Kubernetes cluster name %q: names that begin with x- are reserved", name)
	}
	return nil
}

// ValidateGroup refuses Kubernetes group and user names that could not pass
// through an Impersonate-* header unchanged: control bytes, non-ASCII, spaces
// at an end, and commas (which some servers split). At most 256 bytes.
func ValidateGroup(kind, name string) error {
	if name == "" || len(name) > 256 {
		return Errorf(CodeInvalid, "%s %q: 1 to 256 bytes are allowed", kind, name)
	}
	for i := range len(name) {
		if c := name[i]; c < 0x20 || c > 0x7e || c == ',' {
			return Errorf(CodeInvalid, "%s %q: only printable ASCII without commas can be sent to Kubernetes", kind, name)
		}
	}
	if strings.TrimSpace(name) != name {
		return Errorf(CodeInvalid, "%s %q begins or ends with a space", kind, name)
	}
	return nil
}

// ValidateClusterName refuses what is no lower-case DNS name: the Sallyport
// cluster's name stands in SNI names, certificates and kubeconfig entries.
func ValidateClusterName(name string) error {
	if !IsDNSName(name) || len(name) > 180 { // room for <label>.kube. in 253 bytes
		return Errorf(CodeInvalid, "cluster name %q: want a lower-case DNS name such as tele.example.com, at most 180 bytes", name)
	}
	return nil
}

// IsDNSName reports whether s is lower-case labels of letters, digits and inner
// dashes (RFC 1123), up to 63 bytes each and 253 in all.
func IsDNSName(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if !isDNSLabel(label) {
			return false
		}
	}
	return true
}

// KubeLabel is the DNS label that stands for a Kubernetes cluster in the SNI
// name <label>.kube.<clusterName>: the name itself where it is a DNS label
// (RFC 1123, lower case, up to 63 bytes), else x- and the first 32 hex digits
// of its SHA-256.
func KubeLabel(name string) string {
	if isDNSLabel(name) && !strings.HasPrefix(name, "x-") {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return "x-" + hex.EncodeToString(sum[:16])
}

// Hostname is the host of a HOST[:PORT], such as an HTTP request's, or of a TLS server
// name, in the one spelling of which names compare: in lower case (RFC 4343), without the
// final dot.
func Hostname(hostport string) string {
	if strings.Contains(hostport, ":") {
		if h, _, err := net.SplitHostPort(hostport); err == nil {
			hostport = h
		}
	}
	return strings.ToLower(strings.TrimSuffix(hostport, "."))
}

// Audience is whom a TLS connection is for, as its server name (SNI) says.
type Audience int

// The audiences.
const (
	AudienceWeb    Audience = iota // the web name, any other, or none
	AudienceKube                   // below .kube.<clusterName>
	AudienceAPI                    // APIServerName
	AudienceTunnel                 // TunnelServerName: agents
	AudienceJoin                   // JoinServerName: agents that have no identity yet
)

// ParseServerName is the inverse of APIServerName, JoinServerName, KubeServerName
// and TunnelServerName: whom a server name is for and, for AudienceKube, the
// lower-case label of the cluster, "" if what stands before .kube. is no single
// label; for AudienceTunnel the id of the replica, or "". Server names compare
// without regard to case (RFC 6066 section 3); a final dot is passed over.
func ParseServerName(serverName, clusterName string) (to Audience, label string) {
	s, ok := strings.CutSuffix(strings.ToLower(strings.TrimSuffix(serverName, ".")), strings.ToLower(clusterName))
	if !ok {
		return AudienceWeb, ""
	}
	switch s {
	case apiPrefix:
		return AudienceAPI, ""
	case joinPrefix:
		return AudienceJoin, ""
	case tunnelPrefix:
		return AudienceTunnel, ""
	}
	if id, ok := strings.CutSuffix(s, "."+tunnelPrefix); ok && isDNSLabel(id) {
		return AudienceTunnel, id
	}
	label, ok = strings.CutSuffix(s, kubeInfix)
	switch {
	case !ok:
		return AudienceWeb, ""
	case strings.Contains(label, "."):
		return AudienceKube, ""
	}
	return AudienceKube, label
}

const (
	apiPrefix    = "api."
	joinPrefix   = "join."
	tunnelPrefix = "tunnel."
	kubeInfix    = ".kube."
)

// KubeServerName is the SNI name that routes to a Kubernetes cluster.
func KubeServerName(kube, clusterName string) string {
	return KubeLabel(kube) + kubeInfix + clusterName
}

// APIServerName is the SNI name of the authenticated API for CLIs.
func APIServerName(clusterName string) string { return apiPrefix + clusterName }

// JoinServerName is the SNI name by which agents that know the host CA join. Its
// certificate is always the host CA's, whatever the web name shows.
func JoinServerName(clusterName string) string { return joinPrefix + clusterName }

// TunnelServerName is the SNI name by which agents open tunnels: to the replica
// with the server id, or with "" to any.
func TunnelServerName(serverID, clusterName string) string {
	if serverID == "" {
		return tunnelPrefix + clusterName
	}
	return serverID + "." + tunnelPrefix + clusterName
}

func isDNSLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-') {
			return false
		}
	}
	return true
}

func isAlnum(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}
