package release

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
)

// A tree is the files of a layer or an archive by path, without a leading slash.
type tree map[string]node

// node is a file, a directory or a symbolic link.
type node struct {
	mode     fs.FileMode // type and permissions
	uid, gid int
	link     string // target of a symbolic link
	data     []byte
}

func (t tree) file(name string, mode fs.FileMode, data []byte) {
	t[name] = node{mode: mode.Perm(), data: data}
}

func (t tree) link(name, target string) {
	t[name] = node{mode: fs.ModeSymlink | 0o777, link: target}
}

// dir is for directories that are not root's 0755; those come by themselves.
func (t tree) dir(name string, mode fs.FileMode, uid, gid int) {
	t[name] = node{mode: fs.ModeDir | mode, uid: uid, gid: gid}
}

// tar writes t, with the directories above its files, in order of names.
func (t tree) tar(w io.Writer, modified time.Time) error {
	all := maps.Clone(t)
	for name := range t {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if _, ok := all[dir]; !ok {
				all.dir(dir, 0o755, 0, 0)
			}
		}
	}
	tw := tar.NewWriter(w)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		h, err := all[name].header(name)
		if err != nil {
			return err
		}
		h.ModTime = modified
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := tw.Write(all[name].data); err != nil {
			return err
		}
	}
	return tw.Close()
}

func (n node) header(name string) (*tar.Header, error) {
	if strings.HasPrefix(name, "/") || path.Clean(name) != name || strings.HasPrefix(name, "..") {
		return nil, fmt.Errorf("%q is no path below a tree's top", name)
	}
	h := &tar.Header{Name: name, Mode: int64(n.mode.Perm()), Uid: n.uid, Gid: n.gid, Size: int64(len(n.data)), Format: tar.FormatPAX, Typeflag: tar.TypeReg}
	switch n.mode.Type() {
	case 0:
	case fs.ModeDir:
		h.Name, h.Typeflag = name+"/", tar.TypeDir
		if n.mode&fs.ModeSticky != 0 {
			h.Mode |= 0o1000
		}
	case fs.ModeSymlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, n.link
	default:
		return nil, fmt.Errorf("%s: a tree has files, directories and symbolic links, not %s", name, n.mode.Type())
	}
	return h, nil
}

// gzipped is t as a .tar.gz. Its header bears no name and no time.
func (t tree) gzipped(modified time.Time) ([]byte, error) {
	var b bytes.Buffer
	zw, err := gzip.NewWriterLevel(&b, gzip.DefaultCompression)
	if err != nil {
		return nil, err
	}
	if err := t.tar(zw, modified); err != nil {
		return nil, err
	}
	if err := zw.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
