package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
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
	// will be skipped from now on, so the disk has to have it.
	if err := l.file.Sync(); err != nil {
		return fmt.Errorf("sync what a former run wrote: %w", err)
	}
	var whose string
	if l.done, whose = lastMark(tail[:keep], l.self); whose == "" {
		l.done = l.rotatedMark()
	}
	return nil
}

// rotatedMark is how far the file had come before it was rotated away, under a
// name like events.log.1 or events.log-20261122. Places only rise under one
// server id, so the highest is the last, whatever the names and dates say. A file
// that can't be read, or is compressed, costs repeats, never lines.
func (l *Log) rotatedMark() mark {
	var last mark
	dir, base := filepath.Split(l.path)
	entries, err := os.ReadDir(filepath.Clean(dir))
	if err != nil {
		l.logger.Warn("cannot look for rotated audit logs", "path", dir, "error", err)
		return last
	}
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), base)
		if !ok || rest == "" || !strings.ContainsAny(rest[:1], ".-") || !e.Type().IsRegular() {
			continue
		}
		m, err := markIn(filepath.Join(dir, e.Name()), l.self)
		if err != nil {
			l.logger.Warn("cannot read a rotated audit log: lines may be repeated", "path", e.Name(), "error", err)
			continue
		}
		if last.before(m) {
			last = m
		}
	}
	return last
}

// markIn is the place after the last line of self in a rotated file. Those
// lines are not written again, so the disk has to have them.
func markIn(path, self string) (mark, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0) //nolint:gosec // the replica's own data directory
	if err != nil {
		return mark{}, err
	}
	defer file.Close() // only read
	info, err := file.Stat()
	if err != nil {
		return mark{}, err
	}
	start := max(0, info.Size()-window)
	tail := make([]byte, info.Size()-start)
	if _, err := io.ReadFull(io.NewSectionReader(file, start, int64(len(tail))), tail); err != nil {
		return mark{}, err
	}
	if i := bytes.IndexByte(tail, 0); i >= 0 {
		tail = tail[:i]
	}
	m, _ := lastMark(tail[:bytes.LastIndexByte(tail, '\n')+1], self)
	if m == (mark{}) {
		return m, nil
	}
	return m, file.Sync()
}

// lastMark is the place after the last line of self. Somebody may have added
// lines by hand: those without our fields are passed over. A line of another
// server id ends the search, for an id never comes back. Whose is the server id
// of the line that was found, "" if there is none.
func lastMark(tail []byte, self string) (_ mark, whose string) {
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
				return mark{}, line.Replica
			}
			return mark{*line.Index, *line.Position + 1}, self
		}
		tail = tail[:begin]
	}
	return mark{}, ""
}
