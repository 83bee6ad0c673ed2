package seal

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// Limits of a secret file. 32 bytes is the strength of everything derived.
const (
	minSecretBytes = 32
	maxSecretBytes = 1024
	maxSecretLines = 16
	maxSecretFile  = 64 << 10
	maxKeyIDLen    = 32
)

// Labels of keys that are derived from the cluster secret. Each use has its
// own, so that no derived key tells anything of another.
const (
	LabelGossip = "gossip"
	LabelPeerCA = "peer-ca"
	LabelKEK    = "kek"
)

// Secret is the cluster secret: what replicas share before they ever met. The
// first line signs and seals, all lines are accepted, so that it can rotate.
type Secret struct{ lines []secretLine }

type secretLine struct {
	id  string
	key []byte
}

// ParseSecret reads lines of the form id:base64 with at least 32 bytes each.
// Empty lines and lines that begin with # are left out. Errors name the line
// and never its content.
func ParseSecret(text []byte) (*Secret, error) {
	if len(text) > maxSecretFile {
		return nil, api.Errorf(api.CodeInvalid, "cluster secret: larger than %d bytes", maxSecretFile)
	}
	s := &Secret{}
	for n, raw := range bytes.Split(text, []byte("\n")) {
		line := strings.TrimSpace(string(raw))
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		l, err := parseSecretLine(line)
		if err != nil {
			return nil, api.Errorf(api.CodeInvalid, "cluster secret, line %d: %w", n+1, err)
		}
		for _, other := range s.lines {
			if other.id == l.id {
				return nil, api.Errorf(api.CodeInvalid, "cluster secret, line %d: the id %q is taken by an earlier line", n+1, l.id)
			}
		}
		if s.lines = append(s.lines, l); len(s.lines) > maxSecretLines {
			return nil, api.Errorf(api.CodeInvalid, "cluster secret: more than %d lines", maxSecretLines)
		}
	}
	if len(s.lines) == 0 {
		return nil, api.Errorf(api.CodeInvalid, "cluster secret: no line of the form id:base64")
	}
	return s, nil
}

func parseSecretLine(line string) (secretLine, error) {
	id, b64, ok := strings.Cut(line, ":")
	if !ok {
		return secretLine{}, fmt.Errorf("want id:base64, as 'sallyport secret generate' writes it")
	}
	if !validKeyID(id) {
		return secretLine{}, fmt.Errorf("the id must be 1 to %d ASCII letters, digits, dots, dashes or underscores", maxKeyIDLen)
	}
	key, err := decodeBase64(b64)
	if err != nil {
		return secretLine{}, fmt.Errorf("the part after %q is not base64", id+":")
	}
	if len(key) < minSecretBytes || len(key) > maxSecretBytes {
		return secretLine{}, fmt.Errorf("%d bytes, want %d to %d", len(key), minSecretBytes, maxSecretBytes)
	}
	return secretLine{id: id, key: key}, nil
}

// decodeBase64 takes standard base64 with or without padding: people make
// these lines with openssl, Kubernetes and by hand.
func decodeBase64(s string) ([]byte, error) {
	return base64.RawStdEncoding.Strict().DecodeString(strings.TrimRight(strings.TrimSpace(s), "="))
}

// GenerateSecret makes the text of a secret file with one line. It panics if
// rand fails, which crypto/rand.Reader never does.
func GenerateSecret(rand io.Reader) []byte {
	var b [4 + minSecretBytes]byte
	if _, err := io.ReadFull(rand, b[:]); err != nil {
		panic(fmt.Sprintf("seal: no randomness: %v", err))
	}
	return []byte(hex.EncodeToString(b[:4]) + ":" + base64.StdEncoding.EncodeToString(b[4:]) + "\n")
}

// IDs names the lines, active first.
func (s *Secret) IDs() []string {
	ids := make([]string, len(s.lines))
	for i, l := range s.lines {
		ids[i] = l.id
	}
	return ids
}

// Derive gives n bytes for a label (HKDF-SHA256, RFC 5869), one value per line,
// active first. It panics if n is more than HKDF can give (8160), which only a
// programming error asks for.
func (s *Secret) Derive(label string, n int) [][]byte {
	keys := make([][]byte, len(s.lines))
	for i, l := range s.lines {
		key, err := hkdf.Key(sha256.New, l.key, nil, "sallyport/v1/"+label, n)
		if err != nil {
			panic(fmt.Sprintf("seal: derive %s: %v", label, err))
		}
		keys[i] = key
	}
	return keys
}

// String and GoString keep the secret out of logs and %+v.
func (s *Secret) String() string { return "cluster secret (" + strings.Join(s.IDs(), ", ") + ")" }

// GoString is String.
func (s *Secret) GoString() string { return s.String() }

func validKeyID(id string) bool {
	if id == "" || len(id) > maxKeyIDLen {
		return false
	}
	for i := range len(id) {
		c := id[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.') {
			return false
		}
	}
	return true
}
