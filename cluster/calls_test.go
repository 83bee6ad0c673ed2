package cluster_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/sallyport-dev/sallyport/cluster"
	"github.com/sallyport-dev/sallyport/cluster/clustertest"
	"github.com/sallyport-dev/sallyport/cluster/peer"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// bareLink only collects a node's handlers.
type bareLink struct{ handlers map[string]peer.Handler }

func (bareLink) ServerID() string                                    { return "self" }
func (bareLink) Advertise() string                                   { return "self.test:7443" }
func (bareLink) SetCluster(string)                                   {}
func (bareLink) OnRaftLost(func(string))                             {}
func (bareLink) Fence(string)                                        {}
func (bareLink) Unfence()                                            {}
func (bareLink) Start()                                              {}
func (bareLink) Close() error                                        { return nil }
func (bareLink) RaftTransport(hclog.Logger) (raft.Transport, error)  { return nil, context.Canceled }
func (l bareLink) Handle(path string, _ peer.Access, h peer.Handler) { l.handlers[path] = h }
func (bareLink) Call(context.Context, peer.Target, string, any, any) error {
	return api.Errorf(api.CodeUnavailable, "nobody here")
}

// FuzzCalls sends any bytes to every call of a node that has no cluster yet:
// it must answer with an error of ours or a value, and promise nothing to a higher id.
func FuzzCalls(f *testing.F) {
	f.Add("/cluster/join", []byte(`{"id":"x","addr":"h:1"}`))
	f.Add("/cluster/join", []byte(`{"id":"self","addr":"","hop":true}`))
	f.Add("/cluster/grant", []byte(`{"expect":3}`))
	f.Add("/cluster/propose", []byte(`{"item":"AAAA"}`))
	f.Add("/cluster/propose", []byte(`{"item":17}`))
	f.Add("/cluster/identify", []byte(`null`))
	f.Add("/cluster/readindex", []byte(``))
	f.Add("/cluster/clock", []byte(`{}`))
	f.Add("/cluster/stats", []byte(`[]`))
	link := bareLink{handlers: make(map[string]peer.Handler)}
	_, err := cluster.New(cluster.Options{
		SM: &clustertest.Machine{}, EncodeEntry: clustertest.Encode, Link: link, Stores: cluster.NewMemoryStores(),
		BootstrapExpect: 3, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, path string, body []byte) {
		h, ok := link.handlers[path]
		if !ok {
			return
		}
		out, err := h(context.Background(), peer.Peer{ID: "x"}, body)
		if err != nil {
			if c := api.CodeOf(err); c == api.CodeInternal {
				t.Errorf("%s: %v", path, err)
			}
			return
		}
		if path == "/cluster/grant" || path == "/cluster/join" || path == "/cluster/propose" {
			t.Errorf("%s %q was granted: %v", path, body, out)
		}
		if _, err := json.Marshal(out); err != nil {
			t.Error(err)
		}
	})
}
