package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/raft"

	"github.com/sallyport-dev/sallyport/internal/testport"
)

// The row "gossip" of the threat table: what somebody on the network can do to
// gossip, and what somebody can who has its key (but not the peer CA's, which
// comes of the same secret). What the latter can do to the cluster: nothing, see
// TestAMemberIsNotTrusted.

type advertiser struct {
	Link // not called
	addr string
}

func (a advertiser) Advertise() string { return a.addr }

var gossipKey = bytes.Repeat([]byte{5}, 32)

// startGossip runs the gossip of a server that does nothing else, and returns once
// it listens: who knocks earlier is refused by the kernel.
func startGossip(t *testing.T, id string, port int, opts Gossip) *gossip {
	t.Helper()
	opts.Listen = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	if opts.Keys == nil {
		opts.Keys = [][]byte{gossipKey}
	}
	n := &Node{opts: Options{Gossip: opts, Version: "1.2.3"}, log: slog.New(slog.DiscardHandler), id: raft.ServerID(id), link: advertiser{addr: id + ".test:7443"}}
	g := newGossip(n)
	g.start(t.Context())
	t.Cleanup(g.stop)
	for deadline := time.After(20 * time.Second); !g.listens(); {
		select {
		case <-deadline:
			t.Fatalf("gossip of %s does not listen on %s", id, opts.Listen)
		case <-time.After(time.Millisecond):
		}
	}
	return g
}

func (g *gossip) listens() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.list != nil
}

func (g *gossip) ids() string {
	var ids []string
	for _, m := range g.members() {
		ids = append(ids, m.ID)
	}
	return strings.Join(ids, " ")
}

func awaitIDs(t *testing.T, g *gossip, want string) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for g.ids() != want {
		select {
		case <-deadline:
			t.Fatalf("gossip of %s knows %q, want %q", g.n.id, g.ids(), want)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// intruder is a memberlist of its own, with or without our key.
func intruder(t *testing.T, port int, name, label string, key, meta []byte) *memberlist.Memberlist {
	t.Helper()
	c := memberlist.DefaultLANConfig()
	c.Name, c.BindAddr, c.BindPort, c.AdvertisePort = name, "127.0.0.1", port, port
	c.Label, c.SecretKey = label, key
	c.LogOutput = nil
	c.Logger = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	c.Delegate = &saying{meta: meta}
	list, err := memberlist.Create(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = list.Shutdown() })
	return list
}

// saying is a delegate with metadata of anybody's choice.
type saying struct {
	gossip
	meta []byte
}

func (s *saying) NodeMeta(int) []byte { return s.meta }

func TestGossipWithoutTheKeyIsIgnored(t *testing.T) {
	t.Parallel()
	ports := testport.Reserve(t, 5)
	a := startGossip(t, "aa", ports[0], Gossip{})
	b := startGossip(t, "bb", ports[1], Gossip{Join: []string{fmt.Sprintf("127.0.0.1:%d", ports[0])}})
	awaitIDs(t, a, "bb")
	awaitIDs(t, b, "aa")
	meta, _ := json.Marshal(member{ID: "cc", Addr: "cc.test:7443"})
	for i, tt := range []struct {
		name, label string
		key         []byte
	}{
		{"no key", "sallyport", nil},
		{"another key", "sallyport", bytes.Repeat([]byte{6}, 32)},
		{"another label", "", gossipKey},
	} {
		list := intruder(t, ports[2+i], "cc.1", tt.label, tt.key, meta)
		if n, err := list.Join([]string{fmt.Sprintf("127.0.0.1:%d", ports[0])}); err == nil || n > 0 {
			t.Errorf("%s: joined %d members, %v", tt.name, n, err)
		}
		if list.NumMembers() != 1 {
			t.Errorf("%s: it learned of %d members", tt.name, list.NumMembers())
		}
	}
	if a.ids() != "bb" || b.ids() != "aa" {
		t.Errorf("a knows %q, b knows %q", a.ids(), b.ids())
	}
}

// Who has the key can put members into the list. What they say of themselves is
// read with suspicion, and is never more than an address to dial.
func TestForgedMetadataIsIgnored(t *testing.T) {
	t.Parallel()
	forged := map[string]string{
		"b1.x": `{"id":"bb","a":"evil.test:1"}`, // not the id in its name
		"b2.x": `{"id":"","a":"evil.test:1"}`,
		"b3.x": `not JSON`,
		"b4.x": ``,
		"b5.x": "{\"id\":\"b5\",\"v\":\"\x1b[2J1.0\",\"a\":\"evil.test:1\"}",
		"b6.x": `{"id":"b6","v":"\u001b[2J","a":"evil.test:1"}`,
		"b7.x": `{"id":"b7","a":"evil.test:1\n"}`,
		"b8.x": `{"id":"b8","a":"` + strings.Repeat("e", 300) + `:1"}`,
		"b9.x": `{"id":7}`,
	}
	for name, meta := range forged {
		if m, ok := readMember(&memberlist.Node{Name: name, Meta: []byte(meta)}); ok {
			t.Errorf("%s: %+v", name, m)
		}
	}
	ports := testport.Reserve(t, 3)
	a := startGossip(t, "aa", ports[0], Gossip{})
	join := []string{fmt.Sprintf("127.0.0.1:%d", ports[0])}
	list := intruder(t, ports[1], "b6.x", "sallyport", gossipKey, []byte(forged["b6.x"]))
	other := intruder(t, ports[2], "aa.x", "sallyport", gossipKey, []byte(`{"id":"aa","a":"evil.test:1"}`)) // a's own id
	for _, l := range []*memberlist.Memberlist{list, other} {
		if _, err := l.Join(join); err != nil {
			t.Fatal(err)
		}
	}
	if a.ids() != "" || len(a.addresses()) != 0 {
		t.Errorf("a knows %q at %q", a.ids(), a.addresses())
	}
}

// recorder keeps what a member sends, as it is on the wire.
type recorder struct {
	memberlist.NodeAwareTransport
	mu      sync.Mutex
	packets [][]byte
}

func (r *recorder) WriteTo(b []byte, addr string) (time.Time, error) {
	r.keep(b)
	return r.NodeAwareTransport.WriteTo(b, addr)
}

func (r *recorder) WriteToAddress(b []byte, addr memberlist.Address) (time.Time, error) {
	r.keep(b)
	return r.NodeAwareTransport.WriteToAddress(b, addr)
}

func (r *recorder) keep(b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.packets = append(r.packets, bytes.Clone(b))
}

func newRecorder(t *testing.T, port int) *recorder {
	t.Helper()
	transport, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{
		BindAddrs: []string{"127.0.0.1"}, BindPort: port, Logger: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	})
	if err != nil {
		t.Fatal(err)
	}
	return &recorder{NodeAwareTransport: transport}
}

// Packets that are sent again change nothing: neither does a server that left
// come back by its old ones, nor one that came back leave by them.
func TestReplayedGossipIsIgnored(t *testing.T) {
	t.Parallel()
	ports := testport.Reserve(t, 2)
	a := startGossip(t, "aa", ports[0], Gossip{})
	join := []string{fmt.Sprintf("127.0.0.1:%d", ports[0])}
	tape := newRecorder(t, ports[1])
	b := startGossip(t, "bb", ports[1], Gossip{Join: join, Transport: tape})
	awaitIDs(t, a, "bb")
	awaitIDs(t, b, "aa")
	b.stop() // says that it leaves
	awaitIDs(t, a, "")
	tape.mu.Lock()
	packets := tape.packets
	tape.mu.Unlock()
	if len(packets) == 0 {
		t.Fatal("nothing was recorded")
	}
	replay := func() {
		t.Helper()
		c, err := net.Dial("udp", join[0]) //nolint:noctx // loopback
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for _, p := range packets {
			if _, err := c.Write(p); err != nil && !errors.Is(err, net.ErrClosed) {
				t.Fatal(err)
			}
		}
	}
	stays := func(want string) {
		t.Helper()
		for end := time.After(time.Second); ; {
			if got := a.ids(); got != want {
				t.Fatalf("a knows %q after the replay of %d packets, want %q", got, len(packets), want)
			}
			select {
			case <-time.After(10 * time.Millisecond):
				continue
			case <-end:
			}
			return
		}
	}
	replay()
	stays("")
	startGossip(t, "bb", ports[1], Gossip{Join: join}) // under a fresh name
	awaitIDs(t, a, "bb")
	replay()
	stays("bb")
}
