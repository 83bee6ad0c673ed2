package sso

import (
	"context"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// MaxSkew is by how much the clocks of an identity provider and of a replica may
// differ. What is beyond is refused by a message that names the clocks.
const MaxSkew = 3 * time.Minute

// Provider is a connector that is ready to speak with its identity provider. It
// holds no state of logins: whatever Finish needs is in the Flow, which Start got
// too. Safe for concurrent use.
//
// Errors are *api.Error: CodeUnavailable where the identity provider does not
// answer, or not as it should; CodeForbidden where it, or the person there, said
// no; CodeUnauthenticated where the answer proves nothing. Their messages are for
// the person who logs in and for the audit log: they hold no code, token or key.
//
// How long all of a call may take is its context's to say.
type Provider interface {
	// Check asks whether the identity provider answers, before anybody is sent there.
	Check(ctx context.Context) error
	// Start is the address at the identity provider to send the browser to.
	Start(ctx context.Context, f *Flow) (address string, err error)
	// Finish judges what the browser brought back: the parameters of the query, or of
	// the form that was posted. An identity that belongs to no mapping is no error here.
	Finish(ctx context.Context, f *Flow, answer url.Values) (*api.SSOIdentity, error)
}

// Flow is one login at an identity provider, from Start to Finish. The browser
// keeps it, sealed by the cluster, so that only the browser that began a login can
// finish it, on any replica.
type Flow struct {
	ID       string    `json:"id"`       // OAuth state, SAML RelayState, and with RequestID's underscore the id of the AuthnRequest
	Nonce    string    `json:"nonce"`    // OpenID Connect Core 1.0, section 3.1.2.1
	Verifier string    `json:"verifier"` // RFC 7636, section 4.1
	Started  time.Time `json:"started"`
}

// flowBytes is how random ids, nonces and verifiers are; they are written in hex.
const flowBytes = 32

// NewFlow begins a login.
func NewFlow(rand io.Reader, now time.Time) (*Flow, error) {
	var b [3][flowBytes]byte
	for i := range b {
		if _, err := io.ReadFull(rand, b[i][:]); err != nil {
			return nil, fmt.Errorf("no randomness for a login: %w", err)
		}
	}
	return &Flow{
		ID: hex.EncodeToString(b[0][:]), Nonce: hex.EncodeToString(b[1][:]), Verifier: hex.EncodeToString(b[2][:]), Started: now,
	}, nil
}

// RequestID is the ID of the flow's AuthnRequest: an NCName, so it begins with an
// underscore (SAML 2.0 Core, section 1.3.4).
func (f *Flow) RequestID() string { return "_" + f.ID }

// CheckAnswer settles to which login an answer of OAuth 2.0 belongs and who gave it,
// before anything of it is believed, its errors too. Where the answer names an issuer
// (RFC 9207) is says whether that is asked, the one whom the browser was sent to.
func (f *Flow) CheckAnswer(answer url.Values, asked string, is func(issuer string) bool) error {
	for _, name := range []string{"state", "iss", "code", "error", "error_description"} {
		if len(answer[name]) > 1 { // RFC 6749, section 3.1
			return api.Errorf(api.CodeUnauthenticated, "the answer of the identity provider has %q twice; log in again", name)
		}
	}
	if f.ID == "" || subtle.ConstantTimeCompare([]byte(answer.Get("state")), []byte(f.ID)) != 1 {
		return api.Errorf(api.CodeUnauthenticated, "the answer belongs to another login (state); log in again, in one browser")
	}
	if issuer, named := answer["iss"]; named && !is(issuer[0]) {
		return api.Errorf(api.CodeUnauthenticated,
			"the answer says that it is from %q, and %q was asked: somebody may be mixing up logins (RFC 9207); log in again, and tell your administrator if it comes back",
			api.CleanText(issuer[0], maxQuoted), asked)
	}
	return nil
}

// maxQuoted bounds what a message takes of a stranger's words, in bytes.
const maxQuoted = 200
