package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sallyport-dev/sallyport/internal/audit/chain"
)

// maxFetch bounds the lines of an answer.
const maxFetch = 512 << 10

// FetchRequest asks a peer for lines.
type FetchRequest struct {
	From uint64 `json:"from"`
	Max  int    `json:"max,omitempty"` // bytes; 0: as many as an answer may have
}

// FetchAnswer is what a peer has. It is worth nothing until the chain has proven it.
type FetchAnswer struct {
	First uint64 `json:"first"` // lines that this replica can give, some between them maybe not
	Last  uint64 `json:"last"`
	Lines []byte `json:"lines,omitempty"` // whole lines, From being the first; empty: it has none
}

// Serve answers a peer. One line is given even where it is longer than the
// request's bound, so that the peer comes on.
func (j *Journal) Serve(r FetchRequest) (FetchAnswer, error) {
	limit := min(r.Max, maxFetch)
	if limit <= 0 {
		limit = maxFetch
	}
	state := j.State()
	answer := FetchAnswer{First: state.First, Last: state.Last}
	if g := state.Gap; g != nil && r.From > g.To && r.From <= g.Pending { // others may have another gap
		answer.Last = g.Pending
		lines, err := j.linesOf(filepath.Join(j.dir, pendingName), r.From, g.Pending, limit)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // joined, or begun anew: as if it had none
			return answer, fmt.Errorf("read audit log: %w", err)
		}
		if answer.Lines = lines; len(lines) > 0 {
			return answer, nil
		}
	}
	if r.From == 0 || r.From > answer.Last {
		return answer, nil
	}
	for range openTries { // a file may get another name or go between asking for it and opening it
		lines, err := j.linesAt(r.From, answer.Last, limit)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return answer, fmt.Errorf("read audit log: %w", err)
		}
		answer.Lines = lines
		break
	}
	return answer, nil
}

// linesAt looks into the file whose own line it is, and then into those that may
// have a copy.
func (j *Journal) linesAt(from, last uint64, limit int) ([]byte, error) {
	files := j.files()
	own := len(files) - 1
	for own > 0 && files[own].first > from {
		own--
	}
	for _, f := range files[own:] {
		if copyStart(f.first) > from {
			break
		}
		if lines, err := j.linesOf(f.path, from, last, limit); err != nil || len(lines) > 0 {
			return lines, err
		}
	}
	return nil, nil
}

// linesOf reads lines of a file that follow each other, from a number on.
func (j *Journal) linesOf(path string, from, last uint64, limit int) ([]byte, error) {
	file, err := j.fs.Open(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	start, err := locate(file, info.Size(), from, last)
	if err != nil || start.number != from {
		return nil, err
	}
	var out []byte
	s := newScanner(file, start.begin, info.Size())
	for line := s.Next(); line != nil; line = s.Next() {
		t, ok := chain.ParseTrailer(line)
		if !ok || t.Number < from {
			continue
		}
		if t.Number > from || len(out) > 0 && len(out)+len(line)+1 > limit {
			return out, nil
		}
		out = append(append(out, line...), '\n')
		from++
	}
	return out, s.Err()
}
