package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authapi"
	"github.com/sallyport-dev/sallyport/internal/pki"
	"github.com/sallyport-dev/sallyport/proxy"
)

// certificates are what the front shows and whom it believes. Each is asked for
// at every handshake, so that a rotation needs no restart.
type certificates struct {
	web     func(*tls.ClientHelloInfo) (*tls.Certificate, error) // the web name's: see webCertificates
	host    func(serverName string) (*tls.Certificate, error)    // all other names': always the host CA's, which kubeconfigs and agents pin
	clients func() (*x509.CertPool, error)                       // the user CAs
	// challenge answers an ACME authority, in a configuration of its own; nil: none comes.
	challenge func(*tls.ClientHelloInfo) (*tls.Config, error)
	// now is by what time client certificates are valid: state time, which is never
	// ahead. A replica whose own clock is can then say so in an HTTP answer, where
	// the identity is verified once more, instead of in a TLS alert.
	now func() time.Time
}

// tlsConfig is the configuration of a public listener. With kubeOnly (port
// 3026) a certificate is demanded whatever the server name. Without a door it takes
// no tunnels.
func tlsConfig(clusterName string, certs certificates, kubeOnly bool, door *agentDoor) *tls.Config {
	base := &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		// A resumed session would outlive a CA, and could be carried from one
		// name to another (CVE-2025-68121).
		SessionTicketsDisabled: true,
	}
	base.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if isChallenge(hello) && certs.challenge != nil && !kubeOnly {
			if heard(hello.Conn) {
				return nil, errStraySplice
			}
			return certs.challenge(hello)
		}
		to, label := api.ParseServerName(hello.ServerName, clusterName)
		cfg := base.Clone()
		cfg.GetConfigForClient = nil
		show := func(string) (*tls.Certificate, error) { return certs.web(hello) }
		switch {
		case to == api.AudienceTunnel:
			if door == nil {
				return nil, errors.New("agents' tunnels are not taken on this port")
			}
			if err := door.admit(hello.Conn, label); err != nil {
				return nil, err
			}
			if err := door.secure(cfg); err != nil {
				return nil, err
			}
			show, cfg.Time = certs.host, certs.now
		case heard(hello.Conn):
			return nil, errStraySplice
		case to == api.AudienceJoin:
			if kubeOnly {
				return nil, errors.New("agents do not join on this port")
			}
			show = certs.host
		case to != api.AudienceWeb || kubeOnly:
			show = certs.host
			pool, err := certs.clients()
			if err != nil {
				return nil, err
			}
			cfg.ClientAuth = tls.RequireAndVerifyClientCert
			cfg.ClientCAs = pool
			cfg.Time = certs.now
		}
		cert, err := show(hello.ServerName)
		if err != nil {
			return nil, err
		}
		cfg.Certificates = []tls.Certificate{*cert}
		return cfg, nil
	}
	return base
}

var errStraySplice = errors.New("another replica sent this connection here, and it is no agent's")

// heard lets TLS have a connection that is not for another replica, and says
// whether it came from one.
func heard(nc net.Conn) (spliced bool) {
	hc, ok := nc.(*helloConn)
	if !ok {
		return false
	}
	hc.pass()
	return hc.spliced
}

type connKey struct{}

// conn is what the front knows of a connection. It lives as long as the
// connection does, so that what its certificate says is worked out once.
type conn struct {
	once sync.Once
	info proxy.ConnInfo // Identity is empty unless a certificate was verified
	user *pki.UserIdentity
	err  error // why there is no identity
	nc   net.Conn
	addr netip.Addr
}

// connContext is an http.Server's ConnContext. The handshake comes later: the
// first request fills the conn in.
func connContext(ctx context.Context, nc net.Conn) context.Context {
	c := &conn{nc: nc, addr: clientAddr(nc.RemoteAddr()), info: proxy.ConnInfo{Addr: nc.RemoteAddr().String(), LocalAddr: nc.LocalAddr().String()}}
	ctx = auth.WithConn(ctx, nc.RemoteAddr(), nc.LocalAddr())
	return proxy.WithConn(context.WithValue(ctx, connKey{}, c), &c.info)
}

// identities is what conn asks to know whom it carries.
type identities struct {
	clusterName string
	verify      func([]*x509.Certificate) (pki.UserIdentity, error)
	kube        func(label string) (name string, err error)
}

// conn of a request, filled in. Without a verified certificate (the web name)
// it has no user.
func (ids identities) conn(r *http.Request) *conn {
	c, _ := r.Context().Value(connKey{}).(*conn)
	if c == nil {
		return &conn{err: api.Errorf(api.CodeInternal, "a request without a connection")}
	}
	c.once.Do(func() {
		if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
			return
		}
		id, err := ids.verify(r.TLS.PeerCertificates)
		if err != nil {
			c.err, c.info.Refused = err, err
			return
		}
		c.user = &id
		noStranger(c.nc)
		c.info.Identity = proxy.Identity{User: id.User, SessionID: id.SessionID}
		if to, label := api.ParseServerName(r.TLS.ServerName, ids.clusterName); to == api.AudienceKube {
			// A label that means nothing (yet) stays as it is: the proxy answers that
			// there is no such cluster, in words that kubectl prints.
			c.info.Kube = label
			if name, err := ids.kube(label); err == nil {
				c.info.Kube = name
			}
		}
	})
	return c
}

// frontHandler sends each request where its connection's server name leads.
type frontHandler struct {
	ids            identities
	web, api, kube http.Handler
	names          []string // that the web is served under, in lower case, beside those not below the cluster's
	publicAddr     string
	stale          func() error // why nobody may be let in at present, or nil
	// refused is told of each certificate that was refused; nil: nobody is.
	refused func(context.Context, auth.Actor, error)
}

// bodyTime is how long a request to the web, the API or a join may take to arrive. (To
// kube it may take for ever: it is a user's, and an upload or a terminal.)
const bodyTime = 30 * time.Second

func (f frontHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	to := api.AudienceWeb
	if r.TLS != nil {
		to, _ = api.ParseServerName(r.TLS.ServerName, f.ids.clusterName)
	}
	c := f.ids.conn(r)
	if r.ProtoMajor == 1 && len(r.TransferEncoding) > 0 {
		// net/http hides a Content-Length beside chunked, by which somebody else may
		// have counted: nothing that follows is taken for a request (RFC 9112 §6.1).
		w.Header().Set("Connection", "close")
	}
	if to != api.AudienceKube {
		// A server that can't set a deadline is not one of ours.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime))
	}
	switch to {
	case api.AudienceKube:
		f.kube.ServeHTTP(w, r)
	case api.AudienceAPI:
		if c.user == nil {
			err := c.err
			switch {
			case err == nil:
				err = api.Errorf(api.CodeUnauthenticated, "a client certificate is needed: log in with tsh login")
			case f.refused != nil && api.IsCode(err, api.CodeUnauthenticated):
				f.refused(r.Context(), auth.Actor{Addr: c.addr}, err)
			}
			api.WriteError(w, err)
			return
		}
		if err := f.stale(); err != nil {
			api.WriteError(w, err)
			return
		}
		f.api.ServeHTTP(w, r.WithContext(authapi.WithCaller(r.Context(), authapi.Caller{Identity: c.user, Addr: c.addr})))
	case api.AudienceJoin:
		// As on the web name, bounds and all, but nothing else of it: whoever comes by
		// this name has believed the host CA to send one thing.
		if r.Method != http.MethodPost || r.URL.Path != api.PathJoin && r.URL.Path != "/v1"+api.PathJoin {
			api.WriteError(w, api.Errorf(api.CodeNotFound, "this name is for agents to join: POST %s", api.PathJoin))
			return
		}
		f.web.ServeHTTP(w, r.WithContext(authapi.WithCaller(r.Context(), authapi.Caller{Addr: c.addr})))
	case api.AudienceTunnel:
		api.WriteError(w, api.Errorf(api.CodeNotFound, "this name is for agents' tunnels, which are no HTTP"))
	case api.AudienceWeb:
		if r.TLS != nil && otherName(r.TLS.ServerName, f.ids.clusterName, f.names) || otherName(r.Host, f.ids.clusterName, f.names) {
			refuseName(w, api.PublicURL(f.publicAddr, "/"))
			return
		}
		f.web.ServeHTTP(w, r.WithContext(authapi.WithCaller(r.Context(), authapi.Caller{Addr: c.addr})))
	}
}

// handshakeTime is how long a client may take for its handshake, and for the header of
// a request: a few thousand silent connections would starve the rest.
const handshakeTime = 10 * time.Second

// httpServer is a public listener's server. There is no read or write timeout,
// because watches last for hours.
func httpServer(h http.Handler, cfg *tls.Config, log *slog.Logger) *http.Server {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetHTTP2(true)
	return &http.Server{
		Handler:           h,
		TLSConfig:         cfg,
		Protocols:         p,
		ReadHeaderTimeout: handshakeTime,
		IdleTimeout:       5 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ConnContext:       connContext,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug), // strangers' failed handshakes
		HTTP2: &http.HTTP2Config{
			// kubectl and controllers put every watch of a cluster on one connection.
			MaxConcurrentStreams: 1000,
			// A load balancer drops what is silent for a minute; and a dead peer is found in 45 s.
			SendPingTimeout: 30 * time.Second,
			PingTimeout:     15 * time.Second,
		},
	}
}
