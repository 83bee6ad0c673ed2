package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/client/kubeconfig"
	"github.com/sallyport-dev/sallyport/internal/client/profile"
)

func kubeCommand() cliapp.Command {
	return cliapp.Command{
		Name: "kube", Usage: "list Kubernetes clusters and switch between them",
		Commands: []cliapp.Command{
			{Name: "ls", Aliases: []string{"list"}, Usage: "list the Kubernetes clusters you may reach", Flags: []cliapp.Flag{formatFlag()}, Run: kubeList},
			{
				Name: "login", Usage: "point kubectl at a Kubernetes cluster", ArgsUsage: "NAME", MinArgs: 1, MaxArgs: 1,
				Examples: []string{"tsh kube login cookie"},
				Complete: func(c *cliapp.Call) []string {
					if _, p, err := openProfile(c); err == nil {
						return p.KubeClusters
					}
					return nil
				},
				Run: kubeLogin,
			},
			{
				Name: "credentials", Usage: "print the certificate for kubectl, which runs this by itself", Hidden: true,
				Flags: []cliapp.Flag{{Name: "kube-cluster", Usage: "the Kubernetes cluster called `NAME`"}},
				Run:   kubeCredentials,
			},
		},
	}
}

// kubeCredentials answers kubectl (client.authentication.k8s.io/v1). It runs
// before almost every request: it reads one file, takes no lock, asks no network.
func kubeCredentials(_ context.Context, c *cliapp.Call) error {
	_, p, err := openProfile(c)
	if err != nil {
		return err
	}
	if !p.Valid(time.Now()) {
		return expired(p)
	}
	type status struct {
		Expiration string `json:"expirationTimestamp"`
		Cert       string `json:"clientCertificateData"`
		Key        string `json:"clientKeyData"`
	}
	return c.JSON(struct {
		Kind       string   `json:"kind"`
		APIVersion string   `json:"apiVersion"`
		Spec       struct{} `json:"spec"`
		Status     status   `json:"status"`
	}{
		Kind: "ExecCredential", APIVersion: "client.authentication.k8s.io/v1",
		Status: status{p.Expires().UTC().Format(time.RFC3339), p.Cert, p.Key},
	})
}

func kubeList(ctx context.Context, c *cliapp.Call) error {
	store, p, err := openProfile(c)
	if err != nil {
		return err
	}
	if !p.Valid(time.Now()) {
		return expired(p)
	}
	clusters, err := listClusters(ctx, c, p)
	if err != nil {
		return err
	}
	if known := names(clusters); !slices.Equal(known, p.KubeClusters) {
		err := update(ctx, c, store, p, func(now *profile.Profile) error {
			now.KubeClusters = known
			return nil
		})
		if err != nil && !api.IsCode(err, api.CodeConflict) {
			c.Warnf("not noted for completion: %v", err)
		}
		p.KubeClusters = known
	}
	selected := selectedClusters(c)(p)
	if c.String("format") == "json" {
		type row struct {
			api.KubeCluster
			Selected bool `json:"selected"`
		}
		rows := make([]row, len(clusters))
		for i, k := range clusters {
			rows[i] = row{k, k.Name == selected}
		}
		return c.JSON(rows)
	}
	rows := make([][]string, len(clusters))
	for i, k := range clusters {
		mark := ""
		if k.Name == selected {
			mark = "*"
		}
		rows[i] = []string{k.Name, mark}
	}
	c.Table([]string{"Kube Cluster Name", "Selected"}, rows)
	return nil
}

func kubeLogin(ctx context.Context, c *cliapp.Call) error {
	store, p, err := openProfile(c)
	if err != nil {
		return err
	}
	if !p.Valid(time.Now()) {
		return expired(p)
	}
	name := c.Args[0]
	if slices.Contains(p.KubeClusters, name) {
		err = writeKubeconfig(ctx, c, store, p, name, nil)
	} else {
		err = refresh(ctx, c, store, p, name, nil) // it may have joined after the login
	}
	if err != nil {
		return err
	}
	c.Printf("Logged into kubernetes cluster %q\n", name)
	return nil
}

// listClusters asks for the clusters the user may reach, sorted by name. Names
// go into files and onto terminals, so one that can't be real is left out.
func listClusters(ctx context.Context, c *cliapp.Call, p *profile.Profile) ([]api.KubeCluster, error) {
	cl, err := apiClient(p)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	over := waitingFor(c, p.Proxy)
	clusters, err := cl.KubeClusters(ctx)
	over()
	if api.IsCode(err, api.CodeUnauthenticated) {
		return nil, api.Errorf(api.CodeUnauthenticated, "%w\nTo log in again: %s", err, loginLine(p.Proxy, p.User))
	}
	if err != nil {
		return nil, err
	}
	clusters = slices.DeleteFunc(clusters, func(k api.KubeCluster) bool {
		err := api.ValidateKubeName(k.Name)
		if err != nil {
			c.Warnf("left out: %v", err)
		}
		return err != nil
	})
	slices.SortFunc(clusters, func(a, b api.KubeCluster) int { return strings.Compare(a.Name, b.Name) })
	return slices.CompactFunc(clusters, func(a, b api.KubeCluster) bool { return a.Name == b.Name }), nil
}

func names(clusters []api.KubeCluster) []string {
	var out []string
	for _, k := range clusters {
		out = append(out, k.Name)
	}
	return out
}

// refresh asks for the clusters and writes the kubeconfig: at a login
// (selected is "") without taking a foreign context's place, else switching to
// selected. What edit changes of the login is kept with it; it may be nil.
func refresh(ctx context.Context, c *cliapp.Call, store *profile.Store, p *profile.Profile, selected string, edit func(*profile.Profile)) error {
	clusters, err := listClusters(ctx, c, p)
	if err != nil {
		return err
	}
	known := names(clusters)
	if selected != "" && !slices.Contains(known, selected) {
		hint := ""
		if near := api.Nearest(selected, known); near != "" {
			hint = fmt.Sprintf("; did you mean %q?", near)
		}
		return api.Errorf(api.CodeNotFound, "kubernetes cluster %q not found, check 'tsh kube ls' for a list of known clusters%s", selected, hint)
	}
	return writeKubeconfig(ctx, c, store, p, selected, func(now *profile.Profile) {
		now.KubeClusters = known
		if edit != nil {
			edit(now)
		}
	})
}

// writeKubeconfig makes the login the one in use and writes its known clusters,
// both unless somebody has ended or replaced it meanwhile.
func writeKubeconfig(ctx context.Context, c *cliapp.Call, store *profile.Store, p *profile.Profile, selected string, edit func(*profile.Profile)) error {
	location, err := kubeconfig.Locate(os.Getenv)
	if err != nil {
		return err
	}
	var result kubeconfig.Result
	choice := selected
	err = update(ctx, c, store, p, func(now *profile.Profile) error {
		if edit != nil {
			edit(now)
		}
		if err := store.SetCurrent(now.Proxy); err != nil {
			return err
		}
		var change kubeconfig.Edit
		if change, choice, err = kubeEdit(now, selected); err != nil {
			return err
		}
		if result, err = location.Apply(ctx, change); err != nil {
			return err
		}
		now.Kubeconfig = result.Path
		now.Kubeconfigs = rememberFile(now.Kubeconfigs, result.Path)
		return nil
	})
	if err != nil || selected != "" {
		return err
	}
	if choice == "" {
		choice = "NAME"
	}
	switch {
	case len(p.KubeClusters) == 0:
		c.Notef("You may reach no Kubernetes cluster yet.")
	case result.Foreign:
		c.Notef("kubectl still uses the context %q. To switch: tsh kube login %s", result.Current, choice)
	case result.Current == "":
		c.Notef("kubectl uses no context yet. Choose a cluster: tsh kube login %s", choice)
	}
	return nil
}

// kubeEdit is the change of a kubeconfig that a login makes. choice is the
// cluster to use, if one stands out.
func kubeEdit(p *profile.Profile, selected string) (edit kubeconfig.Edit, choice string, err error) {
	edit = kubeconfig.Edit{Proxy: p.Proxy, Force: selected != ""}
	for _, name := range p.KubeClusters {
		entry, err := kubeEntry(p, name)
		if err != nil {
			return edit, "", err
		}
		edit.Set = append(edit.Set, entry)
	}
	choice = selected
	if choice == "" && slices.Contains(p.KubeClusters, p.ClusterName) {
		choice = p.ClusterName
	} else if choice == "" && len(p.KubeClusters) == 1 {
		choice = p.KubeClusters[0]
	}
	if choice != "" {
		edit.Select = contextName(p, choice)
	}
	return edit, choice, nil
}

// maxFiles bounds how many kubeconfigs a login remembers: scripts make a new one each time.
const maxFiles = 32

// rememberFile adds a file to those written, and forgets what is gone.
func rememberFile(files []string, path string) []string {
	files = slices.DeleteFunc(slices.Clone(files), func(f string) bool {
		_, err := os.Stat(f)
		return f == path || errors.Is(err, fs.ErrNotExist)
	})
	return append(files[max(0, len(files)-maxFiles+1):], path)
}

func contextName(p *profile.Profile, kube string) string { return p.ClusterName + "-" + kube }

func kubeEntry(p *profile.Profile, kube string) (kubeconfig.Entry, error) {
	self, err := selfPath()
	if err != nil {
		return kubeconfig.Entry{}, err
	}
	e := kubeconfig.Entry{
		Name: contextName(p, kube), Server: "https://" + p.KubeAddr, TLSServerName: api.KubeServerName(kube, p.ClusterName),
		CAs: []byte(p.HostCAs), Command: self,
		Args: []string{"kube", "credentials", "--kube-cluster=" + kube, "--proxy=" + p.Proxy},
	}
	if p.KubePath {
		if p.KubeListen == "" {
			return e, api.Errorf(api.CodeInvalid, "%s serves no kube-only port, which --kube-path needs", p.Proxy)
		}
		e.Server, e.TLSServerName = "https://"+p.KubeListen+"/k8s/"+url.PathEscape(kube), ""
	}
	if home := os.Getenv("SALLYPORT_HOME"); home != "" {
		if home, err = filepath.Abs(home); err != nil {
			return e, err
		}
		e.Env = []kubeconfig.EnvVar{{Name: "SALLYPORT_HOME", Value: home}}
	}
	return e, nil
}

// selectedClusters is selectedCluster for commands that show more than that: a
// kubeconfig that can't be read is warned of, once, and hides nothing else.
func selectedClusters(c *cliapp.Call) func(*profile.Profile) string {
	told := ""
	return func(p *profile.Profile) string {
		name, err := selectedCluster(p)
		if err != nil && err.Error() != told {
			told = err.Error()
			c.Warnf("it is not known which cluster kubectl uses: %v", err)
		}
		return name
	}
}

// selectedCluster is the Kubernetes cluster of this login that kubectl uses now:
// by KUBECONFIG, or else by the file that tsh wrote last.
func selectedCluster(p *profile.Profile) (string, error) {
	location := kubeconfig.Location{p.Kubeconfig}
	if p.Kubeconfig == "" || os.Getenv("KUBECONFIG") != "" {
		var err error
		if location, err = kubeconfig.Locate(os.Getenv); err != nil {
			return "", err
		}
	}
	result, err := location.Current()
	if err != nil || result.Foreign {
		return "", err
	}
	for _, name := range p.KubeClusters {
		if contextName(p, name) == result.Current {
			return name, nil
		}
	}
	return "", nil
}

// forgetKubeconfig removes this login's entries from the files that were written
// and from the one in force. Once ctx is over, it waits for no lock, but still cleans what is free.
func forgetKubeconfig(ctx context.Context, p *profile.Profile) error {
	location, err := kubeconfig.Locate(os.Getenv)
	if err != nil {
		return err
	}
	files := []string{location[0]}
	for _, path := range append(p.Kubeconfigs, p.Kubeconfig) {
		if path != "" && !slices.Contains(files, path) {
			files = append(files, path)
		}
	}
	var failed []error
	for _, path := range files {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if _, err := (kubeconfig.Location{path}).Apply(ctx, kubeconfig.Edit{Proxy: p.Proxy}); err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}
