package release

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// SumsFile is checked by `sha256sum --check SHA256SUMS`.
const SumsFile = "SHA256SUMS"

// Sums writes checksums over all files of the release, and tells where they are.
func (r *Release) Sums() error {
	var out strings.Builder
	var files, bytes int64
	err := filepath.WalkDir(r.Out, func(path string, d fs.DirEntry, err error) error { // in order of names
		if err != nil || d.IsDir() || d.Name() == SumsFile {
			return err
		}
		rel, err := filepath.Rel(r.Out, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		files, bytes = files+1, bytes+info.Size()
		sum := sha256.New()
		if err := copyFile(sum, path); err != nil {
			return err
		}
		fmt.Fprintf(&out, "%x  %s\n", sum.Sum(nil), filepath.ToSlash(rel))
		return nil
	})
	if err != nil {
		return err
	}
	if err := r.write(SumsFile, func(f *os.File) error { _, err := io.WriteString(f, out.String()); return err }); err != nil {
		return err
	}
	r.logf("%d files of %s are in %s; there, sha256sum --check %s checks them", files+1, size(bytes), r.Out, SumsFile)
	return nil
}
