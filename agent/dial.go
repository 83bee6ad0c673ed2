package agent

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/sallyport-dev/sallyport/internal/upstream"
)

// maxProxyAnswer bounds what an HTTP proxy answers to CONNECT.
const maxProxyAnswer = 32 << 10

// dialer reaches Sallyport, and joins it.
type dialer struct {
	opts  Options
	log   *slog.Logger
	pins  []string
	names []string // of the clusters to join with
}

// dialProxied reaches Sallyport's address, through an HTTP proxy if one is set.
func (d *dialer) dialProxied(ctx context.Context) (net.Conn, error) {
	via, err := d.opts.ProxyFunc(&url.URL{Scheme: "https", Host: d.opts.Proxy})
	if err != nil {
		return nil, fmt.Errorf("HTTPS_PROXY: %w", err)
	}
	if via == nil {
		return d.opts.Dial(ctx, "tcp", d.opts.Proxy)
	}
	port := via.Port()
	switch {
	case via.Scheme != "http" && via.Scheme != "https":
		return nil, fmt.Errorf("HTTPS_PROXY: a %s proxy is not supported: give one of http:// or https://", via.Scheme)
	case port == "" && via.Scheme == "https":
		port = "443"
	case port == "":
		port = "80"
	}
	conn, err := d.opts.Dial(ctx, "tcp", net.JoinHostPort(via.Hostname(), port))
	if err != nil {
		return nil, fmt.Errorf("the proxy %s: %w", via.Redacted(), err)
	}
	out, err := d.connect(ctx, conn, via)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the proxy %s: %w", via.Redacted(), err), conn.Close())
	}
	return out, nil
}

// connect asks a proxy for a tunnel (RFC 9110, section 9.3.6).
func (d *dialer) connect(ctx context.Context, conn net.Conn, via *url.URL) (net.Conn, error) {
	stop := deadline(ctx, conn)
	defer stop()
	if via.Scheme == "https" {
		secure := tls.Client(conn, &tls.Config{ServerName: via.Hostname(), RootCAs: d.opts.Roots, MinVersion: tls.VersionTLS12, Time: d.opts.Clock})
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		conn = secure
	}
	request := "CONNECT " + d.opts.Proxy + " HTTP/1.1\r\nHost: " + d.opts.Proxy + "\r\nUser-Agent: sallyport-agent\r\n"
	if user := via.User; user != nil {
		password, _ := user.Password()
		request += "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)) + "\r\n"
	}
	if _, err := io.WriteString(conn, request+"\r\n"); err != nil {
		return nil, err
	}
	r := bufio.NewReader(io.LimitReader(conn, maxProxyAnswer))
	res, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return nil, fmt.Errorf("it does not answer CONNECT: %w", err)
	}
	_ = res.Body.Close() // of a CONNECT there is none that matters
	switch {
	case res.StatusCode == http.StatusProxyAuthRequired:
		return nil, errors.New("it wants a name and a password: HTTPS_PROXY=http://NAME:PASSWORD@HOST:PORT")
	case res.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("it answers %s to CONNECT: allow %s there, or name it in NO_PROXY", res.Status, d.opts.Proxy)
	case r.Buffered() > 0:
		return nil, errors.New("it speaks before it is spoken to, so it is no tunnel")
	}
	return conn, nil
}

// deadline makes reads and writes of a connection end with ctx, until stop is called.
func deadline(ctx context.Context, conn net.Conn) (stop func()) {
	past := time.Unix(1, 0)
	cancel := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(past) })
	return func() {
		if cancel() {
			return
		}
		_ = conn.SetDeadline(past) // ctx has ended: whoever uses it next learns so
	}
}

// spreadDialer dials a name's addresses in random order, so that agents spread over
// the replicas where their addresses stand behind one name, and a second dial has a
// chance to reach another.
type spreadDialer struct{}

// DialContext is net.Dialer's, but for the order.
func (spreadDialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{KeepAliveConfig: upstream.KeepAlive()}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	rand.Shuffle(len(ips), func(i, j int) { ips[i], ips[j] = ips[j], ips[i] }) //nolint:gosec // no secret
	last := fmt.Errorf("%s has no address", host)
	for i, ip := range ips {
		conn, err := dialWithin(ctx, &d, network, net.JoinHostPort(ip.Unmap().String(), port), len(ips)-i)
		if err == nil {
			return conn, nil
		}
		last = err
	}
	return nil, last
}

// dialWithin leaves time for the other addresses.
func dialWithin(ctx context.Context, d *net.Dialer, network, addr string, left int) (net.Conn, error) {
	if end, ok := ctx.Deadline(); ok && left > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(end)/time.Duration(left))
		defer cancel()
	}
	return d.DialContext(ctx, network, addr)
}
