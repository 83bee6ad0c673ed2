// Package chain is the form of a line of the audit log, as far as somebody needs it
// who only checks the log: how a line names itself and how it is bound to the
// line before. docs/adr/050 says why it is so.
//
// Whoever can write a file can write any line. What this package says about a line
// is therefore worth as much as the hash that it is compared with in the end:
// the cluster's head, or one that an auditor has kept.
package chain

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
)

// Hash is SHA-256; in JSON 64 hexadecimal digits.
type Hash [sha256.Size]byte

func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText implements encoding.TextMarshaler.
func (h Hash) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h[:]), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hash) UnmarshalText(b []byte) error {
	if len(b) != 2*len(h) {
		return fmt.Errorf("a hash has %d digits, not %d", 2*len(h), len(b))
	}
	_, err := hex.Decode(h[:], b)
	return err
}

// Fields with which a line ends.
const (
	FieldReplica = "replica"    // server id of the replica that proposed the event
	FieldIndex   = "raft_index" // the entry that carried it
	FieldNumber  = "number"     // of the line, from 1, without gaps
	FieldHash    = "hash"       // see Link
)

const (
	// MaxEvent bounds an event inside a line. Whoever makes a line of a longer one
	// makes it of something shorter.
	MaxEvent = 64 << 10

	// MaxLine bounds a line without its line feed: an event, the fields with which
	// the line ends, and a server id of 256 characters, each escaped. What is longer
	// is no line of a log, for whoever reads one.
	MaxLine = MaxEvent + 2<<10
)

// Link is the hash of a line that follows one whose hash is prev.
func Link(prev Hash, body []byte) Hash {
	h := sha256.New()
	h.Write(prev[:])
	h.Write(body)
	var sum Hash
	h.Sum(sum[:0])
	return sum
}

// Trailer is what a line says of itself: unchecked.
type Trailer struct {
	Number uint64
	Hash   Hash
	Body   int // length of what the hash covers, beside the hash before
}

// hashTail is how many bytes of a line, without its line feed, follow its body.
const hashTail = len(`,"`+FieldHash+`":"`) + 2*sha256.Size + len(`"}`)

// ParseTrailer reads the end of a line (without its line feed). It looks at the
// form alone: ok says that it is that of a line which Extend (internal/audit) makes.
func ParseTrailer(line []byte) (t Trailer, ok bool) {
	t.Body = len(line) - hashTail
	if t.Body <= 0 || string(line[len(line)-2:]) != `"}` || string(line[t.Body:t.Body+len(`,"`+FieldHash+`":"`)]) != `,"`+FieldHash+`":"` {
		return Trailer{}, false
	}
	digits := line[len(line)-2-2*sha256.Size : len(line)-2]
	lower := byte(0x20) // the bit that digits and small letters have: one form only, because lines are compared byte by byte
	for _, c := range digits {
		lower &= c // no branch: what comes is as random as can be
	}
	if lower == 0 {
		return Trailer{}, false
	}
	if t.Hash.UnmarshalText(digits) != nil {
		return Trailer{}, false
	}
	const label = `,"` + FieldNumber + `":`
	at := t.Body
	for at > 0 && '0' <= line[at-1] && line[at-1] <= '9' {
		at--
	}
	if at < len(label) || string(line[at-len(label):at]) != label {
		return Trailer{}, false
	}
	n, err := strconv.ParseUint(string(line[at:t.Body]), 10, 64)
	if err != nil || n == 0 || line[at] == '0' {
		return Trailer{}, false
	}
	t.Number = n
	return t, true
}
