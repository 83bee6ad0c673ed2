package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"github.com/sallyport-dev/sallyport/internal/api"
)

const (
	// maxPending bounds what a Log holds in memory while its file cannot be
	// written.
	maxPending = 16 << 20

	// syncEvery bounds how much of the file the disk may not have yet, all of
	// which is kept in memory too. It also bounds how far back Open looks for
	// blocks that a power cut left empty.
	syncEvery = 8 << 20
)

// JournalOptions of a Journal. The zero value works.
type JournalOptions struct {
	Logger *slog.Logger // nil: slog.Default

	// Manifest is what the replicated store says now; nil: Keep has nothing to go by.
	Manifest func() (Manifest, error)
}

// Journal is the cluster's audit log on one replica: each event that was ever
// committed, as a line, in the one order of Raft's log, chained by hash.
//
// Raft gives an entry again after a crash, never in another order and never
// with other content. Each line carries its number, so the file itself says how
// far it has come, and what it holds is skipped (docs/adr/050).
//
// When is it on disk? Write only writes: what a crash of the process leaves
// unwritten, or a power cut unsynced, is still in Raft's own log, which is
// synced before an entry commits, and is given again at the next start. That
// holds until a snapshot lets Raft drop the entry; therefore Sync must succeed
// before a snapshot is persisted. An fsync per entry would buy nothing and put
// a disk flush into the path of every write.
//
// A full or failing disk does not stop the replica: lines wait in memory, in
// order, and later Writes try again; Sync fails meanwhile, so that no snapshot
// is taken and a restart finds all of them in Raft's log. When too much waits
// Write fails, and the replica keeps out of Raft until the disk is well.
type Journal struct {
	spans spanCache // for searches

	path   string
	logger *slog.Logger

	mu       sync.Mutex
	file     logFile
	last     uint64 // number of the last line in file and pending
	pending  []byte // whole lines that the file has not taken yet
	unsynced []byte // the file's end: what the disk may not have yet
	doubtful int64  // bytes at the file's end to be cut, after a failed fsync; they are in pending
	writeErr error  // why the file takes no pending lines; nil once written
	syncErr  error  // of the last fsync, see Sync
	failed   int    // fsyncs in a row
	skip     int    // calls of Write that leave the disk in peace
	closed   bool
	changed  chan struct{} // see Changed

	syncing sync.Mutex // held over an fsync; Write need not wait for it
}

// logFile is what a Journal needs of its *os.File; tests give it one that fails.
type logFile interface {
	io.Writer
	io.ReaderAt
	io.Closer
	Stat() (os.FileInfo, error)
	Truncate(size int64) error
	Sync() error
}

// Open opens or creates the journal in a folder: events.log (mode 0600, the
// folder 0700). It mends what a crash left of a half-written line.
func Open(dir string, opts JournalOptions) (*Journal, error) {
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	path := filepath.Join(dir, "events.log")
	file, err := openPrivate(path, os.O_APPEND)
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	j := &Journal{path: path, logger: opts.Logger, file: file, changed: make(chan struct{})}
	if err := j.recover(); err != nil {
		_ = file.Close() // the first error is the one to read
		return nil, fmt.Errorf("open audit log %s: %w", path, err)
	}
	return j, nil
}

// openPrivate opens or creates a file that nobody else may read. A symbolic
// link at its place is refused: whoever may write the folder could have us
// write to any file of ours.
func openPrivate(path string, flag int) (*os.File, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW|flag, 0o600) //nolint:gosec // the replica's own data directory
	if err != nil {
		return nil, err
	}
	err = file.Chmod(0o600)
	if err == nil {
		err = syncDir(dir) // or a power cut could take the file's name
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // the replica's own data directory
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Write adds what Extend has made of an entry. Calls come in apply order; what
// is there already is left out.
//
// Lines that the file does not take are kept and tried again by later calls.
// The error, when too much is kept, means that nothing of this call was taken:
// the caller gives the entry again.
func (j *Journal) Write(add *Addition) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return fmt.Errorf("write audit log %s: %w", j.path, os.ErrClosed)
	}
	if len(j.pending) >= maxPending {
		if err := j.flush(); err != nil {
			return fmt.Errorf("write audit log: %d bytes already wait to be written: %w", len(j.pending), err)
		}
	}
	if add.Head.Number > j.last {
		j.pending = append(j.pending, add.Lines...)
		j.last = add.Head.Number
	}
	if len(j.pending) > 0 && j.dueAgain() {
		_ = j.flush() // kept, logged, and told by Sync
	}
	return nil
}

// dueAgain spaces the attempts at a disk that fails to sync, each of which
// writes everything again; j.mu is held.
func (j *Journal) dueAgain() bool {
	if j.skip > 0 {
		j.skip--
		return false
	}
	return true
}

// flush writes what is pending, and has it synced where that is due: when much
// has gathered, or to learn whether a disk that failed is well. j.mu is held.
func (j *Journal) flush() error {
	if err := j.write(); err != nil {
		return err
	}
	if len(j.unsynced) < syncEvery && j.syncErr == nil {
		return nil
	}
	// Two fsyncs at a time would share one error: the other could take it for success.
	if !j.syncing.TryLock() {
		return nil // one is under way; the next call sees how it went
	}
	defer j.syncing.Unlock()
	return j.noteSync(len(j.unsynced), j.file.Sync())
}

// write brings pending into the file; j.mu is held. What was written in part is
// taken back, so that the file ends with a whole line between two calls.
func (j *Journal) write() error {
	if err := j.cutDoubtful(); err != nil {
		return err
	}
	n, err := j.file.Write(j.pending)
	if err != nil {
		if n > 0 {
			err = errors.Join(err, j.takeBack(int64(n)))
		}
		if j.writeErr == nil {
			j.logger.Error("the audit log cannot be written: its lines wait in memory and in the Raft log",
				"path", j.path, "error", err)
		}
		j.writeErr = err
		return err
	}
	if j.writeErr != nil {
		j.logger.Info("the audit log can be written again", "path", j.path, "bytes", n)
	}
	j.writeErr = nil
	j.unsynced = append(j.unsynced, j.pending...)
	if n > 0 {
		close(j.changed)
		j.changed = make(chan struct{})
	}
	j.pending = j.pending[:0]
	if cap(j.pending) > 1<<20 {
		j.pending = nil // a hard hour's buffer is not kept for ever
	}
	return nil
}

// takeBack cuts the n bytes that a failed write added. If that fails too, the
// bytes count as written: the rest of the line then follows them in place.
func (j *Journal) takeBack(n int64) error {
	info, err := j.file.Stat()
	if err == nil {
		err = j.file.Truncate(info.Size() - n)
	}
	if err != nil {
		j.unsynced = append(j.unsynced, j.pending[:n]...)
		j.pending = j.pending[n:]
	}
	return err
}

// cutDoubtful takes from the end of the file what a failed fsync left in doubt
// and what is going to be written again; j.mu is held.
func (j *Journal) cutDoubtful() error {
	if j.doubtful == 0 {
		return nil
	}
	info, err := j.file.Stat()
	if err == nil {
		err = j.file.Truncate(max(0, info.Size()-j.doubtful))
	}
	if err != nil {
		return fmt.Errorf("cut what the disk did not take: %w", err)
	}
	j.doubtful = 0
	return nil
}

// Sync returns when every line that was written is on the disk. The replica
// calls it before it persists a snapshot.
//
// An fsync that failed says nothing about the data any more: the kernel may
// have given the pages up, and would report success next time for data that is
// lost. So what the disk does not surely have is kept in memory, cut from the
// file and written again before the next attempt.
func (j *Journal) Sync() error {
	j.syncing.Lock()
	defer j.syncing.Unlock()

	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return fmt.Errorf("sync audit log %s: %w", j.path, os.ErrClosed)
	}
	var err error
	if len(j.pending) > 0 {
		err = j.write()
	}
	covered := len(j.unsynced)
	j.mu.Unlock()
	if err == nil && covered > 0 {
		syncErr := j.file.Sync()
		j.mu.Lock()
		err = j.noteSync(covered, syncErr)
		j.mu.Unlock()
	}
	if err != nil {
		return fmt.Errorf("sync audit log: %w", err)
	}
	return nil
}

// noteSync takes in how an fsync of the first covered bytes of unsynced went;
// j.mu and j.syncing are held.
func (j *Journal) noteSync(covered int, err error) error {
	if err != nil {
		if j.syncErr == nil {
			j.logger.Error("the audit log cannot be synced: its lines are kept and written again, and no snapshot is taken meanwhile",
				"path", j.path, "error", err)
		}
		j.syncErr = fmt.Errorf("the disk did not take the log: %w", err)
		j.doubtful += int64(len(j.unsynced))
		j.pending = slices.Concat(j.unsynced, j.pending)
		j.unsynced = nil
		j.failed = min(j.failed+1, 10)
		j.skip = 1<<j.failed - 1
		_ = j.cutDoubtful() // tried again before the next write
		return j.syncErr
	}
	if j.syncErr != nil {
		j.logger.Info("the audit log can be synced again", "path", j.path)
	}
	j.syncErr, j.failed, j.skip = nil, 0, 0
	j.unsynced = append(j.unsynced[:0], j.unsynced[covered:]...)
	if len(j.unsynced) == 0 && cap(j.unsynced) > 1<<20 {
		j.unsynced = nil
	}
	return nil
}

// Expect tells the journal what the chain's head is after a snapshot was
// restored. Where it lacks lines up to there, it has a gap to fill.
func (j *Journal) Expect(head Head) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if head.Number > j.last {
		j.logger.Warn("the audit log lacks lines that a snapshot stands for", "path", j.path, "has", j.last, "head", head.Number)
	}
}

// Pending is how many bytes wait for a file that cannot be written; 0 when all
// is well.
func (j *Journal) Pending() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.pending)
}

// Close writes and syncs what is left and closes the file.
func (j *Journal) Close() error {
	j.mu.Lock()
	closed := j.closed
	j.mu.Unlock()
	if closed {
		return nil
	}
	err := j.Sync()
	j.mu.Lock()
	defer j.mu.Unlock()
	j.closed = true
	return errors.Join(err, j.file.Close())
}

// isLine reports whether an event is a JSON object with members, on one line.
func isLine(event []byte) bool {
	if len(event) < len(`{"a":1}`) || event[0] != '{' || event[1] != '"' || event[len(event)-1] != '}' {
		return false
	}
	for _, c := range event {
		if c < 0x20 || c == 0x7f {
			return false
		}
	}
	return json.Valid(event)
}

// malformed wraps what a replica proposed as an event and is none.
func malformed(event []byte) []byte {
	e := encoder{budget: budgets[0]}
	e.buf = append(e.buf, `{"event":"`+api.EventMalformed+`","code":"`+api.EventCodeMalformed+`","text":`...)
	e.string(string(event))
	if e.truncated {
		e.buf = append(e.buf, `,"truncated":true`...)
	}
	return append(e.buf, '}')
}
