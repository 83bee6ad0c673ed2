package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

func TestBackupAndRestore(t *testing.T) {
	c := ownCluster(t, sallyport.Options{})
	ctx := within(t, 90*time.Second)
	_, others := followers(t, c)
	alice := newUser(t, c, others[0], "alice", "--k8s-groups=system:masters")
	file := filepath.Join(t.TempDir(), "sallyport.backup")
	ok(t, others[1].Tctl(ctx, "backup", file))
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the backup's mode: %v, %v", info.Mode(), err)
	}
	if piped := ok(t, others[0].Tctl(ctx, "backup", "-")); len(piped.Stdout) < 1000 {
		t.Errorf("backup - wrote %d bytes", len(piped.Stdout))
	}
	old, err := others[0].Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := os.ReadFile(c.SecretFile())
	if err != nil {
		t.Fatal(err)
	}
	sameLogs(t, c)
	log := journal(t, others[0])
	c.Stop() // everything is gone, but backup and secret

	o := sallyport.Options{Bin: fixture.bin, Name: clusterName, Kubeconfig: fixture.kube.Kubeconfig}
	fresh, err := sallyport.New(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	fixture.restored.cluster = fresh // for TestRestoredAuditLog
	first := fresh.Replicas[0]
	restore := func() testbed.Result {
		return testbed.Run(ctx, testbed.Command{Args: []string{fresh.Bin.Path("sallyport"), "restore", "--data-dir=" + first.DataDir(),
			"--peer-advertise=" + first.PeerAddr(), "--cluster-secret=" + fresh.SecretFile(), file}})
	}
	// With a new secret it says which line is missing, and writes nothing.
	id, _, _ := strings.Cut(string(secret), ":")
	refused(t, restore(), "secret", id)
	if entries, _ := os.ReadDir(first.DataDir()); len(entries) > 0 {
		t.Errorf("a refused restore left %v", entries)
	}
	if err := os.WriteFile(fresh.SecretFile(), secret, 0o600); err != nil {
		t.Fatal(err)
	}
	done := ok(t, restore())
	if got := done.Stdout; !regexp.MustCompile(`^Restored \d+ records into `).MatchString(got) || strings.Contains(got, old.ClusterID) {
		t.Errorf("restore printed %q", got)
	}
	begins := regexp.MustCompile(`the new cluster's log begins with event (\d+)\.`).FindStringSubmatch(done.Stderr)
	if begins == nil {
		t.Fatalf("restore does not say where the audit log begins: %q", done.Stderr)
	}
	next, err := strconv.Atoi(begins[1])
	if err != nil || next < 2 || next > len(log)+1 {
		t.Fatalf("the old log had %d events, the new one begins with %s", len(log), begins[1])
	}
	fixture.restored.before = log[next-2]
	refused(t, restore(), first.DataDir()) // not over what is there
	for _, r := range fresh.Replicas {
		if err := r.Start(); err != nil {
			t.Fatal(err)
		}
	}
	if err := fresh.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	waitVoters(t, fresh, 3)
	again, err := fresh.NewUser(ctx, first, "alice")
	if err != nil {
		t.Fatal(err)
	}
	again.Password = alice.Password
	ok(t, again.Login(ctx, fresh.Replicas[2]))
	for _, r := range fresh.Replicas {
		ok(t, again.KubectlAt(ctx, r, "get", "ns"))
	}
	now, err := first.Status(ctx)
	if err != nil || now.ClusterID == old.ClusterID {
		t.Errorf("the new cluster has the old one's id: %v", err)
	}
}

func TestRecoverAfterLosingTheMajority(t *testing.T) {
	t.Parallel()
	c := ownCluster(t, sallyport.Options{})
	ctx := within(t, 2*time.Minute)
	gone, last := c.Replicas[:2], c.Replicas[2]
	alice := newUser(t, c, last, "alice", "--k8s-groups=system:masters")
	before, err := last.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	refused(t, last.Tctl(ctx, "cluster", "recover", "--yes", "--cluster-id="+before.ClusterID), "the cluster works")
	for _, r := range gone {
		r.Kill()
	}
	refused(t, last.Tctl(ctx, "cluster", "recover", "--yes"), "--yes needs --cluster-id")
	refused(t, last.Tctl(ctx, "cluster", "recover", "--yes", "--cluster-id=0123"), "this replica's cluster id is "+before.ClusterID)
	var done testbed.Result
	testbed.Wait(t, 20*time.Second, "recovery", func() error { // it refuses while the old leader may still live
		done = last.Tctl(ctx, "cluster", "recover", "--yes", "--cluster-id="+before.ClusterID)
		return done.Err
	})
	backup := regexp.MustCompile(`the state before is in (\S+) on the replica`).FindStringSubmatch(done.Stdout)
	if backup == nil || !strings.Contains(done.Stderr, "is LOST") {
		t.Fatalf("recover: %q, %q", done.Stdout, done.Stderr)
	}
	if _, err := os.Stat(backup[1]); err != nil {
		t.Error(err)
	}
	alone := func() error {
		s, err := last.Status(ctx)
		if err != nil || s.State != "leader" || len(s.Servers) != 1 || s.ClusterID == before.ClusterID {
			return fmt.Errorf("%+v, %w", s, err)
		}
		return nil
	}
	testbed.Wait(t, 10*time.Second, "a leader alone", alone)
	waitEvent(t, last, "the recovery", func(e event) bool {
		return e.text("event") == "cluster.recover" && e.text("backup") == backup[1]
	})
	ok(t, alice.Kubectl(ctx, "get", "ns")) // her session outlives it
	ok(t, alice.Tsh(ctx, "logout"))
	ok(t, alice.Login(ctx, last))

	// With its old state none of the others gets in.
	if err := gone[0].Start(); err != nil {
		t.Fatal(err)
	}
	testbed.Wait(t, 10*time.Second, "the old replica's socket", func() error { _, err := gone[0].Status(ctx); return err })
	never(t, electionTime, func() error {
		if err := gone[0].Diag(ctx, "/readyz", nil); err == nil {
			return fmt.Errorf("an old replica is ready")
		}
		return alone()
	})
	ok(t, last.Tctl(ctx, "users", "add", "after"))
	gone[0].Kill()
	for _, r := range gone {
		if err := r.Wipe(); err != nil {
			t.Fatal(err)
		}
		if err := r.Start(); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	waitVoters(t, c, 3)
	for _, r := range c.Replicas {
		ok(t, r.Tctl(ctx, "get", "user/after"))
		ok(t, alice.KubectlAt(ctx, r, "get", "ns"))
	}
}

// newEmpty lays out a cluster beside the Kubernetes of all, and starts nothing.
func newEmpty(t *testing.T, o sallyport.Options) *sallyport.Cluster {
	t.Helper()
	kube := kubernetes(t)
	o.Bin, o.Name, o.Kubeconfig = fixture.bin, clusterName, kube.Kubeconfig
	c, err := sallyport.New(within(t, 20*time.Second), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s", c.Logs(15))
		}
		c.Stop()
	})
	return c
}
