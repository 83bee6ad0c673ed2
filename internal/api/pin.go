package api

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"strings"
)

// Pin names a CA by its key: sha256: and the hex digest of the SubjectPublicKeyInfo
// (what RFC 7469 hashes), so it outlives a renewal of the certificate.
func Pin(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// ParsePin reads a pin as people copy it, and gives the one spelling that Pin uses.
func ParsePin(s string) (string, error) {
	digest, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(s)), "sha256:")
	if b, err := hex.DecodeString(digest); !ok || err != nil || len(b) != sha256.Size {
		return "", Errorf(CodeInvalid, "%q is no pin: it is sha256: and 64 hex digits, as 'tctl status' prints it", s)
	}
	return "sha256:" + digest, nil
}
