package testbed

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// Ports come in blocks below every system's ephemeral range (32768 on Linux,
// 49152 elsewhere), so that no outgoing connection takes one while the process
// it is meant for restarts. A block is held by a lock on a file in the cache
// directory: test processes that run side by side never share one, and the
// kernel frees it however they end.
const (
	firstPort  = 18000
	lastPort   = 32000
	BlockPorts = 8
)

// Ports is a block of BlockPorts ports that are ours until Release.
type Ports struct {
	first int
	lock  *os.File
}

// ReservePorts finds a block that nobody listens on.
func ReservePorts() (*Ports, error) {
	dir := filepath.Join(Home(), "ports")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	blocks := (lastPort - firstPort) / BlockPorts
	for _, i := range rand.Perm(blocks)[:100] {
		first := firstPort + i*BlockPorts
		lock, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(first)), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
			if err := checkFree(first, BlockPorts); err == nil {
				return &Ports{first, lock}, nil
			}
		}
		lock.Close()
	}
	return nil, errors.New("no free block of ports on loopback")
}

// Port returns port i of the block, 0 to BlockPorts-1.
func (p *Ports) Port(i int) int {
	if i < 0 || i >= BlockPorts {
		panic(fmt.Sprintf("port %d of a block of %d", i, BlockPorts))
	}
	return p.first + i
}

// Addr returns port i of the block on loopback.
func (p *Ports) Addr(i int) string { return "127.0.0.1:" + strconv.Itoa(p.Port(i)) }

// Release gives the block back.
func (p *Ports) Release() { p.lock.Close() }

// checkFree fails for a port that anything listens on: someone else's server
// there would look like ours being ready.
func checkFree(first, n int) error {
	for port := first; port < first+n; port++ {
		addr := "127.0.0.1:" + strconv.Itoa(port)
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return fmt.Errorf("port %d is taken: %w", port, err)
		}
		l.Close()
		u, err := net.ListenPacket("udp", addr)
		if err != nil {
			return fmt.Errorf("UDP port %d is taken: %w", port, err)
		}
		u.Close()
	}
	return nil
}
