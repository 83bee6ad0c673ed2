package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/client"
	"github.com/sallyport-dev/sallyport/internal/client/profile"
	"github.com/sallyport-dev/sallyport/internal/client/selector"
)

// askPatience is how long a switch to a cluster that is known waits to hear how it
// does: it works without.
const askPatience = 10 * time.Second

func kubeLogin(ctx context.Context, c *cliapp.Call) error {
	all, some := c.Bool("all"), c.IsSet("labels") || c.IsSet("query")
	switch {
	case all && len(c.Args) > 0:
		return api.Errorf(api.CodeInvalid, "give NAME or --all, not both")
	case some && !all:
		return api.Errorf(api.CodeInvalid, "--labels and --query go with --all: kubectl uses one cluster at a time")
	case !all && len(c.Args) == 0:
		return api.Errorf(api.CodeInvalid, "NAME is missing: 'tsh kube ls' lists them; see 'tsh kube login --help'")
	}
	if c.IsSet("set-context-name") {
		if err := checkContextName(c.String("set-context-name")); err != nil {
			return err
		}
	}
	store, p, err := openProfile(c)
	if err != nil {
		return err
	}
	if !p.Valid(time.Now()) {
		return expired(p)
	}
	if all {
		return kubeLoginAll(ctx, c, store, p)
	}
	return kubeLoginOne(ctx, c, store, p, c.Args[0])
}

func kubeLoginOne(ctx context.Context, c *cliapp.Call, store *profile.Store, p *profile.Profile, name string) error {
	known := slices.Contains(p.KubeClusters, name)
	asking, cancel := ctx, context.CancelFunc(func() {})
	if known {
		asking, cancel = context.WithTimeout(ctx, askPatience)
	}
	clusters, err := listClusters(asking, c, p)
	cancel()
	switch unanswered := api.IsCode(err, api.CodeUnavailable) || errors.Is(err, context.DeadlineExceeded); {
	case known && unanswered && ctx.Err() == nil:
		c.Warnf("how %q does is not known: %v", name, err)
		err = writeKubeconfig(ctx, c, store, p, aim{kube: name}, func(now *profile.Profile) { nameContexts(c, now) })
	case err == nil: // it may have joined after the login
		err = setClusters(ctx, c, store, p, clusters, aim{kube: name}, func(now *profile.Profile) { nameContexts(c, now) })
	}
	if err != nil {
		return err
	}
	c.Printf("Logged into kubernetes cluster %q\n", name)
	for i := range clusters {
		if clusters[i].Name == name {
			warnOfHealth(c, &clusters[i])
		}
	}
	return nil
}

// warnOfHealth says why requests to a cluster would fail.
func warnOfHealth(c *cliapp.Call, k *api.KubeCluster) {
	if client.Usable(k.Status) {
		return
	}
	since := ""
	if !k.Status.LastSeen.IsZero() {
		since = " since " + client.Minute(k.Status.LastSeen) + " UTC"
	}
	if k.Status.Health == api.HealthOffline {
		c.Warnf("no agent of %q is connected%s: kubectl can't reach it until one is", k.Name, since)
		return
	}
	c.Warnf("%q is %s", k.Name, client.HealthText(k.Status))
}

// kubeLoginAll writes contexts without switching to one.
func kubeLoginAll(ctx context.Context, c *cliapp.Call, store *profile.Store, p *profile.Profile) error {
	labels := selector.Split(c.Raw("labels"))
	which, err := selector.New(labels, c.String("query"))
	if err != nil {
		return err
	}
	clusters, err := listClusters(ctx, c, p)
	if err != nil {
		return err
	}
	meant := len(which.Pick(clusters))
	if meant == 0 && len(clusters) > 0 && !which.Everything() {
		return api.Errorf(api.CodeNotFound, "none of the %d Kubernetes clusters is meant, and nothing was changed; 'tsh kube ls -v' shows their labels", len(clusters))
	}
	err = setClusters(ctx, c, store, p, clusters, aim{stay: true}, func(now *profile.Profile) {
		now.ContextLabels, now.ContextQuery = labels, c.String("query")
		nameContexts(c, now)
	})
	if err != nil || len(clusters) == 0 { // which was said
		return err
	}
	plural := "s"
	if meant == 1 {
		plural = ""
	}
	c.Printf("Logged into %d Kubernetes cluster%s\n", meant, plural)
	return nil
}

func nameContexts(c *cliapp.Call, now *profile.Profile) {
	if c.IsSet("set-context-name") {
		now.ContextName = c.String("set-context-name")
	}
}

// refresh asks for the clusters and writes the kubeconfig, as a login does. What
// edit changes of the login is kept with it; it may be nil.
func refresh(ctx context.Context, c *cliapp.Call, store *profile.Store, p *profile.Profile, edit func(*profile.Profile)) error {
	clusters, err := listClusters(ctx, c, p)
	if err != nil {
		return err
	}
	return setClusters(ctx, c, store, p, clusters, aim{}, edit)
}

// setClusters is refresh with the clusters at hand.
func setClusters(ctx context.Context, c *cliapp.Call, store *profile.Store, p *profile.Profile, clusters []api.KubeCluster, at aim, edit func(*profile.Profile)) error {
	known := names(clusters)
	if at.kube != "" && !slices.Contains(known, at.kube) {
		hint := ""
		if near := client.Nearest(at.kube, known); near != "" {
			hint = fmt.Sprintf("; did you mean %q?", near)
		}
		return api.Errorf(api.CodeNotFound, "kubernetes cluster %q not found, check 'tsh kube ls' for a list of known clusters%s", at.kube, hint)
	}
	inUse := inForce(p)
	return writeKubeconfig(ctx, c, store, p, at, func(now *profile.Profile) {
		now.KubeClusters = known
		if edit != nil {
			edit(now)
		}
		now.Contexts = nil
		which, err := selector.New(now.ContextLabels, now.ContextQuery)
		if err != nil || which.Everything() { // of a tsh that knew more: then all
			now.ContextLabels, now.ContextQuery = nil, ""
			return
		}
		now.Contexts = names(which.Pick(clusters))
		if slices.Contains(known, inUse) && !slices.Contains(now.Contexts, inUse) {
			now.Contexts = append(now.Contexts, inUse)
		}
	})
}
