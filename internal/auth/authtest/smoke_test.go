package authtest

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/auth"
)

func TestFixtureIsReady(t *testing.T) {
	f := New(t)
	f.AddUser(t, "alice", map[string][]string{"kubernetes_groups": {"system:masters"}})
	id, _ := f.Login(t, "alice")
	d, err := f.Access.Kube(id, KubeCluster, auth.KubeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if d.ImpersonateUser != "alice" {
		t.Error(d.ImpersonateUser)
	}
	if diff := cmp.Diff([]string{"system:masters", "system:authenticated"}, d.ImpersonateGroups); diff != "" {
		t.Error(diff)
	}
}
