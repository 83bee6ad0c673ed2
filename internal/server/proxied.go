package server

import (
	"bufio"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// A TCP load balancer says whose connection it forwards in a header before the
// TLS handshake (the PROXY protocol of haproxy, versions 1 and 2). Whoever's header is
// believed can pass for any address: in the audit log, in rate limits, in the
// count of strangers. So it is believed of trusted networks alone, and those
// networks are to hold nothing but load balancers.

// How the public ports take PROXY headers.
const (
	ProxyProtocolOff     = "off"     // not understood: such a connection fails in its TLS handshake
	ProxyProtocolOn      = "on"      // trusted peers may send one
	ProxyProtocolRequire = "require" // trusted peers must
)

// Reading a header is bounded: a load balancer sends it at once.
const (
	proxyHeaderTime = 5 * time.Second
	proxyHeaderSize = 256 // of the buffer; the library takes version 2 headers up to 4 KiB
)

// trustedProxies are the networks whose headers are believed; they may change while
// connections come in.
type trustedProxies struct {
	networks atomic.Pointer[[]netip.Prefix]
}

func (t *trustedProxies) set(networks []netip.Prefix) { t.networks.Store(&networks) }

func (t *trustedProxies) contain(addr netip.Addr) bool {
	networks := t.networks.Load()
	if networks == nil {
		return false
	}
	for _, n := range *networks {
		if n.Contains(addr) {
			return true
		}
	}
	return false
}

// parseTrustedProxies reads networks; an address is a network of one.
func parseTrustedProxies(words []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, w := range words {
		if addr, err := netip.ParseAddr(w); err == nil && addr.Zone() == "" {
			addr = addr.Unmap()
			out = append(out, netip.PrefixFrom(addr, addr.BitLen()))
			continue
		}
		network, err := netip.ParsePrefix(w)
		if err != nil || network.Addr().Is4In6() {
			return nil, optionErrorf("trusted-proxies", "%q is neither a network such as 10.0.0.0/8 nor an address", w)
		}
		out = append(out, network.Masked())
	}
	return out, nil
}

// proxiedListener hands out connections with their client's address: those of
// trusted peers once their header is read, all others as they are. It reads
// headers in goroutines of its own, because http.Server asks for a connection's
// address where it accepts, and one slow peer would hold up everybody.
type proxiedListener struct {
	net.Listener
	trusted *trustedProxies
	require bool
	trace   *proxyTrace
	slots   chan struct{} // one for each header being read

	accepted chan acceptance
	closed   chan struct{}
	close    func() error
	work     sync.WaitGroup

	mu      sync.Mutex
	reading map[net.Conn]struct{} // closed by Close, so that it need not wait for them
}

type acceptance struct {
	conn net.Conn
	err  error
}

// newProxiedListener starts accepting; Close ends it.
func newProxiedListener(inner net.Listener, trusted *trustedProxies, require bool, trace *proxyTrace) *proxiedListener {
	l := &proxiedListener{
		Listener: inner, trusted: trusted, require: require, trace: trace, slots: make(chan struct{}, strangersInAll),
		accepted: make(chan acceptance), closed: make(chan struct{}), reading: map[net.Conn]struct{}{},
	}
	l.close = sync.OnceValue(func() error {
		close(l.closed)
		err := inner.Close()
		l.mu.Lock()
		for c := range l.reading {
			_ = c.Close() // its reader sees it
		}
		l.mu.Unlock()
		l.work.Wait()
		return err
	})
	l.work.Go(l.run)
	return l
}

func (l *proxiedListener) Close() error { return l.close() }

func (l *proxiedListener) Accept() (net.Conn, error) {
	select {
	case a := <-l.accepted:
		return a.conn, a.err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *proxiedListener) run() {
	for {
		c, err := l.Listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			l.hand(acceptance{err: err}) // the server waits a little and asks again
		case !l.trusted.contain(clientAddr(c.RemoteAddr())):
			l.hand(acceptance{conn: c})
		default:
			l.read(c)
		}
	}
}

// read reads the header of a trusted peer's connection, and hands it out.
func (l *proxiedListener) read(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.closed:
		_ = c.Close()
		return
	case l.slots <- struct{}{}:
	default: // more than a load balancer that sends headers at once ever has
		l.trace.note(clientAddr(c.RemoteAddr()), proxyCrowd, nil)
		_ = c.Close()
		return
	}
	l.reading[c] = struct{}{}
	l.work.Go(func() {
		proxied, outcome, err := readProxyHeader(c, l.require)
		l.mu.Lock()
		delete(l.reading, c)
		l.mu.Unlock()
		<-l.slots
		l.trace.note(clientAddr(c.RemoteAddr()), outcome, err)
		if err != nil {
			_ = c.Close()
			return
		}
		l.hand(acceptance{conn: proxied})
	})
}

func (l *proxiedListener) hand(a acceptance) {
	select {
	case l.accepted <- a:
	case <-l.closed:
		if a.conn != nil {
			_ = a.conn.Close()
		}
	}
}

// readProxyHeader takes the header off a connection. One of a health check
// (LOCAL, UNKNOWN) leaves the connection its own address.
func readProxyHeader(c net.Conn, require bool) (*proxiedConn, proxyOutcome, error) {
	if err := c.SetReadDeadline(time.Now().Add(proxyHeaderTime)); err != nil {
		return nil, proxyGone, err
	}
	r := bufio.NewReaderSize(c, proxyHeaderSize)
	header, err := proxyproto.Read(r)
	outcome := outcomeOf(err, r.Buffered() == 0, require)
	if err != nil && (require || !errors.Is(err, proxyproto.ErrNoProxyProtocol)) {
		return nil, outcome, err
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return nil, proxyGone, err
	}
	out := &proxiedConn{Conn: c, buffered: r, remote: c.RemoteAddr()}
	if err == nil && !header.Command.IsLocal() {
		from, _, ok := header.TCPAddrs()
		if !ok {
			return nil, proxyBroken, api.Errorf(api.CodeInvalid, "a PROXY header without TCP addresses")
		}
		out.remote = from
	}
	return out, outcome, nil
}

// outcomeOf names what reading a header came to; empty: nothing is left to read.
func outcomeOf(err error, empty, require bool) proxyOutcome {
	none := errors.Is(err, proxyproto.ErrNoProxyProtocol)
	switch {
	case err == nil:
		return proxyHeader
	case none && empty, errors.Is(err, syscall.ECONNRESET), errors.Is(err, net.ErrClosed):
		return proxyGone
	case none && require:
		return proxyMissing
	case none:
		return proxyNone
	case errors.Is(err, os.ErrDeadlineExceeded):
		return proxySlow
	default:
		return proxyBroken
	}
}

// proxiedConn is a connection behind its header.
type proxiedConn struct {
	net.Conn
	buffered *bufio.Reader // what was read together with the header; nil: used up
	remote   net.Addr
}

// NetConn shows the connection beneath, so that its socket can be found and set up.
func (c *proxiedConn) NetConn() net.Conn { return c.Conn }

func (c *proxiedConn) RemoteAddr() net.Addr { return c.remote }

func (c *proxiedConn) Read(p []byte) (int, error) {
	if c.buffered == nil {
		return c.Conn.Read(p)
	}
	if n := c.buffered.Buffered(); n > 0 {
		return c.buffered.Read(p[:min(n, len(p))])
	}
	c.buffered = nil
	return c.Conn.Read(p)
}
