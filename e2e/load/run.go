package load

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// Options of Run. Bin is needed; the rest has defaults.
type Options struct {
	Bin    sallyport.Binaries
	Agents int           // 0: 200
	Idle   time.Duration // how long users ask while nothing happens; 0: 5 s
	Limit  time.Duration // for each step; 0: 1 min
	Logf   func(format string, args ...any)
}

// Result is what Run measured.
type Result struct {
	Agents     int
	Joined     time.Duration // from the start of the agents until all have two tunnels
	MemoryKiB  float64       // per agent, on all replicas together
	TunnelKiB  float64       // per tunnel
	Most, Back time.Duration // after kill -9 of a replica, until 99 % of the agents, and all, have two tunnels again
	Idle, Lost Answers       // GETs while nothing happens, and from the kill until all are back
}

// Answers are those to GETs of random clusters through random replicas that run.
type Answers struct {
	N, Failed int
	P50, P99  time.Duration
	Worst     time.Duration
	Errs      []error // the first few
}

// Run starts three replicas and the agents, and kills a replica.
func Run(ctx context.Context, o Options) (*Result, error) {
	if o.Agents <= 0 {
		o.Agents = 200
	}
	if o.Idle <= 0 {
		o.Idle = 5 * time.Second
	}
	if o.Limit <= 0 {
		o.Limit = time.Minute
	}
	if o.Logf == nil {
		o.Logf = func(string, ...any) {}
	}
	r := &run{o: o, result: Result{Agents: o.Agents}}
	defer r.close()
	for _, step := range []func(context.Context) error{r.replicas, r.join, r.idle, r.kill} {
		limited, cancel := context.WithTimeout(ctx, o.Limit+2*o.Idle)
		err := step(limited)
		cancel()
		if err != nil {
			if r.fleet != nil {
				err = errors.Join(err, r.fleet.Err())
			}
			if r.cluster != nil {
				err = fmt.Errorf("%w\n%s", err, r.cluster.Logs(15))
			}
			return nil, err
		}
	}
	return &r.result, nil
}

type run struct {
	o       Options
	result  Result
	cluster *sallyport.Cluster
	fleet   *Fleet
	users   *users
	before  float64 // KiB of all replicas without agents
}

func (r *run) close() {
	if r.users != nil {
		r.users.client.CloseIdleConnections()
	}
	if r.fleet != nil {
		start := time.Now()
		r.fleet.Stop()
		r.o.Logf("the agents stopped in %.1f s", time.Since(start).Seconds())
	}
	if r.cluster != nil {
		r.cluster.Stop()
	}
}

// replicas starts them, with a user who has been to each, so that the agents alone are new later.
func (r *run) replicas(ctx context.Context) (err error) {
	if r.cluster, err = sallyport.Start(ctx, sallyport.Options{Bin: r.o.Bin, PublicHost: "localhost"}); err != nil {
		return err
	}
	first := r.cluster.Replicas[0]
	alice, err := r.cluster.AddUser(ctx, first, "alice", "--k8s-groups=system:masters")
	if err != nil {
		return err
	}
	if err := alice.Login(ctx, first).Err; err != nil {
		return err
	}
	if r.users, err = newUsers(ctx, alice, r.o.Agents); err != nil {
		return err
	}
	r.before, err = r.memory()
	return err
}

// join starts the agents and waits until all have two tunnels.
func (r *run) join(ctx context.Context) error {
	first := r.cluster.Replicas[0]
	var tokens []string
	for len(tokens)*AgentsPerToken < r.o.Agents {
		token, err := r.cluster.JoinToken(ctx, first)
		if err != nil {
			return err
		}
		tokens = append(tokens, token)
	}
	pin, err := r.cluster.CAPin(ctx)
	if err != nil {
		return err
	}
	o := FleetOptions{Agents: r.o.Agents, Proxy: first.WebAddr(), Tokens: tokens, CAPin: pin}
	for _, replica := range r.cluster.Replicas {
		o.Addrs = append(o.Addrs, replica.ListenAddr())
	}
	start := time.Now()
	if r.fleet, err = NewFleet(o); err != nil {
		return err
	}
	if _, err := r.waitTunnels(ctx); err != nil {
		return err
	}
	r.result.Joined = time.Since(start)
	r.o.Logf("%d agents joined and have two tunnels each after %.1f s", r.o.Agents, r.result.Joined.Seconds())
	return nil
}

// waitTunnels waits until the replicas that run hold two tunnels for each agent, and
// returns after how long all but one in a hundred had them.
func (r *run) waitTunnels(ctx context.Context) (most time.Duration, err error) {
	var told time.Time
	start := time.Now()
	err = testbed.Until(ctx, "two tunnels of each agent", func() error {
		if err := r.fleet.Err(); err != nil {
			return err
		}
		held := 0
		for _, replica := range r.cluster.Replicas {
			if !replica.Running() {
				continue
			}
			n, err := tunnels(ctx, replica)
			if err != nil {
				return err
			}
			held += n
		}
		if missing := 2*r.o.Agents - held; most == 0 && missing*100 <= r.o.Agents {
			most = time.Since(start)
		}
		if held < 2*r.o.Agents {
			if time.Since(told) > 5*time.Second {
				told = time.Now()
				r.o.Logf("  %d of %d tunnels, %d agents ready", held, 2*r.o.Agents, r.fleet.Ready())
			}
			return fmt.Errorf("%d of %d; %d agents ready; %s", held, 2*r.o.Agents, r.fleet.Ready(), r.fleet.Waiting())
		}
		return nil
	})
	return most, err
}

// idle measures what agents cost that nobody asks, and then how users do while nothing else happens.
func (r *run) idle(ctx context.Context) error {
	rest := func() {
		select {
		case <-ctx.Done():
		case <-time.After(r.o.Idle):
		}
	}
	rest()
	after, err := r.memory()
	if err != nil {
		return err
	}
	r.result.MemoryKiB = (after - r.before) / float64(r.o.Agents)
	r.result.TunnelKiB = r.result.MemoryKiB / 2
	r.o.Logf("replicas: %.0f MiB without agents, %.0f MiB with them", r.before/1024, after/1024)
	quit := make(chan struct{})
	asked := r.users.ask(ctx, r.cluster.Replicas, quit)
	rest()
	close(quit)
	r.result.Idle = <-asked
	return r.everybody(ctx)
}

// everybody asks each cluster once: all agents serve, each its own cluster.
func (r *run) everybody(ctx context.Context) error {
	for i := range r.o.Agents {
		if err := r.users.get(ctx, r.alive(i), i); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) alive(i int) *sallyport.Replica {
	var alive []*sallyport.Replica
	for _, replica := range r.cluster.Replicas {
		if replica.Running() {
			alive = append(alive, replica)
		}
	}
	return alive[i%len(alive)]
}

// kill ends the last replica as a power cut does.
func (r *run) kill(ctx context.Context) error {
	last := len(r.cluster.Replicas) - 1
	quit := make(chan struct{})
	asked := r.users.ask(ctx, r.cluster.Replicas[:last], quit)
	start := time.Now()
	r.cluster.Replicas[last].Kill()
	most, err := r.waitTunnels(ctx)
	r.result.Most, r.result.Back = most, time.Since(start)
	close(quit)
	r.result.Lost = <-asked
	if r.result.Lost.Failed > 0 {
		r.o.Logf("%s", r.cluster.Logs(25))
	}
	if err != nil {
		return err
	}
	return r.everybody(ctx)
}

// memory is the proportional set size of all replicas, in KiB.
func (r *run) memory() (kib float64, err error) {
	for _, replica := range r.cluster.Replicas {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", replica.Process().PID()))
		if err != nil {
			return 0, err
		}
		_, rest, _ := strings.Cut(string(b), "\nPss:")
		fields := strings.Fields(rest)
		if len(fields) == 0 {
			return 0, fmt.Errorf("no Pss in smaps_rollup of %s", replica.Name)
		}
		n, err := strconv.ParseFloat(fields[0], 64)
		if err != nil {
			return 0, err
		}
		kib += n
	}
	return kib, nil
}

// tunnels is how many a replica holds, as its metrics say.
func tunnels(ctx context.Context, replica *sallyport.Replica) (int, error) {
	var b bytes.Buffer
	if err := replica.Diag(ctx, "/metrics", &b); err != nil {
		return 0, err
	}
	for line := range strings.Lines(b.String()) {
		if rest, ok := strings.CutPrefix(line, "sallyport_tunnels "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			return int(n), err
		}
	}
	return 0, fmt.Errorf("no sallyport_tunnels in the metrics of %s", replica.Name)
}

// users are people who ask clusters for their pods.
type users struct {
	client *http.Client
	agents int
}

// newUsers have alice's certificate. The port for kubectl alone names clusters by
// path, so that one connection serves for all of them.
func newUsers(ctx context.Context, alice *sallyport.User, agents int) (*users, error) {
	out := alice.Tsh(ctx, "kube", "credentials", "--kube-cluster="+ClusterName(0))
	if out.Err != nil {
		return nil, out.Err
	}
	var cred struct {
		Status struct{ ClientCertificateData, ClientKeyData string }
	}
	if err := json.Unmarshal([]byte(out.Stdout), &cred); err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair([]byte(cred.Status.ClientCertificateData), []byte(cred.Status.ClientKeyData))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(alice.CAFile)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &users{agents: agents, client: &http.Client{
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true},
		Timeout:   30 * time.Second,
	}}, nil
}

// get asks cluster i for its pods.
func (u *users) get(ctx context.Context, replica *sallyport.Replica, i int) error {
	url := "https://" + replica.KubeAddr() + "/k8s/" + ClusterName(i) + "/api/v1/namespaces/default/pods"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := u.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || !strings.Contains(b.String(), ClusterName(i)) {
		return fmt.Errorf("%s through %s: %s: %.300s", ClusterName(i), replica.Name, resp.Status, b.String())
	}
	return nil
}

// every is how often somebody asks: often enough for a p99, and no load to speak of.
const every = 10 * time.Millisecond

// ask has somebody ask a random cluster through a random replica of those given
// every 10 ms, whether or not the one before was answered, until quit is closed.
func (u *users) ask(ctx context.Context, replicas []*sallyport.Replica, quit <-chan struct{}) <-chan Answers {
	type answer struct {
		took time.Duration
		err  error
	}
	done := make(chan Answers, 1)
	go func() {
		results := make(chan answer)
		open := 0
		var all []answer
		tick := time.NewTicker(every)
		defer tick.Stop()
		ticks := tick.C
		for ticks != nil || open > 0 {
			select {
			case <-quit:
				quit, ticks = nil, nil
			case <-ticks:
				open++
				go func() {
					start := time.Now()
					err := u.get(ctx, replicas[rand.IntN(len(replicas))], rand.IntN(u.agents))
					results <- answer{time.Since(start), err}
				}()
			case a := <-results:
				open--
				all = append(all, a)
			}
		}
		var sum Answers
		var took []time.Duration
		for _, a := range all {
			sum.N++
			took = append(took, a.took)
			if a.err != nil {
				if sum.Failed++; len(sum.Errs) < 5 {
					sum.Errs = append(sum.Errs, a.err)
				}
			}
		}
		slices.Sort(took)
		if n := len(took); n > 0 {
			sum.P50, sum.P99, sum.Worst = took[n/2], took[n*99/100], took[n-1]
		}
		done <- sum
	}()
	return done
}
