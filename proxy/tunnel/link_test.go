package tunnel

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/cluster/peer"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/wire"
)

// scriptedPeer is a member at which dialled links meet what a test makes of them.
type scriptedPeer struct {
	id    string
	links chan *wire.Session
}

func (p *scriptedPeer) DialTunnel(context.Context, peer.Target) (net.Conn, error) {
	near, far := net.Pipe()
	sess, err := wire.Server(far, wire.Options{PingEvery: linkPingEvery, PingTimeout: linkPingTimeout})
	if err != nil {
		return nil, err
	}
	p.links <- sess
	return near, nil
}

// startBeside starts a replica whose only peer is scripted.
func startBeside(t *testing.T, p *scriptedPeer) *replica {
	t.Helper()
	c := &cluster{byID: make(map[string]*replica), pipes: true}
	c.members = []Member{{ID: p.id, Addr: p.id}}
	return c.start(t, "a", func(o *Options) { o.Port = p })
}

func rawAgent(id string, clusters ...string) json.RawMessage {
	a := tableAgent{ID: id}
	for _, name := range clusters {
		a.Clusters = append(a.Clusters, clusterStatus{Name: name})
	}
	raw, _ := json.Marshal(a)
	return raw
}

// A peer whose table can't be right is not believed at all.
func TestAMalformedTableEndsTheLink(t *testing.T) {
	good := tableFrame{Server: "b", Agents: []json.RawMessage{rawAgent(agentID(1), "cookie")}}
	frame := func(v any) []byte {
		var b bytes.Buffer
		_ = wire.WriteJSON(&b, 2*maxFrame, v)
		return b.Bytes()
	}
	tooMany := make([]string, api.MaxAgentClusters+1)
	for i := range tooMany {
		tooMany[i] = fmt.Sprintf("c%d", i)
	}
	for name, bytes := range map[string][]byte{
		"another server's":     frame(tableFrame{Server: "c"}),
		"no JSON":              append(frame(good), 0, 0, 0, 2, '{', '{'),
		"an empty frame":       append(frame(good), 0, 0, 0, 0),
		"a huge frame":         append(frame(good), 0xff, 0xff, 0xff, 0xff),
		"a frame too large":    append(frame(good), 0, 0x10, 0, 1),
		"no agent's id":        append(frame(good), frame(tableFrame{Agents: []json.RawMessage{rawAgent("../../x", "cookie")}})...),
		"no agent's id, gone":  append(frame(good), frame(tableFrame{Gone: []string{"x"}})...),
		"no cluster's name":    append(frame(good), frame(tableFrame{Agents: []json.RawMessage{rawAgent(agentID(2), "x\nx")}})...),
		"too many clusters":    append(frame(good), frame(tableFrame{Agents: []json.RawMessage{rawAgent(agentID(2), tooMany...)}})...),
		"an agent of no shape": append(frame(good), frame(map[string]any{"agents": []any{1}})...),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &scriptedPeer{id: "b", links: make(chan *wire.Session, 16)}
				r := startBeside(t, p)
				defer r.stop()
				sess := <-p.links
				table, err := sess.Open(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				_, _ = table.Write(bytes)
				<-sess.Done()
				synctest.Wait()
				if len(r.Replicas()) != 0 {
					t.Errorf("still believed: %v", r.Replicas())
				}
				again := <-p.links // it is dialled anew
				defer again.Close()
				go func() { _ = sess.Close() }()
			})
		})
	}
}

func TestALinkThatFallsSilentOrSaysTooMuchEnds(t *testing.T) {
	for name, do := range map[string]func(*testing.T, *wire.Session){
		"no table":        func(*testing.T, *wire.Session) {},
		"an empty stream": func(t *testing.T, s *wire.Session) { _, _ = s.Open(t.Context()) },
		"no heartbeat":    func(t *testing.T, s *wire.Session) { openTable(t, s) },
		"a second stream too": func(t *testing.T, s *wire.Session) {
			openTable(t, s)
			if second, err := s.Open(t.Context()); err == nil {
				_ = writeTable(second) // it may see the end of the link, or be in time
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &scriptedPeer{id: "b", links: make(chan *wire.Session, 16)}
				r := startBeside(t, p)
				defer r.stop()
				sess := <-p.links
				start := time.Now()
				do(t, sess)
				<-sess.Done()
				if took := time.Since(start); took > 6*time.Second {
					t.Errorf("it took %v", took)
				}
				again := <-p.links
				defer again.Close()
				if name == "a second stream too" || name == "no heartbeat" {
					synctest.Wait()
					if len(r.Replicas()) != 0 {
						t.Errorf("still believed: %v", r.Replicas())
					}
				}
			})
		})
	}
}

func openTable(t *testing.T, s *wire.Session) net.Conn {
	t.Helper()
	table, err := s.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := writeTable(table); err != nil {
		t.Fatal(err)
	}
	return table
}

func writeTable(table net.Conn) error {
	return wire.WriteJSON(table, maxFrame, tableFrame{Server: "b", Agents: []json.RawMessage{rawAgent(agentID(1), "cookie")}})
}

// A snapshot in many frames, what comes and goes later, and a peer that comes late.
func TestTablesFollowWhatComesAndGoes(t *testing.T) {
	all := startReplicas(t, "a", "b")
	a, b := all[0], all[1]
	const n = 2000
	names := make([]clusterStatus, 0, 8)
	for i := range 8 {
		names = append(names, clusterStatus{Name: fmt.Sprintf("cluster-%d", i), Reason: strings.Repeat("x", 100)})
	}
	tunnels := make([]*tunnel, n)
	for i := range tunnels {
		sess, err := wire.Server(newIdle(), wire.Options{PingEvery: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		tunnels[i] = &tunnel{t: a.Tunnels, id: Identity{AgentID: agentID(i)}, sess: sess, control: newIdle()}
		tunnels[i].publish(names)
		t.Cleanup(func() { _ = sess.Close() })
	}
	eventually(t, "b knows of all", func() bool { return len(b.Replicas()) == n && b.Statuses()["cluster-7"].Agents == n })
	late := a.all.start(t, "c", nil)
	eventually(t, "c, which came late, knows of all", func() bool { return len(late.Replicas()) == n })
	for i := range n / 2 {
		tunnels[i].withdraw()
	}
	tunnels[n-1].publish([]clusterStatus{{Name: "cookie"}})
	for _, r := range []*replica{b, late} {
		eventually(t, r.id+" knows what is left", func() bool {
			return len(r.Replicas()) == n/2 && r.Statuses()["cookie"].Agents == 1 && r.Statuses()["cluster-0"].Agents == n/2-1
		})
	}
}

// idle is a connection that says nothing.
type idle struct {
	net.Conn
	end chan struct{}
}

func newIdle() net.Conn {
	near, _ := net.Pipe()
	return &idle{Conn: near, end: make(chan struct{})}
}

func (c *idle) Read([]byte) (int, error)    { <-c.end; return 0, io.EOF }
func (c *idle) Write(p []byte) (int, error) { return len(p), nil }
func (c *idle) Close() error                { close(c.end); return nil }

// An agent that asked for one replica by name is carried there unread, with the
// address it has.
func TestConnectionsAreSplicedToTheReplicaTheyAreFor(t *testing.T) {
	c := &cluster{byID: make(map[string]*replica)}
	arrived := make(chan net.Conn, 1)
	a := c.add(t, "a", nil)
	b := c.add(t, "b", func(o *Options) { o.Splice = func(c net.Conn) { arrived <- c } })
	a.run(t)
	b.run(t)
	eventually(t, "the links are up", func() bool { return a.linked() == 1 && b.linked() == 1 })
	client, server := tcpPair(t)
	defer client.Close()
	done := make(chan error, 1)
	go func() { done <- a.SpliceTo(t.Context(), "b", server, []byte("\x16\x03\x01 client hello")) }()
	far := <-arrived
	defer far.Close()
	if got, want := far.RemoteAddr().String(), client.LocalAddr().String(); got != want {
		t.Errorf("the client's address arrives as %s, want %s", got, want)
	}
	if _, err := io.WriteString(client, ", more"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len("\x16\x03\x01 client hello, more"))
	if _, err := io.ReadFull(far, got); err != nil || string(got) != "\x16\x03\x01 client hello, more" {
		t.Errorf("%q arrives, %v", got, err)
	}
	if _, err := io.WriteString(far, "server hello"); err != nil {
		t.Fatal(err)
	}
	_ = far.Close()
	back, err := io.ReadAll(client)
	if err != nil || string(back) != "server hello" {
		t.Errorf("%q comes back, %v", back, err)
	}
	_ = client.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}

	for name, serverID := range map[string]string{"a replica that takes none": "a", "no replica": "x"} {
		from := b
		client, server := tcpPair(t)
		if err := from.SpliceTo(t.Context(), serverID, server, nil); !api.IsCode(err, api.CodeUnavailable) {
			t.Errorf("%s: %v, want unavailable", name, err)
		}
		if _, err := client.Read(make([]byte, 1)); err == nil {
			t.Errorf("%s: the connection stays open", name)
		}
		_ = client.Close()
	}

	ctx, cancel := context.WithCancel(t.Context())
	client, server = tcpPair(t)
	defer client.Close()
	go func() { done <- a.SpliceTo(ctx, "b", server, nil) }()
	<-arrived
	cancel()
	<-done // with an error, if it had only just begun
	if _, err := client.Read(make([]byte, 1)); err == nil {
		t.Error("the connection outlives its context")
	}
}

func FuzzTable(f *testing.F) {
	add := func(v any) {
		var b bytes.Buffer
		_ = wire.WriteJSON(&b, maxFrame, v)
		f.Add(b.Bytes())
	}
	add(tableFrame{Server: "b", More: true, Agents: []json.RawMessage{rawAgent(agentID(1), "cookie", "Big.Tea")}})
	add(tableFrame{Gone: []string{agentID(1)}, Moving: true})
	add(map[string]any{"agents": []any{1}})
	add(map[string]any{"agents": []any{map[string]any{"id": agentID(1), "clusters": []any{map[string]any{"name": "cookie", "health": "\x1b[31m", "reason": "\u202e"}}}}})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0, 0, 0, 0})
	now := time.Unix(1e9, 0)
	f.Fuzz(func(t *testing.T, b []byte) {
		var frame tableFrame
		r := bytes.NewReader(append(b, "rest"...))
		if err := wire.ReadJSON(r, maxFrame, &frame); err != nil {
			return
		}
		if len(b) >= 4 {
			if n := binary.BigEndian.Uint32(b); r.Len() != max(0, len(b)-4-int(n)+4) {
				t.Errorf("%d bytes are left of %d, of which the frame has %d", r.Len(), len(b), n)
			}
		}
		agents, err := frame.parse(now)
		if err != nil {
			return
		}
		for _, a := range agents {
			if !api.ValidAgentID(a.ID) || len(a.Clusters) > api.MaxAgentClusters {
				t.Fatalf("admitted %+v", a)
			}
			for _, c := range a.Clusters {
				if api.ValidateKubeName(c.Name) != nil || len(c.Reason) > maxReason || len(c.Version) > maxText || c.Checked.After(now) {
					t.Fatalf("admitted %+v", c)
				}
				if strings.ContainsAny(c.Reason+c.Version, "\x1b\n\u202e") {
					t.Fatalf("unsafe text %+v", c)
				}
			}
			raw, err := json.Marshal(a)
			if err != nil {
				t.Fatal(err)
			}
			again, err := (&tableFrame{Agents: []json.RawMessage{raw}}).parse(now)
			if err != nil {
				t.Fatalf("what was admitted is not, a second time: %v", err)
			}
			if diff := cmp.Diff(a.Clusters, again[0].Clusters); diff != "" && len(a.Clusters)+len(again[0].Clusters) > 0 {
				t.Fatalf("it changes: %s", diff)
			}
		}
	})
}

func FuzzHeader(f *testing.F) {
	for _, h := range []header{{Agent: agentID(1)}, {Splice: true, Addr: "192.0.2.1:5"}, {Splice: true, Agent: agentID(1)}, {Addr: "x"}} {
		var b bytes.Buffer
		_ = wire.WriteJSON(&b, maxHeader, h)
		f.Add(b.Bytes())
	}
	f.Add([]byte{0, 0, 2, 1})
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var h header
		r := bytes.NewReader(append(b, "rest"...))
		err := wire.ReadJSON(r, maxHeader, &h)
		if used := len(b) + 4 - r.Len(); used > 4+maxHeader {
			t.Errorf("consumed %d bytes", used)
		}
		if err != nil || h.validate() != nil {
			return
		}
		if h.Splice == (h.Agent != "") {
			t.Errorf("admitted %+v", h)
		}
	})
}
