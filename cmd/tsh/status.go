package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/client/profile"
)

func formatFlag() cliapp.Flag {
	return cliapp.Flag{Name: "format", Usage: "print the answer as `FORMAT`", Values: []string{"text", "json"}, Default: "text"}
}

func writeJSON(c *cliapp.Call, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	// What Clean spells out is the same text as an escape of JSON.
	_, err = io.WriteString(c.Stdout, cliapp.Clean(string(b))+"\n")
	return err
}

func statusCommand() cliapp.Command {
	return cliapp.Command{
		Name: "status", Usage: "show who you are logged in as, and until when", Flags: []cliapp.Flag{formatFlag()},
		Run: func(_ context.Context, c *cliapp.Call) error {
			_, p, err := openProfile(c)
			if err != nil {
				return err
			}
			if c.String("format") == "json" {
				err = printStatusJSON(c, p)
			} else {
				err = printStatus(c, p)
			}
			if err == nil && !p.Valid(time.Now()) {
				err = expired(p)
			}
			return err
		},
	}
}

// statusJSON is what scripts see of a login: never its key.
type statusJSON struct {
	Proxy       string    `json:"proxy"`
	User        string    `json:"user"`
	ClusterName string    `json:"cluster_name"`
	Roles       []string  `json:"roles"`
	KubeGroups  []string  `json:"kubernetes_groups"`
	KubeUsers   []string  `json:"kubernetes_users"`
	KubeCluster string    `json:"kubernetes_cluster"`
	ValidUntil  time.Time `json:"valid_until"`
	Expired     bool      `json:"expired"`
}

func printStatusJSON(c *cliapp.Call, p *profile.Profile) error {
	selected, err := selectedCluster(p)
	if err != nil {
		return err
	}
	return writeJSON(c, statusJSON{
		Proxy: p.Proxy, User: p.User, ClusterName: p.ClusterName, Roles: p.Roles, KubeGroups: p.KubeGroups, KubeUsers: p.KubeUsers,
		KubeCluster: selected, ValidUntil: p.NotAfter, Expired: !p.Valid(time.Now()),
	})
}

func printStatus(c *cliapp.Call, p *profile.Profile) error {
	selected, err := selectedCluster(p)
	if err != nil {
		return err
	}
	line := func(name, value string) { c.Printf("  %-19s %s\n", name+":", value) }
	list := func(name string, values []string) {
		if len(values) > 0 {
			line(name, strings.Join(values, ", "))
		}
	}
	c.Printf("> %-19s https://%s\n", "Profile URL:", p.Proxy)
	line("Logged in as", p.User)
	line("Cluster", p.ClusterName)
	list("Roles", p.Roles)
	line("Kubernetes", "enabled")
	if selected != "" {
		line("Kubernetes cluster", fmt.Sprintf("%q", selected))
	}
	list("Kubernetes users", p.KubeUsers)
	list("Kubernetes groups", p.KubeGroups)
	left := "EXPIRED"
	if now := time.Now(); p.Valid(now) {
		left = "valid for " + p.NotAfter.Sub(now).Round(time.Minute).String()
	}
	line("Valid until", p.NotAfter.Local().Format("2006-01-02 15:04:05 -0700 MST")+" ["+left+"]")
	return nil
}
