package audit

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Nothing of a log is deleted but what retention decides. What is not, or no longer,
// part of the log stays in the folder under another name.

// asideName is a name under which a file, or a part of one, is kept.
func asideName(name, kind string) string {
	return name + "." + kind + "-" + time.Now().UTC().Format("20060102T150405.000000000")
}

// moveAside keeps a file that is not what its name says.
func (j *Journal) moveAside(name, why string) error {
	kind := "old"
	if why == otherHistory {
		kind = "other"
	}
	aside := filepath.Join(j.dir, asideName(name, kind))
	err := j.fs.Rename(filepath.Join(j.dir, name), aside)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	j.dirty = true
	j.logger.Warn("a file of the audit log is moved aside", "because", why, "path", filepath.Join(j.dir, name), "to", aside, "error", err)
	return err
}

// keepPart keeps the part of a file that is about to be cut from it.
func (j *Journal) keepPart(name string, file io.ReaderAt, from, to int64, why string) error {
	if from >= to {
		return nil
	}
	kind := "old"
	if why == otherHistory {
		kind = "other"
	}
	aside := asideName(name, kind)
	j.logger.Warn("a part of the audit log is moved aside", "because", why, "path", filepath.Join(j.dir, name), "bytes", to-from, "to", filepath.Join(j.dir, aside))
	return j.copyTo(aside, io.NewSectionReader(file, from, to-from))
}

// copyTo makes a file of the folder, which is on the disk when it returns; its name is
// with the next change of the folder.
func (j *Journal) copyTo(name string, from io.Reader) error {
	file, err := j.create(name)
	if err != nil {
		return err
	}
	if _, err = io.Copy(struct{ io.Writer }{file}, from); err == nil {
		err = file.Sync()
	}
	j.dirty = true
	return errors.Join(err, file.Close())
}

const beforePrefix = "before-"

// beforeName is the folder with what a replica had from before the floor.
func beforeName(floor uint64) string { return fmt.Sprintf("%s%020d", beforePrefix, floor) }

// AsideFolder is the name, in the journal's folder, of what a replica had from before a
// floor. Nothing reads or deletes it; people may.
func AsideFolder(floor uint64) string { return beforeName(floor) }

// asides are the folders of that kind.
func (j *Journal) asides() (names []string) {
	entries, err := os.ReadDir(j.dir)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), beforePrefix)
		if n, err := strconv.ParseUint(digits, 10, 64); ok && err == nil && e.IsDir() && e.Name() == beforeName(n) {
			names = append(names, e.Name())
		}
	}
	return names
}

// before makes the folder for what comes before a floor.
func (j *Journal) before(floor uint64) (string, error) {
	name := beforeName(floor)
	dir := filepath.Join(j.dir, name)
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		var info os.FileInfo
		if info, err = os.Lstat(dir); err == nil && !info.IsDir() {
			err = fmt.Errorf("%s is no folder: move it away", dir)
		}
	} else if err == nil {
		err = j.fs.SyncDir(j.dir)
	}
	if err == nil && !slices.Contains(j.kept, name) {
		j.logger.Warn("the audit log begins anew, because no replica has lines that came before: what is here of the log before them is kept aside, out of retention and search, for you to keep or to delete",
			"first", floor, "path", dir)
		j.kept = append(j.kept, name)
	}
	return name, err
}

// setAside moves a file to the folder of what comes before a floor, under a name.
func (j *Journal) setAside(floor uint64, name, as string) error {
	dir, err := j.before(floor)
	if err != nil {
		return err
	}
	to := filepath.Join(j.dir, dir, as)
	if _, err := os.Lstat(to); err == nil { // a part of it came before, or another one
		to = asideName(to, "other")
	}
	if err := j.fs.Rename(filepath.Join(j.dir, name), to); err != nil {
		return err
	}
	j.dirty = true
	return j.fs.SyncDir(filepath.Join(j.dir, dir))
}

// copyAside copies the beginning of a file to the folder of what comes before a floor.
func (j *Journal) copyAside(floor uint64, file io.ReaderAt, size int64, as string) error {
	dir, err := j.before(floor)
	if err != nil {
		return err
	}
	if err := j.copyTo(filepath.Join(dir, as), io.NewSectionReader(file, 0, size)); err != nil {
		return err
	}
	return j.fs.SyncDir(filepath.Join(j.dir, dir))
}
