package server

import (
	"crypto/tls"
	"net"
	"net/netip"
	"sync"

	"github.com/sallyport-dev/sallyport/internal/auth"
)

// Strangers cost a file descriptor and some 40 KiB each before they have said
// who they are. How many of them one network may be at a time is bounded; a
// connection that has shown a user's certificate, or whose agent has got its tunnel, no
// longer counts, so that an office behind one address can run as many kubectls as it likes.
const (
	strangersPerNetwork = 512
	strangersInAll      = 8192
)

// admission counts strangers.
type admission struct {
	perNetwork, inAll int

	mu       sync.Mutex
	networks map[netip.Prefix]int
	all      int
}

func newAdmission() *admission {
	return &admission{perNetwork: strangersPerNetwork, inAll: strangersInAll, networks: map[netip.Prefix]int{}}
}

// enter counts a connection in, or says that there are too many.
func (a *admission) enter(network netip.Prefix) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.all >= a.inAll || a.networks[network] >= a.perNetwork {
		return false
	}
	a.all++
	a.networks[network]++
	return true
}

func (a *admission) leave(network netip.Prefix) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all--
	if a.networks[network]--; a.networks[network] <= 0 {
		delete(a.networks, network)
	}
}

// listener hands out the connections that are admitted, and closes the others:
// at once, before they cost a handshake.
func (a *admission) listener(l net.Listener) net.Listener { return admittingListener{l, a} }

type admittingListener struct {
	net.Listener
	admission *admission
}

func (l admittingListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		network := auth.NetworkOf(clientAddr(c.RemoteAddr()))
		if !l.admission.enter(network) {
			_ = c.Close() // it is told by the reset; anything kinder would cost what is short
			continue
		}
		return &admittedConn{Conn: c, leave: sync.OnceFunc(func() { l.admission.leave(network) })}, nil
	}
}

// admittedConn leaves the count when it closes, or when it is no stranger any more.
type admittedConn struct {
	net.Conn
	leave func()
}

// NetConn shows the connection beneath, so that its socket can be found and set up.
func (c *admittedConn) NetConn() net.Conn { return c.Conn }

func (c *admittedConn) Close() error {
	c.leave()
	return c.Conn.Close()
}

// noStranger takes a connection out of the count.
func noStranger(c net.Conn) {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if h, ok := c.(*helloConn); ok {
		c = h.Conn
	}
	if a, ok := c.(*admittedConn); ok {
		a.leave()
	}
}

// clientAddr is the address of a connection's other end; not valid if it has none.
func clientAddr(addr net.Addr) netip.Addr {
	ap, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}
