package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/client"
)

// closest says which row of a mapping came closest to somebody for whom there is
// none, and what is missing; "": there is nothing to say.
func closest(doc api.Connector, result *api.SSOTestResult) string {
	if doc == nil || result.Identity == nil || result.Mapping != nil && len(result.Mapping.Roles) > 0 {
		return ""
	}
	switch d := doc.(type) {
	case *api.GithubConnector:
		return closestTeam(d, result.Identity.Teams)
	case *api.OIDCConnector:
		rows := make([]valueRow, len(d.Spec.ClaimsToRoles))
		for i, r := range d.Spec.ClaimsToRoles {
			rows[i] = valueRow{r.Claim, r.Value}
		}
		return closestValue("claim", "claims_to_roles", rows, result.Identity.Attributes)
	case *api.SAMLConnector:
		rows := make([]valueRow, len(d.Spec.AttributesToRoles))
		for i, r := range d.Spec.AttributesToRoles {
			rows[i] = valueRow{r.Name, r.Value}
		}
		return closestValue("attribute", "attributes_to_roles", rows, result.Identity.Attributes)
	}
	return ""
}

// teamRow is a team that a mapping names, and where it does.
type teamRow struct{ path, organization, team string }

func teamRows(d *api.GithubConnector) []teamRow {
	var rows []teamRow
	for i, r := range d.Spec.TeamsToLogins {
		rows = append(rows, teamRow{fmt.Sprintf("teams_to_logins[%d]", i), r.Organization, r.Team})
	}
	for i, r := range d.Spec.TeamsToRoles {
		rows = append(rows, teamRow{fmt.Sprintf("teams_to_roles[%d]", i), r.Organization, r.Team})
	}
	return rows
}

func closestTeam(d *api.GithubConnector, teams []api.GithubTeam) string {
	rows := teamRows(d)
	if len(rows) == 0 {
		return ""
	}
	inOrganization := map[string][]string{} // slugs by the lower-case name
	for _, t := range teams {
		name := strings.ToLower(t.Organization)
		inOrganization[name] = append(inOrganization[name], t.Slug)
	}
	best := -1
	for i, r := range rows {
		slugs := inOrganization[strings.ToLower(r.organization)]
		if client.Nearest(r.team, slugs) != "" || client.Nearest(slug(r.team), slugs) != "" {
			best = i // hardly anything comes closer
			break
		}
		if len(slugs) > 0 && best < 0 {
			best = i
		}
	}
	if best >= 0 {
		r := rows[best]
		slugs := inOrganization[strings.ToLower(r.organization)]
		text := fmt.Sprintf("%s came closest: it wants team %q of organization %q, where the person is in %s", r.path, r.team, r.organization, quotedList(slugs))
		if slices.Contains(slugs, slug(r.team)) && slug(r.team) != strings.ToLower(r.team) {
			text += "; teams are written as in their addresses"
		}
		return text
	}
	var organizations []string
	for _, r := range rows {
		if !slices.Contains(organizations, r.organization) {
			organizations = append(organizations, r.organization)
		}
	}
	return fmt.Sprintf("GitHub shows no team of %s: is the person a member, and does the organization let this OAuth app see that (Settings, Third-party Access)?", quotedList(organizations))
}

// slug is what GitHub makes of the name of a team, roughly.
func slug(name string) string {
	return strings.Join(strings.FieldsFunc(strings.ToLower(name), func(r rune) bool {
		return ('a' > r || r > 'z') && ('0' > r || r > '9')
	}), "-")
}

// valueRow is a claim or attribute that a mapping wants, and its value.
type valueRow struct{ name, value string }

func closestValue(noun, field string, rows []valueRow, sent map[string][]string) string {
	if len(rows) == 0 {
		return ""
	}
	best, near := -1, ""
	for i, r := range rows {
		values, there := sent[r.name]
		if !there {
			continue
		}
		if near = client.Nearest(r.value, values); near != "" {
			best = i
			break
		}
		if best < 0 {
			best = i
		}
	}
	if best >= 0 {
		r := rows[best]
		text := fmt.Sprintf("%s[%d] came closest: it wants %s %q to be %q, which is %s", field, best, noun, r.name, r.value, quotedList(sent[r.name]))
		if near != "" && strings.EqualFold(near, r.value) {
			text += "; upper and lower case count"
		}
		return text
	}
	names := slices.Sorted(maps.Keys(sent))
	for i, r := range rows {
		if near := client.Nearest(r.name, names); near != "" {
			return fmt.Sprintf("%s[%d] came closest: it wants %s %q, which was not sent; %q was", field, i, noun, r.name, near)
		}
	}
	var wanted []string
	for _, r := range rows {
		if !slices.Contains(wanted, r.name) {
			wanted = append(wanted, r.name)
		}
	}
	text := fmt.Sprintf("no row came close: the identity provider did not send %s %s, but %s", noun, quotedList(wanted), quotedList(names))
	if noun == "claim" {
		text += "; does it want another scope (spec.scope) for it?"
	}
	return text
}

// maxQuoted bounds lists in messages: somebody may be in hundreds of groups.
const maxQuoted = 8

func quotedList(values []string) string {
	if len(values) == 0 {
		return "nothing"
	}
	var out []string
	for i, v := range values {
		if i == maxQuoted {
			out = append(out, fmt.Sprintf("%d more", len(values)-i))
			break
		}
		out = append(out, fmt.Sprintf("%q", v))
	}
	return strings.Join(out, ", ")
}
