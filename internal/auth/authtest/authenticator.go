package authtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"testing"

	"github.com/fxamacker/cbor/v2"
)

// Origin is what a browser at PublicAddr says it is.
const Origin = "https://" + ClusterName

// Authenticator is a security key in software: it does what a browser with a key
// does in navigator.credentials.create and get, without attestation. The exported
// fields make it lie.
type Authenticator struct {
	Origin      string // of the page; Origin by default
	RPID        string // "": what the options say
	Counter     uint32 // what the next use says, plus one; 0 with NoCounter
	NoCounter   bool   // says 0 always, as passkeys that are synced do
	CrossOrigin bool   // the page is in another's frame

	credentials []credential
}

const credentialIDBytes = 32

type credential struct {
	id, handle []byte
	key        *ecdsa.PrivateKey
}

// NewAuthenticator makes one without passkeys.
func NewAuthenticator() *Authenticator { return &Authenticator{Origin: Origin} }

// Credential flags: W3C Web Authentication, section 6.1.
const (
	flagPresent  = 0x01
	flagVerified = 0x04
	flagNewKey   = 0x40
)

// Create answers creation options (Offer.WebAuthn) with what the browser's
// credential.toJSON() gives.
func (a *Authenticator) Create(t testing.TB, options json.RawMessage) json.RawMessage {
	t.Helper()
	var o struct {
		RP        struct{ ID string }
		User      struct{ ID string }
		Challenge string
		Exclude   []struct{ ID string } `json:"excludeCredentials"`
	}
	decodeJSON(t, options, &o)
	for _, excluded := range o.Exclude {
		for _, c := range a.credentials {
			if b64(c.id) == excluded.ID {
				t.Fatal("the authenticator is registered already (InvalidStateError)")
			}
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := credential{id: randomBytes(t, credentialIDBytes), handle: unb64(t, o.User.ID), key: key}
	a.credentials = append(a.credentials, c)
	return a.register(t, c, o.RP.ID, o.Challenge)
}

// CreateAgain answers creation options with the passkey it has already, which no
// honest authenticator does.
func (a *Authenticator) CreateAgain(t testing.TB, options json.RawMessage) json.RawMessage {
	t.Helper()
	var o struct {
		RP        struct{ ID string }
		Challenge string
	}
	decodeJSON(t, options, &o)
	return a.register(t, a.credentials[0], o.RP.ID, o.Challenge)
}

func (a *Authenticator) register(t testing.TB, c credential, rpID, challenge string) json.RawMessage {
	t.Helper()
	data := a.authData(rpID, flagPresent|flagVerified|flagNewKey)
	data = append(data, make([]byte, 16)...) // AAGUID: none
	data = binary.BigEndian.AppendUint16(data, credentialIDBytes)
	data = append(data, c.id...)
	data = append(data, coseKey(t, c.key)...)
	object, err := cbor.Marshal(map[string]any{"fmt": "none", "attStmt": map[string]any{}, "authData": data})
	if err != nil {
		t.Fatal(err)
	}
	return a.answer(t, c, map[string]any{
		"clientDataJSON":    b64(a.clientData(t, "webauthn.create", challenge)),
		"attestationObject": b64(object),
		"transports":        []string{"internal"},
	})
}

// Get answers request options (Challenge.WebAuthn) likewise, with a passkey that
// they allow.
func (a *Authenticator) Get(t testing.TB, options json.RawMessage) json.RawMessage {
	t.Helper()
	var o struct {
		RPID      string `json:"rpId"`
		Challenge string
		Allow     []struct{ ID string } `json:"allowCredentials"`
	}
	decodeJSON(t, options, &o)
	for _, allowed := range o.Allow {
		for _, c := range a.credentials {
			if b64(c.id) == allowed.ID {
				return a.assert(t, c, o.RPID, o.Challenge)
			}
		}
	}
	t.Fatal("the authenticator has none of the passkeys that are allowed (NotAllowedError)")
	return nil
}

func (a *Authenticator) assert(t testing.TB, c credential, rpID, challenge string) json.RawMessage {
	t.Helper()
	data := a.authData(rpID, flagPresent|flagVerified)
	client := a.clientData(t, "webauthn.get", challenge)
	sum := sha256.Sum256(client)
	digest := sha256.Sum256(append(append([]byte(nil), data...), sum[:]...))
	signature, err := ecdsa.SignASN1(rand.Reader, c.key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return a.answer(t, c, map[string]any{
		"clientDataJSON":    b64(client),
		"authenticatorData": b64(data),
		"signature":         b64(signature),
		"userHandle":        b64(c.handle),
	})
}

func (a *Authenticator) authData(rpID string, flags byte) []byte {
	if a.RPID != "" {
		rpID = a.RPID
	}
	if !a.NoCounter {
		a.Counter++
	}
	sum := sha256.Sum256([]byte(rpID))
	return binary.BigEndian.AppendUint32(append(sum[:], flags), a.Counter)
}

func (a *Authenticator) clientData(t testing.TB, typ, challenge string) []byte {
	t.Helper()
	return encodeJSON(t, map[string]any{"type": typ, "challenge": challenge, "origin": a.Origin, "crossOrigin": a.CrossOrigin})
}

func (a *Authenticator) answer(t testing.TB, c credential, response map[string]any) json.RawMessage {
	t.Helper()
	return encodeJSON(t, map[string]any{
		"id": b64(c.id), "rawId": b64(c.id), "type": "public-key", "authenticatorAttachment": "platform",
		"response": response, "clientExtensionResults": map[string]any{},
	})
}

// coseKey writes a public key as RFC 9053, section 7.1.1, has it: EC2, ES256, P-256.
func coseKey(t testing.TB, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	point, err := key.PublicKey.Bytes() // 4, x, y
	if err != nil {
		t.Fatal(err)
	}
	b, err := cbor.Marshal(map[int]any{1: 2, 3: -7, -1: 1, -2: point[1:33], -3: point[33:]})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func randomBytes(t testing.TB, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return b
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func unb64(t testing.TB, s string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func encodeJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func decodeJSON(t testing.TB, b []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}
