package sallyport

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// Options of a cluster of replicas. Bin is needed; the rest has defaults.
type Options struct {
	Bin        Binaries
	Name       string   // --cluster-name; "": tele.example.com
	Replicas   int      // 0: 3
	PublicHost string   // host of the public addresses, a name of loopback; "": 127.0.0.1. Passkeys need a name: localhost
	Kubeconfig string   // of the Kubernetes cluster beside the replicas; "": none
	Dir        string   // "": temporary, removed by Stop
	Args       []string // more flags for every replica
	Env        []string // more environment for every replica (KEY=value)
	ACME       *ACME    // nil: no --acme
	ResolvConf string   // file that replicas have as /etc/resolv.conf; needs root. "": the machine's
}

// ACME is where the replicas order their certificate.
type ACME struct {
	Directory string // --acme-uri
	CAFile    string // --acme-ca-file
	HTTP      bool   // with --acme-http-addr, at ACMEHTTPAddr
}

// Cluster is a set of replicas that share one secret.
type Cluster struct {
	Name     string
	Dir      string
	Bin      Binaries
	Replicas []*Replica

	o    Options
	temp bool
}

// New lays out a cluster's directories, ports and secret, and starts nothing.
func New(ctx context.Context, o Options) (_ *Cluster, err error) {
	if o.Name == "" {
		o.Name = "tele.example.com"
	}
	if o.Replicas == 0 {
		o.Replicas = 3
	}
	c := &Cluster{Name: o.Name, Dir: o.Dir, Bin: o.Bin, o: o}
	defer func() {
		if err != nil {
			c.Stop()
		}
	}()
	if c.Dir == "" {
		// A short path: admin.sock below it must fit into 108 bytes.
		if c.Dir, err = os.MkdirTemp("", "sallyport-"); err != nil {
			return nil, err
		}
		c.temp = true
	} else if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, err
	}
	r := testbed.Run(ctx, testbed.Command{Args: []string{o.Bin.Path("sallyport"), "secret", "generate"}})
	if r.Err != nil {
		return nil, r.Err
	}
	if err := os.WriteFile(c.SecretFile(), []byte(r.Stdout), 0o600); err != nil {
		return nil, err
	}
	for i := range o.Replicas {
		ports, err := testbed.ReservePorts()
		if err != nil {
			return nil, err
		}
		c.Replicas = append(c.Replicas, &Replica{Name: fmt.Sprintf("r%d", i), cluster: c, ports: ports})
	}
	return c, nil
}

// Start lays out a cluster, starts all replicas and waits until each is ready.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	c, err := New(ctx, o)
	if err != nil {
		return nil, err
	}
	for _, r := range c.Replicas {
		if err := r.Start(); err != nil {
			c.Stop()
			return nil, err
		}
	}
	if err := c.WaitReady(ctx); err != nil {
		err = fmt.Errorf("%w\n%s", err, c.Logs(20))
		c.Stop()
		return nil, err
	}
	return c, nil
}

// StartCluster builds the product, starts a cluster of it and ends it with the test.
func StartCluster(tb testbed.TB, o Options) *Cluster {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute) // an empty cache is filled first
	defer cancel()
	var err error
	if o.Bin == "" {
		if o.Bin, err = Build(ctx); err != nil {
			tb.Fatalf("%v", err)
		}
	}
	start, stop := context.WithTimeout(ctx, 3*time.Minute)
	defer stop()
	c, err := Start(start, o)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("%s", c.Logs(40))
		}
		c.Stop()
	})
	return c
}

// SecretFile is what the replicas share.
func (c *Cluster) SecretFile() string { return filepath.Join(c.Dir, "cluster-secret") }

// WaitReady waits for /readyz of every replica that runs.
func (c *Cluster) WaitReady(ctx context.Context) error {
	for _, r := range c.Replicas {
		if r.Running() {
			if err := r.WaitReady(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// Leader waits until all running replicas name the same leader, and returns it.
func (c *Cluster) Leader(ctx context.Context) (*Replica, error) {
	var leader *Replica
	err := testbed.Until(ctx, "a leader that all agree on", func() error {
		leader = nil
		id := ""
		for _, r := range c.Replicas {
			if !r.Running() {
				continue
			}
			s, err := r.Status(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", r.Name, err)
			}
			if s.LeaderID == "" || id != "" && s.LeaderID != id {
				return fmt.Errorf("%s names %q, others %q", r.Name, s.LeaderID, id)
			}
			id = s.LeaderID
			if s.ServerID == id {
				leader = r
			}
		}
		if leader == nil {
			return fmt.Errorf("the leader %q is none of the replicas that run", id)
		}
		return nil
	})
	return leader, err
}

// Follower returns a running replica that does not lead.
func (c *Cluster) Follower(ctx context.Context) (*Replica, error) {
	leader, err := c.Leader(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range c.Replicas {
		if r != leader && r.Running() {
			return r, nil
		}
	}
	return nil, errors.New("the leader is alone")
}

// Stop kills what runs and removes the directory, unless the caller gave it.
func (c *Cluster) Stop() {
	for _, r := range c.Replicas {
		r.Kill()
		r.ports.Release()
	}
	if c.temp {
		os.RemoveAll(c.Dir)
	}
}

// Logs returns the last lines of every replica's log.
func (c *Cluster) Logs(lines int) string {
	var b strings.Builder
	for _, r := range c.Replicas {
		if r.process != nil {
			fmt.Fprintf(&b, "--- %s (%s)\n%s\n", r.Name, r.LogFile(), r.process.Tail(lines))
		}
	}
	return b.String()
}
