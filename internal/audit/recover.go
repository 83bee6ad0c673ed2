package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// window is how much of the file's end Open reads: what a power cut can have
// harmed, and the largest entry (1 MiB, and its malformed events escaped).
const window = 2 * syncEvery

// recover finds how far the file has come, and cuts what a crash left at its
// end: a line without its end, or blocks of NUL bytes where the file had grown
// but the data had not arrived. Whatever is cut was written after the last
// Sync, so Raft's log still has it and gives it again.
func (l *Log) recover() error {
	info, err := l.file.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	start := max(0, size-window)
	tail := make([]byte, size-start)
	if _, err := io.ReadFull(io.NewSectionReader(l.file, start, size-start), tail); err != nil {
		return err
	}
	keep := len(tail)
	if i := bytes.IndexByte(tail, 0); i >= 0 {
		keep = i
	}
	keep = bytes.LastIndexByte(tail[:keep], '\n') + 1
	if keep == 0 && start > 0 {
		return errors.New("its end holds no line at all: this is no event log; move the file away and start again")
	}
	if cut := len(tail) - keep; cut > 0 {
		l.logger.Warn("the audit log ended in the middle of a line: cutting it there, Raft gives the rest again",
			"path", l.path, "bytes", cut)
		if err := l.file.Truncate(start + int64(keep)); err != nil {
			return fmt.Errorf("cut %d bytes of a half-written line: %w", cut, err)
		}
	}
	// What is kept may have been written but not synced before the crash. It
	// will be skipped from now on, so a Sync has to cover it.
	l.written = int64(keep)
	l.done = lastMark(tail[:keep], l.self)
	return nil
}

// lastMark is the place after the last line of self. Somebody may have added
// lines by hand: those without our fields are passed over. A line of another
// server id ends the search, for an id never comes back.
func lastMark(tail []byte, self string) mark {
	for len(tail) > 0 {
		begin := bytes.LastIndexByte(tail[:len(tail)-1], '\n') + 1
		var line struct {
			Replica  string  `json:"replica"`
			Index    *uint64 `json:"raft_index"`
			Position *int    `json:"raft_position"`
		}
		err := json.Unmarshal(tail[begin:], &line)
		if err == nil && line.Index != nil && line.Position != nil {
			if line.Replica != self {
				return mark{}
			}
			return mark{*line.Index, *line.Position + 1}
		}
		tail = tail[:begin]
	}
	return mark{}
}
