package audit

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// openRegular opens a file of the journal, or fails where something else stands in
// its place: a symbolic link would have us write or show any file of ours, and a FIFO
// would have us wait for ever.
func openRegular(path string, flag int) (*os.File, error) {
	f, err := os.OpenFile(path, flag|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600) //nolint:gosec // the replica's own data directory
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file: move it away", path)
	}
	if err == nil && flag&os.O_CREATE != 0 {
		err = f.Chmod(0o600)
	}
	if err != nil {
		_ = f.Close() // the first error is the one to read
		return nil, err
	}
	return f, nil
}

type osFiles struct{}

func (osFiles) Open(path string, flag int) (logFile, error) {
	f, err := openRegular(path, flag)
	if err != nil {
		return nil, err // no nil *os.File in an interface
	}
	return f, nil
}

func (osFiles) Rename(from, to string) error { return os.Rename(from, to) }
func (osFiles) Remove(path string) error     { return os.Remove(path) }
func (osFiles) SyncDir(dir string) error     { return syncDir(dir) }

// moveAside keeps a file that is not what its name says.
func (j *Journal) moveAside(name, why string) error {
	old := filepath.Join(j.dir, name+".old-"+time.Now().UTC().Format("20060102T150405.000000000"))
	j.logger.Warn("a file of the audit log is moved aside", "because", why, "path", filepath.Join(j.dir, name), "to", old)
	err := j.fs.Rename(filepath.Join(j.dir, name), old)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// scan finds the sealed files. Symbolic links and what else is no file count as
// absent: Keep fetches the segment, and its rename replaces a link without following it.
func (j *Journal) scan() ([]sealedFile, error) {
	entries, err := os.ReadDir(j.dir) // sorted by name, so by number
	if err != nil {
		return nil, err
	}
	known := make(map[uint64]sealedFile)
	j.mu.Lock()
	for _, f := range j.sealed {
		known[f.first] = f
	}
	j.mu.Unlock()
	var out []sealedFile
	for _, e := range entries {
		first, ok := parseSealedName(e.Name())
		if !ok || !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		f, ok := known[first]
		if !ok || f.size != info.Size() {
			f = sealedFile{first: first, size: info.Size()}
			if f.last, err = j.lastOf(e.Name()); err != nil {
				return nil, err
			}
		}
		out = append(out, f)
	}
	return out, nil
}

// lastOf is the number of a file's last line, 0 if it has none.
func (j *Journal) lastOf(name string) (uint64, error) {
	file, err := j.fs.Open(filepath.Join(j.dir, name), os.O_RDONLY)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	for size := int64(64 << 10); ; size *= 16 {
		start := max(0, info.Size()-size)
		tail := make([]byte, info.Size()-start)
		if _, err := io.ReadFull(io.NewSectionReader(file, start, int64(len(tail))), tail); err != nil {
			return 0, err
		}
		if t, ok := lastTrailer(tail); ok || start == 0 || size >= window {
			return t.Number, nil
		}
	}
}
