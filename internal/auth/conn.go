package auth

import (
	"context"
	"net"
	"net/netip"
)

// What is decided about a request depends on its address alone: ports are no part of
// limits and locks. In the log they stand, because an address that many share says
// who it was only together with the port. So they travel in the context.

// conn are the two ends of a request's connection.
type conn struct{ remote, local netip.AddrPort }

type connKey struct{}

// WithConn gives what is done with a context the connection by which it was asked
// for: the client's own address where a load balancer tells it.
func WithConn(ctx context.Context, remote, local net.Addr) context.Context {
	return context.WithValue(ctx, connKey{}, conn{addrPort(remote), addrPort(local)})
}

func addrPort(a net.Addr) netip.AddrPort {
	if a == nil {
		return netip.AddrPort{}
	}
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil { // a unix socket's
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// PutAddresses adds addr.remote and addr.local to the fields of an event: host:port,
// or the bare address where ctx tells no connection, or somebody else's.
func PutAddresses(ctx context.Context, fields map[string]any, addr netip.Addr) {
	if !addr.IsValid() {
		return
	}
	addr = addr.Unmap()
	fields["addr.remote"] = addr.String()
	c, _ := ctx.Value(connKey{}).(conn)
	if !c.remote.IsValid() || c.remote.Addr().WithZone("") != addr.WithZone("") {
		return
	}
	fields["addr.remote"] = c.remote.String()
	if c.local.IsValid() {
		fields["addr.local"] = c.local.String()
	}
}
