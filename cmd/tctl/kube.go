package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/client"
)

func kubeCommand() cliapp.Command {
	return cliapp.Command{
		Name: "kube", Usage: "list and remove Kubernetes clusters",
		Description: "Clusters come by themselves, with their agents: see 'tctl nodes add'.",
		Commands: []cliapp.Command{
			{
				Name: "ls", Aliases: []string{"list"}, Usage: "list the Kubernetes clusters, and how they do",
				Flags: []cliapp.Flag{formatFlag("text")}, Run: kubeList,
			},
			{
				Name: "rm", Usage: "forget Kubernetes clusters, and free their names", ArgsUsage: "NAME...", MinArgs: 1, MaxArgs: -1,
				Description: "A name belongs to the token whose agents took it first. Once it is free, agents\nof any token may take it, those that had it too: remove them ('tctl nodes rm')\nand their token first. It is refused while agents of the cluster are connected.\nWith --force their tunnels are cut, for a moment with all clusters that they\nserve; they come back at once, and so does it.",
				Examples:    []string{"tctl kube rm cookie"},
				Flags:       []cliapp.Flag{{Name: "force", Aliases: []string{"f"}, Kind: cliapp.Bool, Usage: "also while agents of it are connected"}},
				Complete:    completeKubeClusters,
				Run: func(ctx context.Context, c *cliapp.Call) error {
					for _, name := range c.Args {
						if err := api.ValidateKubeName(name); err != nil {
							return err
						}
					}
					return withReplica(c, func(r *replica) error {
						return each(ctx, c.Args, func(name string) error { return remove(ctx, c, r, ref{api.KindKubeCluster, name}, c.Bool("force")) })
					})
				},
			},
		},
	}
}

func kubeList(ctx context.Context, c *cliapp.Call) error {
	return withReplica(c, func(r *replica) error {
		items, err := r.List(ctx, api.KindKubeCluster, "")
		if err != nil {
			return err
		}
		clusters, err := decodeAll[api.KubeClusterDocument](items)
		if err != nil {
			return err
		}
		return show(c, items, func() {
			if len(clusters) == 0 {
				c.Printf("No Kubernetes clusters found\n")
				return
			}
			rows := make([][]string, len(clusters))
			for i, k := range clusters {
				s := cmp.Or(k.Status, &api.KubeStatus{})
				agents := strconv.Itoa(s.Agents)
				if s.Own {
					agents = "-" // the replicas reach it themselves
				}
				rows[i] = []string{k.Metadata.Name, client.Cell(s.Version), agents, client.Minute(s.LastSeen), client.LabelsText(k.Metadata.Labels), client.HealthText(k.Status)}
			}
			c.Table([]string{"Kube Cluster Name", "Version", "Agents", "Last Seen (UTC)", "Labels", "Health"}, rows)
		})
	})
}

// removeKube forgets a cluster, and says of its agents what becomes of that.
func removeKube(ctx context.Context, r *replica, name string, force bool) (note string, err error) {
	var there []api.Agent
	if force {
		there = agentsOf(ctx, r, name) // now: it cuts their tunnels
	}
	err = r.Delete(ctx, api.KindKubeCluster, name, force)
	if api.IsCode(err, api.CodeConflict) && !force {
		there = agentsOf(ctx, r, name)
	}
	switch {
	case len(there) == 0:
		return "", err
	case err == nil:
		return fmt.Sprintf("Agents of it that are still there bring it back: %s. To end that: tctl nodes rm ID", agentNames(there)), nil
	case force:
		return "", err
	}
	return "", api.Errorf(api.CodeConflict, "agents of Kubernetes cluster %q are connected: %s. Remove them first ('tctl nodes rm ID'); with --force their tunnels are cut, for a moment with all clusters that they serve, and those that are still there bring it back", name, agentNames(there))
}

// agentsOf are the agents that are connected and may serve a cluster: none that
// anybody knows of, where who removes clusters may not list agents.
func agentsOf(ctx context.Context, r *replica, name string) []api.Agent {
	all, err := r.Agents(ctx)
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(all, func(a api.Agent) bool {
		return len(a.Replicas) == 0 || !slices.Contains(a.KubeClusters, name)
	})
}

const maxNamedAgents = 5

func agentNames(agents []api.Agent) string {
	var names []string
	for i, a := range agents {
		if i == maxNamedAgents {
			names = append(names, fmt.Sprintf("%d more ('tctl nodes ls')", len(agents)-i))
			break
		}
		name := a.ID
		if a.Name != "" {
			name += " (" + client.Cell(a.Name) + ")"
		}
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}
