package main

import (
	"context"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

// exported are the certificates of an authority, as JSON and YAML have them.
type exported struct {
	Type         string   `json:"type"`
	Certificates []string `json:"certificates"` // PEM, the active one first
}

func authCommand() cliapp.Command {
	return cliapp.Command{
		Name: "auth", Usage: "the cluster's authorities, and certificates they sign",
		Commands: []cliapp.Command{signCommand(), {
			Name: "export", Usage: "print the certificates of an authority (PEM)",
			Description: "The host CA signs what replicas show to kubectl and tsh; the user CA signs what\npeople show to replicas, the agent CA what agents show them. Private keys never\nleave the cluster. tls-host and tls-user are host and user by Teleport's names.",
			Examples:    []string{"tctl auth export --type=host > host-ca.pem", "tsh login --proxy=tele.example.com --user=alice --ca-file=host-ca.pem"},
			Flags: []cliapp.Flag{
				{Name: "type", Usage: "print the authority of `TYPE`", Values: []string{"host", "user", "agent", "tls-host", "tls-user"}, Default: "host"},
				formatFlag("text"),
			},
			Run: func(ctx context.Context, c *cliapp.Call) error {
				return withReplica(c, func(r *replica) error { return export(ctx, c, r) })
			},
		}},
	}
}

func export(ctx context.Context, c *cliapp.Call, r *replica) error {
	cas, err := r.Authorities(ctx)
	if err != nil {
		return err
	}
	out := exported{Type: strings.TrimPrefix(c.String("type"), "tls-"), Certificates: []string{}}
	certs := cas.Host
	switch out.Type {
	case "user":
		certs = cas.User
	case "agent":
		if certs = cas.Agent; len(certs) == 0 {
			return api.Errorf(api.CodeUnavailable, "the cluster has no agent CA yet: it makes one once all its replicas run this version")
		}
	}
	for _, pem := range certs {
		out.Certificates = append(out.Certificates, string(pem))
	}
	return show(c, out, func() {
		for _, pem := range out.Certificates {
			c.Printf("%s", pem)
		}
	})
}
