package testbed

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Parts that tests and the demo name. build.sh knows them all.
const (
	Hyper = "hyper" // kube-apiserver, controllers, scheduler, kubelet, kubectl …
	Etcd  = "etcd"
	Kwok  = "kwok"
	Lint  = "lint" // golangci-lint
	Axe   = "axe"  // accessibility rules for a browser (AxeScript)

	Dex          = "dex"           // an OpenID Connect provider (StartDex)
	OIDCProvider = "oidc-provider" // another, from npm (StartOIDCProvider)
	TestPackages = "test-packages" // Debian's: a browser, SimpleSAMLphp …

	PebbleACME = "pebble" // an ACME authority and its DNS (StartPebble)

	// What real clusters need beside Hyper and Etcd (OpenNodes).
	ClusterPackages = "packages" // Debian's: containerd, runc, CNI plugins, iptables …
	CoreDNS         = "coredns"
	Images          = "images" // of pods that every cluster has; for one TESTBED_NAME
	Helm            = "helm"
)

// Build has build.sh make parts that are missing or changed (less than a
// second when none is), and tells w about each, how long it takes with empty
// caches, and every few seconds how long it has taken. Builds of several
// processes wait for each other.
func Build(ctx context.Context, w io.Writer, parts ...string) error {
	return build{}.run(ctx, w, parts...)
}

// BuildLazily is Build that leaves the processors to others.
func BuildLazily(ctx context.Context, w io.Writer, parts ...string) error {
	return build{lazy: true}.run(ctx, w, parts...)
}

// Lazily is a command line with which a program leaves the processors to others.
func Lazily(args ...string) []string {
	if _, err := exec.LookPath("nice"); err != nil {
		return args
	}
	return append([]string{"nice", "-n", "10"}, args...)
}

type build struct {
	env  []string // the scripts'; nil: ours
	lazy bool
}

func (b build) run(ctx context.Context, w io.Writer, parts ...string) error {
	root, err := Root()
	if err != nil {
		return err
	}
	unlock, err := Lock(ctx, filepath.Join(Home(), "build.lock"))
	if err != nil {
		return err
	}
	defer unlock()

	line := append([]string{"bash", filepath.Join(root, "e2e", "testbed", "build.sh")}, parts...)
	if b.lazy {
		line = Lazily(line...)
	}
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Env = b.env
	cmd.SysProcAttr = childAttr()
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("build.sh: %w", err)
	}
	p := &progress{w: w, every: 15 * time.Second}
	p.start()
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		p.line(lines.Text())
	}
	p.stop()
	if err := cmd.Wait(); err != nil {
		var kept []string // what matters, not what was downloaded
		for line := range strings.Lines(stderr.String()) {
			if !strings.HasPrefix(line, "go: downloading ") {
				kept = append(kept, line)
			}
		}
		return fmt.Errorf("build.sh %s: %w\n%s", strings.Join(parts, " "), err, strings.Join(kept, ""))
	}
	return nil
}

// progress passes build.sh's lines on and, while one stands for something that
// goes on ("hyper ... expected 300 s"), says how long it has.
type progress struct {
	w     io.Writer
	every time.Duration
	quit  chan struct{}
	done  sync.WaitGroup

	mu    sync.Mutex
	part  string
	since time.Time
}

func (p *progress) line(s string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if strings.HasSuffix(s, " up to date") {
		return
	}
	name, rest, _ := strings.Cut(s, " ")
	p.part = ""
	if strings.HasPrefix(strings.TrimSpace(rest), "...") {
		p.part, p.since = name, time.Now()
	}
	fmt.Fprintf(p.w, "  %s\n", s)
}

func (p *progress) start() {
	p.quit = make(chan struct{})
	p.done.Go(func() {
		tick := time.NewTicker(p.every)
		defer tick.Stop()
		for {
			select {
			case <-p.quit:
				return
			case <-tick.C:
				p.mu.Lock()
				if p.part != "" {
					fmt.Fprintf(p.w, "  %-10s ... %.0f s so far\n", p.part, time.Since(p.since).Seconds())
				}
				p.mu.Unlock()
			}
		}
	})
}

func (p *progress) stop() { close(p.quit); p.done.Wait() }

// Lock waits for the lock on a file, which ends with this process at the latest.
func Lock(ctx context.Context, path string) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		// One that waits in the kernel could not be interrupted.
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return func() { f.Close() }, nil
		case !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR):
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("lock %s, which another process has: %w", path, ctx.Err())
		case <-tick.C:
		}
	}
}
