package github

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/sso"
)

// maxProbes keeps far below the 60 requests an hour of who has not logged in.
const maxProbes = 20

// loginPattern is how organizations are called; nothing else goes into an address.
var loginPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$`)

// Probe asks for the ids of the organizations that the document names. It fails for a
// document without usable addresses alone: an organization whose id is not found gets
// it at the first login of one of its members, and a warning now.
func Probe(ctx context.Context, doc *api.GithubConnector, o sso.Options) (facts api.ConnectorFacts, warnings []string, err error) {
	_, base, err := endpoints(doc)
	if err != nil {
		return facts, nil, err
	}
	c := newCaller(base, o)
	for i, name := range doc.Organizations() {
		if i == maxProbes {
			warnings = append(warnings, fmt.Sprintf("the document names more than %d organizations: the ids of the others are taken from the first logins of their members", maxProbes))
			break
		}
		id, err := c.organization(ctx, name)
		if err != nil {
			warnings = append(warnings, fmt.Sprintf("the id of the organization %q is not known yet, and is taken from the first login of one of its members: %v", name, err))
			if api.IsCode(err, api.CodeUnavailable) || errors.Is(err, errMoved) {
				break // the others would be no better off
			}
			continue
		}
		if facts.Organizations == nil {
			facts.Organizations = map[string]int64{}
		}
		facts.Organizations[name] = id
	}
	return facts, warnings, nil
}

func (c *caller) organization(ctx context.Context, name string) (int64, error) {
	if !loginPattern.MatchString(name) {
		return 0, api.Errorf(api.CodeInvalid, "that is no name of an organization")
	}
	u := c.base.JoinPath("orgs", name)
	body, _, err := c.get(ctx, u, secret{})
	if err != nil {
		if api.IsCode(err, api.CodeForbidden) && !errors.Is(err, errMoved) {
			return 0, api.Errorf(api.CodeNotFound, "%s shows none of that name to strangers", c.base.Host)
		}
		return 0, err
	}
	org, err := parseAccount(body)
	if err != nil {
		return 0, c.broken(u, err)
	}
	if !strings.EqualFold(org.Login, name) {
		return 0, api.Errorf(api.CodeNotFound, "%s answers with another organization", c.base.Host)
	}
	return org.ID, nil
}
