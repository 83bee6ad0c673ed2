package main

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/client/kubeconfig"
	"github.com/sallyport-dev/sallyport/internal/client/profile"
)

// nothingYet tells somebody whom no role allows any cluster.
const nothingYet = "You may reach no Kubernetes cluster yet."

// aim is what becomes of the context in force: with a name it is that cluster's;
// without one, a context of ours that is of use stays, and one of somebody else's.
type aim struct {
	kube string
	stay bool // another login's context stays, too
}

// writeKubeconfig makes the login the one in use and writes its known clusters,
// both unless somebody has ended or replaced it meanwhile.
func writeKubeconfig(ctx context.Context, c *cliapp.Call, store *profile.Store, p *profile.Profile, at aim, edit func(*profile.Profile)) error {
	location, err := kubeconfig.Locate(os.Getenv)
	if err != nil {
		return err
	}
	var result kubeconfig.Result
	choice, inUse := at.kube, inForce(p)
	err = update(ctx, c, store, p, func(now *profile.Profile) error {
		if edit != nil {
			edit(now)
		}
		if at.kube != "" && len(now.Contexts) > 0 && !slices.Contains(now.Contexts, at.kube) {
			now.Contexts = append(now.Contexts, at.kube)
		}
		if err := store.SetCurrent(now.Proxy); err != nil {
			return err
		}
		var change kubeconfig.Edit
		if change, choice, err = kubeEdit(now, at, inUse); err != nil {
			return err
		}
		if result, err = location.Apply(ctx, change); err != nil {
			return err
		}
		now.Kubeconfig = result.Path
		now.Kubeconfigs = rememberFile(now.Kubeconfigs, result.Path)
		return nil
	})
	if err != nil || at.kube != "" {
		return err
	}
	if choice == "" {
		choice = "NAME"
	}
	switch {
	case len(p.KubeClusters) == 0:
		c.Notef(nothingYet)
	case result.Foreign:
		c.Notef("kubectl still uses the context %q. To switch: tsh kube login %s", result.Current, choice)
	case result.Current == "":
		c.Notef("kubectl uses no context yet. Choose a cluster: tsh kube login %s", choice)
	}
	return nil
}

// kubeEdit is the change of a kubeconfig that a login makes. choice is the
// cluster to use, if one stands out; inUse is the one in use so far, whose context
// may have another name from now on.
func kubeEdit(p *profile.Profile, at aim, inUse string) (edit kubeconfig.Edit, choice string, err error) {
	edit = kubeconfig.Edit{Proxy: p.Proxy, Force: at.kube != "", Stay: at.stay, Exclusive: p.ContextName != ""}
	clusters := p.KubeClusters
	if len(p.Contexts) > 0 {
		clusters = p.Contexts
	}
	self, err := selfPath()
	if err != nil {
		return edit, "", err
	}
	for _, name := range clusters {
		entry, err := kubeEntry(p, name, self)
		if err != nil {
			return edit, "", err
		}
		edit.Set = append(edit.Set, entry)
	}
	switch {
	case at.kube != "":
		choice = at.kube
	case slices.Contains(clusters, inUse):
		choice = inUse
	case slices.Contains(clusters, p.ClusterName):
		choice = p.ClusterName
	case len(clusters) == 1:
		choice = clusters[0]
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

const (
	// defaultContextName is how contexts are called unless --set-context-name says.
	defaultContextName = "{{.ClusterName}}-{{.KubeName}}"
	maxContextName     = 256 // bytes of a template
)

// contextName is what the context of a cluster is called.
func contextName(p *profile.Profile, kube string) string {
	return expandName(cmp.Or(p.ContextName, defaultContextName), p.ClusterName, kube)
}

// expandName fills a template. text/template would do no more, and every kubectl
// would wait for it.
func expandName(template, cluster, kube string) string {
	var out strings.Builder
	for {
		before, rest, open := strings.Cut(template, "{{")
		out.WriteString(before)
		field, after, closed := strings.Cut(rest, "}}")
		if !open || !closed {
			return out.String()
		}
		switch strings.TrimSpace(field) {
		case ".KubeName":
			out.WriteString(kube)
		case ".ClusterName":
			out.WriteString(cluster)
		}
		template = after
	}
}

// checkContextName refuses a template by which two clusters would be called the
// same, or that holds what expandName leaves out.
func checkContextName(template string) error {
	bare := expandName(template, "", "")
	literal := strings.NewReplacer("{{.KubeName}}", "", "{{ .KubeName }}", "", "{{.ClusterName}}", "", "{{ .ClusterName }}", "").Replace(template)
	switch {
	case expandName(template, "", "x") == bare:
		return api.Errorf(api.CodeInvalid, "--set-context-name: each context needs a name of its own: put {{.KubeName}} into it")
	case bare != literal || strings.ContainsAny(literal, "{}"):
		return api.Errorf(api.CodeInvalid, "--set-context-name: %q holds more than text, {{.KubeName}} and {{.ClusterName}}", template)
	case len(template) > maxContextName || cliapp.Clean(template) != template || strings.ContainsAny(template, "\n\t"):
		return api.Errorf(api.CodeInvalid, "--set-context-name: a name is printable text of at most %d bytes", maxContextName)
	}
	return nil
}

func kubeEntry(p *profile.Profile, kube, self string) (kubeconfig.Entry, error) {
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
		home, err := filepath.Abs(home)
		if err != nil {
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
		if err != nil && err.Error() != told && !scripted(c) {
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
	return clusterIn(location, p)
}

// inForce is the cluster of this login that the kubeconfig to be written selects,
// if it can be read.
func inForce(p *profile.Profile) string {
	location, err := kubeconfig.Locate(os.Getenv)
	if err != nil {
		return ""
	}
	name, _ := clusterIn(location, p) // whoever writes it says what is wrong with it
	return name
}

func clusterIn(location kubeconfig.Location, p *profile.Profile) (string, error) {
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
