package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// newTunnelPort is newPort with a handler for tunnels: it says who called, and
// echoes until the connection ends.
func newTunnelPort(t *testing.T, id string) *Port {
	t.Helper()
	p, err := New(Options{ServerID: id, Seeds: [][]byte{seed(1)}, Listen: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	p.HandleTunnels(func(c net.Conn, from Peer) {
		if !from.Member() {
			t.Errorf("a guest has a tunnel: %+v", from)
		}
		if _, err := io.WriteString(c, from.ID+"\n"); err == nil {
			_, _ = io.Copy(c, c)
		}
	})
	p.SetCluster("c1")
	p.Start()
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func TestTunnelsReachMembers(t *testing.T) {
	a, b := newTunnelPort(t, "a"), newTunnelPort(t, "b")
	c, err := a.DialTunnel(context.Background(), b.target())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "ping"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len("a\nping"))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "a\nping" {
		t.Fatalf("got %q, %v", got, err)
	}
	if err := b.Close(); err != nil { // waits for the handler, whose connection it closes
		t.Fatal(err)
	}
	if _, err := c.Read(got); err == nil {
		t.Error("the connection outlives the port that accepted it")
	}
}

func TestTunnelsAreRefusedWhereNobodyTakesThem(t *testing.T) {
	a, b := pair(t)
	c, err := a.DialTunnel(context.Background(), b.target())
	if err != nil {
		return
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || isDeadline(err) {
		t.Errorf("the connection stays open: %v", err)
	}
}

// threats.md, CVE-2021-37219: what is not a member's never reaches the handler.
func TestNoTunnelByteBeforeTheIDsAreChecked(t *testing.T) {
	b, err := New(Options{ServerID: "b", Seeds: [][]byte{seed(1)}, Listen: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	b.HandleTunnels(func(_ net.Conn, from Peer) { t.Errorf("%+v has a tunnel", from) })
	b.SetCluster("c1")
	b.Start()
	defer b.Close()
	addr := b.Addr().String()
	creds, err := newCredentials("x", [][]byte{seed(1)}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	agentCA := selfSigned(t, "Sallyport agent CA", nil)
	agentCert := selfSigned(t, "x", agentCA)
	prefaced := func(pre preface) func() (net.Conn, error) {
		return func() (net.Conn, error) {
			c, err := tls.Dial("tcp", addr, creds.clientConfig("b"+nameSuffix, protoTunnel))
			if err != nil {
				return nil, err
			}
			return c, writeFrame(c, pre)
		}
	}
	for _, tc := range []struct {
		name string
		dial func() (net.Conn, error)
	}{
		{"plain TCP", func() (net.Conn, error) { return net.Dial("tcp", addr) }},
		{"certificate of an agent CA", func() (net.Conn, error) {
			return tls.Dial("tcp", addr, &tls.Config{RootCAs: creds.pool, ServerName: "b" + nameSuffix, NextProtos: []string{protoTunnel}, MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*agentCert}})
		}},
		{"another id in the preface", prefaced(preface{Cluster: "c1", From: "y", To: "b"})},
		{"another target", prefaced(preface{Cluster: "c1", From: "x", To: "c"})},
		{"another cluster", prefaced(preface{Cluster: "c2", From: "x", To: "b"})},
		{"a guest", prefaced(preface{From: "x"})},
		{"a guest who names the server", prefaced(preface{From: "x", To: "b"})},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := tc.dial()
			if err != nil {
				return // refused in the handshake
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			_, _ = c.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
			if _, err := io.Copy(io.Discard, c); isDeadline(err) {
				t.Errorf("the connection stays open: %v", err)
			}
		})
	}
	a := newPort(t, "a")
	if _, err := a.DialTunnel(context.Background(), b.target()); err == nil {
		t.Error("a server without a cluster has a tunnel")
	}
	if err := a.Call(context.Background(), b.target(), "/x", nil, nil); !api.IsCode(err, api.CodeUnavailable) {
		t.Errorf("call without a cluster: %v", err)
	}
}

func isDeadline(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}
