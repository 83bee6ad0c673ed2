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
	if doc.ConnectorKind() == api.KindGithub {
		return closestTeam(doc.Rows(), result.Identity.Teams)
	}
	return closestValue(doc.RowNoun(), doc.Rows(), result.Identity.Attributes)
}

// rowPath is where a row stands, for people.
func rowPath(r api.ConnectorRow) string { return strings.TrimPrefix(r.Path, "spec.") }

// closestTeam: a row's Name is an organization, its Value a team.
func closestTeam(rows []api.ConnectorRow, teams []api.GithubTeam) string {
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
		slugs := inOrganization[strings.ToLower(r.Name)]
		if client.Nearest(r.Value, slugs) != "" || client.Nearest(slug(r.Value), slugs) != "" {
			best = i // hardly anything comes closer
			break
		}
		if len(slugs) > 0 && best < 0 {
			best = i
		}
	}
	if best >= 0 {
		r := rows[best]
		slugs := inOrganization[strings.ToLower(r.Name)]
		text := fmt.Sprintf("%s came closest: it wants team %q of organization %q, where the person is in %s", rowPath(r), r.Value, r.Name, quotedList(slugs))
		if slices.Contains(slugs, slug(r.Value)) && slug(r.Value) != strings.ToLower(r.Value) {
			text += "; teams are written as in their addresses"
		}
		return text
	}
	var organizations []string
	for _, r := range rows {
		if !slices.Contains(organizations, r.Name) {
			organizations = append(organizations, r.Name)
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

func closestValue(noun string, rows []api.ConnectorRow, sent map[string][]string) string {
	if len(rows) == 0 {
		return ""
	}
	best, near := -1, ""
	for i, r := range rows {
		values, there := sent[r.Name]
		if !there {
			continue
		}
		if near = client.Nearest(r.Value, values); near != "" {
			best = i
			break
		}
		if best < 0 {
			best = i
		}
	}
	if best >= 0 {
		r := rows[best]
		text := fmt.Sprintf("%s came closest: it wants %s %q to be %q, which is %s", rowPath(r), noun, r.Name, r.Value, quotedList(sent[r.Name]))
		if near != "" && strings.EqualFold(near, r.Value) {
			text += "; upper and lower case count"
		}
		return text
	}
	names := slices.Sorted(maps.Keys(sent))
	for _, r := range rows {
		if near := client.Nearest(r.Name, names); near != "" {
			return fmt.Sprintf("%s came closest: it wants %s %q, which was not sent; %q was", rowPath(r), noun, r.Name, near)
		}
	}
	var wanted []string
	for _, r := range rows {
		if !slices.Contains(wanted, r.Name) {
			wanted = append(wanted, r.Name)
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
