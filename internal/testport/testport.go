// Package testport finds ports for servers of tests that must know their ports
// before they listen, or listen again on the same ones.
//
// Asking the kernel for a free port and closing it again does not do: the next
// outgoing connection of any test on the machine may be given that port, and keep
// it. So ports come in blocks below every system's ephemeral range (32768 on
// Linux, 49152 elsewhere), each held by a lock on a file until the test ends;
// the kernel frees it however a process ends.
package testport

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

const (
	first  = 10000 // those of the end-to-end tests begin at 18000
	last   = 18000
	block  = 8
	blocks = (last - first) / block
)

// Reserve returns n loopback ports, free for TCP and UDP, that are the test's
// own until it ends.
func Reserve(t testing.TB, n int) []int {
	t.Helper()
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("sallyport-test-ports-%d", os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	var ports []int
	for _, i := range rand.Perm(blocks) { //nolint:gosec // no secret
		if len(ports) >= n {
			break
		}
		begin := first + i*block
		lock, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(begin)), os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // a name of our making
		if err != nil {
			t.Fatal(err)
		}
		if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
			_ = lock.Close()
			continue
		}
		t.Cleanup(func() { _ = lock.Close() })
		for port := begin; port < begin+block; port++ {
			if free(port) {
				ports = append(ports, port)
			}
		}
	}
	if len(ports) < n {
		t.Fatalf("%d ports are free on loopback, %d are needed", len(ports), n)
	}
	return ports[:n]
}

func free(port int) bool {
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	l, err := net.Listen("tcp", addr) //nolint:noctx // at once
	if err != nil {
		return false
	}
	_ = l.Close()
	u, err := net.ListenPacket("udp", addr) //nolint:noctx // at once
	if err != nil {
		return false
	}
	_ = u.Close()
	return true
}
