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

// way is by what somebody logs in: a connector, or api.AuthLocal.
type way struct {
	name, kind string
	asked      bool // --auth, the environment or the settings say so
}

func (w way) sso() bool { return w.name != api.AuthLocal }

// chooseWay is what was asked for; else the connector of the last login here, as
// --user is the last one's; else what the cluster prefers.
func chooseWay(ctx context.Context, c *cliapp.Call, web *client.Client, ping *api.Ping, proxy string, old *profile.Profile) (way, error) {
	local, preferred := way{name: api.AuthLocal}, ping.Auth.Connector
	switch asked := c.String("auth"); {
	case asked == api.AuthLocal:
		return way{name: asked, asked: true}, nil
	case asked != "":
		return askedWay(ctx, c, web, ping, proxy, asked)
	}
	if old != nil && old.SSO() && (!c.IsSet("user") || c.String("user") == old.User) {
		for _, known := range ping.Auth.Connectors {
			if known.Name == old.Connector {
				c.Notef("Logging in by the connector %q, as last time.", known.Name)
				return way{name: known.Name, kind: known.Kind}, nil
			}
		}
	}
	if preferred == nil || ping.Auth.Type == api.AuthLocal {
		return local, nil
	}
	c.Notef("Logging in by the connector %q, the default of %s. As a local user instead:\n  %s", preferred.Name, proxy, localLine(proxy))
	return way{name: preferred.Name, kind: preferred.Kind}, nil
}

// askedWay asks the cluster about a connector, by the name that somebody gave.
func askedWay(ctx context.Context, c *cliapp.Call, web *client.Client, ping *api.Ping, proxy, name string) (way, error) {
	over := waitingFor(c, proxy)
	answer, err := web.PingConnector(ctx, name)
	over()
	switch {
	case api.IsCode(err, api.CodeNotFound):
		return way{}, noConnector(c, proxy, name, ping.Auth.Connectors)
	case err != nil:
		return way{}, err
	case answer.Auth.Connector == nil || answer.Auth.Connector.Name != name:
		return way{}, api.Errorf(api.CodeInternal, "%s was asked about the connector %q and answers about another", proxy, name)
	}
	return way{name: name, kind: answer.Auth.Connector.Kind, asked: true}, nil
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

// authOf is the --auth by which a login came about.
func authOf(p *profile.Profile) string {
	if p.SSO() {
		return p.Connector
	}
	return api.AuthLocal
}

// fits says whether a login is the one that was asked for.
func fits(c *cliapp.Call, p *profile.Profile) bool {
	return (!c.IsSet("user") || c.String("user") == p.User) && (!c.IsSet("auth") || c.String("auth") == authOf(p))
}

// loginLine is the command to type. With a connector, who somebody is comes from there.
func loginLine(proxy, auth, user string) string {
	line := "tsh login --proxy=" + api.ShellQuote(proxy)
	if auth != "" {
		line += " --auth=" + api.ShellQuote(auth)
	}
	if user != "" {
		line += " --user=" + api.ShellQuote(user)
	}
	return line
}

func localLine(proxy string) string { return loginLine(proxy, api.AuthLocal, "NAME") }

// againLine is the command to log in as before.
func againLine(p *profile.Profile) string {
	if p.SSO() {
		return loginLine(p.Proxy, p.Connector, "")
	}
	return loginLine(p.Proxy, p.Connector, p.User)
}

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
