package peer

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"time"
)

// Target is a server to reach.
type Target struct {
	ID    string // expected server id; "" only for a guest
	Addr  string // host:port
	Guest bool   // name no cluster: the other end may be of none, or of another
}

func (t Target) String() string { return Address(t.ID, t.Addr) }

// Address is the form id@host:port in which Raft's configuration holds a
// server's address. The id travels with the address so that no dialer can
// forget it.
func Address(id, addr string) string { return id + "@" + addr }

// SplitAddress takes an Address apart.
func SplitAddress(address string) (id, addr string, ok bool) {
	id, addr, ok = strings.Cut(address, "@")
	return id, addr, ok && validServerID(id) && addr != ""
}

// dial opens a connection for proto: TCP, TLS with the expected name, preface, answer.
func (p *Port) dial(ctx context.Context, proto string, t Target) (_ *conn, err error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	stop := context.AfterFunc(p.ctx, cancel) // the port closes: so do its dials
	defer stop()

	name := anyName
	if t.ID != "" {
		if !validServerID(t.ID) {
			return nil, fmt.Errorf("dial %s: %q is no server id", t.Addr, t.ID)
		}
		name = t.ID + nameSuffix
	}
	pre := preface{From: p.opts.ServerID, To: t.ID}
	if !t.Guest {
		if pre.Cluster = p.ClusterID(); pre.Cluster == "" || t.ID == "" {
			return nil, fmt.Errorf("dial %s: this server has no cluster yet, or does not know whom to expect", t)
		}
	}
	raw, err := p.opts.Dial(ctx, "tcp", t.Addr)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", t, err)
	}
	defer func() {
		if err != nil {
			_ = raw.Close() // the error is what matters
		}
	}()
	if deadline, ok := ctx.Deadline(); ok {
		if err := raw.SetDeadline(deadline); err != nil {
			return nil, fmt.Errorf("set deadline: %w", err)
		}
	}
	tc := tls.Client(raw, p.creds.clientConfig(name, proto))
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS handshake with %s: %w", t, err)
	}
	id, err := serverIDOf(tc.ConnectionState())
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", t, err)
	}
	if got := tc.ConnectionState().NegotiatedProtocol; got != proto {
		return nil, fmt.Errorf("dial %s: no protocol %s there (got %q)", t, proto, got)
	}
	unwatch := closeOn(ctx, raw)
	err = writeFrame(tc, pre)
	var ans answer
	if err == nil {
		err = readFrame(tc, &ans)
	}
	unwatch()
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", t, err)
	}
	if ans.Error != "" {
		return nil, fmt.Errorf("server at %s refused: %q", t, ans.Error)
	}
	if err := raw.SetDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("clear deadline: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !t.Guest && p.clusterID != pre.Cluster {
		return nil, fmt.Errorf("dial %s: this server changed its cluster meanwhile", t)
	}
	return p.registerLocked(tc, proto, Peer{ID: id, ClusterID: pre.Cluster}, false)
}

// closeOn closes c when ctx ends, until the returned function is called.
func closeOn(ctx context.Context, c net.Conn) func() {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() }) // wakes whoever reads
	return func() { stop() }
}
