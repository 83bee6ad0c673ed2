package cluster

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
)

const (
	stallAfter  = 5 * time.Second        // a write pending longer fences
	probeEvery  = 500 * time.Millisecond // between attempts at a failing disk
	probeWithin = 2 * time.Second        // a probe slower than that is no recovery
)

var (
	probeKey       = []byte("sallyport/probe")
	errStoresClose = errors.New("stores are closing")
)

// watchdog stands between Raft and the disk. Raft bears neither a disk that
// hangs (the main thread waits in StoreLogs while heartbeats go on, so nobody
// else is elected: hashicorp/raft#503) nor one that fails (an error of the
// StableStore is a panic). So a write that is pending for 5 s, or fails,
// first fences the Raft transport: the others elect a leader at once. Then
// the write waits and is tried again for as long as it takes. When it is
// through, and a probe write after it, the fence is lifted.
type watchdog struct {
	where  string
	log    *slog.Logger
	fence  func()
	lift   func()
	closed chan struct{} // ends waiting writes
	stored func() error  // nil or called after each append, before it counts
	once   sync.Once
	wg     sync.WaitGroup

	gate sync.Mutex // held over fence and lift, so that they come in the order of reason; before mu

	mu      sync.Mutex
	reason  string        // "": not fenced
	told    string        // reason as strangers may read it: without the disk's path
	since   time.Time     // of the fence
	fencedC chan struct{} // closed while fenced
	pending int           // writes that made the fence and still wait
	probing bool
	probe   func() error
}

func newWatchdog(where string, log *slog.Logger, fence, lift func()) *watchdog {
	return &watchdog{
		where: where, log: log, fence: fence, lift: lift,
		closed: make(chan struct{}), fencedC: make(chan struct{}),
	}
}

// fenced returns a channel that is closed while the fence stands, and says why.
func (w *watchdog) fenced() (<-chan struct{}, string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fencedC, w.reason
}

// fencedSince is when the fence was raised, or zero.
func (w *watchdog) fencedSince() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.since
}

// forStrangers is why there is a fence, for anybody who asks; "": there is none. The log
// and status name the disk.
func (w *watchdog) forStrangers() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.told
}

func (w *watchdog) raise(told, reason string) {
	w.gate.Lock()
	defer w.gate.Unlock()
	w.mu.Lock()
	if w.reason != "" {
		w.mu.Unlock()
		return
	}
	w.reason, w.told, w.since = reason, told, time.Now()
	close(w.fencedC)
	w.mu.Unlock()
	w.log.Error("fenced off Raft: the disk does not take writes", "disk", w.where, "reason", reason)
	w.fence()
}

// do runs one write, for as long as it takes. It fails only when the stores close.
func (w *watchdog) do(what string, write func() error) error {
	bad := false
	defer func() {
		if bad {
			w.settle()
		}
	}()
	var mu sync.Mutex // orders the timer against the end of the write
	finished := false
	timer := time.AfterFunc(stallAfter, func() {
		mu.Lock()
		defer mu.Unlock()
		if finished {
			return
		}
		bad = true
		w.begin()
		w.raise("its disk is stuck", fmt.Sprintf("the disk at %s is stuck: %s is pending for %s", w.where, what, stallAfter))
	})
	err := write()
	mu.Lock()
	finished = true
	mu.Unlock()
	timer.Stop()
	for err != nil {
		select {
		case <-w.closed:
			return errStoresClose
		default:
		}
		if !bad {
			bad = true
			w.begin()
		}
		told := "its disk fails"
		if errno, ok := errors.AsType[syscall.Errno](err); ok { // what is around it may name files
			told += ": " + errno.Error()
		}
		w.raise(told, fmt.Sprintf("the disk at %s fails: %s: %v", w.where, what, err))
		select {
		case <-w.closed:
			return errStoresClose
		case <-time.After(probeEvery):
		}
		err = write()
	}
	return nil
}

func (w *watchdog) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pending++
}

// settle ends one bad write; after the last a probe decides whether the fence falls.
func (w *watchdog) settle() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pending--
	if w.pending > 0 || w.probing || w.probe == nil {
		return
	}
	select {
	case <-w.closed:
		return
	default:
	}
	w.probing = true
	w.wg.Go(w.unfence)
}

func (w *watchdog) unfence() {
	for {
		w.mu.Lock()
		probe := w.probe // guard changes it, for the next instance of Raft
		w.mu.Unlock()
		start := time.Now()
		err := probe()
		w.gate.Lock()
		w.mu.Lock()
		if err == nil && time.Since(start) < probeWithin && w.pending == 0 {
			down := time.Since(w.since)
			w.reason, w.told, w.since, w.probing = "", "", time.Time{}, false
			w.fencedC = make(chan struct{})
			w.mu.Unlock()
			w.lift()
			w.gate.Unlock()
			w.log.Warn("the disk takes writes again: Raft is no longer fenced off", "disk", w.where, "after", down.String())
			return
		}
		if w.pending > 0 { // the last of those starts a probe anew
			w.probing = false
			w.mu.Unlock()
			w.gate.Unlock()
			return
		}
		w.mu.Unlock()
		w.gate.Unlock()
		select {
		case <-w.closed:
			return
		case <-time.After(probeEvery):
		}
	}
}

// liftUnlessFenced ends a fence of somebody else's, if the disk has none.
func (w *watchdog) liftUnlessFenced() {
	w.gate.Lock()
	defer w.gate.Unlock()
	if _, reason := w.fenced(); reason == "" {
		w.lift()
	}
}

// close lets writes that wait for the disk give up, and waits for the prober.
func (w *watchdog) close() {
	w.mu.Lock()
	w.once.Do(func() { close(w.closed) })
	w.mu.Unlock()
	w.wg.Wait()
}

// guardedLogs and guardedStable put the watchdog before every write.
type guardedLogs struct {
	raft.LogStore
	w *watchdog
}

func (g guardedLogs) StoreLog(l *raft.Log) error { return g.StoreLogs([]*raft.Log{l}) }

func (g guardedLogs) StoreLogs(logs []*raft.Log) error {
	return g.w.do("an append to the log", func() error {
		if err := g.LogStore.StoreLogs(logs); err != nil || g.w.stored == nil {
			return err
		}
		return g.w.stored()
	})
}

func (g guardedLogs) DeleteRange(from, to uint64) error {
	return g.w.do("a truncation of the log", func() error { return g.LogStore.DeleteRange(from, to) })
}

type guardedStable struct {
	raft.StableStore
	w *watchdog
}

// write returns only when the write is done: an error here makes Raft panic.
func (g guardedStable) write(what string, fn func() error) error {
	if err := g.w.do(what, fn); err == nil {
		return nil
	}
	// The process is stopping. One last try, for a disk that has room again; if
	// that fails too, Raft's thread stays here until the process has ended.
	if err := fn(); err != nil {
		select {}
	}
	return nil
}

func (g guardedStable) Set(key, val []byte) error {
	return g.write("a vote", func() error { return g.StableStore.Set(key, val) })
}

func (g guardedStable) SetUint64(key []byte, val uint64) error {
	return g.write("a term or vote", func() error { return g.StableStore.SetUint64(key, val) })
}

// guard wraps the stores and arms the probe.
func (w *watchdog) guard(logs raft.LogStore, stable raft.StableStore) (raft.LogStore, raft.StableStore) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.probe = func() error {
		return stable.SetUint64(probeKey, uint64(time.Now().Unix())) //nolint:gosec // any number will do
	}
	return guardedLogs{logs, w}, guardedStable{stable, w}
}
