package audit

import (
	"errors"
	"io"
	"os"
	"path/filepath"
)

// putBack makes events.log anew from the open file, whose name is gone. mu and
// syncing are held.
func (j *Journal) putBack() error {
	info, err := j.log.file.Stat()
	if err != nil {
		return err
	}
	j.logger.Warn("events.log was deleted or replaced while it is being written: putting it back", "path", j.log.path)
	file, err := j.copyToName(j.log.file, 0, info.Size())
	if err != nil {
		return err
	}
	_ = j.log.file.Close()
	// What memory holds for it, a seal above all, is as it was.
	j.log.file, j.log.seen, j.dirty = file, lookup{}, true
	return j.settle()
}

// takePlace goes on with the part of a file from an offset on as events.log. mu and
// syncing are held.
func (j *Journal) takePlace(file logFile, size, off int64, begin uint64) error {
	placed, err := j.copyToName(file, off, size-off)
	if err != nil {
		return err
	}
	j.replace(placed, begin, j.first)
	return j.settle()
}

// copyToName gives n bytes of a file from an offset on, synced, the name events.log. The
// folder is for the caller to settle.
func (j *Journal) copyToName(file logFile, off, n int64) (logFile, error) {
	d, err := j.newDraft()
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(struct{ io.Writer }{d.file}, io.NewSectionReader(file, off, n))
	if err == nil {
		err = d.file.Sync()
	}
	if err == nil {
		err = j.fs.Rename(d.path, j.log.path)
	}
	if err != nil {
		d.discard()
		return nil, err
	}
	return d.file, nil
}

// place gives a fetched segment its name.
func (k *keeper) place(s Segment, d *draft) error {
	j := k.j
	if err := d.file.Sync(); err != nil {
		return err
	}
	return j.exclusively(func() error {
		if err := j.fs.Rename(d.path, filepath.Join(j.dir, sealedName(s.First))); err != nil {
			return err
		}
		d.named, j.dirty = true, true
		j.addSealed(sealedFile{first: s.First, last: s.Last, hash: s.Hash, size: d.size})
		return j.settleApart()
	})
}

// finishSealed puts a fetched segment in the place of what events.log had of it,
// and begins the next one.
func (k *keeper) finishSealed(m Manifest, p piece, d *draft, base bool) error {
	j := k.j
	if d.check.next != p.sealed.Last+1 {
		return errAgain // pending.log was replaced
	}
	if err := d.file.Sync(); err != nil {
		return err
	}
	j.syncing.Lock()
	defer j.syncing.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	var next logFile
	var begin uint64
	err := j.unlocked(func() (err error) {
		next, begin, err = j.nextFile(d.file, d.size, p.sealed.Last)
		return err
	})
	if err != nil {
		return err
	}
	if err = j.retire(m, p, base); err == nil {
		err = j.fs.Rename(d.path, filepath.Join(j.dir, sealedName(p.first)))
	}
	if err == nil {
		d.named = true
		j.addSealed(sealedFile{first: p.first, last: p.sealed.Last, hash: p.sealed.Hash, size: d.size})
		err = j.fs.Rename(filepath.Join(j.dir, nextName), j.log.path)
	}
	if err != nil {
		return errors.Join(err, next.Close())
	}
	j.replace(next, begin, p.sealed.Last+1)
	j.last, j.hash = p.sealed.Last, p.sealed.Hash
	if g := j.gap; g != nil {
		g.have = 0
		clear(g.lacking)
	}
	j.announce()
	return j.settle()
}

// replace goes on with another events.log, which is on the disk. What memory held
// for the one before is in it, or is no longer kept. mu and syncing are held.
func (j *Journal) replace(file logFile, begin, first uint64) {
	_ = j.log.file.Close()
	a := &j.log
	a.attach(file)
	a.proven, a.pending, a.seals, a.unsynced, a.doubtful = 0, nil, nil, nil, 0
	a.writeErr, a.syncErr, a.failed, a.skip = nil, nil, 0, 0
	j.begin, j.first, j.dirty = begin, first, true
}

// retire takes events.log away where a file that is not made of it comes next;
// mu and syncing are held.
func (j *Journal) retire(m Manifest, p piece, base bool) error {
	switch {
	case base:
		return nil
	case j.begin == 0 || j.first > 0 && j.last < j.first: // nothing, or copies
		return j.remove(activeName)
	case j.last < m.Floor.First:
		err := j.setAside(m.Floor.First, activeName, activeName)
		if errors.Is(err, os.ErrNotExist) { // taken away before something else failed
			return nil
		}
		return err
	case j.first == p.first && j.last >= p.from: // see errBase
		return j.moveAside(activeName, otherHistory)
	case j.first > 0 && j.first != p.first:
		// Of a segment that is no longer kept. Under its name Keep removes it, like
		// any other, even after a crash.
		err := j.fs.Rename(j.log.path, filepath.Join(j.dir, sealedName(j.first)))
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	return j.moveAside(activeName, "another file takes its place")
}
