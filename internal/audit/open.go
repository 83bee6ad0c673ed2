package audit

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/sallyport-dev/sallyport/internal/audit/chain"
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

// scan finds the sealed files; what is known of those that have not changed is given.
// What can't be read, or holds no line, counts as absent, like symbolic links and what
// else is no file: Keep fetches the segment, and its rename replaces whatever is there.
func (j *Journal) scan(known []sealedFile) ([]sealedFile, error) {
	entries, err := os.ReadDir(j.dir) // sorted by name, so by number
	if err != nil {
		return nil, err
	}
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
		i, ok := slices.BinarySearchFunc(known, first, func(f sealedFile, n uint64) int { return cmp.Compare(f.first, n) })
		if ok && known[i].size == info.Size() {
			out = append(out, known[i])
			continue
		}
		f := sealedFile{first: first, size: info.Size()}
		t, err := j.lastOf(e.Name())
		if err != nil || t.Number < first {
			j.complain(e.Name(), err)
			continue
		}
		f.last, f.hash = t.Number, t.Hash
		out = append(out, f)
	}
	return out, nil
}

// complain says once what is wrong with a file.
func (j *Journal) complain(name string, err error) {
	if !j.said[name] {
		j.said[name] = true
		j.logger.Error("a file of the audit log holds nothing that can be read as such: it counts as absent, and is fetched anew from the other replicas if the log has it",
			"path", filepath.Join(j.dir, name), "error", err)
	}
}

// lastOf is what a file's last line says of itself; 0: it has none.
func (j *Journal) lastOf(name string) (t chain.Trailer, err error) {
	file, err := j.fs.Open(filepath.Join(j.dir, name), os.O_RDONLY)
	if err != nil {
		return t, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return t, err
	}
	for size := int64(64 << 10); ; size *= 16 {
		start := max(0, info.Size()-size)
		tail := make([]byte, info.Size()-start)
		if _, err := io.ReadFull(io.NewSectionReader(file, start, int64(len(tail))), tail); err != nil {
			return t, err
		}
		if t, ok := lastTrailer(tail); ok || start == 0 || size >= window {
			return t, nil
		}
	}
}
