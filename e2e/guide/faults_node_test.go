package guide

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// holder is the number of the node that has the load balancer's address; 0: none has.
func (w *world) holder(ctx context.Context) int {
	for i := range 3 {
		r := testbed.Run(ctx, testbed.Command{NetNS: w.netns(i + 1), Args: []string{"ip", "-4", "-o", "addr", "show", "dev", "eth0"}})
		if strings.Contains(r.Stdout, " "+w.ip+"/32 ") {
			return i + 1
		}
	}
	return 0
}

func (w *world) netns(node int) string { return w.lan.Name + "-" + w.tele.NodeName(node) }

// moveAddress puts the load balancer's address on a node. Where there are two holders, the
// test bed's load balancer takes the address from one; so it may have to be done again.
func (w *world) moveAddress(t *testing.T, node int) {
	t.Helper()
	ctx := within(t, patience)
	testbed.Wait(t, 0, fmt.Sprintf("%s on node %d", w.ip, node), func() error {
		from := w.holder(ctx)
		if from == node {
			return nil
		}
		script := `ip -n "$2" addr add "$3"/32 dev eth0 && ip -n "$1" addr del "$3"/32 dev eth0; nsenter --net=/run/netns/"$2" arping -q -U -c 1 -I eth0 "$3"`
		r := testbed.Run(ctx, testbed.Command{Args: []string{"bash", "-c", script, "move", w.netns(from), w.netns(node), w.ip}})
		return errors.Join(r.Err, fmt.Errorf("it was on node %d", from))
	})
}

// nodeReady says whether Kubernetes calls a node ready.
func (w *world) nodeReady(ctx context.Context, node string) (bool, error) {
	r := w.tele.Kubectl(ctx, "get", "node", node, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
	return r.Stdout == "True", r.Err
}

// A node loses its power, and it is the worst: the leader is on it, and the address of the
// load balancer. Commands go on, but for those that go to where nobody is any more until
// the load balancer, and then Kubernetes, notice.
func TestNodePoweredOff(t *testing.T) {
	w := guided(t)
	p := newTypist(t, w)
	before := w.whole(t)
	ctx := within(t, 10*time.Minute)
	victim := replica(leader(t, before))
	old, err := w.pod(ctx, victim)
	if err != nil {
		t.Fatal(err)
	}
	node := w.nodeOf(t, old)
	w.moveAddress(t, node)
	survivor := replica((leader(t, before) + 1) % 3)

	// Who types gives up after ten seconds, and meanwhile another types.
	typed := map[string]func(context.Context) error{
		"kubectl get pods, tele": p.teleCommand, "kubectl get pods, cookie": p.cookieCommand, "kubectl exec, cookie": p.execCommand, "tsh login": p.loginCommand,
	}
	var loops, later []*loop
	for what, do := range typed {
		loops = append(loops, startLoop(t, loopOptions{what: what, every: time.Second, limit: 10 * time.Second, many: 3, do: do}))
	}
	// New connections, one after the other, show to the second when the address has moved.
	fresh := p.clients(t, teleKube, 1, false)[0]
	loops = append(loops, startLoop(t, loopOptions{what: "new connections", every: 20 * time.Millisecond, limit: time.Second, do: fresh.get}))
	for _, l := range loops {
		l.more(t, 3)
	}

	since := time.Now()
	if err := w.tele.KillNode(ctx, node); err != nil {
		t.Fatal(err)
	}
	w.took("node with the leader and the load balancer's address switched off", since)
	testbed.Wait(t, patience, "the address on another node", func() error {
		if n := w.holder(ctx); n == 0 || n == node {
			return fmt.Errorf("it is on node %d", n)
		}
		return nil
	})
	w.took("… until the address is on another node", since)
	testbed.Wait(t, patience, "another leader", func() error {
		s, err := w.status(ctx, survivor)
		if err == nil && (s.LeaderID == "" || s.LeaderID == before[leader(t, before)].ServerID) {
			err = fmt.Errorf("the leader is %q", s.LeaderID)
		}
		return err
	})
	testbed.Wait(t, patience, "kubectl get pods", func() error {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		return p.teleCommand(ctx)
	})
	w.took("… until kubectl has answered again", since)
	if err := p.loginUntil(ctx); err != nil {
		t.Error(err)
	}
	w.took("… until somebody has logged in", since)
	testbed.Wait(t, patience, "Kubernetes to notice", func() error {
		ready, err := w.nodeReady(ctx, old.Spec.NodeName)
		if err == nil && ready {
			err = errors.New("it calls the node ready")
		}
		return err
	})
	testbed.Wait(t, patience, "nobody to be sent to the dead pod", func() error {
		r := w.tele.Kubectl(ctx, "get", "endpointslices", "-n", namespace, "-l", "kubernetes.io/service-name="+namespace, "-o",
			`jsonpath={range .items[*].endpoints[?(@.conditions.ready==true)]}{.targetRef.name} {end}`)
		if r.Err == nil && strings.Contains(r.Stdout, victim) {
			r.Err = fmt.Errorf("the Service leads to %s", r.Stdout)
		}
		return r.Err
	})
	w.took("… until Kubernetes sends nobody there", since)
	for _, l := range loops {
		r := l.stop()
		gap := time.Duration(0)
		if n := len(r.failed); n > 0 {
			gap = r.failed[n-1].begun.Sub(since)
		}
		w.clock.logf("          %s; the last that failed began %.1f s after the power cut", r, gap.Seconds())
	}

	// kube-proxy has to do it yet: until then one connection in three would hang.
	testbed.Wait(t, patience, "twenty new connections in a row", func() error {
		for range 20 {
			ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
			err := fresh.get(ctx)
			cancel()
			if err != nil {
				return err
			}
		}
		return nil
	})
	// From now on all is as it should be, and stays so while the node comes back.
	for what, do := range typed {
		later = append(later, startLoop(t, loopOptions{what: what, every: time.Second, limit: time.Minute, do: do}))
	}
	for _, l := range later {
		l.more(t, 3)
	}
	started := time.Now()
	if err := w.tele.StartNode(ctx, node); err != nil {
		t.Fatal(err)
	}
	after := w.whole(t)
	w.took("node started again, until all three replicas are as before", started)
	for _, l := range later {
		l.more(t, 2)
	}
	none(t, w, started, later...)
	if !slices.Equal(ids(after), ids(before)) || after[0].ClusterID != before[0].ClusterID {
		t.Errorf("they were %v, and are %v: the data of one is lost", ids(before), ids(after))
	}
	ok(t, w.inPod(ctx, victim, "tctl", "get", "user/alice"))
}

// loginUntil logs in, as often as it takes.
func (p *typist) loginUntil(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return testbed.Until(ctx, "a login", func() error {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		return p.loginCommand(ctx)
	})
}
