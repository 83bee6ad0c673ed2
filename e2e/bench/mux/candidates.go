package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"net/http"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/yamux"
	libp2p "github.com/libp2p/go-yamux/v5"
	"github.com/xtaci/smux"
	"golang.org/x/net/http2"

	"github.com/sallyport-dev/sallyport/internal/wire"
)

// candidate carries streams over a connection that an agent dialled.
type candidate struct {
	name, title string
	// agent serves the handler on what the replica opens, until the connection ends.
	agent func(net.Conn, http.Handler) error
	// replica sends requests; ping may be nil.
	replica func(net.Conn) (rt http.RoundTripper, ping func() error, err error)
}

// opener and acceptor are a mux's two ends.
type opener struct {
	open func(context.Context) (net.Conn, error)
	ping func() error
}

func candidates() []candidate {
	streams := func(name, title string, agent func(net.Conn) (net.Listener, error), replica func(net.Conn) (opener, error)) candidate {
		return candidate{
			name, title,
			func(c net.Conn, h http.Handler) error {
				l, err := agent(c)
				if err != nil {
					return err
				}
				return (&http.Server{Handler: h}).Serve(l)
			},
			func(c net.Conn) (http.RoundTripper, func() error, error) {
				o, err := replica(c)
				if err != nil {
					return nil, nil, err
				}
				return &http.Transport{
					DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return o.open(ctx) },
					MaxIdleConnsPerHost: 1000, DisableCompression: true,
				}, o.ping, nil
			},
		}
	}
	hashicorp := yamux.DefaultConfig()
	hashicorp.LogOutput = io.Discard
	hashicorp.MaxStreamWindowSize = 16 << 20
	hashicorp.KeepAliveInterval = 5 * time.Second
	lib := libp2p.DefaultConfig()
	lib.LogOutput = io.Discard
	lib.MaxMessageSize = 32 << 10
	lib.KeepAliveInterval = 5 * time.Second
	xtaci := smux.DefaultConfig()
	xtaci.Version = 2
	xtaci.MaxFrameSize = 32 << 10
	xtaci.MaxStreamBuffer = 16 << 20
	xtaci.MaxReceiveBuffer = 64 << 20
	xtaci.KeepAliveInterval = 5 * time.Second
	xtaci.KeepAliveTimeout = 10 * time.Second
	return []candidate{
		{name: "raw", title: "raw TLS"},
		streams("wire", "internal/wire",
			func(c net.Conn) (net.Listener, error) {
				s, err := wire.Client(c, wire.Options{})
				return wireListener{s, c}, err
			},
			func(c net.Conn) (opener, error) {
				s, err := wire.Server(c, wire.Options{})
				open := func(ctx context.Context) (net.Conn, error) { return s.Open(ctx) }
				return opener{open, func() error { _, err := s.Ping(context.Background()); return err }}, err
			}),
		streams("libp2p", "libp2p go-yamux v5.1.0",
			func(c net.Conn) (net.Listener, error) { return libp2p.Client(c, lib, nil) },
			func(c net.Conn) (opener, error) {
				s, err := libp2p.Server(c, lib, nil)
				return opener{s.Open, func() error { _, err := s.Ping(); return err }}, err
			}),
		streams("yamux", "hashicorp/yamux v0.1.2",
			func(c net.Conn) (net.Listener, error) { return yamux.Client(c, hashicorp) },
			func(c net.Conn) (opener, error) {
				s, err := yamux.Server(c, hashicorp)
				return opener{func(context.Context) (net.Conn, error) { return s.Open() }, func() error { _, err := s.Ping(); return err }}, err
			}),
		streams("smux", "xtaci/smux v1.5.58",
			func(c net.Conn) (net.Listener, error) {
				s, err := smux.Client(c, xtaci)
				return smuxListener{s}, err
			},
			func(c net.Conn) (opener, error) {
				s, err := smux.Server(c, xtaci)
				return opener{func(context.Context) (net.Conn, error) { return s.OpenStream() }, nil}, err
			}),
		{
			"http2", "reversed HTTP/2 (x/net v0.60.0)",
			func(c net.Conn, h http.Handler) error {
				(&http2.Server{
					MaxReadFrameSize: 32 << 10, MaxConcurrentStreams: 4096,
					MaxUploadBufferPerStream: 4 << 20, MaxUploadBufferPerConnection: 32 << 20,
				}).ServeConn(c, &http2.ServeConnOpts{Handler: h})
				return nil
			},
			func(c net.Conn) (http.RoundTripper, func() error, error) {
				cc, err := (&http2.Transport{DisableCompression: true, MaxReadFrameSize: 32 << 10}).NewClientConn(c)
				if err != nil {
					return nil, nil, err
				}
				return cc, func() error { return cc.Ping(context.Background()) }, nil
			},
		},
	}
}

type wireListener struct {
	*wire.Session
	conn net.Conn
}

func (l wireListener) Accept() (net.Conn, error) { return l.Session.Accept() }
func (l wireListener) Addr() net.Addr            { return l.conn.LocalAddr() }

type smuxListener struct{ *smux.Session }

func (l smuxListener) Accept() (net.Conn, error) { return l.AcceptStream() }
func (l smuxListener) Addr() net.Addr            { return l.LocalAddr() }

// tunnel is a candidate at work: a RoundTripper at the replica.
type tunnel struct {
	http.RoundTripper
	ping    func() error
	handler *handler
	undo    []func()
}

func (t *tunnel) close() {
	for i := len(t.undo) - 1; i >= 0; i-- {
		t.undo[i]()
	}
}

var certificate = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "replica"}, DNSNames: []string{"replica"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

func serverTLS() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{certificate()}, MinVersion: tls.VersionTLS13}
}

func clientTLS() *tls.Config { // of loopback, within one program
	return &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, ServerName: "replica"} //nolint:gosec // see above
}

// newTunnel connects a candidate's ends by a link; without a delay, directly.
func newTunnel(c candidate, rtt time.Duration, rate float64) (_ *tunnel, err error) {
	t := &tunnel{handler: &handler{}}
	defer func() {
		if err != nil {
			t.close()
		}
	}()
	ln, err := listen()
	if err != nil {
		return nil, err
	}
	t.undo = append(t.undo, func() { ln.Close() })
	addr := ln.Addr().String()
	if rtt > 0 {
		l, err := newLink(addr, rtt, rate)
		if err != nil {
			return nil, err
		}
		t.undo = append(t.undo, l.close)
		addr = l.Addr().String()
	}
	if c.name == "raw" { // the replica dials, a connection per request in flight
		server := &http.Server{Handler: t.handler}
		go server.Serve(tls.NewListener(ln, serverTLS()))
		t.undo = append(t.undo, func() { server.Close() })
		transport := &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&tls.Dialer{Config: clientTLS()}).DialContext(ctx, "tcp", addr)
			},
			MaxIdleConnsPerHost: 1000, DisableCompression: true,
		}
		t.undo = append(t.undo, transport.CloseIdleConnections)
		t.RoundTripper = transport
		return t, nil
	}
	go func() {
		conn, err := tls.Dial("tcp", addr, clientTLS())
		if err == nil {
			boundUnsent(conn.NetConn())
			_ = c.agent(conn, t.handler)
		}
	}()
	conn, err := accept(ln)
	if err != nil {
		return nil, err
	}
	t.undo = append(t.undo, func() { conn.Close() })
	t.RoundTripper, t.ping, err = c.replica(conn)
	return t, err
}

// accept also shakes hands.
func accept(ln net.Listener) (net.Conn, error) {
	conn, err := ln.Accept()
	if err != nil {
		return nil, err
	}
	boundUnsent(conn)
	secure := tls.Server(conn, serverTLS())
	if err := secure.Handshake(); err != nil {
		conn.Close()
		return nil, err
	}
	return secure, nil
}

// boundUnsent does for all what internal/wire does for itself, on Linux: the kernel
// keeps little that is not sent, so that what is compared is the mux.
func boundUnsent(c net.Conn) {
	const tcpNotSentLowAt = 0x19
	if tcp, ok := c.(*net.TCPConn); ok && runtime.GOOS == "linux" {
		if raw, err := tcp.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotSentLowAt, 32<<10) })
		}
	}
}
