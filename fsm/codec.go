package fsm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/klauspost/compress/zstd"
)

// The format of a log entry, version 2:
//
//	0  2  magic "SL"
//	2  1  version
//	3  1  compression: 0 none, 1 zstd
//	4  4  CRC-32C of all that follows, big endian
//	8     CBOR (RFC 8949) of entryBody, perhaps compressed
//
// The items inside are byte strings of CBOR of their own, so that an item keeps
// the bytes its writer gave it. Maps have integer keys: short, and a field that
// a version does not know is an error there instead of a silent difference.
const (
	entryMagic      = "SL"
	entryVersion    = 2
	entryHeaderSize = 8

	compressNone = 0
	compressZstd = 1

	// maxEntrySize bounds the body of an entry before compression. It leaves
	// room for a group that one last large item overshoots.
	maxEntrySize = 2 << 20

	// compressAbove: below this size zstd's own framing eats what it saves.
	compressAbove = 512
)

// ErrUndecodable marks an entry that this node cannot apply. Going on without it
// would let the node's state differ from the others' in silence, so it must stop.
var ErrUndecodable = errors.New("this node must be upgraded to the version of the other replicas before it can go on" +
	" (if it has that version, its log is damaged: empty its data directory and let it join again)")

// An ItemError says which item EncodeEntry refused. The others are not at fault
// and can be proposed without it.
type ItemError struct {
	Index int
	Err   error
}

func (e *ItemError) Error() string { return fmt.Sprintf("item %d: %v", e.Index, e.Err) }
func (e *ItemError) Unwrap() error { return e.Err }

// Item returns the position of the refused item; it lets callers that know
// nothing of this package ask for it through an interface.
func (e *ItemError) Item() int { return e.Index }

// An Entry is a decoded log entry.
type Entry struct {
	Time  time.Time // the leader's clock when it proposed
	Items []Item
}

type entryBody struct {
	Time  int64    `cbor:"1,keyasint"`
	Items [][]byte `cbor:"2,keyasint,omitempty"`
}

// wire is how bytes are made and read. It is immutable and safe for concurrent
// use.
var wire = newWireFormat()

type wireFormat struct {
	enc        cbor.UserBufferEncMode
	dec        cbor.DecMode
	compress   *zstd.Encoder
	decompress *zstd.Decoder
	checksum   *crc32.Table
}

func newWireFormat() wireFormat {
	enc, err := cbor.EncOptions{
		IndefLength: cbor.IndefLengthForbidden,
		TagsMd:      cbor.TagsForbidden,
	}.UserBufferEncMode()
	must(err)
	dec, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		MaxNestedLevels:   8,
		MaxArrayElements:  maxListLength,
		MaxMapPairs:       16,
	}.DecMode()
	must(err)
	// EncodeAll and DecodeAll run in the caller's goroutine.
	compress, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false))
	must(err)
	// The encoder makes its channels at first use. Were that inside a synctest
	// bubble, every use outside it would panic.
	compress.EncodeAll([]byte{0}, nil)
	decompress, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxEntrySize))
	must(err)
	return wireFormat{enc, dec, compress, decompress, crc32.MakeTable(crc32.Castagnoli)}
}

// must is for options fixed at compile time.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// EncodeItem validates an item and gives it the form in which it is proposed.
func EncodeItem(it Item) ([]byte, error) {
	if err := it.validate(); err != nil {
		return nil, err
	}
	b, err := wire.enc.Marshal(it)
	if err != nil {
		return nil, fmt.Errorf("encode transaction: %w", err)
	}
	if len(b) > MaxItemSize {
		return nil, fmt.Errorf("transaction has %d bytes, at most %d (1 MiB) are allowed: split it or store less per record",
			len(b), MaxItemSize)
	}
	return b, nil
}

func decodeItem(b []byte) (Item, error) {
	var it Item
	if len(b) > MaxItemSize {
		return it, fmt.Errorf("%d bytes, at most %d are allowed", len(b), MaxItemSize)
	}
	if err := wire.dec.Unmarshal(b, &it); err != nil {
		return it, err
	}
	return it, it.validate()
}

// EncodeEntry makes one log entry of encoded items, stamped with the leader's
// time. No items at all is a valid entry: it moves state time and sweeps.
//
// Each item is decoded once more, because the leader is the last to be able to
// refuse: an item that cannot be decoded would stop every replica. That error is
// an *[ItemError].
func EncodeEntry(now time.Time, items [][]byte) ([]byte, error) {
	if now.UnixNano() <= 0 || !fromNanos(now.UnixNano()).Equal(now) {
		return nil, fmt.Errorf("entry time %s is out of range: set this machine's clock", now)
	}
	if len(items) > maxListLength {
		return nil, fmt.Errorf("%d items in an entry, at most %d are allowed", len(items), maxListLength)
	}
	for i, item := range items {
		if _, err := decodeItem(item); err != nil {
			return nil, &ItemError{Index: i, Err: err}
		}
	}
	body, err := wire.enc.Marshal(entryBody{Time: now.UnixNano(), Items: items})
	if err != nil {
		return nil, fmt.Errorf("encode entry: %w", err)
	}
	if len(body) > maxEntrySize {
		return nil, fmt.Errorf("entry has %d bytes, at most %d are allowed: group fewer items", len(body), maxEntrySize)
	}

	out := make([]byte, entryHeaderSize, entryHeaderSize+len(body))
	copy(out, entryMagic)
	out[2], out[3] = entryVersion, compressNone
	if len(body) > compressAbove {
		packed := wire.compress.EncodeAll(body, out)
		if len(packed)-entryHeaderSize < len(body)-len(body)/8 {
			out, body = packed, nil
			out[3] = compressZstd
		}
	}
	out = append(out, body...)
	binary.BigEndian.PutUint32(out[4:], crc32.Checksum(out[entryHeaderSize:], wire.checksum))
	return out, nil
}

// DecodeEntry is strict: an unknown version, compression or field, a damaged or
// a superfluous byte is an error that wraps [ErrUndecodable]. The result shares
// no memory with the input.
func DecodeEntry(b []byte) (Entry, error) {
	entry, err := decodeEntry(b)
	if err != nil {
		return Entry{}, fmt.Errorf("undecodable: %w: %w", err, ErrUndecodable)
	}
	return entry, nil
}

func decodeEntry(b []byte) (Entry, error) {
	if len(b) < entryHeaderSize || string(b[:2]) != entryMagic {
		return Entry{}, errors.New("not an entry of this store")
	}
	if b[2] != entryVersion {
		return Entry{}, fmt.Errorf("format version %d is unknown here", b[2])
	}
	body := b[entryHeaderSize:]
	if crc32.Checksum(body, wire.checksum) != binary.BigEndian.Uint32(b[4:]) {
		return Entry{}, errors.New("checksum does not match")
	}
	switch b[3] {
	case compressNone:
	case compressZstd:
		var err error
		if body, err = wire.decompress.DecodeAll(body, nil); err != nil {
			return Entry{}, fmt.Errorf("decompress: %w", err)
		}
	default:
		return Entry{}, fmt.Errorf("compression %d is unknown here", b[3])
	}
	return decodeBody(body)
}

func decodeBody(b []byte) (Entry, error) {
	if len(b) > maxEntrySize {
		return Entry{}, fmt.Errorf("%d bytes, at most %d are allowed", len(b), maxEntrySize)
	}
	var body entryBody
	if err := wire.dec.Unmarshal(b, &body); err != nil {
		return Entry{}, err
	}
	if body.Time <= 0 {
		return Entry{}, errors.New("entry without a time")
	}
	entry := Entry{Time: fromNanos(body.Time), Items: make([]Item, len(body.Items))}
	for i, item := range body.Items {
		var err error
		if entry.Items[i], err = decodeItem(item); err != nil {
			return Entry{}, &ItemError{Index: i, Err: err}
		}
	}
	return entry, nil
}

// A result is one byte that says what kind it is, and what belongs to that kind.
// Success has a byte of its own: an answer that got lost must not look like it.
const (
	resultOK       = 0
	resultConflict = 1
)

func encodeResult(conflict *ConflictError) []byte {
	if conflict == nil {
		return []byte{resultOK}
	}
	b, err := wire.enc.Marshal(conflict)
	must(err) // a string and two integers
	return append([]byte{resultConflict}, b...)
}

// DecodeResult reads what Apply answered for an item: nil if it was applied, a
// *[ConflictError] if one of its checks failed.
func DecodeResult(b []byte) error {
	switch {
	case len(b) == 0:
		return errors.New("empty result: whether the transaction was applied is unknown")
	case b[0] == resultOK && len(b) == 1:
		return nil
	case b[0] == resultConflict:
		var conflict ConflictError
		if err := wire.dec.Unmarshal(b[1:], &conflict); err != nil {
			return fmt.Errorf("decode result: %w", err)
		}
		return &conflict
	default:
		return fmt.Errorf("result of unknown kind %d: this node must be upgraded", b[0])
	}
}
