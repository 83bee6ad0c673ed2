package acme

import (
	"path"
	"strings"
)

// The three files of a certificate: see Store.
const (
	keyExt  = ".key"
	certExt = ".crt"
	metaExt = ".json"
)

// siteFile takes certificates/<authority>/<name>/<name>.<ext> apart before the
// extension; base is "" for all else.
func siteFile(file string) (base, ext string) {
	part := strings.Split(file, "/")
	ext = path.Ext(file)
	if len(part) != 4 || part[0] != "certificates" || part[3] != part[2]+ext || (ext != keyExt && ext != certExt && ext != metaExt) {
		return "", ""
	}
	return strings.TrimSuffix(file, ext), ext
}

// stage keeps the record of a certificate's or its key's file until the set is whole:
// see Store. It says whether it is such a file.
func (l *lease) stage(file string, record []byte) bool {
	base, ext := siteFile(file)
	if l == nil || base == "" || ext == metaExt {
		return false
	}
	if l.staged == nil {
		l.staged = map[string][]byte{}
	}
	l.staged[file] = record
	return true
}

// set is what to write together with a file: the rest of its set, if that is whole.
func (l *lease) set(file string) map[string][]byte {
	base, ext := siteFile(file)
	if l == nil || base == "" || ext != metaExt || l.staged[base+keyExt] == nil || l.staged[base+certExt] == nil {
		return nil
	}
	return map[string][]byte{base + keyExt: l.staged[base+keyExt], base + certExt: l.staged[base+certExt]}
}

// unstage forgets a staged file, and says whether it was one.
func (l *lease) unstage(file string) bool {
	if l == nil || l.staged[file] == nil {
		return false
	}
	delete(l.staged, file)
	return true
}
