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
				"else. Of several lines the first signs and seals, and all are accepted. To rotate,\n" +
				"put a new line below the old one on every replica and restart them one by one; then\n" +
				"move it to the top in the same way; then take the old one out.",
			Examples: []string{"umask 077; sallyport secret generate > cluster-secret"},
			Run: func(_ context.Context, c *cliapp.Call) error {
				_, err := c.Stdout.Write(server.GenerateSecret())
				return err
			},
		}},
	}
}
