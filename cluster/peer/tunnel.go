package peer

import (
	"context"
	"errors"
	"net"
)

// protoTunnel carries the links of proxy/tunnel; the name is wire.Protocol, which
// this package may not import.
const protoTunnel = "sallyport-tunnel/1"

// DialTunnel opens a connection for proxy/tunnel to another member of this
// cluster. The port closes it when it closes.
func (p *Port) DialTunnel(ctx context.Context, t Target) (net.Conn, error) {
	t.Guest = false
	c, err := p.dial(ctx, protoTunnel, t)
	if err != nil {
		return nil, err
	}
	return tunnelConn{c}, nil
}

// tunnelConn lets the socket beneath be found, so that its buffers can be bounded.
type tunnelConn struct{ *conn }

func (c tunnelConn) NetConn() net.Conn { return c.Conn }

// HandleTunnels registers what serves the connections that other members open by
// DialTunnel. The connection is closed when fn returns; when the port closes, it
// closes the connection and waits for fn. Before Start.
func (p *Port) HandleTunnels(fn func(net.Conn, Peer)) { p.tunnels = fn }

// offerTunnel lets the handshake that leads here end, which the tunnel outlives.
func (p *Port) offerTunnel(c *conn) error {
	if p.tunnels == nil {
		_ = c.Close() // takes it off the books
		return passing{errors.New("no tunnels are taken here")}
	}
	p.wg.Go(func() {
		defer c.Close()
		p.tunnels(tunnelConn{c}, c.peer)
	})
	return nil
}
