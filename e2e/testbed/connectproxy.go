package testbed

import (
	"context"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// ConnectProxy is the way out of a network that lets nobody out by themselves:
// an HTTP proxy that knows CONNECT alone (RFC 9110 section 9.3.6).
type ConnectProxy struct {
	server *http.Server
	addr   string
	wg     sync.WaitGroup

	mu    sync.Mutex
	asked []string
	conns map[net.Conn]struct{}
}

// StartConnectProxy listens on loopback until the test ends.
func StartConnectProxy(tb TB) *ConnectProxy {
	tb.Helper()
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("%v", err)
	}
	p := &ConnectProxy{addr: l.Addr().String(), conns: map[net.Conn]struct{}{}}
	p.server = &http.Server{Handler: p, ReadHeaderTimeout: 10 * time.Second}
	p.wg.Go(func() { _ = p.server.Serve(l) })
	tb.Cleanup(p.stop)
	return p
}

// URL is what HTTPS_PROXY is set to.
func (p *ConnectProxy) URL() string { return "http://" + p.addr }

// Asked are the addresses that somebody wanted to be connected with, in order.
func (p *ConnectProxy) Asked() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.asked)
}

// Open is how many connections there are with others through the proxy.
func (p *ConnectProxy) Open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns) / 2
}

func (p *ConnectProxy) stop() {
	_ = p.server.Close()
	p.mu.Lock()
	for c := range p.conns {
		c.Close()
	}
	p.mu.Unlock()
	p.wg.Wait()
}

// ServeHTTP connects.
func (p *ConnectProxy) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodConnect {
		http.Error(w, "CONNECT alone", http.StatusMethodNotAllowed)
		return
	}
	p.mu.Lock()
	p.asked = append(p.asked, req.Host)
	p.mu.Unlock()
	// A name may end with a dot, which not every resolver finds in /etc/hosts.
	there, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(req.Context(), "tcp", strings.Replace(req.Host, ".:", ":", 1))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	here, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		there.Close()
		return
	}
	p.mu.Lock()
	p.conns[here], p.conns[there] = struct{}{}, struct{}{}
	p.mu.Unlock()
	p.wg.Go(func() {
		defer func() {
			p.mu.Lock()
			delete(p.conns, here)
			delete(p.conns, there)
			p.mu.Unlock()
		}()
		if _, err := io.WriteString(here, "HTTP/1.1 200 Connected\r\n\r\n"); err != nil {
			here.Close()
			there.Close()
			return
		}
		var both sync.WaitGroup
		both.Go(func() { _, _ = io.Copy(there, buffered.Reader); there.Close(); here.Close() })
		both.Go(func() { _, _ = io.Copy(here, there); there.Close(); here.Close() })
		both.Wait()
	})
}
