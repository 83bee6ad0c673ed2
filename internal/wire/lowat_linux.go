package wire

import (
	"net"

	"golang.org/x/sys/unix"
)

// notSent is how much the kernel takes in before it has sent what it has: enough
// to keep the network busy, and little, because what lies there can't be overtaken
// by a ping or another stream's request.
const notSent = 32 << 10

// boundUnsent sets TCP_NOTSENT_LOWAT on the socket beneath c, if there is one.
// Without it a session works, but shares less fairly.
func boundUnsent(c net.Conn) {
	if tcp := socket(c); tcp != nil {
		if raw, err := tcp.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) {
				_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSent)
			})
		}
	}
}

// socket is the TCP connection beneath c, if there is one to be found.
func socket(c net.Conn) *net.TCPConn {
	for c != nil {
		if tcp, ok := c.(*net.TCPConn); ok {
			return tcp
		}
		inner, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		c = inner.NetConn()
	}
	return nil
}
