package audit

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/sallyport-dev/sallyport/internal/audit/chain"
)

// seal ends the segment in events.log: the file gets the name of its segment, and
// one that begins with copies of its last lines takes its place. mu and syncing
// are held, and everything that was written is on the disk.
//
// A crash between any two steps leaves what recover understands: a next file that
// nobody needs, or no events.log beside a sealed file from whose end it can be
// made again. A step that failed is done again by the next call.
func (j *Journal) seal(s Segment) error {
	info, err := j.log.file.Stat()
	if err != nil {
		return err
	}
	var next logFile
	var begin uint64
	err = j.unlocked(func() (err error) { // it waits for the disk, and only adds a name
		next, begin, err = j.nextFile(j.log.file, info.Size(), s.Last)
		return err
	})
	if err != nil {
		return fmt.Errorf("begin the next segment of the audit log: %w", err)
	}
	if !j.half {
		if err := j.fs.Rename(j.log.path, filepath.Join(j.dir, sealedName(s.First))); err != nil {
			return errors.Join(fmt.Errorf("seal a segment of the audit log: %w", err), next.Close())
		}
		j.half, j.dirty = true, true
	}
	if err := j.fs.Rename(filepath.Join(j.dir, nextName), j.log.path); err != nil {
		return errors.Join(fmt.Errorf("begin the next segment of the audit log: %w", err), next.Close())
	}
	j.half, j.dirty = false, true
	j.addSealed(sealedFile{first: s.First, last: s.Last, hash: s.Hash, size: info.Size()})
	_ = j.log.file.Close() // synced already
	j.log.attach(next)
	j.begin, j.first = begin, s.Last+1
	return nil
}

// nextFile makes events.log.new: the last lines, up to number last, of a file.
// It is on the disk when it returns; its name is not.
func (j *Journal) nextFile(from io.ReaderAt, size int64, last uint64) (logFile, uint64, error) {
	next, err := j.create(nextName)
	if err != nil {
		return nil, 0, err
	}
	begin, err := copyLines(next, from, size, copyStart(last+1), last)
	if err == nil {
		err = next.Sync()
	}
	if err != nil {
		return nil, 0, errors.Join(err, next.Truncate(0), next.Close())
	}
	return next, begin, nil
}

// copyLines copies the lines with numbers from one to another, as far as they are
// there, and returns the first one's number. What somebody has added by hand is
// left where it is.
func copyLines(to io.Writer, r io.ReaderAt, size int64, from, last uint64) (begin uint64, err error) {
	start, err := locate(r, size, from, last)
	if err != nil {
		return 0, err
	}
	w := bufio.NewWriterSize(to, readChunk)
	next := from
	for s := newScanner(r, start.begin, size); next <= last; {
		line := s.Next()
		if line == nil {
			if err := s.Err(); err != nil {
				return 0, err
			}
			break
		}
		t, ok := chain.ParseTrailer(line)
		if !ok || t.Number < next || t.Number > last {
			continue
		}
		if begin == 0 {
			begin = t.Number
		}
		next = t.Number + 1
		_, _ = w.Write(line)
		if err := w.WriteByte('\n'); err != nil { // which keeps its first error
			return 0, err
		}
	}
	return begin, w.Flush()
}
