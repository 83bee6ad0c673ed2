package audit

import (
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"path/filepath"
	"slices"

	"github.com/sallyport-dev/sallyport/internal/audit/chain"
)

// Gap is lines that the journal lacks, because a snapshot stands for the entries
// that brought them. Lines that come meanwhile go to pending.log; Keep fetches the
// others from peers, and then joins both to events.log.
type Gap struct {
	From, To uint64
	Have     uint64   // lines of it that came so far and are not in From..To's files yet
	Pending  uint64   // the last of the lines that came after it, and can be given to others; 0: none
	Lacking  []string // peers that answered and lack a line of the segment that From is in: behind, or without it for ever

	// Hash is that of line To, of the head at which the gap was opened. The leader
	// needs it for the Floor of lines that nobody has. Zero: not known.
	Hash chain.Hash
}

// gap is the one that is open, if there is one: never more than one.
type gap struct {
	log   appender    // pending.log; its file is made when the first line comes
	to    uint64      // number of the last line that is missing
	hash  *chain.Hash // of that line; nil: not known, but the first pending line is linked to it
	begin uint64      // number of the first line in pending.log; 0: none came yet
	last  uint64      // of the last one, or to
	end   chain.Hash  // of that one

	have    uint64
	lacking map[string]bool
}

// openGap begins a gap after what the journal has. One that is open already
// becomes longer: what is pending is given up, and fetched with the rest. Both mu
// and syncing are held.
func (j *Journal) openGap(to uint64, hash *chain.Hash) {
	j.logger.Warn("the audit log lacks lines that a snapshot stands for: fetching them from the other replicas",
		"path", j.log.path, "from", j.last+1, "to", to)
	if j.gap != nil && j.gap.log.file != nil {
		_ = j.gap.log.file.Close() // given up, see above
	}
	g := &gap{to: to, hash: hash, last: to, lacking: make(map[string]bool)}
	g.log = appender{path: filepath.Join(j.dir, pendingName), logger: j.logger, wrote: func() {}, unlocked: j.unlocked}
	g.log.settle = func() error {
		if g.log.file == nil {
			file, err := j.create(pendingName)
			if err != nil {
				return err
			}
			if err := g.begins(file); err != nil {
				return errors.Join(err, file.Close())
			}
			g.log.attach(file)
			j.dirty = true
		}
		return j.settle()
	}
	j.gap = g
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// pendingHeader is the first line of pending.log: after which line the others come.
type pendingHeader struct {
	After uint64      `json:"after"`
	Hash  *chain.Hash `json:"hash,omitempty"`
}

func (g *gap) begins(file logFile) error {
	if _, err := file.Write(append(encode(pendingHeader{g.to, g.hash}), '\n')); err != nil {
		return err
	}
	return file.Sync() // once for a gap: no failed fsync of lines can leave it in doubt
}

// readHeader is zero if the file has none.
func readHeader(file io.ReaderAt) (h pendingHeader) {
	if json.Unmarshal(newScanner(file, 0, 1<<10).Next(), &h) != nil {
		return pendingHeader{}
	}
	return h
}

// JournalState is what a replica says of its journal.
type JournalState struct {
	First, Last  uint64 // lines that can be read; First > Last: none
	Files        int
	Bytes        int64 // of all files
	PendingBytes int   // see Journal.Pending
	Gap          *Gap
	Err          error    // why lines are not written or synced; nil: all is well
	KeepErr      error    // why files are not what the cluster says that they should be
	Aside        []string // folders with what this replica had from before a Floor
}

// State says how far the journal is.
func (j *Journal) State() JournalState {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := JournalState{First: j.firstOwn(), Last: j.last, Files: len(j.sealed) + 1, PendingBytes: j.pendingBytes(), Aside: slices.Clone(j.kept)}
	if n := j.told.Number; n > 0 && s.Last > n {
		s.Last = n // what is beyond it is of a former run, which Raft tells again, or of nobody
	}
	if len(j.sealed) > 0 {
		s.First = j.sealed[0].first
	}
	for _, f := range j.sealed {
		s.Bytes += f.size
	}
	s.Err = j.log.err()
	files := []logFile{j.log.file}
	if g := j.gap; g != nil {
		s.Gap = &Gap{From: j.last + 1, To: g.to, Have: g.have, Lacking: slices.Sorted(maps.Keys(g.lacking))}
		if g.hash != nil {
			s.Gap.Hash = *g.hash
		}
		if g.begin > 0 {
			s.Gap.Pending = min(g.last, j.told.Number)
		}
		s.Err = errors.Join(s.Err, g.log.err())
		files = append(files, g.log.file)
	}
	if !j.closed {
		for _, f := range files {
			if f == nil {
				continue
			}
			if info, err := f.Stat(); err == nil {
				s.Bytes += info.Size()
			}
		}
	}
	s.KeepErr = j.keepErr
	return s
}

// latest is the newer one of what the manifest and what Raft's entries have told;
// j.mu is held.
func (j *Journal) latest(m Manifest) Head {
	if j.told.Number > m.Head.Number {
		return j.told
	}
	return m.Head
}

// oldest is the number of the first line that is kept.
func (m Manifest) oldest() uint64 {
	first := m.Head.First
	if len(m.Segments) > 0 {
		first = m.Segments[0].First
	}
	return max(1, first, m.Floor.First)
}

// segmentOf finds the sealed segment with a line.
func (m Manifest) segmentOf(number uint64) (Segment, bool) {
	i, ok := slices.BinarySearchFunc(m.Segments, number, func(s Segment, n uint64) int {
		if s.Last < n {
			return -1
		}
		return cmp.Compare(max(s.First, n), n)
	})
	if !ok {
		return Segment{}, false
	}
	return m.Segments[i], true
}
