package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/client"
)

func nodesCommand() cliapp.Command {
	return cliapp.Command{
		Name: "nodes", Usage: "invite, list and remove agents, which lead to Kubernetes clusters",
		Commands: []cliapp.Command{
			{
				Name: "add", Usage: "print a token by which agents join, and how to use it",
				Description: "The token is seen this once. Agents of different tokens can't take each other's\nclusters. --format=json prints a list that holds the token, and nothing else.",
				Examples: []string{
					"tctl nodes add --roles=kube --kube-clusters=cookie",
					"tctl nodes add --roles=kube --ttl=10000h --format=json | jq -r '.[0]'",
				},
				Flags: append([]cliapp.Flag{roleFlag("roles")}, tokenFlags()...), Run: nodesAdd,
			},
			{
				Name: "ls", Aliases: []string{"list"}, Usage: "list the agents that have joined",
				Description: "Replicas is to how many of them the agent has a tunnel. A locked agent's\ncertificate was used by two, or after it had been renewed: somebody may have\ncopied it. 'tctl nodes rm' ends the lock, and the agent joins anew by a token.\nOffline agents come last, until their certificates end. 'Replaced by' names a\nlater agent of the same name and clusters: the old one lost its identity.",
				Flags: []cliapp.Flag{
					{Name: "verbose", Aliases: []string{"v"}, Kind: cliapp.Bool, Usage: "show version, token, and when and from where it joined, too"},
					formatFlag("text"),
				},
				Run: nodesList,
			},
			{
				Name: "rm", Usage: "remove agents; their tunnels are cut at once", ArgsUsage: "ID...", MinArgs: 1, MaxArgs: -1,
				Description: "An agent that still has a token that works joins again, under a new ID: remove\nthe token first. An ID may be shortened, to no less than 4 characters, as long\nas it means one agent.",
				Examples:    []string{"tctl nodes rm 8c14f0a2"},
				Flags:       []cliapp.Flag{formatFlag("text")},
				Complete:    completeAgents, Run: nodesRemove,
			},
		},
	}
}

func nodesList(ctx context.Context, c *cliapp.Call) error {
	return withReplica(c, func(r *replica) error {
		agents, err := r.Agents(ctx)
		if err != nil {
			return err
		}
		return show(c, agents, func() {
			if len(agents) == 0 {
				c.Printf("No agents found\n")
				return
			}
			header := []string{"Agent ID", "Name", "Kube Clusters", "Replicas", "Certificate Until (UTC)"}
			if c.Bool("verbose") {
				header = append(header, "Version", "Joined (UTC)", "Joined From", "Token")
			}
			rows := make([][]string, len(agents))
			replaced := client.ReplacedBy(agents)
			for i, a := range byUse(agents, replaced) {
				rows[i] = []string{a.ID, client.Cell(a.Name), client.Cell(strings.Join(a.KubeClusters, ",")), strconv.Itoa(len(a.Replicas)), client.Minute(a.Expires)}
				if c.Bool("verbose") {
					rows[i] = append(rows[i], client.Cell(a.Version), client.Minute(a.Joined), client.Cell(a.JoinedFrom), client.Cell(a.Token))
				}
				rows[i] = append(rows[i], agentStatus(&a, replaced[a.ID]))
			}
			c.Table(append(header, "Status"), rows)
			for _, a := range agents {
				if a.Duplicate {
					c.Warnf("two processes use the identity of agent %s: stop one, remove its data directory (or Secret), and let it join anew. At the next renewal the identity is locked", a.ID)
				}
			}
		})
	})
}

func agentStatus(a *api.Agent, replacedBy string) string {
	switch {
	case !a.Locked.IsZero():
		return "locked since " + client.Minute(a.Locked) + " (UTC): " + client.Cell(a.LockReason)
	case len(a.Replicas) > 0:
		return "connected"
	case replacedBy != "":
		return "offline, replaced by " + replacedBy[:min(8, len(replacedBy))]
	}
	return "offline"
}

// byUse sorts agents: those that are connected, then the others, then the replaced.
func byUse(agents []api.Agent, by map[string]string) []api.Agent {
	var up, down, replaced []api.Agent
	for _, a := range agents {
		switch {
		case len(a.Replicas) > 0:
			up = append(up, a)
		case by[a.ID] != "":
			replaced = append(replaced, a)
		default:
			down = append(down, a)
		}
	}
	return slices.Concat(up, down, replaced)
}

func nodesRemove(ctx context.Context, c *cliapp.Call) error {
	return withReplica(c, func(r *replica) error {
		agents, err := r.Agents(ctx)
		if err != nil {
			return err
		}
		doomed, missing, err := pick(agents, func(a api.Agent) string { return a.ID }, picked{"agent", "tctl nodes ls", "have joined"}, c.Args)
		if err != nil {
			return err
		}
		text := c.String("format") == "text"
		removed := []api.Agent{}
		failed := each(ctx, doomed, func(a api.Agent) error {
			if err := r.RemoveAgent(ctx, a.ID); err != nil && !api.IsCode(err, api.CodeNotFound) {
				return fmt.Errorf("agent %s: %w", a.ID, err)
			}
			if removed = append(removed, a); text {
				c.Printf("Agent %s has been removed\n", a.ID)
			}
			return nil
		})
		if text {
			noteTokens(ctx, c, r, removed)
		}
		return errors.Join(missing, failed, show(c, removed, func() {}))
	})
}

// noteTokens says by which tokens agents that were removed can join again.
func noteTokens(ctx context.Context, c *cliapp.Call, r *replica, removed []api.Agent) {
	if len(removed) == 0 {
		return
	}
	_, tokens, err := listTokens(ctx, r)
	if err != nil { // who may remove agents may not be one who may list tokens
		c.Notef("What was removed joins again if it has a token that still works: 'tctl tokens ls' lists them.")
		return
	}
	for _, t := range tokens {
		used := t.Spec.MaxUses > 0 && t.Spec.Uses >= t.Spec.MaxUses
		if !used && slices.ContainsFunc(removed, func(a api.Agent) bool { return a.Token == t.Metadata.Name }) {
			c.Notef("Token %s still works, and who has it joins again. To end that: tctl tokens rm %s", t.Metadata.Name, t.Metadata.Name)
		}
	}
}
