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
		}, {
			Name:  "ensure",
			Usage: "make a Kubernetes Secret with a new cluster secret, if it is not there",
			Description: "Runs in a pod, before the replicas that mount the Secret. One that is there is\n" +
				"never changed: if there is no cluster secret in it, that is an error. It may run\n" +
				"again, and several at once. The pod's service account needs the rights to create\n" +
				"secrets in the namespace, and to get this one.",
			Examples: []string{"sallyport secret ensure --secret=sallyport-cluster-secret"},
			Flags: []cliapp.Flag{
				{Name: "secret", Usage: "the Secret is called `NAME`"},
				{Name: "namespace", Usage: "in the namespace `NAME`; default: the pod's"},
				{Name: "key", Usage: "the cluster secret is under `KEY` in it", Default: server.DefaultSecretKey},
			},
			Run: ensureSecret,
		}},
	}
}

func ensureSecret(ctx context.Context, c *cliapp.Call) error {
	made, namespace, err := server.EnsureSecret(ctx, server.EnsureSecretOptions{
		Name: c.String("secret"), Namespace: c.String("namespace"), Key: c.String("key"),
	})
	if err != nil {
		return err
	}
	text := "The Secret %s/%s is there already, with a cluster secret in %s: nothing was changed.\n"
	if made {
		text = "Made the Secret %s/%s with a new cluster secret in %s. Keep a copy of it apart from backups: without it they can't be opened.\n"
	}
	c.Printf(text, namespace, c.String("secret"), c.String("key"))
	return nil
}
