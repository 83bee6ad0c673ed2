package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/sallyport-dev/sallyport/internal/audit/chain"
)

// window is how much of the file's end Open reads: what a power cut can have
// harmed, and the largest entry (1 MiB, and its malformed events escaped).
const window = 2 * syncEvery

// recover finds how far the file has come, and cuts what a crash left at its
// end: a line without its end, or blocks of NUL bytes where the file had grown
// but the data had not arrived. Whatever is cut was written after the last
// Sync, so Raft's log still has it and gives it again.
func (j *Journal) recover() error {
	info, err := j.file.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	start := max(0, size-window)
	tail := make([]byte, size-start)
	if _, err := io.ReadFull(io.NewSectionReader(j.file, start, size-start), tail); err != nil {
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
		j.logger.Warn("the audit log ended in the middle of a line: cutting it there, Raft gives the rest again",
			"path", j.path, "bytes", cut)
		if err := j.file.Truncate(start + int64(keep)); err != nil {
			return fmt.Errorf("cut %d bytes of a half-written line: %w", cut, err)
		}
	}
	// What is kept may have been written but not synced before the crash. It
	// will be skipped from now on, so the disk has to have it.
	if err := j.file.Sync(); err != nil {
		return fmt.Errorf("sync what a former run wrote: %w", err)
	}
	j.last = lastNumber(tail[:keep])
	return nil
}

// lastNumber is the number of the last line. Somebody may have added lines by
// hand: those without one are passed over.
func lastNumber(tail []byte) uint64 {
	for len(tail) > 0 {
		begin := bytes.LastIndexByte(tail[:len(tail)-1], '\n') + 1
		if t, ok := chain.ParseTrailer(tail[begin : len(tail)-1]); ok {
			return t.Number
		}
		tail = tail[:begin]
	}
	return 0
}
