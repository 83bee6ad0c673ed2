package server

import (
	"strings"
	"testing"
)

// A value that is never changed was changed: the replica says which it was, once, and that it goes back.
func TestAReplicaUnderAnotherClusterNameIsToldItsOwn(t *testing.T) {
	t.Parallel()
	r := startReplicas(t, 1, nil)
	r.stop(0, r.run[0])
	o := r.opts[0]
	o.ClusterName = "renamed.example.com"
	const want = `the user CA is that of cluster "` + testCluster + `", not of "renamed.example.com": set the cluster name back`
	if err := refuses(t, o); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
}
