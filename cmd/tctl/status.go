package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/client"
)

func statusCommand() cliapp.Command {
	return cliapp.Command{
		Name: "status", Usage: "show what a replica knows of the cluster", Flags: []cliapp.Flag{formatFlag("text")},
		Run: func(ctx context.Context, c *cliapp.Call) error {
			return withReplica(c, func(r *replica) error {
				s, err := r.Status(ctx)
				if err != nil {
					return err
				}
				return show(c, s, func() { printStatus(c, s, reachOf(ctx, r)) })
			})
		},
	}
}

const (
	screen = 80 // columns
	labels = 12 // columns of the names of what status shows
)

// reachTime bounds the wait for what status shows beside the replicas: whoever
// looks because something is wrong wants to see the rest.
const reachTime = 5 * time.Second

// reachOf says how many agents and Kubernetes clusters there are, or nothing where
// that can't be known quickly or the roles don't allow it.
func reachOf(ctx context.Context, r *replica) (lines [][2]string) {
	ctx, cancel := context.WithTimeout(ctx, reachTime)
	defer cancel()
	if agents, err := r.Agents(ctx); err == nil && len(agents) > 0 {
		connected, locked, replaced := 0, "", client.ReplacedBy(agents)
		for _, a := range agents {
			if len(a.Replicas) > 0 {
				connected++
			}
			if !a.Locked.IsZero() {
				locked = "; some are locked, see 'tctl nodes ls'"
			}
		}
		lines = append(lines, [2]string{"Agents", fmt.Sprintf("%d of %d connected%s", connected, len(agents)-len(replaced), locked)})
	}
	items, err := r.List(ctx, api.KindKubeCluster, "")
	if err != nil {
		return lines
	}
	clusters, err := decodeAll[api.KubeClusterDocument](items)
	if err != nil || len(clusters) == 0 {
		return lines
	}
	usable := 0
	for _, k := range clusters {
		if client.Usable(k.Status) {
			usable++
		}
	}
	text := fmt.Sprintf("%d of %d clusters can be used", usable, len(clusters))
	if usable < len(clusters) {
		text += "; see 'tctl kube ls'"
	}
	return append(lines, [2]string{"Kubernetes", text})
}

func printStatus(c *cliapp.Call, s *api.Status, reach [][2]string) {
	line := func(name, format string, args ...any) {
		text := fmt.Sprintf(format, args...)
		if c.StdoutIsTerminal() { // what reads a pipe looks for whole lines
			text = strings.Join(cliapp.Wrap(text, screen-labels), "\n"+strings.Repeat(" ", labels))
		}
		c.Printf("%-*s%s\n", labels, name, text)
	}
	noLeader := leaderless(s)
	for _, l := range noLeader { // first: all that follows looks as it did when there was one
		line(l[0], "%s", l[1])
	}
	line("Cluster", "%s", s.ClusterName)
	line("Cluster ID", "%s", s.ClusterID)
	line("Version", "%s%s", s.Version, skew(s.Version))
	line("Replica", "%s (%s)", s.ServerID, s.State)
	if s.LeaderID != "" {
		line("Leader", "%s", s.LeaderID)
	} else {
		line("Leader", "none; last contact %s ago", time.Duration(s.Staleness).Round(time.Millisecond))
	}
	switch {
	case s.Ready && s.Audit != nil && s.Audit.Problem != "" && strings.Contains(s.Reason, s.Audit.Problem):
		line("Ready", "yes, but see \"Audit fault\"")
	case s.Ready && s.Reason != "": // it serves, and yet something is wrong: a full disk, say
		line("Ready", "yes, but %s", s.Reason)
	case s.Ready && len(noLeader) > 0:
		line("Ready", "yes, but see \"Fault\"")
	case s.Ready:
		line("Ready", "yes")
	default:
		line("Ready", "no: %s", s.Reason)
	}
	line("Log", "term %d, applied %d of %d", s.Term, s.AppliedIdx, s.CommitIndex)
	switch offset := time.Duration(s.ClockOffset).Round(time.Second); {
	case s.ClockSplit > 0:
		line("Clock", "the clocks of this replica and of others differ by %s, and nobody can tell which are wrong: set them", time.Duration(s.ClockSplit).Round(time.Second))
	case offset != 0:
		line("Clock", "%s off the other replicas", offset)
	}
	for _, l := range slices.Concat(auditState(s, time.Now()), certificateStates(s, time.Now()), reach) {
		line(l[0], "%s", l[1])
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
			line("CA pin", "%s", ca.Pin) // on one line, however long: scripts take its third word
		}
	}
	c.Printf("\n")
	printMembers(c, members(s))
}

// skew says that this tctl is of another version than the replica, which is one
// of the first things to look at when something is odd.
func skew(server string) string {
	if server == version {
		return ""
	}
	return fmt.Sprintf(" (this tctl: %s)", version)
}
