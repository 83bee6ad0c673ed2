package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/client/profile"
)

func statusCommand() cliapp.Command {
	return cliapp.Command{
		Name: "status", Usage: "show who you are logged in as, and until when",
		Description: "The login that commands use comes first, marked >, then those at other\n" +
			"clusters. The exit status is 3 if you are not logged in, or if the first has\n" +
			"expired.",
		Flags: []cliapp.Flag{formatFlag()},
		Run:   status,
	}
}

func status(_ context.Context, c *cliapp.Call) error {
	store, proxy, missing := openStore(c)
	var active *profile.Profile
	if missing == nil {
		active, missing = store.Load(proxy)
	}
	if missing != nil && !api.IsCode(missing, api.CodeUnauthenticated) {
		return missing
	}
	others, damaged, err := store.List()
	if err != nil {
		return err
	}
	if active != nil {
		others = slices.DeleteFunc(others, func(p *profile.Profile) bool { return p.Proxy == active.Proxy })
	}
	if c.String("format") == "text" {
		printAll(c, active, others)
	} else {
		err = show(c, statusDocument(c, active, others), nil)
	}
	for _, proxy := range slices.Sorted(maps.Keys(damaged)) {
		if (active == nil || proxy != active.Proxy) && !scripted(c) {
			c.Warnf("%v", damaged[proxy])
		}
	}
	switch {
	case err != nil:
		return err
	case active != nil && !active.Valid(time.Now()):
		return expired(active)
	case active == nil && len(others) > 0 && c.String("proxy") == "":
		return api.Errorf(api.CodeUnauthenticated, "none of these logins is in use: choose one, such as '%s'", others[0].LoginLine())
	}
	return missing
}

// statusJSON is what scripts see of a login: never its key.
type statusJSON struct {
	Proxy       string    `json:"proxy"`
	User        string    `json:"user"`
	Connector   string    `json:"connector"` // or "local"
	ClusterName string    `json:"cluster_name"`
	Roles       []string  `json:"roles"`
	KubeGroups  []string  `json:"kubernetes_groups"`
	KubeUsers   []string  `json:"kubernetes_users"`
	KubeCluster string    `json:"kubernetes_cluster"`
	CAPin       string    `json:"ca_pin,omitempty"`
	ValidUntil  time.Time `json:"valid_until"`
	Expired     bool      `json:"expired"`
}

// statusesJSON is all logins.
type statusesJSON struct {
	Active   *statusJSON  `json:"active"`
	Profiles []statusJSON `json:"profiles"` // the others
}

func statusDocument(c *cliapp.Call, active *profile.Profile, others []*profile.Profile) statusesJSON {
	out := statusesJSON{Profiles: []statusJSON{}}
	selected := selectedClusters(c)
	if active != nil {
		s := statusOf(active, selected(active))
		out.Active = &s
	}
	for _, p := range others {
		out.Profiles = append(out.Profiles, statusOf(p, selected(p)))
	}
	return out
}

func statusOf(p *profile.Profile, selected string) statusJSON {
	return statusJSON{
		Proxy: p.Proxy, User: p.User, Connector: p.Auth(), ClusterName: p.ClusterName,
		Roles: orEmpty(p.Roles), KubeGroups: orEmpty(p.KubeGroups), KubeUsers: orEmpty(p.KubeUsers),
		KubeCluster: selected, CAPin: p.CAPin, ValidUntil: p.NotAfter, Expired: !p.Valid(time.Now()),
	}
}

// orEmpty makes JSON say [] rather than null: scripts iterate.
func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

func printAll(c *cliapp.Call, active *profile.Profile, others []*profile.Profile) {
	selected := selectedClusters(c)
	if active != nil {
		printStatus(c, active, selected(active), true)
	}
	for i, p := range others {
		if active != nil || i > 0 {
			c.Printf("\n")
		}
		printStatus(c, p, selected(p), false)
	}
}

// printStatus shows a login; mark is for the one that commands use.
func printStatus(c *cliapp.Call, p *profile.Profile, selected string, mark bool) {
	line := func(name, value string) { c.Printf("  %-19s %s\n", name+":", value) }
	list := func(name string, values []string) {
		if len(values) > 0 {
			line(name, strings.Join(values, ", "))
		}
	}
	if mark {
		c.Printf("> %-19s https://%s\n", "Profile URL:", p.Proxy)
	} else {
		line("Profile URL", "https://"+p.Proxy)
	}
	line("Logged in as", p.User)
	if p.SSO() {
		line("Connector", p.Connector)
	}
	line("Cluster", p.ClusterName)
	list("Roles", p.Roles)
	line("Kubernetes", "enabled")
	if selected != "" {
		line("Kubernetes cluster", fmt.Sprintf("%q", selected))
	}
	list("Kubernetes users", p.KubeUsers)
	list("Kubernetes groups", p.KubeGroups)
	line("Valid until", p.NotAfter.Local().Format("2006-01-02 15:04:05 -0700 MST")+" ["+remaining(p, time.Now())+"]")
}

func remaining(p *profile.Profile, now time.Time) string {
	left := p.NotAfter.Sub(now)
	switch {
	case !p.Valid(now):
		return "EXPIRED"
	case left < 2*time.Minute:
		return "valid for " + left.Round(time.Second).String()
	default:
		return "valid for " + left.Round(time.Minute).String()
	}
}
