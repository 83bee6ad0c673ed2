package server

import (
	"crypto/tls"
	"os"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// certFile is a certificate and key kept in files that something else renews.
// It looks for a change at most once per interval, at a handshake: no goroutine,
// no watch that a Secret mount's symlink swap would break.
type certFile struct {
	cert, key string
	now       func() time.Time

	mu      sync.Mutex
	loaded  *tls.Certificate
	stamp   stamp // of the two files as loaded
	checked time.Time
	failed  error // of the last look, which left the old one in use; nil: none
	since   time.Time
}

// stamp tells two files from those that were there before. Of symbolic links, such as a
// Secret's mount is made of, it is their targets'.
type stamp [2]os.FileInfo

func stampOf(cert, key string) (s stamp, err error) {
	for i, path := range []string{cert, key} {
		if s[i], err = os.Stat(path); err != nil {
			return s, err
		}
	}
	return s, nil
}

func (s stamp) same(as stamp) bool {
	for i := range s {
		if s[i] == nil || as[i] == nil || !os.SameFile(s[i], as[i]) || !s[i].ModTime().Equal(as[i].ModTime()) || s[i].Size() != as[i].Size() {
			return false
		}
	}
	return true
}

// problem says why newer files were not taken, and since when.
func (f *certFile) problem() (error, time.Time) { //nolint:revive,staticcheck // it is a fact asked for, no failure of the call
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failed, f.since
}

const certFileInterval = 10 * time.Second

// load gives the newest certificate that could be read. A renewal caught half
// way (certificate and key don't match yet) leaves the old one in use.
func (f *certFile) load() (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	if f.loaded != nil && now.Sub(f.checked) < certFileInterval {
		return f.loaded, nil
	}
	f.checked = now
	stamp, err := stampOf(f.cert, f.key)
	if err == nil && f.loaded != nil && stamp.same(f.stamp) {
		f.failed = nil
		return f.loaded, nil
	}
	var pair tls.Certificate
	if err == nil {
		pair, err = tls.LoadX509KeyPair(f.cert, f.key)
	}
	if err == nil {
		f.loaded, f.stamp, f.failed = &pair, stamp, nil
		return f.loaded, nil
	}
	err = api.Errorf(api.CodeInvalid, "certificate %s with key %s: %w", f.cert, f.key, err)
	if f.loaded == nil {
		return nil, err
	}
	if f.failed == nil {
		f.since = now
	}
	f.failed = err
	return f.loaded, nil
}
