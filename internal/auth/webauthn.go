package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/webauthn"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// maxWebAuthnAnswer bounds what is parsed of a browser's answer; one with a
// certificate chain is a few KiB.
const maxWebAuthnAnswer = 64 << 10

// webauthnFactor is the stored half of a passkey.
type webauthnFactor struct {
	RPID       string              `json:"rp_id"`
	Credential webauthn.Credential `json:"credential"`
	// Locked is when the counter went back: there may be a copy of the key, so it is
	// worth nothing since.
	Locked time.Time `json:"locked,omitzero"`
}

// challenge is a ceremony under way.
type challenge = webauthn.SessionData

// webauthnUser is a user as the library asks for one.
type webauthnUser struct {
	name        string
	handle      []byte
	credentials []webauthn.Credential
}

func (u webauthnUser) WebAuthnID() []byte                         { return u.handle }
func (u webauthnUser) WebAuthnName() string                       { return u.name }
func (u webauthnUser) WebAuthnDisplayName() string                { return u.name }
func (u webauthnUser) WebAuthnCredentials() []webauthn.Credential { return u.credentials }

// relyingParty is ours under a policy. Browsers leave the port out where it is
// 443, so origins do too.
func (f *Factors) relyingParty(p policy) (*webauthn.WebAuthn, error) {
	origin := "https://" + f.base.publicAddr
	if host, port, err := net.SplitHostPort(f.base.publicAddr); err == nil && port == "443" {
		origin = "https://" + host
	}
	rp, err := webauthn.New(&webauthn.Config{
		RPID: p.rpID, RPDisplayName: f.base.clusterName, RPOrigins: []string{origin},
		AttestationPreference: protocol.PreferNoAttestation,
		AuthenticatorSelection: protocol.AuthenticatorSelection{
			ResidentKey:      protocol.ResidentKeyRequirementPreferred,
			UserVerification: protocol.VerificationPreferred, // the password came first
		},
		// Nothing is decided by extensions, and password managers send some unasked.
		ExtensionsUnsolicitedOutputPolicy: protocol.UnsolicitedOutputPolicyIgnore,
	})
	if err != nil {
		return nil, api.Errorf(api.CodeInternal, "passkeys: %w", err)
	}
	return rp, nil
}

// beginRegistration gives what navigator.credentials.create takes. Passkeys the
// user has are excluded: no device is registered twice.
func beginRegistration(rp *webauthn.WebAuthn, u webauthnUser) (json.RawMessage, *challenge, error) {
	creation, ch, err := rp.BeginRegistration(u, webauthn.WithExclusions(webauthn.Credentials(u.credentials).CredentialDescriptors()))
	if err != nil {
		return nil, nil, fmt.Errorf("passkeys: %w", err)
	}
	options, err := json.Marshal(creation.Response)
	return options, ch, err
}

// finishRegistration checks the answer to it.
func finishRegistration(rp *webauthn.WebAuthn, u webauthnUser, ch challenge, answer []byte) (*webauthn.Credential, error) {
	if len(answer) > maxWebAuthnAnswer {
		return nil, errors.New("the answer is too long")
	}
	parsed, err := protocol.ParseCredentialCreationResponseBytes(answer)
	if err != nil {
		return nil, err
	}
	return rp.CreateCredential(u, ch, parsed)
}

// beginAssertion gives what navigator.credentials.get takes.
func beginAssertion(rp *webauthn.WebAuthn, u webauthnUser) (json.RawMessage, *challenge, error) {
	assertion, ch, err := rp.BeginLogin(u)
	if err != nil {
		return nil, nil, fmt.Errorf("passkeys: %w", err)
	}
	options, err := json.Marshal(assertion.Response)
	return options, ch, err
}

// finishAssertion checks the answer to it. The credential it gives has the new
// counter, or CloneWarning if that went back.
func finishAssertion(rp *webauthn.WebAuthn, u webauthnUser, ch challenge, answer []byte) (*webauthn.Credential, error) {
	if len(answer) > maxWebAuthnAnswer {
		return nil, errors.New("the answer is too long")
	}
	parsed, err := protocol.ParseCredentialRequestResponseBytes(answer)
	if err != nil {
		return nil, err
	}
	// The passkeys that were asked for are those the user had then; one that is gone
	// meanwhile must not spoil the answer of another.
	ch.AllowedCredentialIDs = nil
	for _, c := range u.credentials {
		ch.AllowedCredentialIDs = append(ch.AllowedCredentialIDs, c.ID)
	}
	return rp.ValidateLogin(u, ch, parsed)
}

// libraryError is the library's own account of a refusal, for the debug log: what
// it says may quote the answer, and so is not for people.
func libraryError(err error) string {
	if e, ok := errors.AsType[*protocol.Error](err); ok {
		return e.Type + ": " + e.Details + " " + e.DevInfo
	}
	return err.Error()
}
