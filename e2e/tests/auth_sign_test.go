package tests

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/page"
	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// signedKubectl runs kubectl as a pipeline would: with a file, and nothing else of ours.
func signedKubectl(ctx context.Context, t *testing.T, file string, args ...string) testbed.Result {
	t.Helper()
	return testbed.Run(ctx, testbed.Command{
		Args: append([]string{testbed.Bin("kubectl"), "--kubeconfig=" + file}, args...),
		Env:  []string{"HOME=" + t.TempDir(), "PATH=/nowhere"}, Dir: filepath.Dir(file),
	})
}

var tlsServerName = regexp.MustCompile(`tls-server-name: (\S+)`)

// signedAt are the flags that lead a file's kubectl to a replica: --server alone takes
// away the file's TLS server name.
func signedAt(t *testing.T, file string, r *sallyport.Replica, args ...string) []string {
	t.Helper()
	b, err := os.ReadFile(file)
	name := tlsServerName.FindSubmatch(b)
	if err != nil || name == nil {
		t.Fatalf("no TLS server name in %s: %v", b, err)
	}
	return append([]string{"--server=https://" + r.WebAddr(), "--tls-server-name=" + string(name[1])}, args...)
}

// A kubeconfig for 25 hours, of a user who has no password and never logs in, goes through every
// replica until its session is ended.
func TestAuthSignServesAPipelineUntilItsSessionEnds(t *testing.T) {
	c, _ := shared(t)
	ctx := within(t, time.Minute)
	if _, err := c.Invite(ctx, c.Replicas[0], "pipeline", "--k8s-groups=system:masters"); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	files := map[*sallyport.Replica]string{}
	for _, r := range c.Replicas {
		file := filepath.Join(dir, r.Name+".yaml")
		got := ok(t, r.Tctl(ctx, "auth", "sign", "--format=kubernetes", "--user=pipeline", "--ttl=25h", "--out="+file))
		if !strings.HasPrefix(got.Stdout, `The credentials of user "pipeline" for Kubernetes cluster "`+clusterName+`" have been written to `+file) || got.Stderr != "" {
			t.Errorf("auth sign at %s said %q, %q", r.Name, got.Stdout, got.Stderr)
		}
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", file, info, err)
		}
		files[r] = file
	}
	var streams []*stream
	for r, file := range files {
		for _, at := range c.Replicas { // whichever replica signed it
			got := ok(t, signedKubectl(ctx, t, file, signedAt(t, file, at, "auth", "whoami", "-o=jsonpath={.status.userInfo}")...))
			if want := `{"groups":["system:masters","system:authenticated"],"username":"pipeline"}`; got.Stdout != want {
				t.Errorf("signed at %s, through %s: %s, want %s", r.Name, at.Name, got.Stdout, want)
			}
		}
		s := startStream(t, "get pods -w with the file of "+r.Name, testbed.Command{
			Name: "kubectl", Args: []string{testbed.Bin("kubectl"), "--kubeconfig=" + file, "get", "pods", "-w"}, Env: []string{"HOME=" + dir}, Dir: dir,
		})
		s.waitFor(t, pod)
		streams = append(streams, s)
	}

	// The certificate ends in 25 hours, and every replica's log says who asked for it, for whom and for how long.
	for _, r := range c.Replicas {
		e := waitEvent(t, r, "the certificate", func(e event) bool { return e.text("event") == "cert.create" && e.text("name") == "pipeline" })
		identity, _ := e["identity"].(map[string]any)
		expires, err := time.Parse(time.RFC3339, fmt.Sprint(identity["expires"]))
		if err != nil || e.text("code") != "TC000I" || e.text("user") != "system:tctl" || e.text("ttl") != "25h0m0s" || identity["user"] != "pipeline" {
			t.Errorf("%v, %v", e, err)
		}
		if life := expires.Sub(e.time(t)).Round(time.Minute); life != 25*time.Hour {
			t.Errorf("it is good for %s", life)
		}
	}

	since := time.Now()
	got := ok(t, c.Replicas[1].Tctl(ctx, "sessions", "rm", "--user=pipeline", "--all"))
	if n := strings.Count(got.Stdout, "has been ended"); n != len(files) {
		t.Errorf("%d sessions ended: %s", n, got.Stdout)
	}
	checkCut(t, streams, since)
	for _, file := range files {
		for _, at := range c.Replicas {
			refused(t, signedKubectl(ctx, t, file, signedAt(t, file, at, "get", "--raw=/version")...), `this kubeconfig of user "pipeline" was made with 'tctl auth sign', not by a tsh login, and has ended`)
		}
	}
	ok(t, c.Replicas[0].Tctl(ctx, "users", "rm", "pipeline"))
}

// The authorities that auth export prints are those that signed what both sides show.
func TestAuthExportVouchesForWhatIsSigned(t *testing.T) {
	c, _ := shared(t)
	ctx := within(t, 30*time.Second)
	for _, kind := range []string{"host", "user", "agent"} {
		want := ok(t, c.Replicas[0].Tctl(ctx, "auth", "export", "--type="+kind)).Stdout
		for _, r := range c.Replicas[1:] {
			if got := ok(t, r.Tctl(ctx, "auth", "export", "--type="+kind)).Stdout; got != want || !strings.HasPrefix(got, "-----BEGIN CERTIFICATE-----\n") {
				t.Errorf("%s exports another %s authority: %s", r.Name, kind, got)
			}
		}
	}
}

// What docs/cicd.md and docs/rbac.md tell people to type does what they say.
func TestPagesForPipelinesAndRoles(t *testing.T) {
	for _, name := range []string{"cicd.md", "rbac.md"} {
		t.Run(name, func(t *testing.T) {
			c, _ := shared(t)
			p, err := page.Read("docs/" + name)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			ctx := within(t, time.Minute)
			session, err := page.NewSession(ctx, testbed.Command{}, dir, []string{
				"HOME=" + dir, "PATH=" + strings.Join([]string{filepath.Dir(fixture.bin.Path("tctl")), filepath.Dir(testbed.Bin("kubectl")), os.Getenv("PATH")}, ":"),
				"KUBECONFIG=" + fixture.kube.Kubeconfig, "SALLYPORT_SOCKET=" + c.Replicas[0].Socket(),
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := session.Close(); err != nil {
					t.Error(err)
				}
			})
			create := fixture.kube.Kubectl(within(t, 20*time.Second), "create", "namespace", "sallyport-cluster", "--save-config")
			if create.Err != nil && !strings.Contains(create.Stderr, "already exists") { // of the page before, on its way out
				t.Fatal(create.Err)
			}
			t.Cleanup(func() { // the other tests' Kubernetes is as it was
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				ok(t, fixture.kube.Kubectl(ctx, "delete", "--ignore-not-found", "--wait=false", "namespace/sallyport-cluster", "namespace/web", "namespace/shop", "clusterrolebinding/viewers"))
				for _, role := range []string{"deployer", "shop", "never-masters"} {
					c.Replicas[0].Tctl(ctx, "rm", "role/"+role) // where the page has left it
				}
			})
			if n := len(p.Commands()); n < 8 {
				t.Fatalf("%d commands in %s", n, name)
			}
			if err := page.NewRunner(session, dir, page.Options{}).Run(ctx, p); err != nil {
				t.Fatal(err)
			}
		})
	}
}
