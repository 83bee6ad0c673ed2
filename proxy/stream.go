package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/sallyport-dev/sallyport/internal/splice"
	"github.com/sallyport-dev/sallyport/internal/upstream"
)

const (
	// halfCloseGrace is how long the second direction of an upgraded stream may
	// go on after the first has ended. SPDY and WebSocket close their own streams
	// inside; an end of the connection means that the peer is gone or done.
	halfCloseGrace = 5 * time.Second
)

// stream joins client and API server after a 101. This goroutine owns the
// stream: it waits for either direction, or for the right to end, closes both
// connections and waits for the two copies.
func (h *Handler) stream(ctx context.Context, w http.ResponseWriter, r *http.Request, a *attempt, f *flight, res *http.Response, start time.Time) error {
	server, ok := res.Body.(io.ReadWriteCloser)
	got := res.Header.Get("Upgrade")
	if !ok || !strings.EqualFold(got, a.upgrade) || !httpguts.HeaderValuesContainsToken(res.Header["Connection"], "upgrade") {
		return &gatewayError{message: fmt.Sprintf("the Kubernetes cluster %q changed to protocol %.64q when %q was asked for", a.kube, got, a.upgrade)}
	}
	client, buffered, err := f.ctl.Hijack()
	if err != nil {
		return fmt.Errorf("take over the client's connection: %w", err)
	}
	defer client.Close()
	s := a.session
	s.exit = newExitWatch(s.kind, a.upgrade, res.Header)
	defer func() { h.end(r, a, f.cutReason()) }()
	h.metrics.streams.Inc()
	defer h.metrics.streams.Dec()
	h.settle(r, a, res.StatusCode, start)

	// A deadline of the server's may be pending. A cut that comes meanwhile is
	// not lost: it also ends ctx, which join looks at.
	_ = client.SetDeadline(time.Time{})
	keepAlive(client)
	if err := writeSwitch(client, w.Header(), res, a.upgrade); err != nil {
		return nil // the client is gone: nobody to tell
	}
	fromClient, fromServer := early(client, buffered.Reader), io.Reader(server)
	if s.exit != nil {
		fromClient, fromServer = s.exit.up(fromClient), s.exit.down(fromServer)
	}
	join(ctx, h.buffers, client, fromClient, server, fromServer)
	if why := f.cutReason(); why != nil {
		h.metrics.cut.Inc()
		closeBeneath(client)
		h.disconnected(r, a, why)
	}
	return nil
}

// closeBeneath ends a connection without TLS' good-bye. A write that the cut
// broke off has used up a record that the client never gets, so that alert would
// be out of sequence, and kubectl would report tampering ("bad record MAC").
func closeBeneath(c net.Conn) {
	if overTLS, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = overTLS.NetConn()
	}
	_ = c.Close() // the stream is over, whatever this says
}

// writeSwitch sends the 101 with the API server's fields.
func writeSwitch(client io.Writer, header http.Header, res *http.Response, upgrade string) error {
	clear(header)
	responseHeader(header, res.Header)
	delete(header, "Content-Length")
	header["Connection"] = []string{"Upgrade"}
	header["Upgrade"] = []string{upgrade}
	bw := bufio.NewWriterSize(client, splice.Small)
	_, _ = bw.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	_ = header.Write(bw)
	_, _ = bw.WriteString("\r\n")
	return bw.Flush() // reports the errors of the writes before it
}

// early reads what the client sent before it saw the 101, then the connection.
func early(client net.Conn, br *bufio.Reader) io.Reader {
	n := br.Buffered()
	if n == 0 {
		return client
	}
	ahead, _ := br.Peek(n) // buffered: no error
	return io.MultiReader(strings.NewReader(string(ahead)), client)
}

// join copies both ways until both have ended, one has failed, or ctx ends.
func join(ctx context.Context, pools *splice.Pools, client net.Conn, fromClient io.Reader, server io.WriteCloser, fromServer io.Reader) {
	up, down := make(chan bool, 1), make(chan bool, 1)
	go func() { up <- pools.Copy(server, fromClient, nil) == nil }()
	go func() { down <- pools.Copy(client, fromServer, nil) == nil }()

	clean := false
	upDone, downDone := false, false
	select {
	case clean = <-up:
		upDone = true
	case clean = <-down:
		downDone = true
	case <-ctx.Done():
	}
	if clean {
		timer := time.NewTimer(halfCloseGrace)
		defer timer.Stop()
		if upDone {
			up = nil
		} else {
			down = nil
		}
		select {
		case <-up:
			upDone = true
		case <-down:
			downDone = true
		case <-ctx.Done():
		case <-timer.C:
		}
		if upDone && downDone {
			return
		}
	}
	_ = client.SetDeadline(time.Unix(1, 0)) // ends reads and writes at once, which Close may not
	_ = server.Close()
	if !upDone {
		<-up
	}
	if !downDone {
		<-down
	}
}

// keepAlive asks the kernel to look after a client's connection.
func keepAlive(c net.Conn) {
	for c != nil { // TLS over whatever looks at it first over TCP
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetKeepAliveConfig(upstream.KeepAlive())
			return
		}
		inner, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return
		}
		c = inner.NetConn()
	}
}
