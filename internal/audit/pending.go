package audit

import (
	"context"
	"errors"
	"os"
	"path/filepath"
)

// joinUnderLock is how many bytes of pending.log may be read while Write waits.
const joinUnderLock = 1 << 20

// join ends the gap: what was fetched, with what came meanwhile, is events.log.
func (k *keeper) join(ctx context.Context, m Manifest, p piece, d *draft, base bool) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		done, err := k.tryJoin(m, p, d, base)
		if done || err != nil {
			return err
		}
		if err := k.joinPending(m, d, 0); err != nil {
			return err
		}
		if err := d.file.Sync(); err != nil { // not while Write waits
			return err
		}
	}
}

func (k *keeper) tryJoin(m Manifest, p piece, d *draft, base bool) (done bool, err error) {
	j := k.j
	j.syncing.Lock()
	defer j.syncing.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	g, head := j.gap, j.latest(m)
	if g == nil || head.First != p.first || d.check.next <= g.to {
		return false, errAgain
	}
	take := func() (taken bool, err error) {
		size, err := g.readable()
		if err != nil || size-d.pendingAt > joinUnderLock {
			return false, err
		}
		if err := d.addPending(g.log.file, size, 0); err != nil {
			return false, k.badPending(m, err)
		}
		return true, nil
	}
	fits := func() error {
		if d.check.next != g.last+1 || head.Number == g.last && head.Hash != d.check.prev {
			return k.badPending(m, errors.New("pending.log does not end as it should"))
		}
		return nil
	}
	if taken, err := take(); !taken {
		return false, err
	}
	if head.Number < g.last {
		return false, errAgain
	}
	if err := fits(); err != nil {
		return false, err
	}
	synced := d.size
	if err := j.unlocked(d.file.Sync); err != nil {
		return false, err
	}
	// What Write has added meanwhile comes with it, and is on the disk by the next Sync:
	// to sync that first would have no end while lines come.
	if head = j.latest(m); head.First != p.first {
		return false, errAgain
	}
	if taken, err := take(); !taken {
		return false, err
	}
	if err := fits(); err != nil {
		return false, err
	}
	rest := make([]byte, d.size-synced)
	if _, err := d.file.ReadAt(rest, synced); err != nil {
		return false, err
	}
	if err := j.retire(m, p, base); err != nil {
		return false, err
	}
	if err := j.fs.Rename(d.path, j.log.path); err != nil {
		return false, err
	}
	j.replace(d.file, d.begin, p.first)
	j.log.unsynced = rest
	j.last, j.hash = g.last, d.check.prev
	d.file = nil // it is the journal's now
	if g.log.file != nil {
		_ = g.log.file.Close()
	}
	j.gap = nil
	j.announce()
	j.logger.Info("the audit log has no gap any more", "path", j.log.path, "last", j.last)
	return true, errors.Join(j.remove(pendingName), j.settle())
}

// readable is how much of pending.log can be read: all of it, or an error; mu
// and syncing are held.
func (g *gap) readable() (int64, error) {
	if !g.log.idle() {
		if err := g.log.write(); err != nil {
			return 0, err
		}
	}
	if g.log.file == nil {
		return 0, nil
	}
	info, err := g.log.file.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// badPending gives up pending.log, which somebody has touched: its lines are
// fetched like the others. mu and syncing are held.
func (k *keeper) badPending(m Manifest, err error) error {
	j := k.j
	j.logger.Error("pending.log does not fit the audit log: fetching its lines anew", "error", err)
	head := j.latest(m)
	if head.Number < j.gap.last {
		return err
	}
	j.openGap(head.Number, &head.Hash)
	return errAgain
}

// joinPending adds lines of pending.log to a draft: up to a number, or all (0).
func (k *keeper) joinPending(m Manifest, d *draft, to uint64) error {
	j := k.j
	if to > 0 && d.check.next > to {
		return nil
	}
	j.syncing.Lock()
	j.mu.Lock()
	g := j.gap
	if g == nil || d.check.next <= g.to {
		j.mu.Unlock()
		j.syncing.Unlock()
		return errAgain
	}
	size, err := g.readable()
	j.mu.Unlock()
	j.syncing.Unlock()
	if err != nil {
		return err
	}
	// By a file of our own: Write may replace the gap's.
	file, err := j.fs.Open(filepath.Join(j.dir, pendingName), os.O_RDONLY)
	if errors.Is(err, os.ErrNotExist) {
		return errAgain
	}
	if err != nil {
		return err
	}
	defer file.Close()
	err = d.addPending(file, size, to)
	if err == nil || !errors.Is(err, errChain) {
		return err
	}
	j.syncing.Lock()
	defer j.syncing.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.gap != g {
		return errAgain
	}
	return k.badPending(m, err)
}
