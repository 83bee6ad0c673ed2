package main

import (
	"context"
	"os"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/client"
	"github.com/sallyport-dev/sallyport/internal/client/profile"
)

// method is by what somebody logs in: a connector, or api.AuthLocal.
type method struct {
	name, kind string
	asked      bool // --auth, the environment or the settings say so
}

func (m method) sso() bool { return m.name != api.AuthLocal }

// chooseMethod is what was asked for; else the connector of the last login here, as
// --user is the last one's; else what the cluster prefers.
func chooseMethod(ctx context.Context, c *cliapp.Call, web *client.Client, ping *api.Ping, proxy string, old *profile.Profile) (method, error) {
	local, preferred := method{name: api.AuthLocal}, ping.Auth.Connector
	switch asked := c.String("auth"); {
	case asked == api.AuthLocal:
		return method{name: asked, asked: true}, nil
	case asked != "":
		return askedMethod(ctx, c, web, ping, proxy, asked)
	}
	if old != nil && old.SSO() && asUser(c, old) {
		for _, known := range ping.Auth.Connectors {
			if known.Name == old.Connector {
				c.Notef("Logging in with %s, as last time.", connectorText(&known))
				return method{name: known.Name, kind: known.Kind}, nil
			}
		}
	}
	if preferred == nil || ping.Auth.Type == api.AuthLocal {
		return local, nil
	}
	c.Notef("Logging in with %s, the default of %s. As a local user instead:\n  %s", connectorText(preferred), proxy, localLine(proxy))
	return method{name: preferred.Name, kind: preferred.Kind}, nil
}

// askedMethod asks the cluster about a connector, by the name that somebody gave.
func askedMethod(ctx context.Context, c *cliapp.Call, web *client.Client, ping *api.Ping, proxy, name string) (method, error) {
	over := waitingFor(c, proxy)
	answer, err := web.PingConnector(ctx, name)
	over()
	switch {
	case api.IsCode(err, api.CodeNotFound):
		return method{}, noConnector(c, proxy, name, ping.Auth.Connectors)
	case err != nil:
		return method{}, err
	case answer.Auth.Connector == nil || answer.Auth.Connector.Name != name:
		return method{}, api.Errorf(api.CodeInternal, "%s was asked about the connector %q and answers about another", proxy, name)
	}
	return method{name: name, kind: answer.Auth.Connector.Kind, asked: true}, nil
}

// noConnector is the refusal of a name that no connector has.
func noConnector(c *cliapp.Call, proxy, name string, known []api.PingConnector) error {
	source := ""
	if !c.Typed("auth") {
		source = " (" + c.Source("auth") + ")"
	}
	names := connectorNames(known)
	if len(names) == 0 {
		return api.Errorf(api.CodeNotFound, "%s has no connector %q%s, nor any other: log in as a local user with --auth=local --user=NAME", proxy, name, source)
	}
	near := client.Nearest(name, names)
	if near != "" {
		near = ", did you mean --auth=" + api.ShellQuote(near) + "?"
	}
	for i := range names {
		names[i] = "--auth=" + api.ShellQuote(names[i])
	}
	return api.Errorf(api.CodeNotFound, "%s has no connector %q%s%s\nThere are %s, and --auth=local for local users.", proxy, name, source, near, strings.Join(names, ", "))
}

// maxConnectors is how many connectors a login notes and a message lists.
const maxConnectors = 50

func connectorNames(known []api.PingConnector) []string {
	var names []string
	for _, k := range known[:min(len(known), maxConnectors)] {
		if api.ValidateName("connector", k.Name) == nil {
			names = append(names, k.Name)
		}
	}
	return names
}

func completeAuth(c *cliapp.Call) []string {
	_, p, err := openProfile(c)
	if err != nil || len(p.Connectors) == 0 {
		return nil
	}
	return append(p.Connectors, api.AuthLocal)
}

// connectorText is a connector as people know it, and as they type it.
func connectorText(k *api.PingConnector) string {
	typed := "--auth=" + api.ShellQuote(k.Name)
	if display := api.CleanText(k.Display, maxDisplay); display != "" {
		return display + " (" + typed + ")"
	}
	return typed
}

// fits says whether a login is the one that was asked for.
func fits(c *cliapp.Call, p *profile.Profile) bool {
	return asUser(c, p) && (!c.IsSet("auth") || c.String("auth") == p.Auth())
}

// asUser says whether --user allows a login. Where it is kept for all logins, it
// is the name of the local user: an identity provider names people its own way.
func asUser(c *cliapp.Call, p *profile.Profile) bool {
	return !c.IsSet("user") || c.String("user") == p.User || p.SSO() && !c.Typed("user")
}

func localLine(proxy string) string { return profile.LoginLine(proxy, api.AuthLocal, "NAME") }

// maxDisplay is how much of a connector's display name is shown.
const maxDisplay = 64

// maxHost is how much of a machine's name is told: servers show 64 bytes of it and
// of the command.
const maxHost = 40

// device is what this machine calls itself, with the command, for the page on which
// somebody approves it.
func device(command string) string {
	host, err := os.Hostname()
	if err != nil {
		host = ""
	}
	return deviceText(host, command)
}

func deviceText(host, command string) string {
	host = api.CleanText(host, maxHost)
	if host == "" {
		return command
	}
	return host + " (" + command + ")"
}
