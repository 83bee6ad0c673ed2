package api

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"maps"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"time"
)

// AuditForwarderVersion is that of audit forwarders.
const AuditForwarderVersion = "v1"

// ForwardNoSecret is what spec.bearer_token and spec.signing_secret are to have a
// stored one taken away: left out, it stays.
const ForwardNoSecret = "none"

// Bounds of an audit forwarder.
const (
	maxForwardSecret  = 2048
	maxForwardHeaders = 20
	maxForwardTypes   = 100
	// of the key in a signing secret, as Standard Webhooks say
	minSigningKey, maxSigningKey = 24, 64
	signingPrefix                = "whsec_"
)

// ForwarderCursor is how far a forwarder has come, as the cluster keeps it.
type ForwarderCursor struct {
	// Life is the forwarder's: one that was removed and made again has another, and is not
	// moved by whoever still sends for the old one. The record is made and removed with the
	// forwarder's, and so has it without saying it.
	Life string `json:"-"`
	// Revision is that of the forwarder's document when the cursor was loaded.
	Revision uint64 `json:"-"`

	Number  uint64    `json:"number"` // the receiver needs no line up to this one any more
	Updated time.Time `json:"updated,omitzero"`
	Failing time.Time `json:"failing,omitzero"`
	Error   string    `json:"error,omitempty"`
	Skipped uint64    `json:"skipped,omitempty"` // lines that were given up
}

// ForwarderSkip says which lines a forwarder gives up, and why.
type ForwarderSkip struct {
	From, To uint64 // line numbers, inclusive
	Count    uint64 // how many of them
	Reason   string // for people; nothing secret
	Quiet    bool   // without an event: it would be about an event of this kind
}

// Head is what all documents have.
func (f *AuditForwarder) Head() *Header { return &f.Header }

// secrets are the fields that nobody sees unless they ask for them, by their paths.
// Headers have theirs below spec.headers, by name.
func (f *AuditForwarder) secrets() map[string]*string {
	return map[string]*string{"spec.bearer_token": &f.Spec.BearerToken, "spec.signing_secret": &f.Spec.SigningSecret}
}

const headersPath = "spec.headers."

// TakeSecrets gives the document's secrets by their paths and leaves it without them:
// a header keeps its name. The document is the caller's own.
func (f *AuditForwarder) TakeSecrets() map[string]string {
	taken := map[string]string{}
	for path, secret := range f.secrets() {
		if *secret != "" {
			taken[path], *secret = *secret, ""
		}
	}
	f.Spec.Headers = maps.Clone(f.Spec.Headers)
	for name, value := range f.Spec.Headers {
		if value != "" {
			taken[headersPath+name], f.Spec.Headers[name] = value, ""
		}
	}
	return taken
}

// GiveSecrets fills those in that the document leaves out; a header must be named in
// it. What is to be taken away stays away. The document is the caller's own.
func (f *AuditForwarder) GiveSecrets(given map[string]string) {
	for path, secret := range f.secrets() {
		switch {
		case *secret == ForwardNoSecret:
			*secret = ""
		case *secret == "" && (path != "spec.signing_secret" || f.Spec.Type == ForwardWebhook):
			*secret = given[path]
		}
	}
	f.Spec.Headers = maps.Clone(f.Spec.Headers)
	for name, value := range f.Spec.Headers {
		if value == "" {
			f.Spec.Headers[name] = given[headersPath+name]
		}
	}
}

// MissingHeader is the path of a header without a value, or "".
func (f *AuditForwarder) MissingHeader() string {
	for _, name := range slices.Sorted(maps.Keys(f.Spec.Headers)) {
		if f.Spec.Headers[name] == "" {
			return headersPath + name
		}
	}
	return ""
}

// setDefaults says what an empty field means.
func (f *AuditForwarder) setDefaults() {
	if f.Spec.Start == "" {
		f.Spec.Start = ForwardFromNow
	}
}

// Validate says what is wrong with the forwarder as a document. Secrets may be left
// out of it: whether they must be there is for internal/auth to say. They are never
// repeated.
func (f *AuditForwarder) Validate() error {
	if err := f.check(); err != nil {
		return documentError(KindAuditForwarder, f.Metadata.Name, asInvalid(err))
	}
	return nil
}

func (f *AuditForwarder) check() error {
	if err := f.Header.check(KindAuditForwarder); err != nil {
		return err
	}
	types := []string{ForwardWebhook, ForwardOTLP}
	starts := []string{ForwardFromNow, ForwardFromOldest}
	switch {
	case f.Spec.Type == "":
		return &FieldError{"spec.type", "is missing: want one of " + strings.Join(types, ", ")}
	case !slices.Contains(types, f.Spec.Type):
		return &FieldError{"spec.type", notKnown(f.Spec.Type, "one", types)}
	case !slices.Contains(starts, f.Spec.Start):
		return &FieldError{"spec.start", notKnown(f.Spec.Start, "one", starts)}
	}
	return firstError(f.Spec.checkEndpoint, f.Spec.checkSecrets, f.Spec.checkHeaders, f.Spec.checkCA, f.Spec.checkTypes)
}

func (s *AuditForwarderSpec) checkEndpoint() error {
	const path = "spec.endpoint"
	example := "https://siem.example.com/events"
	if s.Type == ForwardOTLP {
		example = "https://collector.example.com:4318/v1/logs"
	}
	if s.Endpoint == "" {
		return &FieldError{path, "is missing: want the receiver's address, such as " + example}
	}
	// Never repeated: people put secrets into addresses.
	u, err := url.Parse(s.Endpoint)
	switch {
	case uri(s.Endpoint) != nil:
		return &FieldError{path, fmt.Sprintf("want at most %d characters of ASCII, without spaces (international domain names begin with xn--)", maxURL)}
	case err == nil && u.User != nil:
		return &FieldError{path, "must not hold a user or a password: write the header Authorization into spec.headers"}
	case err != nil, u.Opaque != "", u.Hostname() == "", u.Scheme != "https" && u.Scheme != "http":
		return &FieldError{path, "is no address such as " + example}
	case u.Scheme == "http" && !s.AllowHTTP:
		return &FieldError{path, "want https: over http anybody on the way reads the audit log and its secrets; for a receiver beside the replicas write spec.allow_http: true"}
	case strings.Contains(s.Endpoint, "#"):
		return &FieldError{path, "leave out what begins with #"}
	case strings.Contains(s.Endpoint, "?"):
		return &FieldError{path, "leave out what begins with ?: an address is no place for a secret, as it is shown; write one into spec.bearer_token or spec.headers"}
	}
	// as HTTPSURL judges ports
	if _, err := HTTPSURL("https://"+u.Host, false); err != nil {
		return &FieldError{path, "is no address such as " + example}
	}
	return nil
}

const copiedSecret = "want printable ASCII without spaces or line breaks: was more copied than there should be?"

func (s *AuditForwarderSpec) checkSecrets() error {
	if len(s.BearerToken) > maxForwardSecret || !isVisible(s.BearerToken) || strings.Contains(s.BearerToken, " ") {
		return &FieldError{"spec.bearer_token", copiedSecret}
	}
	const path = "spec.signing_secret"
	switch {
	case s.SigningSecret == "", s.SigningSecret == ForwardNoSecret:
		return nil
	case s.Type != ForwardWebhook:
		return &FieldError{path, "has no effect with spec.type " + s.Type + ": leave it out"}
	case len(s.SigningSecret) > maxForwardSecret || !strings.HasPrefix(s.SigningSecret, signingPrefix):
		return &FieldError{path, "want " + signingPrefix + " and base64, as Standard Webhooks have it; make one by: echo " + signingPrefix + "$(openssl rand -base64 32)"}
	}
	key, err := base64.StdEncoding.Strict().DecodeString(strings.TrimPrefix(s.SigningSecret, signingPrefix))
	if err != nil || len(key) < minSigningKey || len(key) > maxSigningKey || strings.ContainsAny(s.SigningSecret, "\r\n") {
		return &FieldError{path, fmt.Sprintf("want %d to %d bytes in base64 after %s; make one by: echo %s$(openssl rand -base64 32)", minSigningKey, maxSigningKey, signingPrefix, signingPrefix)}
	}
	return nil
}

// ourHeaders are those that are ours to set, or net/http's.
var ourHeaders = []string{
	"Accept-Encoding", "Connection", "Content-Encoding", "Content-Length", "Content-Type", "Expect", "Host", "Keep-Alive", "Proxy-Authorization", "Proxy-Connection", "Te",
	"Trailer", "Transfer-Encoding", "Upgrade", "Webhook-Id", "Webhook-Signature", "Webhook-Timestamp",
}

func (s *AuditForwarderSpec) checkHeaders() error {
	const path = "spec.headers"
	if len(s.Headers) > maxForwardHeaders {
		return &FieldError{path, fmt.Sprintf("more than %d", maxForwardHeaders)}
	}
	seen := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(s.Headers)) {
		value := s.Headers[name]
		if !isToken(name) {
			return &FieldError{path, fmt.Sprintf("%q is no name of a header", clip(name))}
		}
		at, canonical := headersPath+name, textproto.CanonicalMIMEHeaderKey(name)
		switch {
		case seen[canonical]:
			return &FieldError{at, "is there twice: upper and lower case are the same"}
		case slices.Contains(ourHeaders, canonical):
			return &FieldError{at, "is not yours to set"}
		case canonical == "Authorization" && s.BearerToken != "" && s.BearerToken != ForwardNoSecret:
			return &FieldError{at, "is set by spec.bearer_token already: write one of the two"}
		case len(value) > maxForwardSecret || !isVisible(value) || strings.TrimSpace(value) != value:
			return &FieldError{at, "want printable ASCII without spaces or line breaks at its ends: was more copied than there should be?"}
		}
		seen[canonical] = true
	}
	return nil
}

// isToken says whether s can be a header's name (RFC 9110, section 5.6.2).
func isToken(s string) bool {
	for i := range len(s) {
		if !isAlnum(s[i]) && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(s[i])) {
			return false
		}
	}
	return s != "" && len(s) <= maxValueLen
}

func (s *AuditForwarderSpec) checkCA() error {
	const path = "spec.ca_cert"
	if s.CACert == "" {
		return nil
	}
	if err := checkPEM(path, s.CACert, "CERTIFICATE"); err != nil {
		return err
	}
	if strings.HasPrefix(strings.ToLower(s.Endpoint), "http:") {
		return &FieldError{path, "has no effect: spec.endpoint begins with http"}
	}
	for rest := []byte(s.CACert); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil
		}
		if block.Type != "CERTIFICATE" {
			return &FieldError{path, fmt.Sprintf("want certificates alone, not %q", clip(block.Type))}
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return &FieldError{path, "is no certificate: " + err.Error()}
		}
	}
}

func (s *AuditForwarderSpec) checkTypes() error {
	if len(s.Types) > maxForwardTypes {
		return &FieldError{"spec.types", fmt.Sprintf("more than %d", maxForwardTypes)}
	}
	for i, v := range s.Types {
		at := fmt.Sprintf("spec.types[%d]", i)
		if v == "" {
			return &FieldError{at, "is empty: want an event's name or code, such as user.login, session.* or T1000W"}
		}
		if err := checkText(v, maxValueLen); err != nil {
			return &FieldError{at, err.Error()}
		}
		if _, err := CompilePattern(v); err != nil {
			return &FieldError{at, fmt.Sprintf("%q is no pattern: %v", clip(v), err)}
		}
	}
	return nil
}
