package main

import (
	"context"

	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/server"
)

func secretCommand() cliapp.Command {
	return cliapp.Command{
		Name:  "secret",
		Usage: "the secret that replicas share",
		Commands: []cliapp.Command{{
			Name:  "generate",
			Usage: "print a new cluster secret",
			Description: "Prints a line ID:BASE64 to keep in a file that every replica can read and nobody\n" +
				"else. To rotate, put a new line above the old ones: the first signs and seals,\n" +
				"all are accepted.",
			Examples: []string{"umask 077; sallyport secret generate > cluster-secret"},
			Run: func(_ context.Context, c *cliapp.Call) error {
				_, err := c.Stdout.Write(server.GenerateSecret())
				return err
			},
		}},
	}
}
