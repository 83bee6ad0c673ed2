package wire

import (
	"crypto/tls"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTheKernelQueuesLittleBeneathTLS(t *testing.T) {
	a, b := tcpPair(t)
	defer b.Close()
	s, err := Client(tls.Client(a, &tls.Config{ServerName: "replica", MinVersion: tls.VersionTLS13}), Options{})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := socket(a).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var have int
	if err := raw.Control(func(fd uintptr) { have, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT) }); err != nil {
		t.Fatal(err)
	}
	if have != notSent || err != nil {
		t.Errorf("TCP_NOTSENT_LOWAT is %d (%v), want %d", have, err, notSent)
	}
	b.Close()
	s.Close()
}
