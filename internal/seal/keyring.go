package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

const (
	dataKeySize   = 32 // AES-256
	nonceSize     = 12
	tagSize       = 16
	sealedVersion = 1
	wrapVersion   = 1
)

// UnknownKeyError says that state is sealed under a line of the cluster secret
// which this replica's file does not hold.
type UnknownKeyError struct {
	Want string   // the id that the state names
	Have []string // the ids of the file
}

func (e *UnknownKeyError) Error() string {
	return fmt.Sprintf("the state is sealed under the cluster secret's key %q, and the secret file holds only %s: add the line with that id",
		e.Want, strings.Join(e.Have, ", "))
}

// ErrOpen is the error (wrapped) of a value that its key does not open: it was
// altered, moved from another record, or sealed under other bytes of the same id.
var ErrOpen = errors.New("the sealed value does not open")

// Keyring seals and opens values under data keys. It is safe for concurrent use.
type Keyring struct {
	rand   io.Reader
	active string
	keys   map[string][]byte
	aeads  map[string]cipher.AEAD
}

// keyringDoc is the plaintext inside the wrapped record: a list, so that the
// data key itself can be rotated without another format.
type keyringDoc struct {
	Active string            `json:"active"`
	Keys   map[string][]byte `json:"keys"`
}

// wrappedDoc is the record system/data_key.
type wrappedDoc struct {
	Version int    `json:"version"`
	KEK     string `json:"kek"` // id of the cluster secret's line
	Sealed  []byte `json:"sealed"`
}

// NewKeyring makes a keyring with one random data key. rand also gives the
// nonces of everything sealed later.
func NewKeyring(rand io.Reader) (*Keyring, error) {
	var b [4 + dataKeySize]byte
	if _, err := io.ReadFull(rand, b[:]); err != nil {
		return nil, fmt.Errorf("make a data key: %w", err)
	}
	id := hex.EncodeToString(b[:4])
	return newKeyring(rand, keyringDoc{Active: id, Keys: map[string][]byte{id: b[4:]}})
}

func newKeyring(rand io.Reader, doc keyringDoc) (*Keyring, error) {
	k := &Keyring{rand: rand, active: doc.Active, keys: doc.Keys, aeads: map[string]cipher.AEAD{}}
	for id, key := range doc.Keys {
		if !validKeyID(id) || len(key) != dataKeySize {
			return nil, fmt.Errorf("data key %q: malformed", id)
		}
		aead, err := newAEAD(key)
		if err != nil {
			return nil, err
		}
		k.aeads[id] = aead
	}
	if k.aeads[k.active] == nil {
		return nil, fmt.Errorf("data key %q is active and missing", k.active)
	}
	return k, nil
}

// Wrap gives the record that holds the keyring, wrapped under the active line
// of the cluster secret.
func (k *Keyring) Wrap(s *Secret) ([]byte, error) {
	plain, err := json.Marshal(keyringDoc{Active: k.active, Keys: k.keys})
	if err != nil {
		return nil, fmt.Errorf("wrap the data key: %w", err)
	}
	kek, err := newAEAD(s.Derive(LabelKEK, dataKeySize)[0])
	if err != nil {
		return nil, err
	}
	id := s.lines[0].id
	sealed, err := sealWith(kek, k.rand, wrapAAD(id), plain)
	if err != nil {
		return nil, err
	}
	return json.Marshal(wrappedDoc{Version: wrapVersion, KEK: id, Sealed: sealed})
}

// Unwrap opens what Wrap gave. An *UnknownKeyError says which line the secret
// lacks.
func Unwrap(s *Secret, wrapped []byte, rand io.Reader) (*Keyring, error) {
	doc, err := parseWrapped(wrapped)
	if err != nil {
		return nil, err
	}
	i := slices.Index(s.IDs(), doc.KEK)
	if i < 0 {
		return nil, &UnknownKeyError{Want: doc.KEK, Have: s.IDs()}
	}
	kek, err := newAEAD(s.Derive(LabelKEK, dataKeySize)[i])
	if err != nil {
		return nil, err
	}
	plain, err := openWith(kek, wrapAAD(doc.KEK), doc.Sealed)
	if err != nil {
		return nil, fmt.Errorf("data key: the cluster secret's line %q is not the one that sealed this state: %w", doc.KEK, err)
	}
	var ring keyringDoc
	if err := json.Unmarshal(plain, &ring); err != nil {
		return nil, fmt.Errorf("data key: %w", err)
	}
	return newKeyring(rand, ring)
}

// NeedsRewrap reports whether a wrapped keyring names another line than the
// secret's active one: the secret was rotated, and the leader rewraps the record.
func NeedsRewrap(s *Secret, wrapped []byte) (bool, error) {
	doc, err := parseWrapped(wrapped)
	return err == nil && doc.KEK != s.lines[0].id, err
}

func parseWrapped(wrapped []byte) (wrappedDoc, error) {
	var doc wrappedDoc
	if err := json.Unmarshal(wrapped, &doc); err != nil {
		return doc, fmt.Errorf("data key: %w", err)
	}
	if doc.Version != wrapVersion {
		return doc, fmt.Errorf("data key: format %d is not known to this version", doc.Version)
	}
	return doc, nil
}

func wrapAAD(id string) []byte { return []byte("sallyport/v1/data_key/" + id) }

// Seal encrypts a value for one record. The result names its data key; the
// record's key is authenticated with it, so it opens nowhere else.
// Layout: version (1 byte), length of id (1 byte), id, nonce, ciphertext.
func (k *Keyring) Seal(recordKey string, plaintext []byte) ([]byte, error) {
	box, err := sealWith(k.aeads[k.active], k.rand, []byte(recordKey), plaintext)
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", recordKey, err)
	}
	out := append([]byte{sealedVersion, byte(len(k.active))}, k.active...) //nolint:gosec // at most maxKeyIDLen
	return append(out, box...), nil
}

// Open decrypts what Seal gave for the same record.
func (k *Keyring) Open(recordKey string, sealed []byte) ([]byte, error) {
	if len(sealed) < 2 || sealed[0] != sealedVersion || len(sealed) < 2+int(sealed[1]) {
		return nil, fmt.Errorf("open %s: malformed: %w", recordKey, ErrOpen)
	}
	end := 2 + int(sealed[1])
	id, box := string(sealed[2:end]), sealed[end:]
	aead, ok := k.aeads[id]
	if !ok {
		return nil, fmt.Errorf("open %s: sealed under data key %q, which the keyring does not hold: %w", recordKey, id, ErrOpen)
	}
	plain, err := openWith(aead, []byte(recordKey), box)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", recordKey, err)
	}
	return plain, nil
}

// String and GoString keep keys out of logs and %+v.
func (k *Keyring) String() string { return "keyring (active " + k.active + ")" }

// GoString is String.
func (k *Keyring) GoString() string { return k.String() }

func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// sealWith uses random 96-bit nonces: safe up to 2^32 values a key (NIST SP
// 800-38D), far above what a store of passwords and CA keys writes.
func sealWith(aead cipher.AEAD, rand io.Reader, aad, plain []byte) ([]byte, error) {
	box := make([]byte, nonceSize, nonceSize+len(plain)+tagSize)
	if _, err := io.ReadFull(rand, box); err != nil {
		return nil, fmt.Errorf("make a nonce: %w", err)
	}
	return aead.Seal(box, box, plain, aad), nil
}

func openWith(aead cipher.AEAD, aad, box []byte) ([]byte, error) {
	if len(box) < nonceSize+tagSize {
		return nil, fmt.Errorf("%d bytes are too few: %w", len(box), ErrOpen)
	}
	plain, err := aead.Open(nil, box[:nonceSize], box[nonceSize:], aad)
	if err != nil {
		return nil, ErrOpen
	}
	return plain, nil
}
