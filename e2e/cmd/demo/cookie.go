package main

import (
	"context"
	"fmt"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// cluster is a Kubernetes cluster that starts while other things do.
type cluster struct {
	done    chan struct{}
	api     *testbed.ControlPlane
	account string // kubeconfig of an account that may act as others, and no more
	err     error
}

// secondCluster begins to start the guide's cluster cookie, which no replica can reach.
func (d *demo) secondCluster(ctx context.Context, dir string) *cluster {
	c := &cluster{done: make(chan struct{})}
	go func() {
		defer close(c.done)
		if c.api, c.err = testbed.Start(ctx, testbed.Options{Dir: dir, Minimal: true}); c.err != nil {
			return
		}
		if c.account, c.err = c.api.ServiceAccount(ctx, "sallyport-agent", testbed.AgentRules()...); c.err != nil {
			return
		}
		c.err = c.api.Kubectl(ctx, "create", "namespace", "cookie-jar").Err
	}()
	d.onEnd(func() {
		if <-c.done; c.api != nil {
			c.api.Stop()
		}
	})
	return c
}

// agent joins the second cluster, and shows it through each replica.
func (d *demo) agent(ctx context.Context, second *cluster, c *sallyport.Cluster, u *sallyport.User) error {
	limit, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if <-second.done; second.err != nil {
		return second.err
	}
	first := c.Replicas[0]
	d.step("A second Kubernetes cluster, cookie, lets nobody in: its agent dials out")
	d.step("$ TOKEN=$(tctl nodes add --roles=kube --ttl=10000h --format=json | jq -r '.[0]')")
	token, err := c.JoinToken(limit, first)
	if err != nil {
		return err
	}
	d.step("$ sallyport agent --proxy=%s --token=$TOKEN --ca-pin=sha256:... --kube-cluster-name=cookie", first.WebAddr())
	agent, err := c.StartAgent(limit, sallyport.AgentOptions{Kube: "cookie", Kubeconfig: second.account, Token: token})
	if err != nil {
		return err
	}
	d.onEnd(agent.Remove)
	d.step("$ tsh kube ls")
	r := u.Tsh(limit, "kube", "ls")
	if r.Err != nil {
		return r.Err
	}
	printIndented(r.Stdout)
	d.step("$ tsh kube login cookie")
	if r = u.Tsh(limit, "kube", "login", "cookie"); r.Err != nil {
		return r.Err
	}
	printIndented(r.Stdout)
	for _, replica := range c.Replicas {
		d.step("$ kubectl get namespace cookie-jar      (through %s)", replica.Name)
		if r := u.KubectlAt(limit, replica, "get", "namespace", "cookie-jar"); r.Err != nil {
			return fmt.Errorf("through %s: %w", replica.Name, r.Err)
		} else {
			printIndented(r.Stdout)
		}
	}
	d.step("$ tsh kube login %s", c.Name)
	if r = u.Tsh(limit, "kube", "login", c.Name); r.Err != nil {
		return r.Err
	}
	printIndented(r.Stdout)
	return nil
}
