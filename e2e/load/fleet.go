package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"syscall"

	"github.com/sallyport-dev/sallyport/agent"
)

// AgentsPerToken is how many names of clusters agents of one token may own.
const AgentsPerToken = 1000

// FleetOptions say which agents there are. Addrs, Tokens and CAPin are needed.
type FleetOptions struct {
	Agents int      // 0: 200
	Addrs  []string // of the replicas' public ports; each connection goes to one of them, as behind a load balancer
	Proxy  string   // what users would type; its name is checked against the certificate
	Tokens []string // one for AgentsPerToken agents each
	CAPin  string
	Logger *slog.Logger // of the agents; nil: none
}

// Fleet is many agents. Stop ends them.
type Fleet struct {
	o      FleetOptions
	agents []*agent.Agent
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu   sync.Mutex
	errs []error // of agents that ended by themselves
}

// ClusterName is the Kubernetes cluster that agent i serves.
func ClusterName(i int) string { return fmt.Sprintf("sim-%05d", i) }

// NewFleet starts all agents at once, and waits for none.
func NewFleet(o FleetOptions) (*Fleet, error) {
	if o.Agents <= 0 {
		o.Agents = 200
	}
	if len(o.Tokens)*AgentsPerToken < o.Agents {
		return nil, fmt.Errorf("%d tokens are too few for %d agents", len(o.Tokens), o.Agents)
	}
	f := &Fleet{o: o}
	for i := range o.Agents {
		a, err := agent.New(agent.Options{
			Proxy: o.Proxy, Token: o.Tokens[i/AgentsPerToken], CAPins: []string{o.CAPin}, Name: ClusterName(i),
			Clusters: []agent.Cluster{{Name: ClusterName(i), Handler: made(ClusterName(i))}},
			Dial:     f.dialer(i), Logger: o.Logger,
		})
		if err != nil {
			return nil, fmt.Errorf("agent %d: %w", i, err)
		}
		f.agents = append(f.agents, a)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel = cancel
	for i, a := range f.agents {
		f.wg.Go(func() {
			err := a.Run(ctx)
			if ctx.Err() == nil {
				f.mu.Lock()
				f.errs = append(f.errs, fmt.Errorf("agent %d ended: %w", i, err))
				f.mu.Unlock()
			}
		})
	}
	return f, nil
}

// Ready is how many agents have a tunnel.
func (f *Fleet) Ready() (n int) {
	for _, a := range f.agents {
		if ready, _ := a.Ready(); ready {
			n++
		}
	}
	return n
}

// Waiting says why some agent is not ready, "" if all are.
func (f *Fleet) Waiting() string {
	for i, a := range f.agents {
		if ready, why := a.Ready(); !ready {
			return fmt.Sprintf("agent %d: %s", i, why)
		}
	}
	return ""
}

// Err says which agents ended by themselves.
func (f *Fleet) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return errors.Join(f.errs...)
}

// Stop ends all agents and waits for them.
func (f *Fleet) Stop() {
	f.cancel()
	f.wg.Wait()
}

// dialer connects from a network of the agent's own (a /24 of loopback; no /16 has
// more than a few) with any replica that answers.
func (f *Fleet) dialer(i int) func(context.Context, string, string) (net.Conn, error) {
	from := &net.TCPAddr{IP: net.IPv4(127, byte(20+i%200), byte(i/200), 1)}
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		var last error
		for _, n := range rand.Perm(len(f.o.Addrs)) {
			conn, err := (&net.Dialer{LocalAddr: from}).DialContext(ctx, network, f.o.Addrs[n])
			if err == nil {
				return conn, nil
			}
			if last = err; !errors.Is(err, syscall.ECONNREFUSED) {
				break
			}
		}
		return nil, last
	}
}

// made answers as the API server of a cluster with one pod.
func made(name string) http.Handler {
	body := fmt.Sprintf(`{"kind":"PodList","apiVersion":"v1","metadata":{},"items":[{"metadata":{"name":%q}}]}`, name)
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, body)
	})
}
