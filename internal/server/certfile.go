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
	stamp   time.Time // newest modification time of the two files as loaded
	checked time.Time
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
	stamp, err := newest(f.cert, f.key)
	if err == nil && f.loaded != nil && stamp.Equal(f.stamp) {
		return f.loaded, nil
	}
	var pair tls.Certificate
	if err == nil {
		pair, err = tls.LoadX509KeyPair(f.cert, f.key)
	}
	switch {
	case err == nil:
		f.loaded, f.stamp = &pair, stamp
	case f.loaded == nil:
		return nil, api.Errorf(api.CodeInvalid, "certificate %s with key %s: %w", f.cert, f.key, err)
	}
	return f.loaded, nil
}

func newest(paths ...string) (time.Time, error) {
	var t time.Time
	for _, p := range paths {
		info, err := os.Stat(p)
		if err != nil {
			return t, err
		}
		if info.ModTime().After(t) {
			t = info.ModTime()
		}
	}
	return t, nil
}
