package testbed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// lans is how many LANs of tests there may be at once on a machine: 172.20 to 172.29.
const (
	lans     = 10
	firstLAN = 20
)

// LAN is a network of real clusters, which cluster.sh runs: names, addresses and cgroups
// are its own, so that test processes that run side by side never meet. A lock on a file
// in the cache directory holds it; when this process ends without Close, however it does,
// another tears everything down.
type LAN struct {
	Name string // TESTBED_NAME
	Net  string // TESTBED_NET: first two bytes of its addresses

	script string
	lock   *os.File

	mu       sync.Mutex
	clusters []*NodeCluster
}

// RealClusters says why there can be no real clusters here; nil: there can.
func RealClusters() error {
	switch {
	case runtime.GOOS != "linux":
		return errors.New("real clusters need Linux (namespaces, containerd), this is " + runtime.GOOS + ": not on Linux")
	case os.Geteuid() != 0:
		return errors.New("real clusters need root, for network namespaces, mounts and cgroups: run as root, in a machine of its own")
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		for _, tool := range []string{"containerd", "runc", "iptables", "conntrack", "arping", "jq", "curl"} {
			if _, err := exec.LookPath(tool); err != nil {
				return fmt.Errorf("real clusters need %s in PATH (no apt-get here to install it)", tool)
			}
		}
	}
	return nil
}

// BuildLAN has build.sh make all that real clusters need. It takes minutes with empty caches.
func BuildLAN(ctx context.Context, w io.Writer) error {
	return Build(ctx, w, ClusterPackages, Hyper, Etcd, CoreDNS, Helm, PebbleACME)
}

// StartLAN builds what is missing and opens a LAN that ends with the test.
func StartLAN(tb TB) *LAN {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	defer cancel()
	if err := BuildLAN(ctx, logWriter{tb}); err != nil {
		tb.Fatalf("%v", err)
	}
	l, err := OpenLAN(ctx, logWriter{tb})
	if err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("%s", l.Logs(15))
		}
		if err := l.Close(); err != nil {
			tb.Errorf("%v", err)
		}
	})
	return l
}

// OpenLAN finds a LAN that nobody uses, after it has removed what processes that died
// have left, and makes the images of every cluster for it. BuildLAN came before.
func OpenLAN(ctx context.Context, w io.Writer) (*LAN, error) {
	if err := RealClusters(); err != nil {
		return nil, err
	}
	root, err := Root()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(Home(), "lans")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	var mine *LAN
	var errs []error
	for i := range lans {
		l := &LAN{Name: "t" + strconv.Itoa(i), Net: "172." + strconv.Itoa(firstLAN+i), script: filepath.Join(root, "e2e", "testbed", "cluster.sh")}
		if l.lock, err = os.OpenFile(filepath.Join(dir, l.Name), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
			return nil, err
		}
		if syscall.Flock(int(l.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
			l.lock.Close() // its process lives
			continue
		}
		stale, err := l.clear(ctx)
		if stale {
			fmt.Fprintf(w, "what a dead process left of %s is removed\n", l.Name)
		}
		if err == nil && mine == nil {
			err = l.free()
		}
		if err != nil || mine != nil {
			l.lock.Close()
			errs = append(errs, err)
			continue
		}
		mine = l
	}
	if mine == nil {
		return nil, fmt.Errorf("no free network of 172.%d to 172.%d for real clusters: %w", firstLAN, firstLAN+lans-1, errors.Join(errs...))
	}
	if err := mine.watch(dir); err != nil {
		mine.lock.Close()
		return nil, err
	}
	if err := (build{env: mine.env()}).run(ctx, w, Images); err != nil {
		mine.lock.Close()
		return nil, err
	}
	return mine, nil
}

// clear tears down what is left of a LAN whose lock we hold.
func (l *LAN) clear(ctx context.Context) (stale bool, err error) {
	dir := filepath.Join(Home(), "run", l.Name)
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if r := l.run(ctx, "down"); r.Err != nil {
		return true, r.Err
	}
	return true, os.RemoveAll(dir)
}

// free fails when something else on this machine has addresses of the LAN.
func (l *LAN) free() error {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return err
	}
	mine := net.ParseIP(l.HostIP())
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && (n.Contains(mine) || strings.HasPrefix(n.IP.String(), l.Net+".")) {
			return fmt.Errorf("%s.0.0/16 is in use here, by %s", l.Net, a)
		}
	}
	return nil
}

// watch leaves a process behind that waits for our lock, which it gets when we end, and
// tears down what is left then: after Close, nothing.
func (l *LAN) watch(dir string) error {
	pid := filepath.Join(dir, l.Name+".watch")
	return startDetached(Command{
		Name: "watch", Log: filepath.Join(dir, l.Name+".log"), Env: l.env(),
		Args: []string{"flock", l.lock.Name(), "bash", l.script, "down"},
	}, pid)
}

func (l *LAN) env() []string {
	return append(os.Environ(), "TESTBED_NAME="+l.Name, "TESTBED_NET="+l.Net)
}

func (l *LAN) run(ctx context.Context, args ...string) Result {
	return Run(ctx, Command{Name: "cluster.sh", Args: append([]string{"bash", l.script}, args...), Env: l.env()})
}

// HostIP is this machine's own address on the LAN, for what pods are to reach here.
func (l *LAN) HostIP() string { return l.Net + ".0.2" }

// SetDNS makes a name resolve in the pods of all clusters, and for commands of Host.
func (l *LAN) SetDNS(ctx context.Context, host, ip string) error {
	return l.run(ctx, "dns", host, ip).Err
}

// Host is a command that runs on this machine, in a mount namespace of its own in which
// the names of SetDNS resolve, those that are told later too.
func (l *LAN) Host(args ...string) Command {
	return Command{Name: filepath.Base(args[0]), Args: append([]string{"bash", l.script, "host"}, args...), Env: l.env()}
}

// Up starts a cluster of real nodes and waits until it is ready: 15 s. Several may start at once.
func (l *LAN) Up(ctx context.Context, name string, nodes int) (*NodeCluster, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	c := &NodeCluster{Name: name, Nodes: nodes, lan: l, dir: filepath.Join(Home(), "run", l.Name, "clusters", name)}
	c.Kubeconfig = filepath.Join(c.dir, "pki", "admin.kubeconfig")
	l.mu.Lock()
	l.clusters = append(l.clusters, c)
	l.mu.Unlock()
	if r := l.run(ctx, "up", name, strconv.Itoa(nodes)); r.Err != nil {
		return nil, fmt.Errorf("%w\n%s%s", r.Err, r.Stdout, c.nodeLogs(10))
	}
	return c, nil
}

// Close ends all clusters; nothing is left.
func (l *LAN) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	_, err := l.clear(ctx)
	return errors.Join(err, l.lock.Close())
}

// Logs is what there is to know of all clusters after a failure.
func (l *LAN) Logs(lines int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	for _, c := range l.clusters {
		b.WriteString(c.Logs(lines))
	}
	return b.String()
}

// NodeCluster is a Kubernetes cluster of real nodes: containerd, kubelet, kube-proxy and a
// control plane of its own.
type NodeCluster struct {
	Name       string
	Nodes      int
	Kubeconfig string // of an admin, good from anywhere on this machine

	lan *LAN
	dir string
}

// NodeName is the name of node i, which counts from 1.
func (c *NodeCluster) NodeName(i int) string { return c.Name + "-n" + strconv.Itoa(i) }

// Kubectl runs kubectl as the admin.
func (c *NodeCluster) Kubectl(ctx context.Context, args ...string) Result {
	return Run(ctx, Command{Name: "kubectl", Args: append([]string{Bin("kubectl"), "--kubeconfig", c.Kubeconfig}, args...)})
}

// Apply runs kubectl apply for a manifest.
func (c *NodeCluster) Apply(ctx context.Context, manifest string) Result {
	return Run(ctx, Command{Name: "kubectl", Args: []string{Bin("kubectl"), "--kubeconfig", c.Kubeconfig, "apply", "-f", "-"}, Stdin: strings.NewReader(manifest)})
}

// LoadImage puts images (docker or OCI tar files) on every running node.
func (c *NodeCluster) LoadImage(ctx context.Context, tars ...string) error {
	return c.lan.run(ctx, append([]string{"load-image", c.Name}, tars...)...).Err
}

// KillNode is a power cut of node i: everything on it ends at once, its address falls silent.
func (c *NodeCluster) KillNode(ctx context.Context, i int) error {
	return c.lan.run(ctx, "kill-node", c.Name, strconv.Itoa(i)).Err
}

// StartNode gives node i its power again, and its disk.
func (c *NodeCluster) StartNode(ctx context.Context, i int) error {
	return c.lan.run(ctx, "start-node", c.Name, strconv.Itoa(i)).Err
}

// Partition lets the packets of node i vanish, both ways.
func (c *NodeCluster) Partition(ctx context.Context, i int) error {
	return c.lan.run(ctx, "partition", c.Name, strconv.Itoa(i), "both").Err
}

// Heal ends Partition.
func (c *NodeCluster) Heal(ctx context.Context, i int) error {
	return c.lan.run(ctx, "heal", c.Name, strconv.Itoa(i)).Err
}

// Logs is what there is to know of the cluster after a failure: its pods, its events, what
// pods that are not Kubernetes' own have said, and the ends of the nodes' logs.
func (c *NodeCluster) Logs(lines int) string {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var b strings.Builder
	show := func(args ...string) string {
		r := c.Kubectl(ctx, args...)
		fmt.Fprintf(&b, "--- %s: kubectl %s\n%s%s", c.Name, strings.Join(args, " "), r.Stdout, r.Stderr)
		return r.Stdout
	}
	show("get", "nodes,pods,services,pvc", "-A", "-o", "wide")
	show("get", "events", "-A", "--sort-by=.lastTimestamp")
	pods := c.Kubectl(ctx, "get", "pods", "-A", "-o", `jsonpath={range .items[*]}{.metadata.namespace} {.metadata.name}{"\n"}{end}`)
	for line := range strings.Lines(pods.Stdout) {
		if ns, pod, ok := strings.Cut(strings.TrimSpace(line), " "); ok && ns != "kube-system" {
			show("logs", "-n", ns, pod, "--all-containers", "--tail", strconv.Itoa(lines))
			show("logs", "-n", ns, pod, "--all-containers", "--previous", "--tail", strconv.Itoa(lines))
		}
	}
	b.WriteString(c.nodeLogs(lines))
	return b.String()
}

func (c *NodeCluster) nodeLogs(lines int) string {
	files, _ := filepath.Glob(filepath.Join(c.dir, "*", "*.log"))
	more, _ := filepath.Glob(filepath.Join(c.dir, "*", "log", "*.log"))
	var b strings.Builder
	for _, f := range append(files, more...) {
		if filepath.Base(f) != "audit.log" {
			fmt.Fprintf(&b, "--- %s\n%s\n", f, tail(f, lines))
		}
	}
	return b.String()
}
