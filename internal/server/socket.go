package server

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// listenSocket opens the admin socket. Two locks guard it: the file's mode
// (0600 in a 0700 directory) and, because modes are easily changed by a mount
// or a backup tool, the kernel's word on the peer's uid at every connection.
func listenSocket(path string) (net.Listener, error) {
	if len(path) > 100 { // sun_path holds 104 bytes on macOS, 108 on Linux
		return nil, api.Errorf(api.CodeInvalid, "socket path %s is longer than the 100 bytes a unix socket may have: choose another with --socket", path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	// A socket left by a killed process refuses connections; a live one answers,
	// and must not be taken from its owner.
	if c, err := (&net.Dialer{Timeout: time.Second}).DialContext(context.Background(), "unix", path); err == nil {
		_ = c.Close()
		return nil, api.Errorf(api.CodeInvalid, "another replica is serving %s", path)
	}
	switch info, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case info.Mode().Type() != fs.ModeSocket:
		return nil, api.Errorf(api.CodeInvalid, "%s exists and is no socket: choose another path with --socket", path)
	default:
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("unix", path) //nolint:noctx // a unix socket listens at once
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &ownerListener{Listener: l, uid: uint32(os.Getuid())}, nil //nolint:gosec // a uid is never negative here
}

// ownerListener hands out connections of root and of the daemon's own user.
type ownerListener struct {
	net.Listener
	uid uint32
}

func (l *ownerListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		uc, ok := c.(*net.UnixConn)
		if !ok {
			_ = c.Close()
			continue
		}
		if uid, err := peerUID(uc); err != nil || uid != 0 && uid != l.uid {
			_ = c.Close() // the peer sees the connection end; its uid is nobody's secret, ours is
			continue
		}
		return c, nil
	}
}

// peerUID is the user at the other end of a connection, in the kernel's word.
func peerUID(c *net.UnixConn) (uid uint32, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var sockErr error
	err = raw.Control(func(fd uintptr) { uid, sockErr = socketUID(int(fd)) })
	return uid, errors.Join(err, sockErr)
}

// socketServer serves the admin API on the unix socket. WriteTimeout stays
// unset: a backup may take long.
func socketServer(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
}
