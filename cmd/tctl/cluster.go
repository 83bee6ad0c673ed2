package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

func clusterCommand() cliapp.Command {
	return cliapp.Command{
		Name: "cluster", Usage: "see the replicas, and act on the cluster as a whole",
		Commands: []cliapp.Command{
			{
				Name: "ls", Aliases: []string{"list"}, Usage: "list the replicas, as the one that is asked knows them",
				Flags: []cliapp.Flag{formatFlag("text")}, Run: clusterList,
			},
			{
				Name: "recover", Usage: "go on with this replica alone, the majority being lost",
				Description: "For when the majority of the replicas is lost for good. Asks the replica on the\nsocket to back up its state, and to become the only voter of a new cluster.\n" +
					"Writes that it had not yet got are lost. Try everything else first: as soon as a\nmajority of replicas runs again, the cluster heals by itself and loses nothing.",
				Examples: []string{"tctl cluster recover", "tctl cluster recover --yes --cluster-id=$(tctl status --format=json | jq -r .cluster_id)"},
				Flags: []cliapp.Flag{
					{Name: "cluster-id", Usage: "take `ID` for the cluster's, instead of asking for it"},
					{Name: "yes", Kind: cliapp.Bool, Usage: "ask nothing; needs --cluster-id"},
					formatFlag("text"),
				},
				Run: func(ctx context.Context, c *cliapp.Call) error {
					if c.Bool("yes") && c.String("cluster-id") == "" {
						return api.Errorf(api.CodeInvalid, "--yes needs --cluster-id: read it with 'tctl status'")
					}
					return withReplica(c, func(r *replica) error { return recoverCluster(ctx, c, r) })
				},
			},
		},
	}
}

// member is a replica in the list of them.
type member struct {
	api.Server
	Role  string `json:"role"`  // leader, voter, learner
	Asked bool   `json:"asked"` // it is the one that answered
	// Of the replica that answered alone: the others are not asked.
	Applied *uint64 `json:"applied_index,omitempty"`
	Behind  *uint64 `json:"behind,omitempty"` // entries that are committed and not yet applied
}

func members(s *api.Status) []member {
	out := make([]member, len(s.Servers))
	for i, srv := range s.Servers {
		m := member{Server: srv, Role: "learner", Asked: srv.ID == s.ServerID}
		switch {
		case srv.Leader:
			m.Role = "leader"
		case srv.Voter:
			m.Role = "voter"
		}
		if m.Asked {
			behind := s.CommitIndex - min(s.AppliedIdx, s.CommitIndex)
			m.Applied, m.Behind = &s.AppliedIdx, &behind
		}
		out[i] = m
	}
	return out
}

func clusterList(ctx context.Context, c *cliapp.Call) error {
	return withReplica(c, func(r *replica) error {
		s, err := r.Status(ctx)
		if err != nil {
			return err
		}
		list := members(s)
		return show(c, list, func() {
			printMembers(c, list)
			c.Printf("\nAsked: %s, which has applied %d of %d log entries.\n", s.ServerID, s.AppliedIdx, s.CommitIndex)
		})
	})
}

func printMembers(c *cliapp.Call, list []member) {
	rows := make([][]string, len(list))
	for i, m := range list {
		alive := "no"
		if m.Alive {
			alive = "yes"
		}
		rows[i] = []string{m.ID, m.Role, alive, cmp.Or(m.Version, "-"), m.Addr}
	}
	c.Table([]string{"Replica", "Role", "Alive", "Version", "Address"}, rows)
}

func recoverCluster(ctx context.Context, c *cliapp.Call, r *replica) error {
	if r.asked != "" {
		return api.Errorf(api.CodeInvalid, "recovery is for the socket alone: run tctl as root where the replica runs that is to go on")
	}
	id := c.String("cluster-id")
	s, err := r.Status(ctx)
	if err != nil {
		return err
	}
	if id != "" && id != s.ClusterID {
		return api.Errorf(api.CodeInvalid, "this replica's cluster id is %s, not %s", s.ClusterID, id)
	}
	warnOfLoss(c, s)
	if !c.Bool("yes") {
		typed, err := c.ReadLine(ctx, fmt.Sprintf("Type the cluster id (%s) to go on: ", s.ClusterID))
		if err != nil {
			return err
		}
		if strings.TrimSpace(typed) != s.ClusterID {
			return api.Errorf(api.CodeInvalid, "that is not the cluster id; nothing was changed")
		}
	}
	resp, err := r.Recover(ctx, s.ClusterID)
	if err != nil {
		return err
	}
	return show(c, resp, func() {
		c.Printf("Recovered up to log index %d. The new cluster id is %s; the state before is in %s on the replica.\n", resp.LastIndex, resp.ClusterID, resp.BackupFile)
		c.Printf("Wipe the data directories of the other replicas before they start again; they then join by themselves.\n")
	})
}

func warnOfLoss(c *cliapp.Call, s *api.Status) {
	alive := 0
	for _, srv := range s.Servers {
		if srv.Alive {
			alive++
		}
	}
	if s.LeaderID != "" {
		c.Warnf("this cluster has a leader (%s): it needs no recovery", s.LeaderID)
	}
	c.Warnf("replica %s goes on alone from log index %d. Whatever the others have acknowledged beyond that is LOST: users, passwords, roles, revocations, audit events.", s.ServerID, s.AppliedIdx)
	c.Warnf("as far as this replica knows, %d of %d replicas are up (one that has just died counts for some seconds more); last contact with a leader %s ago. Stop all others for good first: two clusters of one name would both serve users.", alive, len(s.Servers), time.Duration(s.Staleness).Round(time.Millisecond))
}
