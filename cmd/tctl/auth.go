package main

import (
	"context"

	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

func authCommand() cliapp.Command {
	return cliapp.Command{
		Name: "auth", Usage: "the cluster's certificate authorities",
		Commands: []cliapp.Command{{
			Name: "export", Usage: "print the certificates of an authority (PEM)",
			Description: "The host CA signs what replicas show to kubectl and tsh; the user CA signs what people show to replicas.\n" +
				"Private keys never leave the cluster.",
			Examples: []string{"tctl auth export --type=host > host-ca.pem", "tsh login --proxy=tele.example.com --user=alice --ca-file=host-ca.pem"},
			Flags: []cliapp.Flag{
				{Name: "type", Usage: "print the authority of `TYPE`", Values: []string{"host", "user"}, Default: "host"},
			},
			Run: func(ctx context.Context, c *cliapp.Call) error {
				cas, err := connect(c).Authorities(ctx)
				if err != nil {
					return err
				}
				certs := cas.Host
				if c.String("type") == "user" {
					certs = cas.User
				}
				for _, pem := range certs {
					if _, err := c.Stdout.Write(pem); err != nil {
						return err
					}
				}
				return nil
			},
		}},
	}
}
