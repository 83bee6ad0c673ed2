package main

import (
	"context"
	"time"

	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

func kubeCommand() cliapp.Command {
	return cliapp.Command{
		Name: "kube", Usage: "list Kubernetes clusters and switch between them",
		Commands: []cliapp.Command{
			{
				Name: "ls", Aliases: []string{"list"}, Usage: "list the Kubernetes clusters you may reach",
				Description: "The one that kubectl uses is marked *. -v shows how each does, with the reason\nwhere it can't be used.",
				Examples:    []string{"tsh kube ls -v", "tsh kube ls --labels=env=prod,region='eu-*'", `tsh kube ls --query='labels["env"] == "prod" && health != "offline"'`},
				Flags: append([]cliapp.Flag{
					{Name: "all", Kind: cliapp.Bool, Usage: "of all logins"},
					{Name: "verbose", Aliases: []string{"v"}, Kind: cliapp.Bool, Usage: "show version, labels and health, too"},
				}, append(selectFlags("list"), formatFlag())...),
				Run: kubeList,
			},
			{
				Name: "login", Usage: "point kubectl at a Kubernetes cluster", ArgsUsage: "[NAME]", MaxArgs: 1,
				Description: "With --all, kubectl stays where it is, and the kubeconfig gets a context for\neach cluster you may reach; with --labels or --query for those alone, now and at\nlogins to come, until the next --all.",
				Examples:    []string{"tsh kube login cookie", "tsh kube login --all", "tsh kube login --all --labels=env=prod"},
				Flags: append([]cliapp.Flag{
					{Name: "all", Kind: cliapp.Bool, Usage: "write contexts, and switch to none"},
				}, append(selectFlags("write contexts of"), cliapp.Flag{
					Name: "set-context-name", Usage: "call contexts by `TEMPLATE` from now on, made of {{.KubeName}} and {{.ClusterName}}; at first " + defaultContextName,
				})...),
				Complete: func(c *cliapp.Call) []string {
					if _, p, err := openProfile(c); err == nil {
						return p.KubeClusters
					}
					return nil
				},
				Run: kubeLogin,
			},
			{
				Name: "credentials", Usage: "print the certificate for kubectl, which runs this by itself", Hidden: true,
				Flags: []cliapp.Flag{{Name: "kube-cluster", Usage: "the Kubernetes cluster called `NAME`"}},
				Run:   kubeCredentials,
			},
		},
	}
}

// kubeCredentials answers kubectl (client.authentication.k8s.io/v1). It runs
// before almost every request: it reads one file, takes no lock, asks no network.
func kubeCredentials(_ context.Context, c *cliapp.Call) error {
	_, p, err := openProfile(c)
	if err != nil {
		return err
	}
	if !p.Valid(time.Now()) {
		return expired(p)
	}
	type status struct {
		Expiration string `json:"expirationTimestamp"`
		Cert       string `json:"clientCertificateData"`
		Key        string `json:"clientKeyData"`
	}
	return c.JSON(struct {
		Kind       string   `json:"kind"`
		APIVersion string   `json:"apiVersion"`
		Spec       struct{} `json:"spec"`
		Status     status   `json:"status"`
	}{
		Kind: "ExecCredential", APIVersion: "client.authentication.k8s.io/v1",
		Status: status{p.Expires().UTC().Format(time.RFC3339), p.Cert, p.Key},
	})
}

// selectFlags pick some of the clusters; verb says what for.
func selectFlags(verb string) []cliapp.Flag {
	return []cliapp.Flag{
		{Name: "labels", Kind: cliapp.Strings, Usage: verb + " clusters with these labels, `KEY=VALUE` each; * in a value is any text, ^…$ a regular expression, with commas of its own"},
		{Name: "query", Usage: verb + " clusters of which `EXPRESSION` is true, made of name, labels[\"KEY\"], health and version, ==, !=, &&, ||, ! and hasPrefix, search, exists, equals"},
	}
}
