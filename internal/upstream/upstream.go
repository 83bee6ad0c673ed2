package upstream

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"

	"github.com/sallyport-dev/sallyport/internal/api"
)

const (
	dialTimeout      = 10 * time.Second
	handshakeTimeout = 10 * time.Second
	idleConnTimeout  = 90 * time.Second
	pingAfter        = 20 * time.Second // of silence on an HTTP/2 connection
	pingTimeout      = 10 * time.Second
)

// KeepAlive makes the kernel notice a peer that vanished, and load balancers a
// connection that is merely quiet: it is below every idle timeout known.
func KeepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3}
}

// Upstream is the way to one Kubernetes API server.
type Upstream struct {
	// URL is its address: scheme, host and, if need be, a path prefix.
	URL *url.URL
	// Plain carries ordinary requests, over pooled HTTP/2 connections if it can.
	Plain http.RoundTripper
	// Upgrade carries requests that ask for another protocol: HTTP/1.1, a
	// connection for each request, never used again. The body of a 101 answer
	// is an io.ReadWriteCloser, as http.Transport makes it.
	Upgrade http.RoundTripper
	// Both must neither follow redirects nor add or remove Impersonate-* fields;
	// both may set further fields on the request, which is theirs from then on.
}

// New makes the way to an API server from a client-go configuration,
// in-cluster or of a kubeconfig, with its credentials: certificate, bearer token
// (a token file is read again every minute), basic, exec plugin.
//
// The transports are ours alone: client-go's own cache of transports does not
// tell apart configurations that differ in impersonation (kcp PR#4285). An
// identity to impersonate in the configuration itself is refused, because every
// request has its own.
func New(cfg *rest.Config) (Upstream, error) {
	if cfg.Impersonate.UserName != "" || cfg.Impersonate.UID != "" || len(cfg.Impersonate.Groups)+len(cfg.Impersonate.Extra) > 0 {
		return Upstream{}, api.Errorf(api.CodeInvalid, "the kubeconfig impersonates (\"as\"): use the credentials of an account that may impersonate itself")
	}
	base, _, err := rest.DefaultServerUrlFor(cfg)
	if err != nil {
		return Upstream{}, fmt.Errorf("address of the API server: %w", err)
	}
	base = &url.URL{Scheme: base.Scheme, Host: base.Host, Path: strings.TrimSuffix(base.Path, "/")}
	if base.Scheme != "https" && !loopback(base.Hostname()) {
		return Upstream{}, api.Errorf(api.CodeInvalid, "the API server's address %q is not https: credentials would travel in the clear", base)
	}
	tc, err := cfg.TransportConfig()
	if err != nil {
		return Upstream{}, fmt.Errorf("credentials for the API server: %w", err)
	}
	plain, err := newTransport(cfg, tc, "h2", "http/1.1")
	if err != nil {
		return Upstream{}, err
	}
	upgrade, err := newTransport(cfg, tc, "http/1.1")
	if err != nil {
		return Upstream{}, err
	}
	up := Upstream{URL: base}
	if up.Plain, err = authorize(cfg, tc, plain); err != nil {
		return Upstream{}, err
	}
	if up.Upgrade, err = authorize(cfg, tc, upgrade); err != nil {
		return Upstream{}, err
	}
	return up, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// newTransport speaks the given protocols (ALPN names, best first).
func newTransport(cfg *rest.Config, tc *transport.Config, protos ...string) (*http.Transport, error) {
	tlsConfig, err := transport.TLSConfigFor(tc) // a fresh one for each call
	if err != nil {
		return nil, fmt.Errorf("TLS to the API server: %w", err)
	}
	dial := (&net.Dialer{
		Timeout:         dialTimeout,
		KeepAliveConfig: KeepAlive(),
	}).DialContext
	if tc.DialHolder != nil { // an exec plugin closes connections when its certificate changes
		dial = tc.DialHolder.Dial
	}
	proxy := cfg.Proxy
	if proxy == nil {
		proxy = utilnet.NewProxierWithNoProxyCIDR(http.ProxyFromEnvironment)
	}
	t := &http.Transport{
		Proxy:                 proxy,
		DialContext:           dial,
		TLSClientConfig:       tlsConfig,
		TLSHandshakeTimeout:   handshakeTimeout,
		IdleConnTimeout:       idleConnTimeout,
		MaxIdleConnsPerHost:   64,
		DisableCompression:    true, // what the client accepts is passed on, and so is the answer
		ExpectContinueTimeout: time.Second,
		Protocols:             new(http.Protocols),
		HTTP2:                 &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
	}
	t.Protocols.SetHTTP1(true)
	if protos[0] == "h2" {
		t.Protocols.SetHTTP2(true)
	} else {
		t.DisableKeepAlives = true // one request on a connection, whatever comes of it
	}
	if tlsConfig != nil {
		tlsConfig.NextProtos = protos
	}
	return t, nil
}

// authorize adds credentials that travel in the header. A bearer token, the usual
// case, is set in place: client-go's wrapper would copy request and header.
func authorize(cfg *rest.Config, tc *transport.Config, base http.RoundTripper) (http.RoundTripper, error) {
	plainToken := cfg.ExecProvider == nil && cfg.AuthProvider == nil && cfg.WrapTransport == nil && cfg.Username == ""
	switch {
	case plainToken && cfg.BearerTokenFile != "":
		src := transport.NewCachedFileTokenSource(cfg.BearerTokenFile)
		if _, err := src.Token(); err != nil {
			return nil, fmt.Errorf("token for the API server: %w", err)
		}
		return &bearer{base: base, source: src, reset: src.ResetTokenOlderThan}, nil
	case plainToken && cfg.BearerToken != "":
		src := oauth2.StaticTokenSource(&oauth2.Token{AccessToken: cfg.BearerToken})
		return &bearer{base: base, source: src, reset: func(time.Time) {}}, nil
	}
	rt, err := transport.HTTPWrappersForConfig(tc, base)
	if err != nil {
		return nil, fmt.Errorf("credentials for the API server: %w", err)
	}
	return rt, nil
}

// CloseIdle closes connections that carry nothing.
func (u Upstream) CloseIdle() {
	for _, rt := range []http.RoundTripper{u.Plain, u.Upgrade} {
		if c, ok := rt.(interface{ CloseIdleConnections() }); ok {
			c.CloseIdleConnections()
		}
	}
}

// bearer sets Authorization on requests that are its own (see Upstream).
type bearer struct {
	base   http.RoundTripper
	source oauth2.TokenSource
	reset  func(time.Time) // forgets a token read before then, after a 401
	last   atomic.Pointer[bearerValue]
}

type bearerValue struct {
	token  *oauth2.Token
	header []string
}

// RoundTrip implements http.RoundTripper.
func (b *bearer) RoundTrip(req *http.Request) (*http.Response, error) {
	token, err := b.source.Token()
	if err != nil {
		return nil, fmt.Errorf("token for the API server: %w", err)
	}
	v := b.last.Load()
	if v == nil || v.token != token {
		v = &bearerValue{token: token, header: []string{"Bearer " + token.AccessToken}}
		b.last.Store(v)
	}
	req.Header["Authorization"] = v.header
	start := time.Now()
	res, err := b.base.RoundTrip(req)
	if err == nil && res.StatusCode == http.StatusUnauthorized {
		b.reset(start)
	}
	return res, err
}

// CloseIdleConnections passes on what http.Client and Upstream ask for.
func (b *bearer) CloseIdleConnections() {
	if c, ok := b.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
