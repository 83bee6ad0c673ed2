package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/atomicfile"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

func statusCommand() cliapp.Command {
	return cliapp.Command{
		Name: "status", Usage: "show what this replica knows of the cluster", Flags: []cliapp.Flag{formatFlag("text")},
		Run: func(ctx context.Context, c *cliapp.Call) error {
			s, err := connect(c).Status(ctx)
			if err != nil {
				return err
			}
			return show(c, s, func() { printStatus(c, s) })
		},
	}
}

func printStatus(c *cliapp.Call, s *api.Status) {
	line := func(name, format string, args ...any) { c.Printf("%-11s %s\n", name, fmt.Sprintf(format, args...)) }
	line("Cluster", "%s", s.ClusterName)
	line("Cluster ID", "%s", s.ClusterID)
	line("Version", "%s", s.Version)
	line("Replica", "%s (%s)", s.ServerID, s.State)
	if s.LeaderID != "" {
		line("Leader", "%s", s.LeaderID)
	} else {
		line("Leader", "none; last contact %s ago", time.Duration(s.Staleness).Round(time.Millisecond))
	}
	switch {
	case s.Ready && s.Reason != "": // it serves, and yet something is wrong: a full disk, say
		line("Ready", "yes, but %s", s.Reason)
	case s.Ready:
		line("Ready", "yes")
	default:
		line("Ready", "no: %s", s.Reason)
	}
	line("Log", "term %d, applied %d of %d", s.Term, s.AppliedIdx, s.CommitIndex)
	if offset := time.Duration(s.ClockOffset); offset.Abs() >= time.Second {
		line("Clock", "%s off the other replicas", offset)
	}
	for _, ca := range s.CAs {
		name := ca.Type
		if name != "" {
			name = strings.ToUpper(name[:1]) + name[1:]
		}
		state := "active"
		if ca.Rotation != api.RotationStandby {
			state = "rotating: " + ca.Rotation
		}
		line(name+" CA", "%s, expires %s", state, ca.Expires.UTC().Format(time.DateOnly))
	}
	for _, ca := range s.CAs {
		if ca.Type == "host" {
			line("CA pin", "%s", ca.Pin)
		}
	}
	c.Printf("\n")
	rows := make([][]string, len(s.Servers))
	for i, srv := range s.Servers {
		role, alive := "learner", "no"
		switch {
		case srv.Leader:
			role = "leader"
		case srv.Voter:
			role = "voter"
		}
		if srv.Alive {
			alive = "yes"
		}
		rows[i] = []string{srv.ID, srv.Addr, role, alive, srv.Version}
	}
	c.Table([]string{"Replica", "Address", "Role", "Alive", "Version"}, rows)
}

func backupCommand() cliapp.Command {
	return cliapp.Command{
		Name: "backup", Usage: "write a snapshot of the whole state while the cluster runs", ArgsUsage: "FILE|-", MinArgs: 1, MaxArgs: 1,
		Description: "Secrets in it are sealed with the cluster secret: keep that elsewhere, and restore with both\n('sallyport restore'). A file of that name is replaced only when the new one is complete.",
		Examples:    []string{"tctl backup /backup/sallyport.snap", "tctl backup - | ssh vault 'cat > sallyport.snap'"},
		Run:         backup,
	}
}

func backup(ctx context.Context, c *cliapp.Call) error {
	client := connect(c)
	if c.Args[0] == "-" {
		if c.StdoutIsTerminal() {
			return api.Errorf(api.CodeInvalid, "a backup is binary: name a file, or pipe it on")
		}
		_, err := client.Backup(ctx, c.Stdout)
		return err
	}
	path, err := filepath.Abs(c.Args[0])
	if err != nil {
		return err
	}
	var size int64
	err = atomicfile.WriteFrom(path, 0o600, func(w io.Writer) error {
		size, err = client.Backup(ctx, w)
		return err
	})
	if err != nil {
		return err
	}
	c.Notef("Backup written to %s (%s bytes). It is worth nothing without the cluster secret.", path, strconv.FormatInt(size, 10))
	return nil
}

func clusterCommand() cliapp.Command {
	return cliapp.Command{
		Name: "cluster", Usage: "act on the cluster as a whole",
		Commands: []cliapp.Command{{
			Name: "recover", Usage: "go on with this replica alone after the majority is lost for good",
			Description: "Asks the replica on the socket to back up its state, and to become the only voter of a new\n" +
				"cluster. Writes that this replica had not yet got are lost. Try everything else first: as soon\n" +
				"as a majority of replicas runs again, the cluster heals by itself and loses nothing.",
			Examples: []string{"tctl cluster recover", "tctl cluster recover --yes --cluster-id=$(tctl status --format=json | jq -r .cluster_id)"},
			Flags: []cliapp.Flag{
				{Name: "cluster-id", Usage: "take `ID` for the cluster's, instead of asking for it"},
				{Name: "yes", Kind: cliapp.Bool, Usage: "ask nothing; needs --cluster-id"},
				formatFlag("text"),
			},
			Run: recoverCluster,
		}},
	}
}

func recoverCluster(ctx context.Context, c *cliapp.Call) error {
	id, yes := c.String("cluster-id"), c.Bool("yes")
	if yes && id == "" {
		return api.Errorf(api.CodeInvalid, "--yes needs --cluster-id: read it with 'tctl status'")
	}
	client := connect(c)
	s, err := client.Status(ctx)
	if err != nil {
		return err
	}
	if id != "" && id != s.ClusterID {
		return api.Errorf(api.CodeInvalid, "this replica's cluster id is %s, not %s", s.ClusterID, id)
	}
	warnOfLoss(c, s)
	if !yes {
		typed, err := c.ReadLine(ctx, fmt.Sprintf("Type the cluster id (%s) to go on: ", s.ClusterID))
		if err != nil {
			return err
		}
		if strings.TrimSpace(typed) != s.ClusterID {
			return api.Errorf(api.CodeInvalid, "that is not the cluster id; nothing was changed")
		}
	}
	resp, err := client.Recover(ctx, s.ClusterID)
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
	c.Warnf("%d of %d replicas answer; last contact with a leader %s ago. Stop all others for good first: two clusters of one name would both serve users.", alive, len(s.Servers), time.Duration(s.Staleness).Round(time.Millisecond))
}
