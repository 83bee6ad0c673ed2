package audit

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/sallyport-dev/sallyport/internal/audit/chain"
)

// What the replicas must agree on about the journal stands in the replicated
// store, under these keys: never the text of an event.
const (
	KeyHead     = "audit/head"      // Head
	KeyLimits   = "audit/limits"    // Limits, written by a duty of the leader
	KeySegments = "audit/segments/" // + SegmentKey: Segment, one for each sealed segment that is kept
	KeyFloor    = "audit/floor"     // Floor: what is before it nobody has any more
	keySeen     = "audit/seen/"     // + epoch: the number of the last event that was taken
)

// formatVersion is that of lines and chain. Both are part of the log's format:
// replicas that made other lines of the same entry would have other hashes.
const formatVersion = 1

// defaultSegmentBytes is when a segment is sealed unless Limits say otherwise.
const defaultSegmentBytes = 64 << 20

// seenFor is how long the numbers of a sender that has fallen silent are
// remembered: longer than a replica may be off with a spool in which lines wait
// that were committed without its knowing. One record is one start of a process.
const seenFor = 400 * 24 * time.Hour

// maxOrigin is how long a server id can be in a line: see chain.MaxLine.
const maxOrigin = 256

// Head is the end of the chain.
type Head struct {
	Format int        `json:"format"`
	Number uint64     `json:"number"` // of the last line; the first one's is 1, 0 means that there is none
	Hash   chain.Hash `json:"hash"`   // of the last line

	// The segment that is being written, events.log.
	First  uint64     `json:"first"`           // number of its first line, Number+1 if it has none yet
	Prev   chain.Hash `json:"prev"`            // hash of the line before it
	Bytes  int64      `json:"bytes,omitempty"` // of its lines, without the copies at the file's beginning
	Opened time.Time  `json:"opened,omitzero"` // state time at its first line
}

// Segment is a sealed part of the journal. Hash, which covers each of its lines
// and all before them, is its name among replicas.
type Segment struct {
	First  uint64     `json:"first"`
	Last   uint64     `json:"last"`
	Prev   chain.Hash `json:"prev"` // of line First-1
	Hash   chain.Hash `json:"hash"` // of line Last
	Bytes  int64      `json:"bytes"`
	Opened time.Time  `json:"opened"` // state time at its first line
	Sealed time.Time  `json:"sealed"` // state time when it was sealed
}

// SegmentKey is where a segment's record stands.
func SegmentKey(first uint64) string { return fmt.Sprintf("%s%020d", KeySegments, first) }

// Floor is where the log begins after a loss: a cluster that was restored from a
// backup has no lines before it.
type Floor struct {
	First uint64     `json:"first"` // number of the first line that can be had
	Prev  chain.Hash `json:"prev"`  // hash of the line before it
}

// Manifest is what the store says of the journal.
type Manifest struct {
	Head     Head
	Segments []Segment // sealed and kept, oldest first
	Floor    Floor     // zero: nothing was lost
}

// Limits are what sealing depends on and an administrator may choose.
type Limits struct {
	SegmentBytes int64 `json:"segment_bytes"`
}

// Entry is what an entry of Raft's log brings to the journal.
type Entry struct {
	Index   uint64
	Time    time.Time // state time
	Batches []Batch
}

// Batch is events that one replica proposed together. In an epoch, unless that
// is 0, they are numbered and in order, and what comes a second time is dropped,
// whoever proposes it.
type Batch struct {
	Origin       string // its server id
	Epoch, First uint64
	Events       [][]byte
}

// Change is one of a record in the store.
type Change struct {
	Key   string
	Value []byte
	TTL   time.Duration // 0: for ever
}

// Addition is what an entry adds to the journal.
type Addition struct {
	Sealed *Segment   // what was being written is complete, and the lines go into a new segment; nil: it goes on
	First  uint64     // number of the first line
	Prev   chain.Hash // hash of the line before it
	Count  int
	Lines  []byte // each with its line feed
	Head   Head   // afterwards
}

// Extend continues the chain by the events of an entry. It is pure: every replica
// computes the same lines from the same entry, and seals segments at the same
// line. A segment is sealed before an entry whose state time is of a later day
// (UTC), or when it has grown to its bound.
//
// Get gives a record of the store, nil if it is absent. An error means that a
// record can't be read: it is damaged, or of a newer version.
func Extend(e Entry, get func(key string) []byte) ([]Change, *Addition, error) {
	head, limits := Head{Format: formatVersion, First: 1}, Limits{SegmentBytes: defaultSegmentBytes}
	if err := load(get, KeyHead, &head); err != nil {
		return nil, nil, err
	}
	if head.Format != formatVersion {
		return nil, nil, fmt.Errorf("the audit log has format %d, which is unknown here: this replica must be upgraded", head.Format)
	}
	if err := load(get, KeyLimits, &limits); err != nil {
		return nil, nil, err
	}
	var changes []Change
	var add Addition
	var w chainWriter
	for _, b := range e.Batches {
		events, seen, err := unseen(b, changes, get)
		if err != nil {
			return nil, nil, err
		}
		if seen != nil {
			changes = append(changes, *seen)
		}
		for _, event := range events {
			if add.Count == 0 {
				add.Sealed = head.seal(e.Time, limits)
				add.First, add.Prev = head.Number+1, head.Hash
				w = chainWriter{index: e.Index, last: head.Hash, number: head.Number, buf: make([]byte, 0, roomFor(e.Batches))}
			}
			w.add(event, b.Origin)
			add.Count++
		}
	}
	if add.Count == 0 {
		return changes, nil, nil
	}
	if s := add.Sealed; s != nil {
		changes = append(changes, Change{Key: SegmentKey(s.First), Value: encode(s)})
	}
	if head.Bytes == 0 {
		head.Opened = e.Time
	}
	head.Number, head.Hash = w.number, w.last
	head.Bytes += int64(len(w.buf))
	add.Lines, add.Head = w.buf, head
	return append(changes, Change{Key: KeyHead, Value: encode(head)}), &add, nil
}

// roomFor is how much the lines of all these events take, as a rule: a buffer
// that grows by steps costs more than the hashes of what is in it.
func roomFor(batches []Batch) int {
	const trailer = 192 // with a server id, two numbers and a hash
	n := 0
	for _, b := range batches {
		for _, event := range b.Events {
			n += len(event) + trailer
		}
	}
	return n
}

// seal begins a new segment if the present one is to end; it returns the old one.
func (h *Head) seal(now time.Time, limits Limits) *Segment {
	if h.Bytes == 0 || h.Bytes < limits.SegmentBytes && !day(now).After(day(h.Opened)) {
		return nil
	}
	s := &Segment{First: h.First, Last: h.Number, Prev: h.Prev, Hash: h.Hash, Bytes: h.Bytes, Opened: h.Opened, Sealed: now}
	h.First, h.Prev, h.Bytes, h.Opened = h.Number+1, h.Hash, 0, time.Time{}
	return s
}

func day(t time.Time) time.Time { return t.UTC().Truncate(24 * time.Hour) }

// seenRecord says how far the events of an epoch have come.
type seenRecord struct {
	Last uint64 `json:"last"`
}

// unseen leaves out the events of a batch that have been taken before, maybe by
// another batch of the same entry.
func unseen(b Batch, changes []Change, get func(string) []byte) ([][]byte, *Change, error) {
	if b.Epoch == 0 {
		return b.Events, nil, nil
	}
	// Epochs are random, and nothing else is looked at: a spool may come back with
	// another server id.
	key := keySeen + strconv.FormatUint(b.Epoch, 16)
	var seen seenRecord
	if err := load(get, key, &seen); err != nil {
		return nil, nil, err
	}
	for _, c := range changes {
		if c.Key == key {
			if err := json.Unmarshal(c.Value, &seen); err != nil {
				return nil, nil, fmt.Errorf("record %s: %w", key, err)
			}
		}
	}
	events := b.Events
	if b.First <= seen.Last {
		events = events[min(uint64(len(events)), seen.Last-b.First+1):]
	}
	seen.Last = max(seen.Last, b.First+uint64(len(b.Events))-1)
	return events, &Change{Key: key, Value: encode(seen), TTL: seenFor}, nil
}

func load(get func(string) []byte, key string, to any) error {
	b := get(key)
	if b == nil {
		return nil
	}
	if err := json.Unmarshal(b, to); err != nil {
		return fmt.Errorf("record %s: %w", key, err)
	}
	return nil
}

// encode is for types that can't fail.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// chainWriter makes lines. The hash with which a line ends is SHA-256 over the
// hash of the line before (32 bytes, zero before the first) and the line up to
// the comma before "hash".
type chainWriter struct {
	index  uint64
	number uint64
	last   chain.Hash
	buf    []byte
}

// add makes a line of an event. Our fields come last, so that they win where an
// event repeats a name. An event that is not one line of JSON, or is too long, is
// written as the text it is, cut, inside an event that says so: content must never
// stop a replica, nor make a line that no reader takes for one.
func (c *chainWriter) add(event []byte, origin string) {
	if len(event) > chain.MaxEvent || !isLine(event) || steers(event) {
		event = malformed(event)
	}
	c.number++
	start := len(c.buf)
	c.buf = append(c.buf, event[:len(event)-1]...)
	c.buf = append(c.buf, `,"`+chain.FieldReplica+`":`...)
	e := encoder{buf: c.buf, budget: budget{str: maxOrigin}, ascii: true}
	e.string(origin)
	c.buf = append(e.buf, `,"`+chain.FieldIndex+`":`...)
	c.buf = strconv.AppendUint(c.buf, c.index, 10)
	c.buf = append(c.buf, `,"`+chain.FieldNumber+`":`...)
	c.buf = strconv.AppendUint(c.buf, c.number, 10)
	c.last = chain.Link(c.last, c.buf[start:])
	c.buf = append(c.buf, `,"`+chain.FieldHash+`":"`...)
	c.buf = hex.AppendEncode(c.buf, c.last[:])
	c.buf = append(c.buf, "\"}\n"...)
}

// steers says whether an event is no UTF-8, or holds characters that would steer a
// terminal or hide the order of others: Encode has escaped those. The list is
// written out because it is part of the format: Unicode's own grows with Go.
func steers(event []byte) bool {
	for len(event) > 0 {
		if event[0] < utf8.RuneSelf {
			event = event[1:] // isLine has looked at these
			continue
		}
		r, size := utf8.DecodeRune(event)
		switch {
		case r == utf8.RuneError && size == 1,
			r < 0xa0,                   // C1
			r >= 0x200b && r <= 0x200f, // without width; marks of direction
			r >= 0x2028 && r <= 0x202e, // separators of lines and paragraphs; embedded directions
			r >= 0x2060 && r <= 0x206f, // isolates
			r == 0x061c, r == 0xfeff:
			return true
		}
		event = event[size:]
	}
	return false
}
