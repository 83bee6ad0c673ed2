package server

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/testport"
)

// Replicas have one peer port, each at an address of its own, of which other systems
// than Linux give loopback one.
func TestAReplicaThatJoinsWithTheWrongSecretSaysSo(t *testing.T) {
	t.Parallel()
	ports := testport.Reserve(t, 6)
	r := startReplicas(t, 1, func(_ int, o *Options) {
		o.PeerAddr = fmt.Sprintf("127.0.0.2:%d", ports[0])
		o.PeerAdvertise = o.PeerAddr
	})
	o := r.opts[0]
	o.Secret, o.secretFirst, o.DataDir, o.SocketPath = GenerateSecret(), 10*time.Millisecond, t.TempDir(), ""
	o.PeerAddr = fmt.Sprintf("127.0.0.3:%d", ports[0])
	o.PeerAdvertise, o.BootstrapExpect, o.Join = o.PeerAddr, 0, []string{"127.0.0.2:7946"} // only the host counts here
	for i, addr := range []*string{&o.ListenAddr, &o.KubeListenAddr, &o.GossipAddr, &o.DiagAddr} {
		*addr = fmt.Sprintf("127.0.0.1:%d", ports[i+1])
	}
	srv, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx) }()
	r.opts = append(r.opts, o)
	eventually(t, patience, "it says why it can't join", func() error {
		status, reason := r.readiness(1)
		want := "the other replicas (" + r.opts[0].PeerAddr + ") have another cluster secret than this one, whose keys are " + secretID(t, o.Secret)
		if status != http.StatusServiceUnavailable || !strings.Contains(reason, want) {
			return fmt.Errorf("%d: %s", status, reason)
		}
		return nil
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
