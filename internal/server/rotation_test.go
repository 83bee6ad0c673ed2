package server

import (
	"bytes"
	"crypto/rand"
	"path/filepath"
	"slices"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/seal"
)

// docs/operations.md, the cluster secret: in the third round nothing but the new line is
// left, and what a replica remembers may begin under the old one: here the snapshot, which
// is its state until there is a leader. That the replicas accept one another meanwhile,
// cluster's tests show.
func TestTheThirdRoundOfRotatingTheSecretOutlivesWhatIsOlder(t *testing.T) {
	t.Parallel()
	r := startReplicas(t, 1, nil)
	r.addUser(0, "alice", "devs")
	var backup bytes.Buffer
	if _, err := r.admin(0).Backup(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	r.stop(0, r.run[0])
	o := &r.opts[0]
	o.DataDir, o.SocketPath = filepath.Join(t.TempDir(), "restored"), ""
	if _, err := Restore(t.Context(), RestoreOptions{DataDir: o.DataDir, PeerAdvertise: o.PeerAddr, Secret: r.secret, Backup: &backup}); err != nil {
		t.Fatal(err)
	}
	fresh := GenerateSecret()
	o.Secret = slices.Concat(fresh, r.secret)
	r.start(0)
	r.awaitReady(0)
	alone, err := seal.ParseSecret(fresh)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, "the leader has sealed the state under the new line", func() error {
		rec, _ := r.run[0].srv.state.View().Get(sealedRecord)
		_, err := seal.Unwrap(alone, rec.Value, rand.Reader)
		return err
	})
	r.stop(0, r.run[0])
	o.Secret = fresh
	r.start(0)
	r.awaitReady(0)
	r.login(0, "alice")
}
