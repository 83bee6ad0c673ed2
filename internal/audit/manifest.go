package audit

import (
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/audit/chain"
)

// What holds where nobody says otherwise.
const (
	DefaultSegmentBytes = defaultSegmentBytes
	DefaultSpoolBytes   = defaultSpoolBytes
)

// First is the number of the first line that the store knows of.
func (m Manifest) First() uint64 {
	first := m.Head.First
	if len(m.Segments) > 0 {
		first = m.Segments[0].First
	}
	return max(first, m.Floor.First)
}

// Holding is what a replica has of the log, as it tells the others.
type Holding struct {
	First uint64          `json:"first"`         // of its lines; none if First > Last
	Last  uint64          `json:"last"`          // and all up to this one, but for Gap
	Gap   *api.AuditRange `json:"gap,omitempty"` // what it is fetching

	// Room is how large the log may become on its volume; 0: not known, or the replica is
	// of a version that does not tell.
	Room int64 `json:"room,omitempty"`
}

// Holding is the part of a state that concerns other replicas.
func (s JournalState) Holding() Holding {
	h := Holding{First: s.First, Last: s.Last}
	if s.Gap != nil {
		h.Gap = &api.AuditRange{From: s.Gap.From, To: s.Gap.To}
		h.Last = max(h.Last, s.Gap.Pending)
	}
	return h
}

// Has says whether a replica has all lines from first to last.
func (h Holding) Has(first, last uint64) bool {
	return h.First <= first && last <= h.Last && (h.Gap == nil || h.Gap.To < first || last < h.Gap.From)
}

// next is the first line from a number on that a replica has; false: none.
func (h Holding) next(from uint64) (uint64, bool) {
	n := max(from, h.First)
	if h.Gap != nil && h.Gap.From <= n && n <= h.Gap.To {
		n = h.Gap.To + 1
	}
	return n, n <= h.Last
}

// FloorFor is where the log would begin if what is in a gap and nobody has were given
// up: the first line from which on others have it, or the one behind the gap. It must be
// one whose predecessor's hash is known: the beginning of a segment, or the end of the
// gap. Nil: all of it can be fetched, or no such line is known.
func (m Manifest) FloorFor(gap Gap, others []Holding) *Floor {
	first := gap.To + 1 // of what anybody has
	for _, h := range others {
		if n, ok := h.next(gap.From); ok {
			first = min(first, n)
		}
	}
	if first == gap.From {
		return nil
	}
	for _, seg := range m.Segments {
		if seg.First >= first && seg.First <= gap.To {
			return &Floor{First: seg.First, Prev: seg.Prev}
		}
	}
	if h := m.Head; h.First >= first && h.First <= gap.To {
		return &Floor{First: h.First, Prev: h.Prev}
	}
	hash, ok := m.hashAt(gap)
	if !ok {
		return nil
	}
	return &Floor{First: gap.To + 1, Prev: hash}
}

// hashAt is the hash of a gap's last line.
func (m Manifest) hashAt(gap Gap) (chain.Hash, bool) {
	switch {
	case gap.Hash != chain.Hash{}:
		return gap.Hash, true
	case m.Head.Number == gap.To:
		return m.Head.Hash, true
	case m.Head.First == gap.To+1:
		return m.Head.Prev, true
	}
	for _, seg := range m.Segments {
		if seg.Last == gap.To {
			return seg.Hash, true
		}
	}
	return chain.Hash{}, false
}
