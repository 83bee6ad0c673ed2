package audit

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
)

// appender adds lines to one file (events.log, or pending.log while there is a
// gap). Its Journal's mu guards it, and its file is closed or replaced only under
// the Journal's syncing as well.
type appender struct {
	path   string
	logger *slog.Logger
	file   logFile

	// seal ends the file at a segment's end, and begins the next one in its place;
	// nil: the file knows no segments. Everything before is written and synced.
	seal  func(s Segment) error
	wrote func() // lines have arrived in the file
	// settle makes good for a change of the folder that could not be synced.
	settle func() error
	// unlocked does what waits for the disk while the Journal's mu is free; its syncing
	// is held.
	unlocked func(func() error) error

	pending  []byte     // whole lines that the file has not taken yet
	seals    []sealMark // that are due inside pending, in order
	unsynced []byte     // the file's end: what the disk may not have yet
	doubtful int64      // bytes at the file's end to be cut, after a failed fsync; they are in pending
	writeErr error      // why the file takes no pending lines; nil once written
	syncErr  error      // of the last fsync, see Journal.Sync
	failed   int        // fsyncs in a row
	skip     int        // calls of add that leave the disk in peace
	size     int64      // of the file, by what was written

	seen   lookup // of what is read again
	proven uint64 // number of a line that is the cluster's; 0: not known
}

// attach goes on with a file, which is on the disk.
func (a *appender) attach(file logFile) {
	a.file, a.size, a.seen = file, 0, lookup{}
	if info, err := file.Stat(); err == nil { // otherwise nothing can be said of its size
		a.size = info.Size()
	}
}

// sync has all of the file on the disk when it returns; the Journal's mu and syncing
// are held.
func (a *appender) sync() error {
	covered := len(a.unsynced)
	if covered == 0 {
		return nil
	}
	file := a.file
	err := a.unlocked(file.Sync)
	return a.noteSync(covered, err)
}

// sealMark is a seal that waits for the lines before it to be written.
type sealMark struct {
	at  int // offset in pending
	seg Segment
}

// err is why lines are not in the file or on the disk.
func (a *appender) err() error { return errors.Join(a.writeErr, a.syncErr) }

// idle says that memory holds nothing that the file lacks.
func (a *appender) idle() bool { return len(a.pending) == 0 && len(a.seals) == 0 && a.doubtful == 0 }

// dueAgain spaces the attempts at a disk that fails to sync, each of which
// writes everything again.
func (a *appender) dueAgain() bool {
	if a.skip > 0 {
		a.skip--
		return false
	}
	return true
}

// flush writes what is pending. It says whether the file should be synced: when
// much has gathered, or to learn whether a disk that failed is well. A seal that is due
// needs the Journal's syncing.
func (a *appender) flush() (sync bool, err error) {
	if err := a.write(); err != nil {
		return false, err
	}
	return len(a.unsynced) >= syncEvery || a.syncErr != nil, nil
}

// write brings pending into the file, and seals where that is due.
func (a *appender) write() error {
	if a.settle != nil {
		if err := a.settle(); err != nil {
			return a.failedWrite(err)
		}
	}
	if err := a.cutDoubtful(); err != nil {
		return a.failedWrite(err)
	}
	for len(a.pending) > 0 || len(a.seals) > 0 {
		end := len(a.pending)
		if len(a.seals) > 0 {
			end = a.seals[0].at
		}
		if err := a.writePart(end); err != nil {
			return a.failedWrite(err)
		}
		if len(a.seals) == 0 {
			break
		}
		if len(a.unsynced) > 0 {
			if err := a.sync(); err != nil {
				return err
			}
		}
		if err := a.seal(a.seals[0].seg); err != nil {
			return a.failedWrite(err)
		}
		a.seals = a.seals[1:]
	}
	if a.writeErr != nil {
		a.logger.Info("the audit log can be written again", "path", a.path)
	}
	a.writeErr, a.seals = nil, nil
	if cap(a.pending) > 1<<20 {
		a.pending = nil // a hard hour's buffer is not kept for ever
	}
	return nil
}

func (a *appender) failedWrite(err error) error {
	if a.writeErr == nil {
		a.logger.Error("the audit log cannot be written: its lines wait in memory and in the Raft log",
			"path", a.path, "error", err)
	}
	a.writeErr = err
	return err
}

// writePart writes the beginning of pending. What was written in part is taken
// back, so that the file ends with a whole line between two calls.
func (a *appender) writePart(end int) error {
	if end == 0 {
		return nil
	}
	n, err := a.file.Write(a.pending[:end])
	if err != nil {
		if n > 0 {
			err = errors.Join(err, a.takeBack(n))
		}
		return err
	}
	a.taken(end)
	a.wrote()
	return nil
}

// taken moves the beginning of pending to what the disk may lack.
func (a *appender) taken(n int) {
	a.size += int64(n)
	a.unsynced = append(a.unsynced, a.pending[:n]...)
	if n == len(a.pending) {
		a.pending = a.pending[:0]
	} else {
		a.pending = a.pending[n:]
	}
	for i := range a.seals {
		a.seals[i].at -= n
	}
}

// takeBack cuts the n bytes that a failed write added. If that fails too, the
// bytes count as written: the rest of the line then follows them in place.
func (a *appender) takeBack(n int) error {
	info, err := a.file.Stat()
	if err == nil {
		err = a.file.Truncate(info.Size() - int64(n))
	}
	if err != nil {
		a.taken(n)
	}
	return err
}

// cutDoubtful takes from the end of the file what a failed fsync left in doubt
// and what is going to be written again.
func (a *appender) cutDoubtful() error {
	if a.doubtful == 0 {
		return nil
	}
	info, err := a.file.Stat()
	if err == nil {
		err = a.file.Truncate(max(0, info.Size()-a.doubtful))
	}
	if err != nil {
		return fmt.Errorf("cut what the disk did not take: %w", err)
	}
	a.size -= a.doubtful
	a.doubtful = 0
	return nil
}

// noteSync takes in how an fsync of the first covered bytes of unsynced went; the
// Journal's mu and syncing are held.
//
// An fsync that failed says nothing about the data any more: the kernel may
// have given the pages up, and would report success next time for data that is
// lost. So what the disk does not surely have is kept in memory, cut from the
// file and written again before the next attempt.
func (a *appender) noteSync(covered int, err error) error {
	if err != nil {
		if a.syncErr == nil {
			a.logger.Error("the audit log cannot be synced: its lines are kept and written again, and no snapshot is taken meanwhile",
				"path", a.path, "error", err)
		}
		a.syncErr = fmt.Errorf("the disk did not take the log: %w", err)
		n := len(a.unsynced)
		a.doubtful += int64(n)
		a.pending = slices.Concat(a.unsynced, a.pending)
		for i := range a.seals {
			a.seals[i].at += n
		}
		a.unsynced = nil
		a.failed = min(a.failed+1, 10)
		a.skip = 1<<a.failed - 1
		_ = a.cutDoubtful() // tried again before the next write
		return a.syncErr
	}
	if a.syncErr != nil {
		a.logger.Info("the audit log can be synced again", "path", a.path)
	}
	a.syncErr, a.failed, a.skip = nil, 0, 0
	a.unsynced = append(a.unsynced[:0], a.unsynced[covered:]...)
	if len(a.unsynced) == 0 && cap(a.unsynced) > 1<<20 && covered < syncEvery {
		a.unsynced = nil // in busy hours it is used again
	}
	return nil
}
