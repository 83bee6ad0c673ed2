package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sallyport-dev/sallyport/internal/audit/chain"
)

// window is how much of the file's end Open reads: what a power cut can have
// harmed, and the largest entry (1 MiB, and its malformed events escaped).
const window = 2 * syncEvery

// recover finds how far the files have come, and mends what a crash left.
func (j *Journal) recover() error {
	if err := errors.Join(j.remove(nextName), j.remove(fetchName)); err != nil {
		return err
	}
	var err error
	if j.sealed, err = j.scan(nil); err != nil {
		return err
	}
	j.kept = j.asides()
	if _, err := os.Lstat(j.log.path); errors.Is(err, fs.ErrNotExist) && len(j.sealed) > 0 {
		j.leaveStrays()
		if err := j.regenerate(); err != nil {
			if err := j.goOnHalf(err); err != nil {
				return err
			}
			return j.recoverPending()
		}
	}
	end, err := j.openActive()
	if err != nil {
		return err
	}
	for j.stale(end) {
		same, err := j.isBeginning(end)
		if err != nil || !same {
			// Whatever its name says, events.log does not go on from it.
			s := j.newest()
			j.complain(sealedName(s.first), errors.Join(err, errors.New("events.log is before it, and not its beginning")))
			j.sealed = j.sealed[:len(j.sealed)-1]
			continue
		}
		_ = j.log.file.Close()
		if err := j.regenerate(); err != nil {
			if err := j.goOnHalf(err); err != nil {
				return err
			}
			return j.recoverPending()
		}
		if end, err = j.openActive(); err != nil {
			return err
		}
	}
	j.begin, j.last, j.hash = end.begin, end.last, end.hash
	j.first = j.inferFirst(end)
	j.dirty = true
	if err := j.settle(); err != nil { // or a power cut could take the files' names
		return err
	}
	return j.recoverPending()
}

// fileEnds is what a file says of its first and last line; 0: it has none.
type fileEnds struct {
	begin, last uint64
	hash        chain.Hash
	size        int64
}

// openActive opens or creates events.log. One that holds no line of ours is what an
// earlier build has written, or something else: it is kept under another name.
func (j *Journal) openActive() (fileEnds, error) {
	for tries := 0; ; tries++ {
		file, err := j.fs.Open(j.log.path, os.O_RDWR|os.O_CREATE|os.O_APPEND)
		if err != nil {
			return fileEnds{}, err
		}
		j.log.file = file
		end, foreign, err := j.recoverFile(file, j.log.path)
		j.log.attach(file)
		if err != nil || !foreign || tries > 0 {
			return end, err
		}
		if err := file.Close(); err != nil {
			return end, err
		}
		j.log.file = nil
		if err := j.moveAside(activeName, "it holds lines of another form"); err != nil {
			return end, err
		}
	}
}

// recoverFile cuts what a crash left at a file's end: a line without its end, or
// blocks of NUL bytes where the file had grown but the data had not arrived.
// Whatever is cut was written after the last Sync, so Raft's log still has it and
// gives it again. A foreign file has lines, none of them ours; it is left as it is.
func (j *Journal) recoverFile(file logFile, path string) (end fileEnds, foreign bool, err error) {
	info, err := file.Stat()
	if err != nil {
		return end, false, err
	}
	size := info.Size()
	start := max(0, size-window)
	tail := make([]byte, size-start)
	if _, err := io.ReadFull(io.NewSectionReader(file, start, size-start), tail); err != nil {
		return end, false, err
	}
	keep := len(tail)
	if i := bytes.IndexByte(tail, 0); i >= 0 {
		keep = i
	}
	keep = bytes.LastIndexByte(tail[:keep], '\n') + 1
	t, ok := lastTrailer(tail[:keep])
	if !ok && (keep > 0 || start > 0) {
		return end, true, nil
	}
	end = fileEnds{last: t.Number, hash: t.Hash, size: start + int64(keep)}
	if cut := len(tail) - keep; cut > 0 {
		if _, ok := lastTrailer(tail[keep:]); ok { // no crash need have done that
			if err := j.keepPart(filepath.Base(path), file, end.size, size, "lines that were harmed stand before it"); err != nil {
				return end, false, err
			}
		}
		j.logger.Warn("the audit log ended in the middle of a line: cutting it there, Raft gives the rest again",
			"path", path, "bytes", cut)
		if err := file.Truncate(end.size); err != nil {
			return end, false, fmt.Errorf("cut %d bytes of a half-written line: %w", cut, err)
		}
	}
	if end.begin, err = firstNumber(file, end.size); err != nil {
		return end, false, err
	}
	// What is kept may have been written but not synced before the crash. It
	// will be skipped from now on, so the disk has to have it.
	if err := file.Sync(); err != nil {
		return end, false, fmt.Errorf("sync what a former run wrote: %w", err)
	}
	return end, false, nil
}

// lastTrailer is what the last line says of itself. Somebody may have added lines
// by hand: those that are none of ours are passed over.
func lastTrailer(tail []byte) (chain.Trailer, bool) {
	for len(tail) > 0 {
		end := bytes.LastIndexByte(tail, '\n')
		if end < 0 {
			break
		}
		begin := bytes.LastIndexByte(tail[:end], '\n') + 1
		if t, ok := chain.ParseTrailer(tail[begin:end]); ok {
			return t, true
		}
		tail = tail[:begin]
	}
	return chain.Trailer{}, false
}

// newest is the last sealed file, nil if there is none.
func (j *Journal) newest() *sealedFile {
	if len(j.sealed) == 0 {
		return nil
	}
	return &j.sealed[len(j.sealed)-1]
}

// stale says that events.log is the beginning of a file that took its place: a
// crash came after a segment was fetched or sealed, and before the next file got
// the name.
func (j *Journal) stale(end fileEnds) bool {
	s := j.newest()
	if s == nil || end.last > s.last {
		return false
	}
	return end.last != s.last || end.begin > 0 && end.begin < copyStart(s.last+1)
}

// isBeginning says whether the newest sealed file begins with events.log.
func (j *Journal) isBeginning(end fileEnds) (bool, error) {
	long, err := j.fs.Open(filepath.Join(j.dir, sealedName(j.newest().first)), os.O_RDONLY)
	if err != nil {
		return false, err
	}
	defer long.Close()
	return sameBeginning(j.log.file, long, end.size)
}

// leaveStrays leaves out the newest files while they are not connected with the one
// before: who put one there could hide the whole log. If it is of the log, Keep finds
// it again.
func (j *Journal) leaveStrays() {
	for n := len(j.sealed); n > 1 && j.sealed[n-1].first != j.sealed[n-2].last+1; n-- {
		j.complain(sealedName(j.sealed[n-1].first), errors.New("the segment before it is missing"))
		j.sealed = j.sealed[:n-1]
	}
}

// goOnHalf goes on where a crash came between the two renames of a seal, and there is no
// room to end it: the next Write tries again. The sealed file is the one to copy from.
func (j *Journal) goOnHalf(why error) error {
	s := *j.newest()
	file, err := j.fs.Open(filepath.Join(j.dir, sealedName(s.first)), os.O_RDWR|os.O_APPEND)
	if err != nil {
		return errors.Join(why, err)
	}
	j.logger.Error("events.log can't be made anew after the last segment: trying again with the next line", "path", j.log.path, "error", why)
	j.log.attach(file)
	j.half, j.dirty = true, true
	j.first, j.last, j.hash = s.last+1, s.last, s.hash
	j.log.seals = []sealMark{{seg: Segment{First: s.first, Last: s.last, Hash: s.hash}}}
	return nil
}

// regenerate makes events.log anew from the end of the last sealed file.
func (j *Journal) regenerate() error {
	s := j.newest()
	file, err := j.fs.Open(filepath.Join(j.dir, sealedName(s.first)), os.O_RDONLY)
	if err != nil {
		return err
	}
	next, _, err := j.nextFile(file, s.size, s.last)
	if err != nil {
		return errors.Join(err, file.Close())
	}
	if err := errors.Join(next.Close(), file.Close()); err != nil {
		return err
	}
	return j.fs.Rename(filepath.Join(j.dir, nextName), j.log.path)
}

// inferFirst finds where the segment in events.log begins: after the newest
// sealed file, if that is the one before. Files may be missing, so this is right
// only where the copies fit; the next Write or the manifest tell for sure.
func (j *Journal) inferFirst(end fileEnds) uint64 {
	s := j.newest()
	if s == nil {
		if end.last == 0 {
			return 1
		}
		return 0
	}
	if end.last >= s.last && end.begin == copyStart(s.last+1) {
		return s.last + 1
	}
	return 0
}

// recoverPending goes on with a gap that the last run has left.
func (j *Journal) recoverPending() error {
	path := filepath.Join(j.dir, pendingName)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	file, err := j.fs.Open(path, os.O_RDWR|os.O_APPEND)
	if err != nil {
		return err
	}
	end, foreign, err := j.recoverFile(file, path)
	header := readHeader(file)
	switch {
	case err != nil:
		return errors.Join(err, file.Close())
	case foreign && header.After == 0:
		return errors.Join(file.Close(), j.moveAside(pendingName, "it holds lines of another form"))
	case end.last <= j.last: // nothing that events.log lacks; what the gap is, Raft tells again
		return errors.Join(file.Close(), j.remove(pendingName))
	}
	if header.After != end.begin-1 {
		header.Hash = nil
	}
	j.openGap(end.begin-1, header.Hash)
	j.gap.log.attach(file)
	j.gap.begin, j.gap.last, j.gap.end = end.begin, end.last, end.hash
	return nil
}
