package audit

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// drop removes the files of segments that retention has deleted, and moves those from
// before the floor aside: lines that nobody has are no reason to delete the others.
func (k *keeper) drop(m Manifest) error {
	j := k.j
	oldest := m.oldest()
	return j.exclusively(func() error {
		removed := 0
		for len(j.sealed) > 0 && j.sealed[0].first < oldest && j.sealed[0].last < oldest {
			f := j.sealed[0]
			var err error
			if f.last < m.Floor.First {
				err = j.setAside(m.Floor.First, sealedName(f.first), sealedName(f.first))
			} else {
				err = j.remove(sealedName(f.first))
				removed++
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			j.sealed = slices.Delete(j.sealed, 0, 1)
			j.dirty = true
		}
		if removed > 0 {
			j.logger.Info("old segments of the audit log were removed, as retention has decided", "segments", removed, "first", oldest)
		}
		return j.settleApart()
	})
}

// trim takes the lines below the floor out of the files that have some, and keeps them
// aside: files are equal everywhere.
func (k *keeper) trim(m Manifest) error {
	j := k.j
	floor := m.Floor.First
	if floor <= k.floored {
		return nil
	}
	j.mu.Lock()
	sealed := slices.Clone(j.sealed)
	j.mu.Unlock()
	for _, f := range sealed {
		if copyStart(f.first) >= floor || f.last < floor {
			continue
		}
		if err := k.trimSealed(f, floor); err != nil {
			return err
		}
	}
	if err := k.trimActive(floor); err != nil {
		return err
	}
	k.floored = floor
	return nil
}

func (k *keeper) trimSealed(f sealedFile, floor uint64) error {
	j := k.j
	file, err := j.fs.Open(filepath.Join(j.dir, sealedName(f.first)), os.O_RDONLY)
	if err != nil {
		return err
	}
	defer file.Close()
	d, err := k.trimmed(file, f, floor)
	if d == nil || err != nil {
		return err
	}
	defer d.discard()
	if err := j.exclusively(func() error { return j.copyAside(floor, file, f.size-d.size, sealedName(f.first)) }); err != nil {
		return err
	}
	return k.place(Segment{First: f.first, Last: f.last, Hash: f.hash}, d)
}

// trimActive has Write wait: that a replica comes back with lines which the others
// have declared lost happens hardly ever.
func (k *keeper) trimActive(floor uint64) error {
	j := k.j
	return j.exclusively(func() error {
		if j.begin == 0 || j.begin >= floor || j.last < floor {
			return nil // where all of it is below the floor, the gap behind it replaces it
		}
		if err := j.log.write(); err != nil {
			return err
		}
		info, err := j.log.file.Stat()
		if err != nil {
			return err
		}
		from, err := locate(j.log.file, info.Size(), floor, j.last)
		if err != nil || from.number == 0 {
			return err
		}
		if err := j.copyAside(floor, j.log.file, from.begin, activeName); err != nil {
			return err
		}
		return j.takePlace(j.log.file, info.Size(), from.begin, from.number)
	})
}

// trimmed copies the part of a file from the floor on; nil if that is all of it.
func (k *keeper) trimmed(file logFile, f sealedFile, floor uint64) (*draft, error) {
	from, err := locate(file, f.size, floor, f.last)
	if err != nil || from.begin == 0 || from.number == 0 {
		return nil, err
	}
	d, err := k.j.newDraft()
	if err != nil {
		return nil, err
	}
	if d.size, err = io.Copy(d.file, io.NewSectionReader(file, from.begin, f.size-from.begin)); err != nil {
		d.discard()
		return nil, err
	}
	return d, nil
}
