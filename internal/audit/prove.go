package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/sallyport-dev/sallyport/internal/audit/chain"
)

// Numbers alone prove nothing: somebody may have added a line, or the folder may be of
// another cluster's history, from a backup or an old disk. So wherever a number here
// meets one that the cluster tells, their hashes are compared. What turns out to be
// another history is kept under another name, and fetched anew.

// lookup finds lines of one file, fast where their numbers rise: after a start Raft
// gives all entries since its snapshot again.
type lookup struct {
	file  logFile
	lines *scanner
	at    place // the line that was read last
}

// hash is that of a line, by what the file says; false: no line has that number.
func (l *lookup) hash(file logFile, number uint64) (chain.Hash, bool, error) {
	if l.file != file || l.lines == nil || l.at.number > number {
		info, err := file.Stat()
		if err != nil {
			return chain.Hash{}, false, err
		}
		from, err := locate(file, info.Size(), number, math.MaxUint64)
		if err != nil {
			return chain.Hash{}, false, err
		}
		*l = lookup{file: file, lines: newScanner(file, from.begin, info.Size())}
	}
	for l.at.number < number {
		line := l.lines.Next()
		if line == nil {
			err := l.lines.Err()
			l.lines = nil
			return chain.Hash{}, false, err
		}
		if t, ok := chain.ParseTrailer(line); ok {
			l.at = place{t.Number, t.Hash}
		}
	}
	return l.at.hash, l.at.number == number, nil
}

// recorded is the hash of a line by the file whose own it is. There is false if that
// file has no such line; known is false if the file is not here. j.mu is held.
func (j *Journal) recorded(number uint64) (h chain.Hash, there, known bool, err error) {
	switch {
	case number == j.last:
		return j.hash, true, true, nil
	case !j.log.idle() || number == 0 || number > j.last:
		return h, false, false, nil
	case j.begin > 0 && number >= j.begin:
		h, there, err = j.log.seen.hash(j.log.file, number)
		return h, there, true, err
	}
	i, ok := j.sealedIndex(number)
	if !ok {
		i--
	}
	if i < 0 || j.sealed[i].last < number {
		return h, false, false, nil
	}
	file, err := j.fs.Open(filepath.Join(j.dir, sealedName(j.sealed[i].first)), os.O_RDONLY)
	if err != nil {
		return h, false, false, nil // it counts as absent, and Keep fetches it
	}
	defer file.Close()
	h, there, err = new(lookup).hash(file, number)
	return h, there, err == nil, nil
}

// lineHash is the hash of a line among those of an addition.
func (add *Addition) lineHash(number uint64) (h chain.Hash, ok bool) {
	if number == add.Head.Number {
		return add.Head.Hash, true
	}
	if number == add.First-1 {
		return add.Prev, true
	}
	for line := range bytes.Lines(add.Lines) {
		if t, ok := chain.ParseTrailer(bytes.TrimSuffix(line, []byte("\n"))); ok && t.Number == number {
			return t.Hash, true
		}
	}
	return h, false
}

// meets says whether an addition follows what is here, or is of the same history where
// it is here already. j.mu is held.
func (j *Journal) meets(add *Addition) bool {
	tail := j.tail()
	n := min(add.Head.Number, tail)
	if tail == 0 || add.First > tail+1 { // Keep sees to what is behind a gap
		return true
	}
	a := j.target()
	if n == a.proven && add.First <= tail {
		return true
	}
	want, ok := add.lineHash(n)
	if !ok {
		return true
	}
	var have chain.Hash
	there, known := true, true
	var err error
	switch g := j.gap; {
	case g == nil:
		have, there, known, err = j.recorded(n)
	case g.begin == 0:
		if known = g.hash != nil && n == g.to; known {
			have = *g.hash
		}
	case n == g.last:
		have = g.end
	case n >= g.begin && g.log.file != nil && g.log.idle():
		have, there, err = a.seen.hash(g.log.file, n)
	default:
		known = false
	}
	switch {
	case err != nil || !known:
		return true // the disk will say more
	case !there || have != want:
		return false
	}
	a.proven = n
	return true
}

// reconcile sets aside what is of another history than the cluster's, of which one line's
// hash is given, and the lines that follow it, as far as known. With end there are none.
// mu and syncing are held.
func (j *Journal) reconcile(to place, add *Addition, end bool) error {
	if g := j.gap; g != nil && add != nil {
		j.logger.Error("pending.log is of another history than the cluster's", "path", g.log.path, "number", add.First)
		if err := j.moveAside(pendingName, otherHistory); err != nil {
			return err
		}
		j.openGap(to.number, &to.hash)
		return nil
	}
	j.logger.Error("the end of this replica's audit log is of another history than the cluster's: it is set aside, and fetched anew from the other replicas",
		"path", j.log.path, "last", j.last, "cluster", to.number)
	p, err := common(j.log.file, j.begin, to, add)
	if err != nil {
		return err
	}
	if p == 0 && j.begin > 0 && j.log.proven >= j.begin && j.log.proven < to.number {
		p = j.log.proven
	}
	if p > 0 && p+1 >= j.first {
		return j.cutBack(p)
	}
	if err := j.moveAside(activeName, otherHistory); err != nil {
		return err
	}
	for len(j.sealed) > 0 && j.newest().last >= to.number {
		s := *j.newest()
		name := sealedName(s.first)
		file, err := j.fs.Open(filepath.Join(j.dir, name), os.O_RDWR|os.O_APPEND)
		if err == nil {
			p, err = common(file, s.first, to, add)
			switch {
			case err == nil && p > 0 && (p == s.last || !end && add != nil && p == add.Head.Number):
				_ = file.Close()
				return j.goOn() // it is the cluster's as far as can be told
			case err == nil && p > 0:
				if err = j.fs.Rename(filepath.Join(j.dir, name), j.log.path); err != nil {
					return errors.Join(err, file.Close())
				}
				j.sealed = j.sealed[:len(j.sealed)-1]
				begin, err := firstNumber(file, s.size)
				j.replace(file, begin, s.first)
				j.last = s.last
				return errors.Join(err, j.cutBack(p))
			}
			_ = file.Close()
		}
		if err := j.moveAside(name, otherHistory); err != nil {
			return err
		}
		j.sealed = j.sealed[:len(j.sealed)-1]
	}
	return j.goOn()
}

const otherHistory = "it is of another history than the cluster's"

// believe takes in which sealed files there are: those of the manifest, of retention and
// those that the state does not know yet. Then it sees to events.log. mu and syncing are
// held.
func (j *Journal) believe(m Manifest, known, sealed []sealedFile) error {
	var ours []sealedFile
	for _, f := range sealed {
		s, ok := m.segmentOf(f.first)
		switch {
		case ok && s.First == f.first && f.last >= s.Last:
			same, err := j.endsWith(f, s)
			if err != nil {
				j.complain(sealedName(f.first), err)
				continue
			}
			if !same {
				if err := j.moveAside(sealedName(f.first), otherHistory); err != nil {
					return err
				}
				continue
			}
		case ok && s.First == f.first, f.first < m.oldest():
		case f.first >= m.Head.First && slices.Contains(known, f) && (j.first == 0 || f.first < j.first):
		default:
			if name := sealedName(f.first); !j.said[name] {
				j.said[name] = true
				j.logger.Warn("a file in the audit log's folder is not of the log", "path", filepath.Join(j.dir, name))
			}
			continue
		}
		ours = append(ours, f)
	}
	j.sealed = ours
	if m.Head.Number > j.told.Number {
		j.told = m.Head
	}
	if err := j.mend(); err != nil {
		return err
	}
	if j.gap == nil && j.last > j.told.Number && j.log.idle() {
		return j.reconcile(place{j.told.Number, j.told.Hash}, nil, true)
	}
	return nil
}

// endsWith says whether the last line of a segment is in its file.
func (j *Journal) endsWith(f sealedFile, s Segment) (bool, error) {
	if f.last == s.Last {
		return f.hash == s.Hash, nil
	}
	file, err := j.fs.Open(filepath.Join(j.dir, sealedName(f.first)), os.O_RDONLY)
	if err != nil {
		return false, err
	}
	defer file.Close()
	h, ok, err := new(lookup).hash(file, s.Last)
	return ok && h == s.Hash, err
}

// common is the last line that a file has in common with the cluster's history, from a
// line on; 0: that one is not in it.
func common(file logFile, begin uint64, from place, add *Addition) (uint64, error) {
	if begin == 0 || from.number == 0 || from.number < begin {
		return 0, nil
	}
	var seen lookup
	h, ok, err := seen.hash(file, from.number)
	if err != nil || !ok || h != from.hash {
		return 0, err
	}
	last := from.number
	if add == nil {
		return last, nil
	}
	for line := range bytes.Lines(add.Lines) {
		t, ok := chain.ParseTrailer(bytes.TrimSuffix(line, []byte("\n")))
		if !ok {
			return last, nil
		}
		h, ok, err := seen.hash(file, t.Number)
		if err != nil || !ok || h != t.Hash {
			return last, err
		}
		last = t.Number
	}
	return last, nil
}

// cutBack ends events.log after a line, and keeps what was behind it under another name.
// mu and syncing are held.
func (j *Journal) cutBack(last uint64) error {
	a := &j.log
	info, err := a.file.Stat()
	if err != nil {
		return err
	}
	from, err := locate(a.file, info.Size(), last, math.MaxUint64)
	if err != nil || from.number != last {
		return errors.Join(fmt.Errorf("line %d is not in %s any more", last, a.path), err)
	}
	lines := newScanner(a.file, from.begin, info.Size())
	t, _ := chain.ParseTrailer(lines.Next())
	return j.cutAt(lines.at(), info.Size(), place{last, t.Hash})
}

// cutAt ends events.log at an offset, after a line. What memory holds follows that line,
// or is given up. mu and syncing are held.
func (j *Journal) cutAt(off, size int64, last place) error {
	a := &j.log
	if size > off {
		if err := j.keepPart(activeName, a.file, off, size, otherHistory); err != nil {
			return err
		}
		if err := a.file.Truncate(off); err != nil {
			return err
		}
	}
	if err := j.unlocked(a.file.Sync); err != nil {
		return err
	}
	inMemory := slices.Concat(a.unsynced, a.pending)
	if t, ok := firstTrailer(inMemory); ok && t.Number == last.number+1 && chain.Link(last.hash, inMemory[:t.Body]) == t.Hash {
		for i := range a.seals {
			a.seals[i].at += len(a.unsynced)
		}
		a.pending = inMemory
	} else {
		a.pending, a.seals = nil, nil
		j.last, j.hash = last.number, last.hash
	}
	a.unsynced, a.doubtful, a.size, a.seen = nil, 0, off, lookup{}
	a.proven = min(a.proven, last.number)
	j.announce()
	return j.settle()
}

// goOn begins events.log anew after the newest sealed file. mu and syncing are held.
func (j *Journal) goOn() error {
	first := uint64(1)
	if s := j.newest(); s != nil {
		if err := j.regenerate(); err != nil {
			return err
		}
		first = s.last + 1
	}
	file, err := j.fs.Open(j.log.path, os.O_RDWR|os.O_CREATE|os.O_APPEND)
	if err != nil {
		return err
	}
	end, _, err := j.recoverFile(file, j.log.path)
	if err != nil {
		return errors.Join(err, file.Close())
	}
	j.replace(file, end.begin, first)
	j.last, j.hash = end.last, end.hash
	j.announce()
	return j.settle()
}

// mend sees to it that the open files are the ones which their names mean, and as long
// as they should be: somebody may rotate, edit or delete them. mu and syncing are held.
func (j *Journal) mend() error {
	if g := j.gap; g != nil && g.log.file != nil {
		named, short, err := g.log.look()
		if err != nil {
			return err
		}
		if named == nil || short {
			j.logger.Error("pending.log was replaced or cut while it is being written: fetching its lines anew", "path", g.log.path)
			if err := j.moveAside(pendingName, "it is not the file that was being written"); err != nil {
				return err
			}
			j.openGap(max(j.told.Number, g.last), j.hashTold(g.last))
		}
	}
	if j.half || j.log.file == nil {
		return nil
	}
	named, short, err := j.log.look()
	switch {
	case err != nil:
		return err
	case short:
		return j.mendCut()
	case named == nil:
		if err := j.moveAside(activeName, "it is not the file that is being written"); err != nil {
			return err
		}
		if err := j.putBack(); err != nil {
			return fmt.Errorf("put %s back, which somebody has deleted or replaced: %w", j.log.path, err)
		}
	}
	return nil
}

// hashTold is the hash of the cluster's head, if that is what a gap ends with.
func (j *Journal) hashTold(atLeast uint64) *chain.Hash {
	if j.told.Number < atLeast {
		return nil
	}
	h := j.told.Hash
	return &h
}

// look says whether the name still means the open file (nil: no), and whether that is
// shorter than what was written to it.
func (a *appender) look() (named os.FileInfo, short bool, err error) {
	is, err := a.file.Stat()
	if err != nil {
		return nil, false, err
	}
	named, err = os.Lstat(a.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, false, err
	}
	if err != nil || !os.SameFile(is, named) {
		named = nil
	}
	return named, is.Size() < a.size, nil
}

// mendCut goes on with what is left of events.log that somebody has cut: its beginning,
// as far as it is a chain. mu and syncing are held.
func (j *Journal) mendCut() error {
	a := &j.log
	j.logger.Error("events.log was cut while it is being written: its lines are fetched anew from the other replicas", "path", a.path)
	info, err := a.file.Stat()
	if err != nil {
		return err
	}
	var last place
	var begin uint64
	var off int64
	lines := newScanner(a.file, 0, info.Size())
	for line := lines.Next(); line != nil; line = lines.Next() {
		t, ok := chain.ParseTrailer(line)
		if !ok || begin > 0 && (t.Number != last.number+1 || chain.Link(last.hash, line[:t.Body]) != t.Hash) {
			break
		}
		if begin == 0 {
			begin = t.Number
		}
		last, off = place{t.Number, t.Hash}, lines.at()
	}
	if err := lines.Err(); err != nil {
		return err
	}
	if begin > 0 && begin == j.begin && last.number+1 >= j.first {
		err = j.cutAt(off, info.Size(), last)
	} else if err = j.keepPart(activeName, a.file, 0, info.Size(), "what is left of it is no beginning"); err == nil {
		err = errors.Join(j.remove(activeName), j.goOn())
	}
	if err == nil && j.told.Number > j.tail() {
		j.openGap(j.told.Number, j.hashTold(0))
	}
	return err
}
