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
	"strconv"
	"sync"
	"syscall"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// Fields that the Log appends to each line.
const (
	fieldReplica  = "replica"       // server id of the replica that proposed the event
	fieldIndex    = "raft_index"    // the entry that carried it
	fieldPosition = "raft_position" // which of the entry's events it is, from 0, counting all replicas'
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

// LogOptions say whose events a Log keeps.
type LogOptions struct {
	Self   string       // this replica's server id; required
	Logger *slog.Logger // nil: slog.Default
}

// Log is events.log of one replica: a line for each event that this replica
// proposed, in the order in which Raft applied them. It is the store's journal.
//
// Raft gives an entry again after a crash, never in another order and never
// with other content. Each line carries its Raft index and position, so the
// file itself says how far it has come, and what it holds is skipped (why not a
// file beside it: docs/adr/010). A server id is never used again for another
// history, so a last line of another id means that none of ours is there.
//
// When is it on disk? Append only writes: what a crash of the process leaves
// unwritten, or a power cut unsynced, is still in Raft's own log, which is
// synced before an entry commits, and is given again at the next start. That
// holds until a snapshot lets Raft drop the entry; therefore Sync must succeed
// before a snapshot is persisted. An fsync per entry would buy nothing and put
// a disk flush into the path of every write.
//
// A full or failing disk does not stop the replica: lines wait in memory, in
// order, and later Appends try again; Sync fails meanwhile, so that no snapshot
// is taken and a restart finds all of them in Raft's log. When too much waits
// Append fails, and the replica keeps out of Raft until the disk is well.
type Log struct {
	self   string
	path   string
	logger *slog.Logger

	mu       sync.Mutex
	file     logFile
	current  mark   // the next event of the entry being applied
	done     mark   // the first event after those in file and pending
	pending  []byte // whole lines that the file has not taken yet
	unsynced []byte // the file's end: what the disk may not have yet
	doubtful int64  // bytes at the file's end to be cut, after a failed fsync; they are in pending
	writeErr error  // why the file takes no pending lines; nil once written
	syncErr  error  // of the last fsync, see Sync
	failed   int    // fsyncs in a row
	skip     int    // calls of Append that leave the disk in peace
	closed   bool

	syncing sync.Mutex // held over an fsync; Append need not wait for it
}

// logFile is what a Log needs of its *os.File; tests give it one that fails.
type logFile interface {
	io.Writer
	io.ReaderAt
	io.Closer
	Stat() (os.FileInfo, error)
	Truncate(size int64) error
	Sync() error
}

// mark is a place in the sequence of events.
type mark struct {
	index    uint64
	position int
}

func (m mark) before(o mark) bool {
	return m.index < o.index || m.index == o.index && m.position < o.position
}

// Open opens or creates the log file (mode 0600, its folder 0700) and mends
// what a crash left of a half-written line.
func Open(path string, opts LogOptions) (*Log, error) {
	if opts.Self == "" {
		return nil, errors.New("open audit log: no server id given")
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	file, err := openPrivate(path, os.O_APPEND)
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	l := &Log{self: opts.Self, path: path, logger: opts.Logger, file: file}
	if err := l.recover(); err != nil {
		_ = file.Close() // the first error is the one to read
		return nil, fmt.Errorf("open audit log %s: %w", path, err)
	}
	return l, nil
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

// Append adds the events of one item of the Raft entry at index. Calls come in
// apply order; several with one index are several items of that entry. Events
// of other replicas are counted, not written. An event that is not one line of
// JSON is written as the text it is, inside an event that says so: content must
// never stop a replica.
//
// Lines that the file does not take are kept and tried again by later calls.
// The error, when too much is kept, means that nothing of this call was taken:
// the caller gives the entry again, from its first item on. To go on with the
// next item would leave a hole.
func (l *Log) Append(index uint64, origin string, events [][]byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return fmt.Errorf("append to audit log %s: %w", l.path, os.ErrClosed)
	}
	if index != l.current.index {
		l.current = mark{index: index}
	}
	if origin == l.self && len(l.pending) >= maxPending {
		if err := l.flush(); err != nil {
			l.current = mark{} // the entry comes again from its beginning
			return fmt.Errorf("append to audit log: %d bytes already wait to be written: %w", len(l.pending), err)
		}
	}
	for _, event := range events {
		at := l.current
		l.current.position++
		if origin != l.self || at.before(l.done) {
			continue
		}
		l.pending = appendLine(l.pending, event, origin, at)
		l.done = l.current
	}
	if len(l.pending) > 0 && l.dueAgain() {
		_ = l.flush() // kept, logged, and told by Sync
	}
	return nil
}

// dueAgain spaces the attempts at a disk that fails to sync, each of which
// writes everything again; l.mu is held.
func (l *Log) dueAgain() bool {
	if l.skip > 0 {
		l.skip--
		return false
	}
	return true
}

// flush writes what is pending, and has it synced where that is due: when much
// has gathered, or to learn whether a disk that failed is well. l.mu is held.
func (l *Log) flush() error {
	if err := l.write(); err != nil {
		return err
	}
	if len(l.unsynced) < syncEvery && l.syncErr == nil {
		return nil
	}
	// Two fsyncs at a time would share one error: the other could take it for success.
	if !l.syncing.TryLock() {
		return nil // one is under way; the next call sees how it went
	}
	defer l.syncing.Unlock()
	return l.noteSync(len(l.unsynced), l.file.Sync())
}

// Rewind tells the Log that Raft will start again over it, within this process:
// entries may be given again, the last one first of all.
func (l *Log) Rewind() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.current = mark{}
}

// write brings pending into the file; l.mu is held. What was written in part is
// taken back, so that the file ends with a whole line between two calls.
func (l *Log) write() error {
	if err := l.cutDoubtful(); err != nil {
		return err
	}
	n, err := l.file.Write(l.pending)
	if err != nil {
		if n > 0 {
			err = errors.Join(err, l.takeBack(int64(n)))
		}
		if l.writeErr == nil {
			l.logger.Error("the audit log cannot be written: its lines wait in memory and in the Raft log",
				"path", l.path, "error", err)
		}
		l.writeErr = err
		return err
	}
	if l.writeErr != nil {
		l.logger.Info("the audit log can be written again", "path", l.path, "bytes", n)
	}
	l.writeErr = nil
	l.unsynced = append(l.unsynced, l.pending...)
	l.pending = l.pending[:0]
	if cap(l.pending) > 1<<20 {
		l.pending = nil // a hard hour's buffer is not kept for ever
	}
	return nil
}

// takeBack cuts the n bytes that a failed write added. If that fails too, the
// bytes count as written: the rest of the line then follows them in place.
func (l *Log) takeBack(n int64) error {
	info, err := l.file.Stat()
	if err == nil {
		err = l.file.Truncate(info.Size() - n)
	}
	if err != nil {
		l.unsynced = append(l.unsynced, l.pending[:n]...)
		l.pending = l.pending[n:]
	}
	return err
}

// cutDoubtful takes from the end of the file what a failed fsync left in doubt
// and what is going to be written again; l.mu is held.
func (l *Log) cutDoubtful() error {
	if l.doubtful == 0 {
		return nil
	}
	info, err := l.file.Stat()
	if err == nil {
		err = l.file.Truncate(max(0, info.Size()-l.doubtful))
	}
	if err != nil {
		return fmt.Errorf("cut what the disk did not take: %w", err)
	}
	l.doubtful = 0
	return nil
}

// Sync returns when every event up to index that was appended is on the disk.
// The replica calls it before it persists a snapshot of that index.
//
// An fsync that failed says nothing about the data any more: the kernel may
// have given the pages up, and would report success next time for data that is
// lost. So what the disk does not surely have is kept in memory, cut from the
// file and written again before the next attempt.
func (l *Log) Sync(index uint64) error {
	l.syncing.Lock()
	defer l.syncing.Unlock()

	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return fmt.Errorf("sync audit log %s: %w", l.path, os.ErrClosed)
	}
	var err error
	if len(l.pending) > 0 {
		err = l.write()
	}
	covered := len(l.unsynced)
	l.mu.Unlock()
	if err == nil && covered > 0 {
		syncErr := l.file.Sync()
		l.mu.Lock()
		err = l.noteSync(covered, syncErr)
		l.mu.Unlock()
	}
	if err != nil {
		return fmt.Errorf("sync audit log up to Raft index %d: %w", index, err)
	}
	return nil
}

// noteSync takes in how an fsync of the first covered bytes of unsynced went;
// l.mu and l.syncing are held.
func (l *Log) noteSync(covered int, err error) error {
	if err != nil {
		if l.syncErr == nil {
			l.logger.Error("the audit log cannot be synced: its lines are kept and written again, and no snapshot is taken meanwhile",
				"path", l.path, "error", err)
		}
		l.syncErr = fmt.Errorf("the disk did not take the log: %w", err)
		l.doubtful += int64(len(l.unsynced))
		l.pending = slices.Concat(l.unsynced, l.pending)
		l.unsynced = nil
		l.failed = min(l.failed+1, 10)
		l.skip = 1<<l.failed - 1
		_ = l.cutDoubtful() // tried again before the next write
		return l.syncErr
	}
	if l.syncErr != nil {
		l.logger.Info("the audit log can be synced again", "path", l.path)
	}
	l.syncErr, l.failed, l.skip = nil, 0, 0
	l.unsynced = append(l.unsynced[:0], l.unsynced[covered:]...)
	if len(l.unsynced) == 0 && cap(l.unsynced) > 1<<20 {
		l.unsynced = nil
	}
	return nil
}

// Pending is how many bytes wait for a file that cannot be written; 0 when all
// is well.
func (l *Log) Pending() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.pending)
}

// Close writes and syncs what is left and closes the file.
func (l *Log) Close() error {
	l.mu.Lock()
	index, closed := l.done.index, l.closed
	l.mu.Unlock()
	if closed {
		return nil
	}
	err := l.Sync(index)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	return errors.Join(err, l.file.Close())
}

// appendLine adds an event to dst with its place in Raft's log. Our fields come
// last, so that they win where an event repeats a name.
func appendLine(dst, event []byte, origin string, at mark) []byte {
	if !isLine(event) {
		event = malformed(event)
	}
	dst = append(dst, event[:len(event)-1]...)
	dst = append(dst, `,"`+fieldReplica+`":`...)
	e := encoder{buf: dst, budget: budgets[0]}
	e.string(origin)
	dst = append(e.buf, `,"`+fieldIndex+`":`...)
	dst = strconv.AppendUint(dst, at.index, 10)
	dst = append(dst, `,"`+fieldPosition+`":`...)
	dst = strconv.AppendInt(dst, int64(at.position), 10)
	return append(dst, '}', '\n')
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
