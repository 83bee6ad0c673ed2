package tests

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// The disk of one replica is full: it goes on proxying and says why it takes no
// writes, the others take them, and when there is room again it heals by itself.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	c := newEmpty(t, sallyport.Options{})
	ctx := within(t, 2*time.Minute)
	full := c.Replicas[0]
	smallDisk(t, full, 48)
	for _, r := range c.Replicas {
		if err := r.Start(); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	alice := newUser(t, c, full, "alice", "--k8s-groups=system:masters")
	t.Logf("the one with the small disk leads: %v", leaderOf(t, c) == full)
	filler := fillDisk(t, full.DataDir())
	// Writes until one does not fit there any more.
	i := 0
	testbed.Wait(t, 30*time.Second, "the fence", func() error {
		i++
		doc := roleYAML(fmt.Sprintf("big%d", i), "dev", "  deny:\n    kubernetes_groups: ["+bulk(500)+"]\n")
		for _, r := range c.Replicas[1:] {
			if r := r.TctlStdin(ctx, doc, "create", "-f"); r.Code != 0 && r.Code != 7 { // 7: try later
				t.Fatalf("a write while the disk fills up: %v", r.Err)
			}
		}
		s, err := full.Status(ctx)
		if err != nil || s.State != "fenced" {
			return fmt.Errorf("state %q, %w", s.State, err)
		}
		return nil
	})
	t.Logf("fenced after %d writes", i)
	said := ok(t, full.Tctl(ctx, "status")).Stdout
	if !strings.Contains(said, "(fenced)") || !strings.Contains(said, "the disk at "+full.DataDir()) || !strings.Contains(said, "no space left on device") {
		t.Errorf("status does not name the disk: %s", said)
	}
	refused(t, full.Tctl(ctx, "users", "add", "bob"), "this replica takes no writes", "no space left on device", "ask another replica")
	l := startAuditLoad(t, alice, "fenced", 2, full)
	l.wait(t, 300)
	l.stop()
	if err := l.errs(); err != nil {
		t.Errorf("requests while the disk is full: %v", err)
	}
	start := time.Now()
	testbed.Wait(t, 10*time.Second, "a write at another", func() error { return c.Replicas[1].Tctl(ctx, "users", "add", "bob").Err })
	t.Logf("a write at another after %v", time.Since(start))
	ok(t, c.Replicas[2].Tctl(ctx, "users", "rm", "bob"))
	var metrics bytes.Buffer
	if err := full.Diag(ctx, "/metrics", &metrics); err != nil || !strings.Contains(metrics.String(), "fenced") {
		t.Errorf("no metric of it: %v", err)
	}

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	testbed.Wait(t, 20*time.Second, "healing", func() error {
		s, err := full.Status(ctx)
		if err != nil || s.State == "fenced" || !s.Ready || s.LeaderID == "" {
			return fmt.Errorf("%+v, %w", s, err)
		}
		return full.Tctl(ctx, "get", fmt.Sprintf("role/big%d", i)).Err
	})
	ok(t, full.Tctl(ctx, "users", "add", "carol"))
	ok(t, alice.KubectlAt(ctx, full, "get", "ns"))
	l.sameLogs(t, c)
	l.check(t, journal(t, full))
	verified(t, c)
}

// The disks of all replicas are full at once: nothing can be written, and everybody is told
// why. Who is logged in goes on. With room on two of them the cluster is back by itself,
// also on the one that was killed meanwhile, and what was acknowledged is there.
func TestAllDisksFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	c := newEmpty(t, sallyport.Options{})
	ctx := within(t, 2*time.Minute)
	for _, r := range c.Replicas {
		smallDisk(t, r, 32)
		if err := r.Start(); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	alice := newUser(t, c, c.Replicas[0], "alice", "--k8s-groups=system:masters")
	var fillers []string
	for _, r := range c.Replicas {
		fillers = append(fillers, fillDisk(t, r.DataDir()))
	}
	// Not all need be fenced: who meets no write of another's has nothing to write.
	said := ""
	testbed.Wait(t, 30*time.Second, "a write that is refused for want of room", func() error {
		doc := roleYAML("big"+rand.Text()[:8], "dev", "  deny:\n    kubernetes_groups: ["+bulk(500)+"]\n")
		for _, r := range c.Replicas {
			if out := r.TctlStdin(ctx, doc, "create", "-f"); strings.Contains(out.Stderr, "no space left on device") {
				said = out.Stderr
				return nil
			}
		}
		return errors.New("there still is room")
	})
	// Which disk it is, the log of its replica says, which may be the leader; who asks may be a stranger.
	named := slices.ContainsFunc(c.Replicas, func(r *sallyport.Replica) bool {
		log, err := os.ReadFile(r.LogFile())
		return err == nil && strings.Contains(string(log), "the disk at "+r.DataDir()+" fails")
	})
	if !named || strings.Contains(said, c.Dir) {
		t.Errorf("the disk is to be named in the log alone; the answer is %s", said)
	}
	l := startAuditLoad(t, alice, "allfull", 2, c.Replicas[:2]...) // what the third has in memory dies with it
	l.wait(t, 200)
	l.stop()
	if err := l.errs(); err != nil {
		t.Errorf("requests while all disks are full: %v", err)
	}
	killed := c.Replicas[2]
	killed.Kill()
	if err := killed.Start(); err != nil {
		t.Fatal(err)
	}
	testbed.Wait(t, 20*time.Second, "what the one that starts on a full disk says", func() error {
		_, err := killed.Status(ctx)
		return err
	})
	if err := os.Remove(fillers[1]); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(fillers[2]); err != nil {
		t.Fatal(err)
	}
	testbed.Wait(t, 30*time.Second, "a write by the two that have room", func() error {
		return c.Replicas[1].Tctl(ctx, "users", "add", "bob").Err
	})
	if err := os.Remove(fillers[0]); err != nil {
		t.Fatal(err)
	}
	testbed.Wait(t, 30*time.Second, "the last one", func() error {
		for _, r := range c.Replicas {
			s, err := r.Status(ctx)
			if err != nil || s.State == "fenced" || !s.Ready || s.LeaderID == "" {
				return fmt.Errorf("%s: %+v, %w", r.Name, s, err)
			}
			if err := r.Tctl(ctx, "get", "user/bob").Err; err != nil { // it may still be catching up
				return err
			}
		}
		return nil
	})
	for _, r := range c.Replicas {
		ok(t, r.Tctl(ctx, "get", "user/alice"))
		ok(t, alice.KubectlAt(ctx, r, "get", "ns"))
	}
	l.sameLogs(t, c)
	l.check(t, journal(t, c.Replicas[0]))
	verified(t, c)
}

// Only the audit log's disk of one replica is full: it takes part in everything, and
// says what is wrong. Not even kill -9 costs it a line, nor does it have to wait for
// room to go on.
func TestAuditDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	c := newEmpty(t, sallyport.Options{Args: []string{"--audit-segment-size=1MiB"}})
	ctx := within(t, 2*time.Minute)
	full := c.Replicas[2]
	if err := os.MkdirAll(full.LogDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	mount := func(how string) {
		t.Helper()
		ok(t, testbed.Run(ctx, testbed.Command{Args: []string{"mount", "-t", "tmpfs", "-o", how + ",mode=0700", "tmpfs", full.LogDir()}}))
	}
	mount("size=512k")
	t.Cleanup(func() {
		full.Kill()
		if err := syscall.Unmount(full.LogDir(), 0); err != nil {
			t.Errorf("umount: %v", err)
		}
	})
	for _, r := range c.Replicas {
		if err := r.Start(); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	alice := newUser(t, c, full, "alice", "--k8s-groups=system:masters")
	l := startAuditLoad(t, alice, "nospace", 2, c.Replicas...)
	complains := func() {
		t.Helper()
		testbed.Wait(t, 20*time.Second, "a full disk in the status", func() error {
			is, err := auditAt(ctx, full)
			if err != nil {
				return err
			}
			if !strings.Contains(is.Problem, "the disk does not take the log") || !strings.Contains(is.Problem, "no space left on device") {
				return fmt.Errorf("%+v", *is)
			}
			return nil
		})
	}
	complains()
	l.more(t, 500)
	if said := ok(t, full.Tctl(ctx, "status")).Stdout; !strings.Contains(said, "Audit fault") || !strings.Contains(said, "no space left on device") {
		t.Errorf("tctl status: %s", said)
	}
	if metric(ctx, t, full, "sallyport_audit_journal_pending_bytes") == 0 {
		t.Error("no metric of it")
	}
	if err := l.errs(); err != nil {
		t.Errorf("requests while the disk is full: %v", err)
	}
	ok(t, full.Tctl(ctx, "users", "add", "bob")) // it is a full member
	l.kill(full)
	if err := full.Start(); err != nil {
		t.Fatal(err)
	}
	if err := full.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	ok(t, alice.KubectlAt(ctx, full, "get", "ns"))
	complains()
	l.more(t, 100)
	mount("remount,size=64m")
	l.more(t, 100)
	l.stop()
	l.sameLogs(t, c)
	l.check(t, journal(t, full))
	verified(t, c)
}

// bulk are names of groups that don't compress.
func bulk(n int) string {
	names := make([]string, n)
	for i := range names {
		for range 9 { // a name has 256 bytes at most
			names[i] += rand.Text()
		}
	}
	return strings.Join(names, ", ")
}

// smallDisk puts a file system of so many MiB where a replica will keep its data.
func smallDisk(t *testing.T, r *sallyport.Replica, mib int64) {
	t.Helper()
	image := filepath.Join(t.TempDir(), "disk.img")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, mib<<20), os.MkdirAll(r.DataDir(), 0o700)); err != nil {
		t.Fatal(err)
	}
	ctx := within(t, 20*time.Second)
	for _, args := range [][]string{{"mkfs.ext4", "-q", "-m", "0", image}, {"mount", "-o", "loop", image, r.DataDir()}} {
		ok(t, testbed.Run(ctx, testbed.Command{Args: args}))
	}
	t.Cleanup(func() { // before the cluster's own, which removes the directory
		r.Kill()
		if err := syscall.Unmount(r.DataDir(), 0); err != nil {
			t.Errorf("umount: %v", err)
		}
	})
}

// fillDisk writes a file until there is no room for another byte.
func fillDisk(t *testing.T, dir string) string {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
			size /= 2
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}
