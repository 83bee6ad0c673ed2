package github

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"path"
	"strings"
	"unicode"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/sso"
)

// account is a person or an organization (docs.github.com, "REST API endpoints for
// users"); it holds what is needed of it alone.
type account struct {
	ID    int64  `json:"id"`
	Login string `json:"login"`
}

func (a *account) check() error {
	switch {
	case a.ID <= 0:
		return errors.New("an id is missing, or no positive number")
	case !plain(a.Login):
		return errors.New("a login is missing, or is no name")
	}
	return nil
}

// plain says whether something can be the name of an account, or the slug of a team.
func plain(name string) bool {
	return sso.Readable(name) && !strings.ContainsFunc(name, func(r rune) bool { return r == '/' || unicode.IsSpace(r) })
}

func parseAccount(body []byte) (*account, error) {
	var a account
	if err := decode(body, &a); err != nil {
		return nil, err
	}
	return &a, a.check()
}

// parseTeams reads a page of GET /user/teams. Teams whose names can't be are left out:
// no document names them. A number that can't be spoils the page.
func parseTeams(body []byte) ([]api.GithubTeam, error) {
	var page []struct {
		Slug         string   `json:"slug"`
		Organization *account `json:"organization"`
	}
	if err := decode(body, &page); err != nil {
		return nil, err
	}
	if len(page) > pageSize {
		return nil, fmt.Errorf("a page holds %d teams", len(page))
	}
	var teams []api.GithubTeam
	for _, t := range page {
		if t.Organization == nil || t.Organization.ID <= 0 {
			return nil, errors.New("a team has no organization, or one without a positive id")
		}
		if !plain(t.Slug) || !plain(t.Organization.Login) {
			continue
		}
		teams = append(teams, api.GithubTeam{Organization: t.Organization.Login, OrganizationID: t.Organization.ID, Slug: t.Slug})
	}
	return teams, nil
}

// parseOrgs reads a page of GET /user/orgs.
func parseOrgs(body []byte) ([]string, error) {
	var page []account
	if err := decode(body, &page); err != nil {
		return nil, err
	}
	if len(page) > pageSize {
		return nil, fmt.Errorf("a page holds %d organizations", len(page))
	}
	var logins []string
	for _, o := range page {
		if o.ID <= 0 {
			return nil, errors.New("an organization has no positive id")
		}
		if plain(o.Login) {
			logins = append(logins, o.Login)
		}
	}
	return logins, nil
}

// decode says where JSON is broken, but nothing of what it holds. null is no list and
// no account, though encoding/json takes it for either.
func decode(body []byte, into any) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch err := json.Unmarshal(body, into); {
	case err == nil && strings.TrimSpace(string(body)) == "null":
		return errors.New("it is null")
	case err == nil:
		return nil
	case errors.As(err, &syntax):
		return fmt.Errorf("it is no JSON, or breaks off, at byte %d", syntax.Offset)
	case errors.As(err, &kind):
		return fmt.Errorf("the JSON at byte %d is of another kind than it should be", kind.Offset)
	default:
		return errors.New("it is no JSON that can be read")
	}
}

// maxLink bounds the header that names other pages.
const maxLink = 16 << 10

// nextPage is the address with rel="next" of Link headers (RFC 8288), or nil. It must
// be one of the API: it is asked with the token.
func nextPage(base *url.URL, headers []string) (*url.URL, error) {
	all := strings.Join(headers, ",")
	if len(all) > maxLink {
		return nil, errors.New("the addresses of its pages are too long")
	}
	for rest := all; ; {
		_, after, found := strings.Cut(rest, "<")
		if !found {
			return nil, nil
		}
		target, after, found := strings.Cut(after, ">")
		if !found {
			return nil, errors.New("the addresses of its pages can't be read")
		}
		// Up to the next link: GitHub's parameters hold no < of their own.
		params, _, _ := strings.Cut(after, "<")
		rest = after
		if !isNext(params) {
			continue
		}
		u, err := url.Parse(target)
		switch {
		case err != nil || u.Scheme != "https" || u.User != nil || !strings.EqualFold(hostPort(u), hostPort(base)):
			return nil, fmt.Errorf("its next page is not at %s", base.Host)
		case u.Path != path.Clean(u.Path) || !strings.HasPrefix(u.Path, base.Path+"/"):
			return nil, errors.New("its next page is outside the API")
		}
		u.Fragment, u.RawFragment = "", ""
		return u, nil
	}
}

func isNext(params string) bool {
	for param := range strings.FieldsFuncSeq(params, func(r rune) bool { return r == ';' || r == ',' }) {
		name, value, _ := strings.Cut(strings.TrimSpace(param), "=")
		if !strings.EqualFold(strings.TrimSpace(name), "rel") {
			continue
		}
		for rel := range strings.FieldsSeq(strings.Trim(strings.TrimSpace(value), `"`)) {
			if strings.EqualFold(rel, "next") {
				return true
			}
		}
	}
	return false
}

func hostPort(u *url.URL) string {
	if u.Port() == "" {
		return u.Hostname() + ":443"
	}
	return u.Host
}
