package peer

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// dialsBy gives a port with a cluster that dials by dial, and its Raft layer.
func dialsBy(t *testing.T, dial func(ctx context.Context, network, addr string) (net.Conn, error)) (*Port, raft.StreamLayer) {
	t.Helper()
	p, err := New(Options{ServerID: "a", Seeds: [][]byte{seed(1)}, Listen: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler), Dial: dial})
	if err != nil {
		t.Fatal(err)
	}
	p.Start()
	t.Cleanup(func() { _ = p.Close() })
	p.SetCluster("c1")
	layer, err := p.RaftLayer()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = layer.Close() })
	return p, layer
}

// Raft waits for its dials when it stops; those to a machine without power take as long
// as they may.
func TestAFenceEndsDialsThatAreUnderWay(t *testing.T) {
	t.Parallel()
	begun := make(chan struct{}, 4)
	p, layer := dialsBy(t, func(ctx context.Context, _, _ string) (net.Conn, error) {
		begun <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	})
	dialled := make(chan error, 1)
	dial := func() {
		_, err := layer.Dial(raft.ServerAddress(Address("b", "b.test:7443")), time.Minute)
		dialled <- err
	}
	for range 2 { // and a fence that was lifted leaves nothing behind
		go dial()
		<-begun
		p.Fence("Raft stops")
		if err := <-dialled; err == nil || !strings.Contains(err.Error(), "Raft stops") {
			t.Errorf("a dial that was under way: %v, want the fence's reason", err)
		}
		dial()
		if err := <-dialled; err == nil || !strings.Contains(err.Error(), "Raft stops") || len(begun) > 0 {
			t.Errorf("a dial behind the fence: %v, begun: %v", err, len(begun) > 0)
		}
		p.Unfence()
	}
}

// unplugged is a connection whose bytes go nowhere once it is cut.
type unplugged struct {
	net.Conn
	cut    *atomic.Bool
	closed chan struct{}
	once   sync.Once
}

func (u *unplugged) Write(b []byte) (int, error) {
	if u.cut.Load() {
		<-u.closed
		return 0, net.ErrClosed
	}
	return u.Conn.Write(b)
}

func (u *unplugged) Close() error {
	u.once.Do(func() { close(u.closed) })
	return u.Conn.Close()
}

func TestAFenceDoesNotWaitForPeersThatTakeNothing(t *testing.T) {
	t.Parallel()
	var cut atomic.Bool
	b := newPort(t, "b")
	b.SetCluster("c1")
	raftPeek(t, b)
	p, layer := dialsBy(t, func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &unplugged{Conn: c, cut: &cut, closed: make(chan struct{})}, nil
	})
	c, err := layer.Dial(raft.ServerAddress(b.target().String()), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	cut.Store(true)
	fenced := make(chan struct{})
	go func() {
		p.Fence("Raft stops")
		close(fenced)
	}()
	select {
	case <-fenced:
	case <-time.After(20 * time.Second):
		_ = c.(*conn).Conn.(interface{ NetConn() net.Conn }).NetConn().Close()
		t.Fatal("it waits for a peer that takes nothing")
	}
}
