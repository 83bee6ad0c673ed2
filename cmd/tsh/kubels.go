package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/client"
	"github.com/sallyport-dev/sallyport/internal/client/profile"
	"github.com/sallyport-dev/sallyport/internal/client/selector"
)

// listed is a row of kube ls.
type listed struct {
	Proxy string `json:"proxy"`
	api.KubeCluster
	Selected bool `json:"selected"`
}

func kubeList(ctx context.Context, c *cliapp.Call) error {
	which, err := selector.New(selector.Split(c.Raw("labels")), c.String("query"))
	if err != nil {
		return err
	}
	var rows []listed
	if c.Bool("all") {
		rows, err = listAll(ctx, c, which)
	} else {
		rows, err = listOne(ctx, c, which)
	}
	if err != nil && rows == nil {
		return err
	}
	return errors.Join(show(c, rows, func() {
		printListed(c, rows)
		if len(rows) == 0 && err == nil && c.StderrIsTerminal() {
			noteNone(c, which)
		}
	}), err)
}

// noteNone tells a person why there is nothing under the header.
func noteNone(c *cliapp.Call, which selector.Selector) {
	var given []string
	for _, flag := range []string{"labels", "query"} {
		if c.IsSet(flag) {
			given = append(given, "--"+flag)
		}
	}
	if which.Everything() {
		c.Notef(nothingYet)
		return
	}
	c.Notef("No Kubernetes cluster matches %s. To see them all: tsh kube ls -v", strings.Join(given, " and "))
}

// listOne gives the clusters of the login in use.
func listOne(ctx context.Context, c *cliapp.Call, which selector.Selector) ([]listed, error) {
	store, p, err := openProfile(c)
	if err != nil {
		return nil, err
	}
	if !p.Valid(time.Now()) {
		return nil, expired(p)
	}
	clusters, err := listClusters(ctx, c, p)
	if err != nil {
		return nil, err
	}
	if known := names(clusters); !slices.Equal(known, p.KubeClusters) {
		err := update(ctx, c, store, p, func(now *profile.Profile) error {
			now.KubeClusters = known
			return nil
		})
		if err != nil && !api.IsCode(err, api.CodeConflict) && !scripted(c) {
			c.Warnf("not noted for completion: %v", err)
		}
		p.KubeClusters = known
	}
	return rowsOf(p, which.Pick(clusters), selectedClusters(c)(p)), nil
}

// listAll gives the clusters of all logins that live. Those that can't be asked
// are an error beside the rows of the others.
func listAll(ctx context.Context, c *cliapp.Call, which selector.Selector) ([]listed, error) {
	if c.Typed("proxy") {
		return nil, api.Errorf(api.CodeInvalid, "give --all or --proxy, not both")
	}
	dir, err := profileDir()
	if err != nil {
		return nil, err
	}
	profiles, damaged, err := profile.Open(dir).List()
	if err != nil {
		return nil, err
	}
	var failed []error
	for _, proxy := range slices.Sorted(maps.Keys(damaged)) {
		failed = append(failed, damaged[proxy])
	}
	profiles = slices.DeleteFunc(profiles, func(p *profile.Profile) bool { return !p.Valid(time.Now()) })
	if len(profiles) == 0 && len(failed) == 0 {
		return nil, api.Errorf(api.CodeUnauthenticated, "no login lives: run 'tsh login --proxy=HOST:PORT'")
	}
	answers, errs := fetchAll(ctx, c, profiles)
	rows := []listed{}
	selected := selectedClusters(c)
	for i, p := range profiles {
		if errs[i] != nil {
			failed = append(failed, about(p.Proxy, errs[i]))
			continue
		}
		clusters := plausible(c, answers[i])
		p.KubeClusters = names(clusters)
		rows = append(rows, rowsOf(p, which.Pick(clusters), selected(p))...)
	}
	return rows, errors.Join(failed...)
}

// about puts a proxy before an error of it, unless it is named there.
func about(proxy string, err error) error {
	if strings.Contains(err.Error(), proxy) {
		return err
	}
	return api.Errorf(api.CodeOf(err), "%s: %w", proxy, err)
}

// fetchAll asks several servers at a time.
func fetchAll(ctx context.Context, c *cliapp.Call, profiles []*profile.Profile) ([][]api.KubeCluster, []error) {
	defer waitingFor(c, fmt.Sprintf("%d clusters", len(profiles)))()
	answers, errs := make([][]api.KubeCluster, len(profiles)), make([]error, len(profiles))
	var wg sync.WaitGroup
	places := make(chan struct{}, atOnce)
	for i, p := range profiles {
		wg.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			answers[i], errs[i] = fetchClusters(ctx, p)
		})
	}
	wg.Wait()
	return answers, errs
}

func rowsOf(p *profile.Profile, clusters []api.KubeCluster, selected string) []listed {
	rows := make([]listed, len(clusters))
	for i, k := range clusters {
		rows[i] = listed{p.Proxy, k, k.Name == selected}
	}
	return rows
}

// printListed writes the guide's two columns; flags add more, on both sides.
func printListed(c *cliapp.Call, rows []listed) {
	header := []string{"Kube Cluster Name", "Selected"}
	if c.Bool("all") {
		header = append([]string{"Proxy"}, header...)
	}
	if c.Bool("verbose") {
		header = append(header, "Version", "Last Seen (UTC)", "Labels", "Health")
	}
	table := make([][]string, len(rows))
	var down []string
	for i := range rows {
		r := &rows[i]
		if !client.Usable(r.Status) {
			down = append(down, r.Name)
		}
		if c.Bool("all") {
			table[i] = append(table[i], r.Proxy)
		}
		mark := ""
		if r.Selected {
			mark = "*"
		}
		table[i] = append(table[i], r.Name, mark)
		if c.Bool("verbose") {
			s := cmp.Or(r.Status, &api.KubeStatus{})
			table[i] = append(table[i], client.Cell(s.Version), client.Minute(s.LastSeen), client.LabelsText(r.Labels), client.HealthText(r.Status))
		}
	}
	c.Table(header, table)
	if !c.Bool("verbose") && c.StderrIsTerminal() {
		noteDown(c, down)
	}
}

// manyNames is how many names a note lists before it only counts.
const manyNames = 5

// noteDown tells a person of clusters that can't be used: the columns that scripts
// read have no room for it.
func noteDown(c *cliapp.Call, down []string) {
	switch n := len(down); {
	case n == 0:
	case n > manyNames:
		c.Notef("%d of them can't be used now. Why: tsh kube ls -v", n)
	default:
		c.Notef("Can't be used now: %s. Why: tsh kube ls -v", strings.Join(down, ", "))
	}
}

// listClusters asks for the clusters the user may reach, sorted by name.
func listClusters(ctx context.Context, c *cliapp.Call, p *profile.Profile) ([]api.KubeCluster, error) {
	over := waitingFor(c, p.Proxy)
	clusters, err := fetchClusters(ctx, p)
	over()
	return plausible(c, clusters), err
}

func fetchClusters(ctx context.Context, p *profile.Profile) ([]api.KubeCluster, error) {
	cl, err := apiClient(p)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	clusters, err := cl.KubeClusters(ctx)
	if api.IsCode(err, api.CodeUnauthenticated) {
		return nil, api.Errorf(api.CodeUnauthenticated, "%s\nTo log in again: %s", profile.Reason(err), p.LoginLine())
	}
	return clusters, err
}

// plausible sorts clusters by name. Names go into files and onto terminals, so one
// that can't be real is left out.
func plausible(c *cliapp.Call, clusters []api.KubeCluster) []api.KubeCluster {
	clusters = slices.DeleteFunc(clusters, func(k api.KubeCluster) bool {
		err := api.ValidateKubeName(k.Name)
		if err != nil && !scripted(c) {
			c.Warnf("left out: %v", err)
		}
		return err != nil
	})
	slices.SortFunc(clusters, func(a, b api.KubeCluster) int { return strings.Compare(a.Name, b.Name) })
	return slices.CompactFunc(clusters, func(a, b api.KubeCluster) bool { return a.Name == b.Name })
}

func names(clusters []api.KubeCluster) []string {
	var out []string
	for _, k := range clusters {
		out = append(out, k.Name)
	}
	return out
}
