package api

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"
	"time"
)

// The HTTP interface. Public (web name, no certificate): /webapi/…, also under
// /v1. Authenticated: /v1/… on the unix socket (as the machine's admin) and on
// the name api.<clusterName> (as the user of the client certificate). Bodies
// are JSON, byte fields base64; failures are WriteError's.
const (
	PathPing      = "/webapi/ping"      // GET[/CONNECTOR]: Ping
	PathFind      = "/webapi/find"      // GET: Ping
	PathLogin     = "/webapi/ssh/certs" // POST LoginRequest: LoginResponse
	PathStatus    = "/v1/status"        // GET: Status
	PathUsers     = "/v1/users"         // POST AddUserRequest: AddUserResponse
	PathResources = "/v1/resources"     // PUT document[?force=true]: PutResponse; GET /KIND[/NAME][?secrets=true]: ListResponse; DELETE /KIND/NAME
	PathBackup    = "/v1/backup"        // GET: the snapshot, application/octet-stream
	PathRecover   = "/v1/recover"       // POST RecoverRequest: RecoverResponse (unix socket only)
	PathKube      = "/v1/kube/clusters" // GET: KubeClusters
	PathSession   = "/v1/session"       // GET: Session; DELETE ends it (tsh logout)
	PathCAs       = "/v1/authorities"   // GET: Authorities
	PathSessions  = "/v1/sessions"      // GET[?user=NAME]: Sessions, without a user all that one may see; DELETE /USER/ID ends one
	PathReset     = "/v1/users/reset"   // POST ResetUserRequest: ResetUserResponse
	PathSign      = "/v1/auth/sign"     // POST SignRequest: LoginResponse

	PathAudit       = "/v1/audit/events" // GET ?AuditQuery: AuditPage
	PathAuditVerify = "/v1/audit/verify" // POST ?server=ID, none: the replica asked, "all": every one: lines of AuditVerified, the last of each replica is Done
	PathAuditExport = "/v1/audit/export" // GET ?from=&to= (numbers, both inclusive, may be left out): the lines as they are, application/x-ndjson

	PathTokens = "/v1/tokens" // POST AddTokenRequest: AddTokenResponse; documents of tokens are at PathResources
	PathAgents = "/v1/agents" // GET: Agents; DELETE /ID removes one, which then must join anew

	PathJoin = "/webapi/host/credentials" // POST JoinRequest: JoinResponse; public

	// A login of tsh that a person approves in a browser. See ConsoleLoginRequest.
	PathConsoleLogin  = "/webapi/local/login/console"  // POST ConsoleLoginRequest: ConsoleLoginResponse
	PathConsoleRedeem = "/webapi/login/console/redeem" // POST ConsoleRedeemRequest: LoginResponse
	PathConsoleWait   = "/webapi/login/console/wait"   // POST ConsoleWaitRequest: ConsoleWaitResponse, after up to 20 s
	PathConsoleCancel = "/webapi/login/console/cancel" // POST ConsoleWaitRequest: nothing

	// Single sign-on: KIND is one of ConnectorKinds. Browsers alone use the second and
	// the callbacks; identity providers know the latter.
	PathSSOConsole     = "/webapi/%s/login/console" // POST ConsoleLoginRequest with ConnectorID: ConsoleLoginResponse
	PathSSOWeb         = "/webapi/%s/login/web"     // GET ?connector_id=NAME[&next=PATH]: a redirect to the identity provider
	PathGithubCallback = "/webapi/github/callback"  // GET
	PathOIDCCallback   = "/webapi/oidc/callback"    // GET
	PathSAMLACS        = "/webapi/saml/acs"         // POST
	PathSAMLMetadata   = "/webapi/saml/metadata"    // GET /NAME: our side's, for the identity provider
	PathSSOUsers       = "/v1/users/sso"            // GET: SSOUsers
	PathSSOTests       = "/v1/sso/tests"            // POST SSOTestRequest: SSOTest; GET /ID: SSOTestResult, after up to 20 s

	MaxRequestBody = 1 << 20 // bytes a server reads of any body here
)

// HeaderUnsettled names, in the answer to a change, the servers that had not
// confirmed it within a second, separated by commas: on them, what the change
// forbids may go on until they do, or until --max-stale.
const HeaderUnsettled = "Sallyport-Unsettled"

// HeaderBackupWarning says what a backup may lack, in a sentence to be shown.
const HeaderBackupWarning = "Sallyport-Backup-Warning"

// Ping tells strangers whom they talk to (as Teleport's /webapi/ping).
type Ping struct {
	ServerVersion    string    `json:"server_version"`
	MinClientVersion string    `json:"min_client_version"`
	ClusterName      string    `json:"cluster_name"`
	Auth             PingAuth  `json:"auth"`
	Proxy            PingProxy `json:"proxy"`
}

// PingAuth says how one can log in.
type PingAuth struct {
	Type  string     `json:"type"` // AuthLocal, or the kind of the connector that is the default
	Local *PingLocal `json:"local,omitempty"`
	// Connector is the default, or the one that PathPing/NAME names; Connectors are all.
	Connector         *PingConnector  `json:"connector,omitempty"`
	Connectors        []PingConnector `json:"connectors,omitempty"`
	SecondFactor      SecondFactor    `json:"second_factor"`
	DefaultSessionTTL Duration        `json:"default_session_ttl"`
	WebAuthn          *PingWebAuthn   `json:"webauthn,omitempty"` // absent where passkeys can't be used
}

// PingLocal names the way to log in with a password.
type PingLocal struct {
	Name string `json:"name"`
}

// PingWebAuthn is what browsers and keys need to know of the relying party.
type PingWebAuthn struct {
	RPID string `json:"rp_id"`
}

// PingProxy says where kubectl goes.
type PingProxy struct {
	Kube struct {
		Enabled    bool   `json:"enabled"`
		PublicAddr string `json:"public_addr"`           // host:port of the shared TLS port
		ListenAddr string `json:"listen_addr,omitempty"` // host:port of the kube-only port (3026), where the path-prefix fallback is served
	} `json:"kube"`
	TLSRoutingEnabled bool `json:"tls_routing_enabled"`
}

// LoginRequest asks for a session of a local user.
type LoginRequest struct {
	User      string        `json:"user"`
	Password  string        `json:"password"`
	OTPToken  string        `json:"otp_token,omitempty"`
	TLSPubKey []byte        `json:"tls_pub_key"`   // PKIX, DER; made on the client, whose private half never leaves it
	TTL       time.Duration `json:"ttl,omitempty"` // nanoseconds; 0: 12 h; bounded by the roles
}

// ConsoleLoginRequest begins a login of a command-line tool in a browser, with
// whatever the web login asks for. The browser hands a code to RedirectURL, on the
// tool's own machine; the tool redeems it with the verifier, and its certificate is
// for the key named here: who sees the address or the code alone gets nothing
// (RFC 8252, RFC 7636). Both sides show MatchCode, so that nobody approves a login
// that somebody else has begun.
type ConsoleLoginRequest struct {
	RedirectURL   string        `json:"redirect_url"`       // http://127.0.0.1:PORT/callback, nothing else; "" with Headless
	TLSPubKey     []byte        `json:"public_key"`         // as in LoginRequest
	CertTTL       time.Duration `json:"cert_ttl,omitempty"` // as LoginRequest's TTL
	User          string        `json:"user,omitempty"`     // who it must be; "": whoever logs in
	CodeChallenge string        `json:"code_challenge"`     // base64url(SHA-256(verifier)), unpadded
	// ConnectorID names the connector by which it must be; "": whatever the login page offers.
	ConnectorID string `json:"connector_id,omitempty"`
	// Headless: there is no browser on the machine of the tool. The person approves it
	// anywhere, by typing MatchCode; then the verifier alone redeems it.
	Headless bool `json:"headless,omitempty"`
	// Device is what the machine calls itself, for the page: a hint that proves nothing.
	Device string `json:"device,omitempty"`
}

// ConsoleLoginResponse names the page to open.
type ConsoleLoginResponse struct {
	ID          string    `json:"id"`
	RedirectURL string    `json:"redirect_url"` // https://…/web/cli/ID
	Expires     time.Time `json:"expires"`
	Warning     string    `json:"warning,omitempty"` // a sentence, such as that the identity provider seems to be down
}

// ConsoleWaitRequest asks, with the verifier as the proof of who began the login,
// what has become of it, or ends it.
type ConsoleWaitRequest struct {
	ID           string `json:"id"`
	CodeVerifier string `json:"code_verifier"`
}

// ConsoleWaitResponse says what has become of a login. An error of the call says nothing
// of the login, but that it is not known any more, or not the caller's (CodeNotFound,
// CodeUnauthenticated).
type ConsoleWaitResponse struct {
	State string `json:"state"` // ConsolePending, ConsoleApproved, ConsoleFailed
	// Code and Message are why it failed: CodeForbidden where a person refused it.
	Code    Code   `json:"code,omitempty"`
	Message string `json:"message,omitempty"`
}

// States of a console login.
const (
	ConsolePending  = "pending"
	ConsoleApproved = "approved"
	ConsoleFailed   = "failed" // it is over
)

// ConsoleRedeemRequest fetches the certificate, once. Code is what the browser
// brought to the callback as ?code=…; a refusal comes as ?error=….
type ConsoleRedeemRequest struct {
	ID           string `json:"id"`
	Code         string `json:"code,omitempty"` // none for a headless login
	CodeVerifier string `json:"code_verifier"`  // 43 to 128 characters (RFC 7636, section 4.1)
}

// MatchCode is the short name of a public key that the terminal and the page of
// a console login both show, such as 3F7A-09C2.
func MatchCode(publicKey []byte) string {
	sum := sha256.Sum256(publicKey)
	s := strings.ToUpper(hex.EncodeToString(sum[:4]))
	return s[:4] + "-" + s[4:]
}

// LoginResponse is a session's certificate and whom to trust with it.
type LoginResponse struct {
	Username    string       `json:"username"`
	Connector   string       `json:"connector,omitempty"` // "": a local user
	TLSCert     []byte       `json:"tls_cert"`            // PEM
	HostSigners []HostSigner `json:"host_signers"`
	ClusterName string       `json:"cluster_name"`
	SessionID   string       `json:"session_id"`
	Expires     time.Time    `json:"expires"`
	Roles       []string     `json:"roles"`
	KubeGroups  []string     `json:"kubernetes_groups"`
	KubeUsers   []string     `json:"kubernetes_users"`
}

// HostSigner is a host CA: it signs what the replicas show on kube and api names.
type HostSigner struct {
	DomainName string   `json:"domain_name"`
	TLSCerts   [][]byte `json:"tls_certs"` // PEM
}

// AddUserRequest creates a user who has no password yet.
type AddUserRequest struct {
	User      User     `json:"user"`
	InviteTTL Duration `json:"invite_ttl,omitzero"` // zero: 1 h; at most 48 h
}

// AddUserResponse holds the link by which the user sets a password, once.
type AddUserResponse struct {
	User      User      `json:"user"`
	InviteURL string    `json:"invite_url"`
	Expires   time.Time `json:"expires"`
	TTL       Duration  `json:"ttl"`
	Proxy     string    `json:"proxy"` // host:port the link leads to
}

// ResetUserRequest takes a user's password, second factors and sessions away.
type ResetUserRequest struct {
	User string   `json:"user"`
	TTL  Duration `json:"ttl,omitzero"` // of the link; zero: 8 h; at most 24 h
}

// ResetUserResponse holds the link by which the user sets them anew, once.
type ResetUserResponse struct {
	User     string    `json:"user"`
	ResetURL string    `json:"reset_url"`
	Expires  time.Time `json:"expires"`
	TTL      Duration  `json:"ttl"`
	Proxy    string    `json:"proxy"` // host:port the link leads to
}

// Sessions are those that live, oldest first.
type Sessions struct {
	Sessions []Session `json:"sessions"`
}

// PutResponse says what became of a document.
type PutResponse struct {
	Kind      string `json:"kind"`
	Name      string `json:"name"`
	Created   bool   `json:"created"`             // false: replaced
	Unchanged bool   `json:"unchanged,omitempty"` // it was so already: nothing was written
	Revision  uint64 `json:"revision"`
	// Warnings are sentences about what was done and may not have been meant.
	Warnings []string `json:"warnings,omitempty"`
}

// ListResponse holds documents of one kind.
type ListResponse struct {
	Items []json.RawMessage `json:"items"`
}

// KubeClusters are the clusters that a user may reach.
type KubeClusters struct {
	Clusters []KubeCluster `json:"clusters"`
}

// RecoverRequest makes the asked replica the sole voter of a new cluster.
// ClusterID must be the present one: whoever types it has read Status.
type RecoverRequest struct {
	ClusterID string `json:"cluster_id"`
}

// RecoverResponse names what recovery made.
type RecoverResponse struct {
	ClusterID  string `json:"cluster_id"`
	BackupFile string `json:"backup_file"`
	LastIndex  uint64 `json:"last_index"`
}

// Status is what one replica knows of the cluster.
type Status struct {
	ClusterName string    `json:"cluster_name"`
	ClusterID   string    `json:"cluster_id"`
	Version     string    `json:"version"`
	ServerID    string    `json:"server_id"`
	State       string    `json:"state"` // leader, follower, candidate, starting, fenced
	LeaderID    string    `json:"leader_id,omitempty"`
	Ready       bool      `json:"ready"`
	Reason      string    `json:"reason,omitempty"` // why not ready, or what is wrong
	Term        uint64    `json:"term"`
	CommitIndex uint64    `json:"commit_index"`
	AppliedIdx  uint64    `json:"applied_index"`
	Staleness   Duration  `json:"staleness"` // since the last contact with a leader
	MaxStale    Duration  `json:"max_stale"` // as --max-stale has it, 0 if strict
	ClockOffset Duration  `json:"clock_offset"`
	ClockSplit  Duration  `json:"clock_split,omitempty"` // half of the clocks differ by it from the others: nobody can tell which are wrong
	Servers     []Server  `json:"servers"`
	CAs         []CAState `json:"cas"`

	Audit *AuditStatus `json:"audit,omitempty"` // nil: of a replica that is older

	Certificate  *WebCertificate  `json:"certificate,omitempty"`  // nil: of a replica that is older
	Certificates []WebCertificate `json:"certificates,omitempty"` // by ACME, one for each name; the first is Certificate
}

// Server is a member of the Raft configuration.
type Server struct {
	ID      string `json:"id"`
	Addr    string `json:"addr"`
	Voter   bool   `json:"voter"`
	Leader  bool   `json:"leader"`
	Alive   bool   `json:"alive"`
	Version string `json:"version,omitempty"`
}

// Authorities are the certificates (PEM) of the cluster's CAs, the active ones first.
type Authorities struct {
	Host  [][]byte `json:"host"`
	User  [][]byte `json:"user"`
	Agent [][]byte `json:"agent,omitempty"` // none as long as an older version leads
}

// RotationStandby is the state of a CA that signs and isn't being replaced.
const RotationStandby = "standby"

// CAState is a certificate authority and the pin that names it.
type CAState struct {
	Type     string    `json:"type"`
	Pin      string    `json:"pin"`      // sha256:… of the SubjectPublicKeyInfo (RFC 7469)
	Rotation string    `json:"rotation"` // RotationStandby, or the phase of a rotation under way
	Expires  time.Time `json:"expires"`
}
