package api

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// tokenIDLen is how long a token's id is, in hex digits.
const tokenIDLen = 16

// TokenID is how a token of JoinMethodToken is called where it may be seen: the
// first 16 hex digits of its SHA-256. It says nothing about the token.
func TokenID(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])[:tokenIDLen]
}

// IsTokenID reports whether a name looks like one that TokenID makes.
func IsTokenID(name string) bool { return isLowerHex(name, tokenIDLen) }

func isLowerHex(s string, length int) bool {
	return len(s) == length && strings.Trim(s, "0123456789abcdef") == ""
}
