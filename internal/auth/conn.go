package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/netip"
)

// What is decided about a request depends on its address alone: ports are no part of
// limits and locks. In the log they stand, because an address that many share says
// who it was only together with the port. So they travel in the context and are put
// in where events of all requests pass.

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

const (
	fieldRemote = "addr.remote"
	fieldLocal  = "addr.local"
)

// withPorts completes addr.remote, and adds addr.local, in the events of a request:
// those that name the address it came from. Others stay as they are.
func withPorts(ctx context.Context, events [][]byte) [][]byte {
	c, ok := ctx.Value(connKey{}).(conn)
	if !ok || !c.remote.IsValid() {
		return events
	}
	for i, line := range events {
		events[i] = c.complete(line)
	}
	return events
}

// complete changes no other byte of a line.
func (c conn) complete(line []byte) []byte {
	from, to, value := topLevel(line, fieldRemote)
	if addr, err := netip.ParseAddr(value); err != nil || addr.WithZone("") != c.remote.Addr().WithZone("") {
		return line
	}
	ends := map[string]string{fieldRemote: c.remote.String()}
	if c.local.IsValid() {
		ends[fieldLocal] = c.local.String()
	}
	fields, err := json.Marshal(ends)
	if err != nil {
		return line // two strings always marshal
	}
	return bytes.Join([][]byte{line[:from], fields[1 : len(fields)-1], line[to:]}, nil)
}

// topLevel finds a field whose value is a string: from its name's first byte to
// behind its value. A field of that name further in is a stranger's.
func topLevel(line []byte, name string) (from, to int64, value string) {
	dec := json.NewDecoder(bytes.NewReader(line))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return 0, 0, ""
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return 0, 0, ""
		}
		behind := dec.InputOffset()
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return 0, 0, ""
		}
		if key == name {
			if json.Unmarshal(raw, &value) != nil {
				return 0, 0, ""
			}
			return behind - int64(len(name)+2), dec.InputOffset(), value
		}
	}
	return 0, 0, ""
}
