package server

import (
	"crypto/tls"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sallyport-dev/sallyport/internal/wire"
)

// Whatever stands between TLS and the socket on a public port lets the socket be
// found: on a tunnel the kernel must not queue what a ping could overtake.
func TestATunnelsSocketIsFoundBeneathAllThatWrapsIt(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String()) //nolint:noctx // loopback
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	wrapped := &helloConn{Conn: &admittedConn{Conn: &proxiedConn{Conn: c}, leave: func() {}}}
	s, err := wire.Server(tls.Server(wrapped, &tls.Config{MinVersion: tls.VersionTLS13}), wire.Options{})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	got := 0
	if cerr := raw.Control(func(fd uintptr) {
		got, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT)
	}); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	if got <= 0 || got > 1<<20 {
		t.Errorf("TCP_NOTSENT_LOWAT is %d", got)
	}
	_ = client.Close()
	_ = s.Close()
}
