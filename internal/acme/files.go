package acme

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/caddyserver/certmagic"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
)

const (
	filesPrefix = "acme/files/"

	// maxFileSize bounds a file: a chain of certificates has some 10 KiB, and the
	// largest record that fits the store 1 MiB.
	maxFileSize = 256 << 10

	fileVersion = 1

	// deleteBatch bounds one transaction that deletes a directory.
	deleteBatch   = 256
	deleteBatches = 64
)

var (
	errIsDirectory = errors.New("is a directory")
	errUnderFile   = errors.New("a file can't hold files: one of the directories of this path is a file")
)

// fileRecord is the value of a file.
type fileRecord struct {
	Version  int       `json:"version"`
	Sealed   []byte    `json:"sealed"`
	Modified time.Time `json:"modified"`
	Size     int64     `json:"size"` // of the file in the clear
}

func decodeFile(value []byte) (fileRecord, error) {
	var f fileRecord
	if err := json.Unmarshal(value, &f); err != nil {
		return fileRecord{}, api.Errorf(api.CodeInternal, "the record can't be read: %w", err)
	}
	if f.Version != fileVersion {
		return fileRecord{}, api.Errorf(api.CodeInternal, "the record is of format %d, which this version doesn't know", f.Version)
	}
	if len(f.Sealed) == 0 || f.Size < 0 || f.Size > maxFileSize {
		return fileRecord{}, api.Errorf(api.CodeInternal, "the record can't be read: no content, or a size of %d bytes", f.Size)
	}
	return f, nil
}

// cleanKey is the path of a file in one spelling: without slashes at its ends or in a
// row, without dots as elements; "" is the root. A key that leads upwards is refused
// even if it stays below the root: CertMagic makes none.
func cleanKey(key string) (string, error) {
	if len(filesPrefix)+len(key) > fsm.MaxKeyLength {
		return "", api.Errorf(api.CodeInvalid, "%.64q…: the path is too long", key)
	}
	if !utf8.ValidString(key) || strings.ContainsRune(key, 0) {
		return "", api.Errorf(api.CodeInvalid, "%q: the path is not UTF-8, or holds a zero byte", key)
	}
	if slices.Contains(strings.Split(key, "/"), "..") {
		return "", api.Errorf(api.CodeInvalid, "%q: the path leads upwards", key)
	}
	return strings.TrimPrefix(path.Clean("/"+key), "/"), nil
}

// Store implements certmagic.Storage.
//
// CertMagic stores a certificate as three files one after the other, its key first.
// Whatever ends that early would leave the new key beside the old certificate, which
// no replica could serve after a restart; and what CertMagic does then is to delete
// what it wrote, without bringing the old back. So under the lock of the certificate
// key and certificate wait for the third file, the metadata, and all three are written
// together. Until then nobody sees them, and Delete only forgets them.
func (s *Storage) Store(ctx context.Context, key string, value []byte) error {
	file, err := cleanKey(key)
	if err != nil {
		return pathError("store", key, err)
	}
	if file == "" {
		return pathError("store", key, errIsDirectory)
	}
	if len(value) > maxFileSize {
		return pathError("store", key, api.Errorf(api.CodeTooLarge, "%d bytes, at most %d are allowed", len(value), maxFileSize))
	}
	record, err := s.seal(file, value)
	if err != nil {
		return pathError("store", key, err)
	}
	l, err := s.under(ctx, file)
	if err != nil {
		return pathError("store", key, err)
	}
	defer l.end()
	if l.stage(file, record) {
		return nil
	}
	set := l.set(file)
	records := map[string][]byte{file: record}
	maps.Copy(records, set)
	if err := s.put(ctx, l, records); err != nil {
		return pathError("store", key, err)
	}
	for staged := range set {
		l.unstage(staged)
	}
	return nil
}

// put writes records, by path: all or none. The caller has the lock's turn.
func (s *Storage) put(ctx context.Context, l *lease, records map[string][]byte) error {
	files := slices.Sorted(maps.Keys(records))
	return s.write(ctx, l, func(v fsm.View) (txn fsm.Txn, done bool, err error) {
		done = true
		for _, file := range files {
			r, ok := v.Get(filesPrefix + file)
			done = done && ok && bytes.Equal(r.Value, records[file])
			if err := mayStore(v, file); err != nil {
				return fsm.Txn{}, false, err
			}
			txn.Checks = append(txn.Checks, fsm.Check{Key: filesPrefix + file, Revision: v.Revision(filesPrefix + file)})
			txn.Ops = append(txn.Ops, fsm.Put(filesPrefix+file, records[file]))
		}
		return txn, done, nil
	})
}

// mayStore keeps a path from being file and directory at once, as in a file system. Two
// writers at the same moment could still make it so. Then it is both: harmless.
func mayStore(v fsm.View, file string) error {
	if isDirectory(v, file) {
		return errIsDirectory
	}
	for dir := path.Dir(file); dir != "."; dir = path.Dir(dir) {
		if _, ok := v.Get(filesPrefix + dir); ok {
			return errUnderFile
		}
	}
	return nil
}

// Load implements certmagic.Storage. An error that is not fs.ErrNotExist says nothing
// about whether the file exists: see Storage.
func (s *Storage) Load(ctx context.Context, key string) ([]byte, error) {
	file, err := cleanKey(key)
	if err != nil {
		return nil, pathError("load", key, err)
	}
	var record *fsm.Record
	directory := false
	look := func(v fsm.View) bool {
		record, _ = v.Get(filesPrefix + file)
		directory = record == nil && isDirectory(v, file)
		return record != nil || directory
	}
	// What is here may be the challenge before this one. But without a leader it is the
	// best there is.
	if err := s.find(ctx, isChallenge(file), look); err != nil {
		return nil, pathError("load", key, err)
	}
	switch {
	case directory:
		return nil, pathError("load", key, errIsDirectory)
	case record == nil:
		return nil, pathError("load", key, fs.ErrNotExist)
	}
	value, err := s.open(file, record.Value)
	if err != nil {
		return nil, pathError("load", key, err)
	}
	return value, nil
}

// isChallenge says whether a file answers a challenge. All orders of a name use one
// file, one after the other.
func isChallenge(file string) bool {
	return path.Dir(file) == challengesDir
}

// Delete implements certmagic.Storage. A directory is deleted with all that is in it,
// but the root can't be.
func (s *Storage) Delete(ctx context.Context, key string) error {
	file, err := cleanKey(key)
	if err == nil && file == "" {
		err = api.Errorf(api.CodeInvalid, "everything would be deleted")
	}
	if err != nil {
		return pathError("delete", key, err)
	}
	l, err := s.under(ctx, file)
	if err != nil {
		return pathError("delete", key, err)
	}
	defer l.end()
	if l.unstage(file) {
		return nil
	}
	if err := s.deleteAll(ctx, l, file); err != nil {
		return pathError("delete", key, err)
	}
	return nil
}

// deleteAll deletes a file, or what is below a directory. The caller has the turn.
func (s *Storage) deleteAll(ctx context.Context, l *lease, file string) error {
	exists := func(v fsm.View) bool { return len(tree(v, file, 1)) > 0 }
	if err := s.find(ctx, false, exists); err != nil {
		return err
	}
	for range deleteBatches {
		if !exists(s.db.View()) {
			return nil
		}
		err := s.write(ctx, l, func(v fsm.View) (txn fsm.Txn, done bool, err error) {
			for _, r := range tree(v, file, deleteBatch) {
				txn.Checks = append(txn.Checks, fsm.Check{Key: r.Key, Revision: r.Revision})
				txn.Ops = append(txn.Ops, fsm.Delete(r.Key))
			}
			return txn, len(txn.Ops) == 0, nil
		})
		if err != nil {
			return err
		}
	}
	return api.Errorf(api.CodeConflict, "files are added all the time: try again")
}

// Exists implements certmagic.Storage. If the cluster can't be asked it says no; what
// CertMagic does upon that needs the cluster too.
func (s *Storage) Exists(ctx context.Context, key string) bool {
	file, err := cleanKey(key)
	if err != nil {
		return false
	}
	exists := false
	err = s.find(ctx, false, func(v fsm.View) bool {
		exists = file == "" || len(tree(v, file, 1)) > 0
		return exists
	})
	return err == nil && exists
}

// Stat implements certmagic.Storage. A directory was modified when the newest file in
// it was: CertMagic takes the newest account.
func (s *Storage) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	file, err := cleanKey(key)
	if err != nil {
		return certmagic.KeyInfo{}, pathError("stat", key, err)
	}
	var records []*fsm.Record
	look := func(v fsm.View) bool {
		records = tree(v, file, 0)
		return len(records) > 0 || file == ""
	}
	if err := s.find(ctx, false, look); err != nil {
		return certmagic.KeyInfo{}, pathError("stat", key, err)
	}
	if len(records) == 0 && file != "" {
		return certmagic.KeyInfo{}, pathError("stat", key, fs.ErrNotExist)
	}
	info := certmagic.KeyInfo{Key: key}
	for _, r := range records {
		f, err := decodeFile(r.Value)
		if err != nil {
			return certmagic.KeyInfo{}, pathError("stat", key, err)
		}
		if r.Key == filesPrefix+file {
			return certmagic.KeyInfo{Key: key, Modified: f.Modified, Size: f.Size, IsTerminal: true}, nil
		}
		if f.Modified.After(info.Modified) {
			info.Modified = f.Modified
		}
	}
	return info, nil
}

// List implements certmagic.Storage: what is in a directory, or with recursive also
// below it, directories too, in the order in which one walks it.
func (s *Storage) List(ctx context.Context, prefix string, recursive bool) ([]string, error) {
	dir, err := cleanKey(prefix)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, pathError("list", prefix, err)
	}
	var names []string
	exists := false
	look := func(v fsm.View) bool {
		names = below(v, dir, recursive)
		_, file := v.Get(filesPrefix + dir)
		exists = len(names) > 0 || file || dir == ""
		return exists
	}
	if err := s.find(ctx, false, look); err != nil {
		return nil, pathError("list", prefix, err)
	}
	if !exists {
		return nil, pathError("list", prefix, fs.ErrNotExist)
	}
	for i, name := range names {
		names[i] = path.Join(prefix, name)
	}
	return names, nil
}

// below gives the paths below a directory, relative to it.
func below(v fsm.View, dir string, recursive bool) []string {
	prefix := dirPrefix(dir)
	names := map[string]bool{}
	for r := range v.List(prefix) {
		name := strings.TrimPrefix(r.Key, prefix)
		if !recursive {
			name, _, _ = strings.Cut(name, "/")
		}
		for ; name != "."; name = path.Dir(name) {
			names[name] = true
		}
	}
	return slices.SortedFunc(maps.Keys(names), func(a, b string) int {
		return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/"))
	})
}

// tree gives the records of a file and of what is below it, at most limit (0: all).
func tree(v fsm.View, file string, limit int) []*fsm.Record {
	var records []*fsm.Record
	if r, ok := v.Get(filesPrefix + file); ok {
		records = append(records, r)
	}
	for r := range v.List(dirPrefix(file)) {
		if limit > 0 && len(records) >= limit {
			break
		}
		records = append(records, r)
	}
	return records
}

// isDirectory says whether there is something below a path. The root is always there.
func isDirectory(v fsm.View, file string) bool {
	for range v.List(dirPrefix(file)) {
		return true
	}
	return file == ""
}

func dirPrefix(dir string) string {
	if dir == "" {
		return filesPrefix
	}
	return filesPrefix + dir + "/"
}

func (s *Storage) seal(file string, value []byte) ([]byte, error) {
	sealed, err := s.sealer.Seal(filesPrefix+file, value)
	if err != nil {
		return nil, err
	}
	return json.Marshal(fileRecord{Version: fileVersion, Sealed: sealed, Modified: s.clock().UTC(), Size: int64(len(value))})
}

func (s *Storage) open(file string, record []byte) ([]byte, error) {
	f, err := decodeFile(record)
	if err != nil {
		return nil, err
	}
	return s.sealer.Open(filesPrefix+file, f.Sealed)
}

func pathError(op, key string, err error) error {
	return &fs.PathError{Op: "ACME storage: " + op, Path: key, Err: err}
}
