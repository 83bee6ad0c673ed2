package main

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

func ssoCommand() cliapp.Command {
	return cliapp.Command{
		Name: "sso", Usage: "write, try and list connectors: single sign-on",
		Description: "A connector leads to an identity provider, and says which of its people may log\nin, as what. Which one tsh and the login page take by default is in the cluster\nauth preference: 'tctl edit cap'.",
		Commands: []cliapp.Command{
			ssoConfigureCommand(),
			{
				Name: "test", Usage: "try a login with a connector, without saving anything", ArgsUsage: "[FILE]", MaxArgs: 1,
				Description: "Reads a connector from FILE, or standard input if there is none or it is -, prints\na link to open in any browser, and then what the identity provider said and what\nthe connector makes of it. Nobody is logged in. The status is 0 if somebody would\nhave been. With --format=json or yaml the link goes to standard error.",
				Examples:    []string{"tctl sso test github.yaml", "tctl sso configure github --id=ID --secret=@secret --teams-to-roles=octocats/devs=access | tctl sso test", "tctl sso test --connector=github"},
				Flags: []cliapp.Flag{
					{Name: "connector", Usage: "try the connector of this `NAME` that is there already", Complete: completeConnectors},
					formatFlag("text"),
				},
				Run: ssoTest,
			},
			{
				Name: "ls", Aliases: []string{"list"}, Usage: "list connectors, and where answers go to",
				Flags: []cliapp.Flag{formatFlag("text")}, Run: ssoList,
			},
		},
	}
}

// connectorLine is a connector in the list of them.
type connectorLine struct {
	Name     string `json:"name"`
	Kind     string `json:"kind"`
	Display  string `json:"display"`
	Default  bool   `json:"default"`
	Callback string `json:"callback_url"`           // redirect URL, or assertion consumer service
	Metadata string `json:"metadata_url,omitempty"` // SAML: of our side
}

func ssoList(ctx context.Context, c *cliapp.Call) error {
	return withReplica(c, func(r *replica) error {
		ping, err := r.Ping(ctx)
		if err != nil {
			return err
		}
		lines := []connectorLine{}
		for _, kind := range api.ConnectorKinds() {
			items, _, err := fetchSecret(ctx, r, ref{kind: kind}, false)
			if err != nil {
				return err
			}
			for _, item := range items {
				line, err := lineOf(item, ping)
				if err != nil {
					return err
				}
				lines = append(lines, line)
			}
		}
		slices.SortFunc(lines, func(a, b connectorLine) int { // as on the login page
			return cmp.Or(strings.Compare(strings.ToLower(a.Display), strings.ToLower(b.Display)), strings.Compare(a.Name, b.Name))
		})
		return show(c, lines, func() { printConnectors(c, lines) })
	})
}

func lineOf(item json.RawMessage, ping *api.Ping) (connectorLine, error) {
	doc, err := asConnector(item)
	if err != nil {
		return connectorLine{}, err
	}
	public := ping.Proxy.Kube.PublicAddr
	callback, paths := doc.Callback()
	line := connectorLine{Name: doc.Head().Metadata.Name, Kind: doc.ConnectorKind(), Display: doc.Display(), Callback: callback.Value}
	if line.Callback == "" {
		line.Callback = api.CallbackURL(public, paths[0])
	}
	if line.Kind == api.KindSAML {
		line.Metadata = api.CallbackURL(public, api.PathSAMLMetadata+"/"+line.Name)
	}
	line.Default = ping.Auth.Connector != nil && ping.Auth.Connector.Name == line.Name
	return line, nil
}

func printConnectors(c *cliapp.Call, lines []connectorLine) {
	if len(lines) == 0 {
		c.Printf("No connectors found\n")
		return
	}
	rows := make([][]string, len(lines))
	local := true
	for i, l := range lines {
		isDefault := ""
		if l.Default {
			isDefault, local = "*", false
		}
		rows[i] = []string{l.Name, l.Kind, isDefault, l.Display, l.Callback}
	}
	c.Table([]string{"Connector", "Kind", "Default", "Display", "Callback URL"}, rows)
	for i, l := range lines {
		if l.Metadata == "" {
			continue
		}
		if i == 0 || !slices.ContainsFunc(lines[:i], func(before connectorLine) bool { return before.Metadata != "" }) {
			c.Printf("\nMetadata of our side, for the identity providers of SAML:\n")
		}
		c.Printf("%s %s\n", l.Name, l.Metadata)
	}
	if local {
		c.Printf("\nThe default is the local login; 'tctl edit cap' changes that (spec.type, spec.connector_name).\n")
	}
}
