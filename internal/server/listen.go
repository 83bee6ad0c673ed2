package server

import (
	"errors"
	"net"
	"syscall"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// port is an address that this replica listens on, and the flag that says so.
type port struct{ flag, addr string }

// tryPorts finds out before anything is opened whether the ports can be had. They
// are held together, so that one given twice is found too. Gossip alone is no
// reason not to start: it tries again by itself, and a replica does without it for
// a while.
func (o *Options) tryPorts() (err error) {
	var held []net.Listener
	defer func() {
		for _, l := range held {
			err = errors.Join(err, ignoreClosed(l.Close()))
		}
	}()
	ports := []port{
		{"listen-addr", o.ListenAddr}, {"kube-listen-addr", o.KubeListenAddr}, {"peer-addr", o.PeerAddr}, {"diag-addr", o.DiagAddr},
	}
	if addr := o.acmeHTTPAddr(); o.ACME && addr != "" {
		ports = append(ports, port{"acme-http-addr", addr})
	}
	for _, p := range ports {
		l, err := p.listen()
		if err != nil {
			return err
		}
		held = append(held, l)
	}
	if l, err := (port{"gossip-addr", o.GossipAddr}).listen(); err != nil {
		o.Logger.Warn("other replicas can't be found yet", "error", err)
	} else {
		held = append(held, l)
	}
	return nil
}

func (p port) listen() (net.Listener, error) {
	l, err := net.Listen("tcp", p.addr) //nolint:noctx // listening is immediate
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, api.Errorf(api.CodeInvalid, "%s is in use already: end the program that listens there, or choose another address with --%s", p.addr, p.flag)
	case errors.Is(err, syscall.EACCES):
		return nil, api.Errorf(api.CodeInvalid, "not allowed to listen on %s: choose a port above 1023 with --%s", p.addr, p.flag)
	case err != nil:
		return nil, api.Errorf(api.CodeInvalid, "--%s: can't listen: %w", p.flag, err)
	}
	return l, nil
}

// listen binds what answers at once. The public ports stay closed until this
// replica is ready: they must refuse connections, so that clients and load
// balancers go elsewhere instead of waiting in a handshake.
func (s *Server) listen() error {
	var err error
	if s.listeners.diag, err = (port{"diag-addr", s.opts.DiagAddr}).listen(); err != nil {
		return err
	}
	s.onClose(func() error { return ignoreClosed(s.listeners.diag.Close()) })
	if s.listeners.socket, err = listenSocket(s.opts.SocketPath); err != nil {
		return err
	}
	s.onClose(func() error { return ignoreClosed(s.listeners.socket.Close()) })
	return nil
}

// listenPublic opens a public port, with the client's address of each connection
// behind a load balancer, and a bound on strangers by that address.
func (s *Server) listenPublic(p port, strangers *admission) (net.Listener, error) {
	l, err := p.listen()
	if err != nil {
		return nil, err
	}
	if s.opts.ProxyProtocol != ProxyProtocolOff {
		l = newProxiedListener(l, &s.trusted, s.opts.ProxyProtocol == ProxyProtocolRequire, s.proxied)
	}
	return strangers.listener(l), nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
