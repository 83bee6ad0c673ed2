package auth

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

// Where things are in the store. Names of users and roles hold no slash
// (api.ValidateName), so keys can be built by joining.
const (
	keyDataKey     = "system/data_key"
	keyClusterName = "system/cluster_name"
)

// The collections hold no data: they describe the schema.
var (
	users        = fsm.NewCollection[api.User]("users/")
	roles        = fsm.NewCollection[role]("roles/")
	passwordRecs = fsm.NewCollection[passwordRecord]("passwords/")
	invites      = fsm.NewCollection[inviteRecord]("invites/")   // name: hex SHA-256 of the token
	sessions     = fsm.NewCollection[sessionRecord]("sessions/") // name: user/id
	attempts     = fsm.NewCollection[attemptRecord]("attempts/") // name: hash of user/network
	consoles     = fsm.NewCollection[consoleRecord]("consoles/") // name: id
	knownNets    = fsm.NewCollection[knownRecord]("networks/")   // name: user
	factorRecs   = fsm.NewCollection[factorsRecord]("factors/")  // name: user
	usedStates   = fsm.NewCollection[usedRecord]("used/")        // name: id of the state
	preferences  = fsm.NewCollection[preference]("system/")      // of which it holds keyPreference alone
	authorities  = fsm.NewCollection[authorityRecord]("cas/")
	kubeClusters = fsm.NewCollection[kubeClusterRecord]("kube_clusters/")
	kubeAliases  = fsm.NewCollection[aliasRecord]("kube_aliases/") // name: DNS label
	kubeStatuses = fsm.NewCollection[kubeStatusRecord]("kube_status/")
	tokens       = fsm.NewCollection[tokenRecord]("tokens/") // name: id, or with api.JoinMethodKubernetes its own
	agents       = fsm.NewCollection[agentRecord]("agents/") // name: id
	connectors   = fsm.NewCollection[connectorRecord]("connectors/")
	ssoUsers     = fsm.NewCollection[ssoUserRecord]("sso_users/")       // name: the user's
	ssoSubjects  = fsm.NewCollection[ssoSubjectRecord]("sso_subjects/") // name: see ssoSubject
	ssoTests     = fsm.NewCollection[ssoTestRecord]("sso_tests/")       // name: id
	forwarders   = fsm.NewCollection[forwarderRecord]("audit_forwarders/")
	cursors      = fsm.NewCollection[api.ForwarderCursor]("audit_cursors/") // name: the forwarder's
)

// sessionRecord is a session with what binds it to one life of its user: a user
// who is deleted and made again under the same name gets none of the old
// sessions, even one that was made while the deletion was under way.
type sessionRecord struct {
	api.Session
	UserCreated time.Time `json:"user_created"`
	// PasswordRevision is that of the record of the password that was given: with
	// another one, the session is over. 0: made without a password. The session of an SSO
	// user has noPassword, which is looked at by replicas alone that do not know what else
	// such a session hangs on.
	PasswordRevision uint64 `json:"password_revision,omitempty"`
	// PasswordWithin says that the transaction which wrote this record changed the
	// password: then the revision that counts is this record's own, which nobody could
	// know when it was written. Replicas that do not know the field end the session.
	PasswordWithin bool `json:"password_within,omitempty"`
	// ConnectorCreated binds the session of an SSO user to one life of the connector;
	// UserCreated is that of the ssoUserRecord then.
	ConnectorCreated time.Time `json:"connector_created,omitzero"`
	// IdentityExpires is when the identity provider wants sessions to end; zero: it
	// does not say. A session that is made of this one ends then as well.
	IdentityExpires time.Time `json:"identity_expires,omitzero"`
}

// MarshalJSON stores a signed session as one of Kind cli, which all versions serve: its id
// says that it is signed.
func (s *sessionRecord) MarshalJSON() ([]byte, error) {
	type plain sessionRecord
	stored := plain(*s)
	if stored.Kind == api.SessionSigned {
		stored.Kind = api.SessionCLI
	}
	return json.Marshal(stored)
}

// UnmarshalJSON gives signed sessions their Kind.
func (s *sessionRecord) UnmarshalJSON(b []byte) error {
	type plain sessionRecord
	if err := json.Unmarshal(b, (*plain)(s)); err != nil {
		return err
	}
	if s.Kind == api.SessionCLI && pki.SignedSessionID(s.ID) {
		s.Kind = api.SessionSigned
	}
	return nil
}

// noPassword is a revision that no record ever has; it is whole in any reader of JSON.
const noPassword = 1<<53 - 1

// passwordRevision is that of the password that the session hangs on, 0 for none.
func (s *sessionRecord) passwordRevision(rec *fsm.Record) uint64 {
	switch {
	case s.Connector != "":
		return 0
	case s.PasswordWithin:
		return rec.Revision
	default:
		return s.PasswordRevision
	}
}

// usedRecord says that a sealed state was used.
type usedRecord struct {
	User string `json:"user"`
}

// inviteRecord lets its holder set a password, once. When it is used or
// expired it stays for a while, so that the page can say why not.
type inviteRecord struct {
	User        string    `json:"user"`
	UserCreated time.Time `json:"user_created"`
	Created     time.Time `json:"created"`
	Expires     time.Time `json:"expires"`
	Used        time.Time `json:"used,omitzero"`
	Reset       bool      `json:"reset,omitempty"` // the user had a password before
}

// passwordRecord holds a sealed PHC string.
type passwordRecord struct {
	Sealed  []byte    `json:"sealed"`
	Changed time.Time `json:"changed"`
}

// attemptRecord counts failed logins of one user from one network, or from all.
type attemptRecord struct {
	Failures int       `json:"failures"`
	Last     time.Time `json:"last"`
}

// knownRecord says from which networks a user has logged in lately.
type knownRecord struct {
	Networks map[string]time.Time `json:"networks"` // CIDR: when
}

type aliasRecord struct {
	Name string `json:"name"`
}

// authorityRecord is a certificate authority. The key is sealed for the
// record's key.
type authorityRecord struct {
	ClusterName string   `json:"cluster_name"`
	Cert        string   `json:"cert"` // PEM
	SealedKey   []byte   `json:"sealed_key"`
	Trusted     []string `json:"trusted,omitempty"` // PEM of further generations, during a rotation
	Rotation    string   `json:"rotation"`
}

// document writes a stored document for people: with its revision, and with
// fields that this version does not know.
func document(r *fsm.Record, typed any) (json.RawMessage, error) {
	if typed != nil && api.CheckFields(r.Value, typed) == nil {
		return json.Marshal(typed)
	}
	var doc, metadata map[string]json.RawMessage
	if err := json.Unmarshal(r.Value, &doc); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(doc["metadata"], &metadata); err != nil {
		return nil, err
	}
	revision, err := json.Marshal(r.Revision)
	if err != nil {
		return nil, err
	}
	metadata["revision"] = revision
	if doc["metadata"], err = json.Marshal(metadata); err != nil {
		return nil, err
	}
	return json.Marshal(doc)
}

// readError turns a store error into what a caller may see.
func readError(kind, name string, err error) error {
	if errors.Is(err, fsm.ErrNotFound) {
		return api.Errorf(api.CodeNotFound, "%s %q not found", kind, name)
	}
	return api.Errorf(api.CodeInternal, "%s %q can't be read: %w", kind, name, err)
}

// checkRevision refuses a document that was read before somebody else wrote it.
func checkRevision(kind string, m api.Metadata, have uint64) error {
	if m.Revision != 0 && m.Revision != have {
		return api.Errorf(api.CodeConflict, "%s %q was changed since you read it (revision %d, now %d): get it again", kind, m.Name, m.Revision, have)
	}
	return nil
}
