// Command demo is `make demo`: three replicas and a real Kubernetes API on
// loopback, a user, a login, and kubectl through each replica; a second cluster
// that only its agent reaches; then it waits for Ctrl-C and leaves nothing behind
// but the build cache. With KUBECONFIG set it uses that cluster alone instead of
// starting any.
//
// It needs Go and git alone, neither root nor openssl, and touches neither
// ~/.kube nor ~/.sallyport.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	d := &demo{start: time.Now()}
	err := d.run(ctx)
	interrupted := ctx.Err() != nil
	stop() // a second Ctrl-C during the clean-up ends it; on Linux the kernel then ends the children
	d.cleanUp()
	if err != nil && !interrupted {
		fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
		os.Exit(1)
	}
	fmt.Println("\nAll is stopped, nothing is left behind but the build cache", testbed.Home())
}

type demo struct {
	start time.Time
	undo  []func()
}

// step says what begins, and how long it may take where that is worth saying.
func (d *demo) step(format string, args ...any) {
	fmt.Printf("[%5.1f s] %s\n", time.Since(d.start).Seconds(), fmt.Sprintf(format, args...))
}

func (d *demo) onEnd(f func()) { d.undo = append(d.undo, f) }

func (d *demo) cleanUp() {
	for i := len(d.undo) - 1; i >= 0; i-- {
		d.undo[i]()
	}
}

func (d *demo) run(ctx context.Context) error {
	given := os.Getenv("KUBECONFIG")
	if given == "" && runtime.GOOS != "linux" {
		return errors.New("the Kubernetes API that this demo builds runs on Linux alone; here, set KUBECONFIG to a cluster you may administer (a local one will do) and run it again")
	}
	// Not in TMPDIR: macOS has a long one there, and a unix socket's path must be short.
	dir, err := os.MkdirTemp("/tmp", "sallyport-demo-")
	if err != nil {
		return err
	}
	d.onEnd(func() { os.RemoveAll(dir) })

	kubectl, kubeconfig, err := d.kubernetes(ctx, dir, given)
	if err != nil {
		return err
	}
	var second *cluster
	if given == "" {
		second = d.secondCluster(ctx, filepath.Join(dir, "cookie"))
	}
	c, err := d.replicas(ctx, dir, kubeconfig)
	if err != nil {
		return err
	}
	u, err := d.user(ctx, c, kubectl)
	if err != nil {
		return err
	}
	if err := d.show(ctx, c, u); err != nil {
		return err
	}
	if second != nil {
		if err := d.agent(ctx, second, c, u); err != nil {
			return err
		}
	}
	d.invite(c, u, kubectl)
	<-ctx.Done()
	return nil
}

// kubernetes returns kubectl and an admin's kubeconfig: the given one flattened, or that of a control plane of our own.
func (d *demo) kubernetes(ctx context.Context, dir, given string) (kubectl, kubeconfig string, err error) {
	if given != "" {
		if kubectl, err = exec.LookPath("kubectl"); err != nil {
			kubectl = testbed.Bin("kubectl")
			if _, err := os.Stat(kubectl); err != nil {
				return "", "", errors.New("with KUBECONFIG set, kubectl must be in PATH")
			}
		}
		d.step("Using the Kubernetes cluster of KUBECONFIG (%s)", given)
		r := testbed.Run(ctx, testbed.Command{Args: []string{kubectl, "config", "view", "--raw", "--flatten", "--minify"}})
		if r.Err != nil {
			return "", "", r.Err
		}
		kubeconfig = filepath.Join(dir, "upstream.kubeconfig")
		return kubectl, kubeconfig, os.WriteFile(kubeconfig, []byte(r.Stdout), 0o600)
	}
	d.step("Building Kubernetes and etcd (once; about 6 min on 2 cores with empty caches)")
	if err := testbed.Build(ctx, os.Stdout, testbed.Hyper, testbed.Etcd); err != nil {
		return "", "", err
	}
	d.step("Starting a Kubernetes API (about 5 s)")
	cp, err := testbed.Start(ctx, testbed.Options{Dir: filepath.Join(dir, "kubernetes")})
	if err != nil {
		return "", "", err
	}
	d.onEnd(cp.Stop)
	d.step("Kubernetes answers at %s", cp.URL)
	return testbed.Bin("kubectl"), cp.Kubeconfig, nil
}

func (d *demo) replicas(ctx context.Context, dir, kubeconfig string) (*sallyport.Cluster, error) {
	d.step("Building Sallyport (about 60 s with empty caches)")
	bin, err := sallyport.Build(ctx)
	if err != nil {
		return nil, err
	}
	d.step("Starting three replicas that share nothing but a secret (about 5 s)")
	limit, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	c, err := sallyport.Start(limit, sallyport.Options{Bin: bin, Dir: dir, Kubeconfig: kubeconfig})
	if err != nil {
		return nil, err
	}
	d.onEnd(func() { d.stopReplicas(context.WithoutCancel(ctx), c) })
	leader, err := c.Leader(limit)
	if err != nil {
		return nil, err
	}
	for _, r := range c.Replicas {
		role := "follower"
		if r == leader {
			role = "leader"
		}
		d.step("  %s %-8s %s", r.Name, role, r.URL())
	}
	return c, nil
}

// stopReplicas ends them as an operator would, so that a replica that can't stop is noticed here.
func (d *demo) stopReplicas(ctx context.Context, c *sallyport.Cluster) {
	fmt.Println("\nStopping ...")
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for _, r := range c.Replicas {
		if err := r.Stop(ctx); err != nil {
			fmt.Fprintf(os.Stderr, "%v\n", err)
		}
	}
	c.Stop()
}

func (d *demo) user(ctx context.Context, c *sallyport.Cluster, kubectl string) (*sallyport.User, error) {
	limit, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	follower, err := c.Follower(limit)
	if err != nil {
		return nil, err
	}
	d.step("$ tctl users add alice --k8s-groups=system:masters      (on %s, a follower)", follower.Name)
	u, err := c.AddUser(limit, follower, "alice", "--k8s-groups=system:masters")
	if err != nil {
		return nil, err
	}
	u.UseKubectl(kubectl)
	first := c.Replicas[0]
	d.step("$ tsh login --proxy=%s --user=alice", first.WebAddr())
	r := u.Login(limit, first)
	if r.Err != nil {
		return nil, r.Err
	}
	printIndented(r.Stdout)
	return u, nil
}

func (d *demo) show(ctx context.Context, c *sallyport.Cluster, u *sallyport.User) error {
	limit, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, replica := range c.Replicas {
		d.step("$ kubectl get namespaces      (through %s)", replica.Name)
		r := u.KubectlAt(limit, replica, "get", "namespaces")
		if r.Err != nil {
			return r.Err
		}
		printIndented(r.Stdout)
	}
	d.step("$ kubectl auth whoami")
	r := u.Kubectl(limit, "auth", "whoami")
	if r.Err != nil {
		return r.Err
	}
	printIndented(r.Stdout)
	return nil
}

func (d *demo) invite(c *sallyport.Cluster, u *sallyport.User, kubectl string) {
	path := string(c.Bin)
	if filepath.Dir(kubectl) != path {
		path += ":" + filepath.Dir(kubectl)
	}
	d.step("Ready. It runs until Ctrl-C.")
	fmt.Printf(`
  URL       %s
  user      %s
  password  %s

In a second terminal, paste this line; then kubectl, tsh and tctl are yours to try:

export KUBECONFIG=%s KUBECACHEDIR=%s SALLYPORT_HOME=%s SALLYPORT_SOCKET=%s PATH=%s:"$PATH"
`, c.Replicas[0].URL(), u.Name, u.Password, u.Kubeconfig(), filepath.Join(u.Home, "cache"), u.SallyportHome(), c.Replicas[0].Socket(), path)
}

func printIndented(s string) {
	for line := range strings.Lines(s) {
		fmt.Print("            ", line)
	}
}
