package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/audit/chain"
)

const (
	// maxPending bounds what a Journal holds in memory while its file cannot be
	// written.
	maxPending = 16 << 20

	// syncEvery bounds how much of the file the disk may not have yet, all of
	// which is kept in memory too. It also bounds how far back Open looks for
	// blocks that a power cut left empty.
	syncEvery = 8 << 20

	// syncAhead is when an fsync is begun beside the Writes: one of syncEvery takes
	// long enough to be felt, as entries are applied one after another.
	syncAhead = 2 << 20

	// copiedLines is how many lines before a segment its file begins with, so
	// that tail shows something after a rotation. Files are equal on all replicas: it
	// is part of the log's format.
	copiedLines = 1000
)

// copyStart is the number of the first line that the file of a segment holds.
func copyStart(first uint64) uint64 {
	if first <= copiedLines {
		return 1
	}
	return first - copiedLines
}

// JournalOptions of a Journal. The zero value works.
type JournalOptions struct {
	Logger *slog.Logger // nil: slog.Default

	// Manifest is what the replicated store says now; nil: there is nothing for
	// Keep to go by. Open does not call it.
	Manifest func() (Manifest, error)
}

// Journal is the cluster's audit log on one replica: each event that was ever
// committed, as a line, in the one order of Raft's log, chained by hash.
//
// Raft gives an entry again after a crash, never in another order and never
// with other content. Each line carries its number, so the files themselves say
// how far they have come, and what they hold is skipped (docs/adr/050). A number
// beyond the next one is a gap: see Gap.
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
	dir      string
	logger   *slog.Logger
	manifest func() (Manifest, error)
	fs       fileSystem

	// syncing is held over an fsync outside mu, for which Write need not wait, and
	// by whoever replaces a file: nobody may fsync it meanwhile. It comes before mu.
	syncing sync.Mutex

	mu      sync.Mutex
	log     appender     // events.log
	first   uint64       // number of the first own line of events.log; 0: not known yet
	begin   uint64       // number of its first line, a copy maybe; 0: it is empty
	last    uint64       // number of the last line in log and its memory
	hash    chain.Hash   // of that line
	sealed  []sealedFile // the files of sealed segments, by number
	gap     *gap         // nil: nothing is missing behind last
	told    Head         // the newest that Write or Expect brought
	half    bool         // a seal has taken events.log away and not yet put the next one there
	dirty   bool         // names in the folder have changed and may not be on the disk
	changed chan struct{}
	wake    chan struct{}   // Keep has something to do; holds one
	keepErr error           // of Keep's last round
	said    map[string]bool // files that were complained of; Keep's
	kept    []string        // folders with what came before a floor
	closed  bool

	ahead   sync.WaitGroup // an fsync beside the Writes, see syncAhead
	isAhead bool           // there is one

	spans spanCache // for searching; it has a lock of its own
}

// Open opens or creates the journal in a folder (mode 0700, its files 0600). It
// mends what a crash left: half a line, half a seal.
func Open(dir string, opts JournalOptions) (*Journal, error) {
	return openJournal(dir, opts, osFiles{})
}

func openJournal(dir string, opts JournalOptions, files fileSystem) (*Journal, error) {
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	j := &Journal{
		dir: dir, logger: opts.Logger, manifest: opts.Manifest, fs: files,
		changed: make(chan struct{}), wake: make(chan struct{}, 1), said: make(map[string]bool),
	}
	j.log = appender{path: filepath.Join(dir, activeName), logger: j.logger, seal: j.seal, wrote: j.announce, settle: j.settle, unlocked: j.unlocked}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil { //nolint:gosec // a directory
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	j.mu.Lock() // nobody else knows it yet, but what is called goes by it
	err := j.recover()
	j.mu.Unlock()
	if err != nil {
		_ = j.closeFiles() // the first error is the one to read
		return nil, fmt.Errorf("open audit log %s: %w", j.log.path, err)
	}
	return j, nil
}

// Write adds what Extend has made of an entry. Calls come in apply order, from
// one goroutine; what is there already is left out.
//
// Lines that the file does not take are kept and tried again by later calls.
// The error, when too much is kept, means that nothing of this call was taken:
// the caller gives the entry again.
func (j *Journal) Write(add *Addition) error {
	exclusive := j.needsSyncing(add)
	if exclusive {
		j.syncing.Lock()
		defer j.syncing.Unlock()
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return fmt.Errorf("write audit log %s: %w", j.log.path, os.ErrClosed)
	}
	if exclusive {
		_ = j.settleApart()              // tried again, and told of, by whatever writes next
		if err := j.mend(); err != nil { // before what somebody has cut is sealed
			return fmt.Errorf("write audit log: %w", err)
		}
	}
	if exclusive && !j.meets(add) {
		if err := j.reconcile(place{add.First - 1, add.Prev}, add, false); err != nil {
			return fmt.Errorf("set another history's log aside: %w", err)
		}
	}
	if a := j.target(); len(a.pending) >= maxPending {
		if err := j.flush(a, exclusive); err != nil {
			return fmt.Errorf("write audit log: %d bytes already wait to be written: %w", len(a.pending), err)
		}
	}
	if add.Head.Number >= j.told.Number {
		j.told = add.Head
	}
	j.take(add)
	if a := j.target(); !a.idle() && a.dueAgain() {
		_ = j.flush(a, exclusive) // kept, logged, and told by Sync
		if len(a.unsynced) >= syncAhead && a.syncErr == nil {
			j.syncBeside()
		}
	}
	return nil
}

// syncBeside begins an fsync for which nobody waits, unless one is under way;
// j.mu is held. After one that failed it is for the next Write to try again.
func (j *Journal) syncBeside() {
	if j.isAhead {
		return
	}
	j.isAhead = true
	j.ahead.Go(func() { // Close waits for it
		for again := true; again; {
			err := j.Sync() // logged, and kept for State and the next Sync
			j.mu.Lock()
			again = err == nil && len(j.target().unsynced) >= syncAhead
			j.isAhead = again
			j.mu.Unlock()
		}
	})
}

// needsSyncing says that a Write may have to seal, or to begin another
// pending.log, or to wait for the fsync under way, as the disk does not keep
// pace. Nobody else can make it so before Write goes on.
func (j *Journal) needsSyncing(add *Addition) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if a := j.target(); len(a.unsynced) >= syncEvery || a.file == nil || j.dirty {
		return true
	}
	return add.Sealed != nil || len(j.log.seals) > 0 || add.First > j.tail()+1 || !j.meets(add)
}

// exclusively calls a function while nobody writes and no file is synced or replaced.
func (j *Journal) exclusively(fn func() error) error {
	j.syncing.Lock()
	defer j.syncing.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	return fn()
}

// unlocked lets go of mu while the disk works, which may take for ever: status must
// be told above all then. syncing is held, so files and lines stay what they are.
func (j *Journal) unlocked(fn func() error) error {
	j.mu.Unlock()
	defer j.mu.Lock()
	return fn()
}

// target is where lines go now; j.mu is held.
func (j *Journal) target() *appender {
	if j.gap != nil {
		return &j.gap.log
	}
	return &j.log
}

// tail is the number of the last line that needs not be given again; j.mu is held.
func (j *Journal) tail() uint64 {
	if j.gap != nil {
		return j.gap.last
	}
	return j.last
}

// take puts the lines of an addition where they belong; j.mu is held.
func (j *Journal) take(add *Addition) {
	if add.First > j.tail()+1 {
		j.openGap(add.First-1, &add.Prev)
	}
	if j.gap == nil {
		j.learnFirst(add)
	}
	have := j.tail()
	if add.Head.Number <= have {
		return
	}
	a := j.target()
	a.pending = append(a.pending, skipLines(add.Lines, have+1-add.First)...)
	if g := j.gap; g != nil {
		if g.begin == 0 {
			g.begin = have + 1
		}
		g.last, g.end = add.Head.Number, add.Head.Hash
		return
	}
	if j.begin == 0 {
		j.begin = have + 1
	}
	j.last, j.hash = add.Head.Number, add.Head.Hash
}

// learnFirst takes from an addition that is not all here where the segment in
// events.log begins, and marks its end there; j.mu is held. Files alone can't always
// say it, and older additions say nothing: a seal may have come since.
func (j *Journal) learnFirst(add *Addition) {
	switch {
	case add.Head.Number <= j.last:
	case add.First <= j.last || add.Sealed == nil: // a seal was before lines that are here
		if len(j.log.seals) == 0 {
			j.first = add.Head.First
		}
	default:
		s := *add.Sealed
		onlyCopies := j.begin == copyStart(s.Last+1) && j.begin != copyStart(s.First)
		if j.first == s.Last+1 || j.first == 0 && onlyCopies { // sealed before a crash
			j.first = s.Last + 1
			return
		}
		j.log.seals = append(j.log.seals, sealMark{at: len(j.log.pending), seg: s})
	}
}

func skipLines(lines []byte, n uint64) []byte {
	for ; n > 0 && len(lines) > 0; n-- {
		lines = lines[bytes.IndexByte(lines, '\n')+1:]
	}
	return lines
}

// flush writes what is pending, and has it synced where that is due; j.mu is
// held, and syncing if exclusive says so.
func (j *Journal) flush(a *appender, exclusive bool) error {
	due, err := a.flush()
	if err != nil || !due {
		return err
	}
	// Two fsyncs at a time would share one error: the other could take it for success.
	if !exclusive {
		if !j.syncing.TryLock() {
			return nil // one is under way; the next call sees how it went
		}
		defer j.syncing.Unlock()
	}
	return a.sync()
}

// Sync returns when every line that was written is on the disk, those behind a
// gap, too. The replica calls it before it persists a snapshot.
func (j *Journal) Sync() error {
	j.syncing.Lock()
	defer j.syncing.Unlock()
	j.mu.Lock()
	var err error
	if !j.closed {
		err = j.mend()
	}
	appenders := []*appender{&j.log}
	if j.gap != nil {
		appenders = append(appenders, &j.gap.log) // syncing is held: it stays what it is
	}
	j.mu.Unlock()
	if err != nil {
		return fmt.Errorf("sync audit log: %w", err)
	}
	for _, a := range appenders {
		if err := j.syncOne(a); err != nil {
			return fmt.Errorf("sync audit log: %w", err)
		}
	}
	return nil
}

func (j *Journal) syncOne(a *appender) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return os.ErrClosed
	}
	if err := j.settleApart(); err != nil {
		return a.failedWrite(err)
	}
	if !a.idle() || a.writeErr != nil {
		if err := a.write(); err != nil {
			return err
		}
	}
	return a.sync()
}

// settle makes the names in the folder durable; j.mu is held.
func (j *Journal) settle() error {
	if !j.dirty {
		return nil
	}
	if err := j.fs.SyncDir(j.dir); err != nil {
		return err
	}
	j.dirty = false
	return nil
}

// settleApart is settle without mu; syncing and mu are held.
func (j *Journal) settleApart() error {
	if !j.dirty {
		return nil
	}
	if err := j.unlocked(func() error { return j.fs.SyncDir(j.dir) }); err != nil {
		return err
	}
	j.dirty = false // it is changed by holders of syncing alone
	return nil
}

// Expect tells the journal what the chain's head is after a snapshot was
// restored. Where it lacks lines up to there, it has a gap for Keep to fill.
func (j *Journal) Expect(head Head) {
	_ = j.exclusively(func() error {
		if j.closed {
			return nil
		}
		if head.Number >= j.told.Number {
			j.told = head
		}
		if err := j.prove(head); err != nil {
			j.logger.Error("another history's audit log could not be set aside", "path", j.log.path, "error", err)
		}
		if head.Number > j.tail() {
			j.openGap(head.Number, &head.Hash)
		}
		return nil
	})
}

// prove holds what is here against a line that the cluster has. mu and syncing are held.
func (j *Journal) prove(head Head) error {
	if j.gap != nil || head.Number == 0 || head.Number > j.last {
		return nil // Keep joins nothing to what does not follow
	}
	have, there, known, err := j.recorded(head.Number)
	if err != nil || !known {
		return err
	}
	if there && have == head.Hash {
		j.log.proven = head.Number
		return nil
	}
	return j.reconcile(place{head.Number, head.Hash}, nil, false)
}

// Pending is how many bytes wait for a file that cannot be written; 0 when all
// is well.
func (j *Journal) Pending() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.pendingBytes()
}

func (j *Journal) pendingBytes() int {
	n := len(j.log.pending)
	if j.gap != nil {
		n += len(j.gap.log.pending)
	}
	return n
}

// announce tells those who wait for Changed; j.mu is held.
func (j *Journal) announce() {
	close(j.changed)
	j.changed = make(chan struct{})
}

// Changed is closed when lines were added to events.log.
func (j *Journal) Changed() <-chan struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.changed
}

// Close writes and syncs what is left and closes the files. Keep must have ended.
func (j *Journal) Close() error {
	j.mu.Lock()
	closed := j.closed
	j.mu.Unlock()
	if closed {
		return nil
	}
	err := j.Sync()
	defer j.ahead.Wait() // finds it closed
	return j.exclusively(func() error {
		j.closed = true
		return errors.Join(err, j.closeFiles())
	})
}

func (j *Journal) closeFiles() error {
	var errs []error
	if j.log.file != nil {
		errs = append(errs, j.log.file.Close())
	}
	if j.gap != nil && j.gap.log.file != nil {
		errs = append(errs, j.gap.log.file.Close())
	}
	return errors.Join(errs...)
}

// remove deletes a file of the folder that need not be there.
func (j *Journal) remove(name string) error {
	err := j.fs.Remove(filepath.Join(j.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
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
	e := encoder{budget: budgets[0], ascii: true}
	e.buf = append(e.buf, `{"event":"`+api.EventMalformed+`","code":"`+api.EventCodeMalformed+`","text":`...)
	e.string(string(event))
	if e.truncated {
		e.buf = append(e.buf, `,"truncated":true`...)
	}
	return append(e.buf, '}')
}
