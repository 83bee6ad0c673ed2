package cluster_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/sallyport-dev/sallyport/cluster"
	"github.com/sallyport-dev/sallyport/internal/testport"
)

// says is a memberlist.Delegate that says what it is given.
type says []byte

func (s says) NodeMeta(int) []byte           { return s }
func (says) NotifyMsg([]byte)                {}
func (says) GetBroadcasts(int, int) [][]byte { return nil }
func (says) LocalState(bool) []byte          { return nil }
func (says) MergeRemoteState([]byte, bool)   {}

// The row "gossip" of the threat table: membership grants nothing. Who has the
// gossip key and not the peer CA's is seen as a member, under a server's id if it
// likes, and gets no further than a handshake that fails.
func TestAMemberIsNotTrusted(t *testing.T) {
	t.Parallel()
	r := &names{m: make(map[string]string)}
	key := bytes.Repeat([]byte{5}, 32)
	var gossip []string
	ports := testport.Reserve(t, 5)
	for _, port := range ports {
		gossip = append(gossip, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	}
	with := func(i int) func(*cluster.Options) {
		return func(o *cluster.Options) {
			o.Gossip = cluster.Gossip{Keys: [][]byte{key}, Listen: gossip[i], Join: gossip[:1]}
		}
	}
	var reps []*real
	for i := range 3 {
		reps = append(reps, startReal(t, r, allNames[i], t.TempDir(), with(i)))
	}
	ready(t, reps...)
	ids := func() string {
		list := ""
		for _, s := range reps[0].node.Status().Servers {
			list += fmt.Sprintf("%s at %s, voter %v; ", s.ID, s.Addr, s.Voter)
		}
		return list
	}
	until(t, "all are voters", func() bool {
		n := 0
		for _, s := range reps[0].node.Status().Servers {
			if s.Voter && s.Alive {
				n++
			}
		}
		return n == 3
	})
	before := ids()

	// A server of another peer CA, and one that says it is the second replica.
	evil := &names{m: r.m, seeds: [][]byte{bytes.Repeat([]byte{9}, 32)}}
	stranger := startReal(t, evil, "evil.test:7443", t.TempDir(), with(3))
	meta, _ := json.Marshal(map[string]string{"id": reps[1].id, "v": "6.6.6", "a": "evil.test:7443"})
	c := memberlist.DefaultLANConfig()
	c.Name, c.BindAddr, c.BindPort, c.AdvertisePort = reps[1].id+".forged", "127.0.0.1", ports[4], ports[4]
	c.Label, c.SecretKey, c.Delegate, c.Logger = "sallyport", key, says(meta), slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	list, err := memberlist.Create(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = list.Shutdown() })
	until(t, "the intruders are members", func() bool {
		if list.NumMembers() == 1 {
			_, _ = list.Join(gossip[:1]) // a replica may be ready before it gossips
		}
		return list.NumMembers() == 5
	})

	for end := time.After(3 * time.Second); ; { // several rounds of everybody's looking around
		if got := ids(); got != before {
			t.Fatalf("servers are now %q, were %q", got, before)
		}
		if id := stranger.node.ClusterID(); id != "" {
			t.Fatalf("the stranger is of cluster %q", id)
		}
		select {
		case <-end:
		case <-time.After(50 * time.Millisecond):
			continue
		}
		break
	}
	write(t, reps[2], "goes on")
	if stranger.sm.Has("goes on") {
		t.Error("the stranger got a write")
	}
}

// docs/operations.md on the cluster secret: step by step, each replica restarted
// by itself, and never is one without the others.
func TestTheSecretRotatesWhileTheClusterRuns(t *testing.T) {
	t.Parallel()
	r := &names{m: make(map[string]string)}
	old, fresh := bytes.Repeat([]byte{3}, 32), bytes.Repeat([]byte{4}, 32)
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	var gossip []string
	for _, port := range testport.Reserve(t, 3) {
		gossip = append(gossip, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	}
	start := func(i int, lines ...[]byte) *real {
		r.seeds = lines
		return startReal(t, r, allNames[i], dirs[i], func(o *cluster.Options) {
			o.Gossip = cluster.Gossip{Keys: lines, Listen: gossip[i], Join: gossip}
		})
	}
	reps := []*real{start(0, old), start(1, old), start(2, old)}
	ready(t, reps...)
	write(t, reps[0], "first")
	for step, lines := range [][][]byte{
		{old, fresh}, // all accept the new line
		{fresh, old}, // it signs
		{fresh},      // the old one is gone
	} {
		for i := range reps {
			if step == 2 && i > 0 {
				break // one shows it
			}
			if err := reps[i].stop(); err != nil {
				t.Fatal(err)
			}
			reps[i] = start(i, lines...)
			ready(t, reps[i]) // what a rolling update waits for
			write(t, reps[i], fmt.Sprintf("step %d on %d", step, i))
		}
	}
	if got := len(reps[0].sm.Items()); got != 8 {
		t.Errorf("%d writes, want 8", got)
	}
}
