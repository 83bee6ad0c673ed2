package github

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/sso"
)

const (
	// pageSize is the largest that GitHub gives.
	pageSize = 100
	// maxPages bounds what a server can make us ask for.
	maxPages = 50
	// apiVersion is the version of the API that is understood here. Enterprise Server
	// ignores what it does not know.
	apiVersion = "2022-11-28"
)

// caller asks GitHub's REST API.
type caller struct {
	base *url.URL // without a slash at the end
	http *http.Client
	now  func() time.Time
}

func newCaller(base *url.URL, o sso.Options) *caller {
	own := *o.Client()
	// Neither the API nor the exchange of a code needs redirects, and a token must not follow one.
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &caller{base: base, http: &own, now: o.Now}
}

// subject is a number of this API's: another server numbers its own people.
func (c *caller) subject(id int64) string {
	host := strings.TrimSuffix(strings.ToLower(c.base.Host), ":443")
	if host == "api.github.com" {
		host = "github.com"
	}
	return host + "/" + strconv.FormatInt(id, 10)
}

func (c *caller) headers(req *http.Request) {
	req.Header.Set("Accept", "application/vnd.github+json")
	req.Header.Set("X-Github-Api-Version", apiVersion)
	req.Header.Set("User-Agent", "sallyport") // GitHub refuses who has none
}

// get reads one page. Its errors name the path, never the query, which the server chose.
func (c *caller) get(ctx context.Context, u *url.URL, token secret) (_ []byte, next *url.URL, _ error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), http.NoBody)
	if err != nil {
		return nil, nil, api.Errorf(api.CodeInternal, "ask %s: %w", c.base.Host, err)
	}
	c.headers(req)
	if token.value != "" {
		req.Header.Set("Authorization", "Bearer "+token.value)
	}
	// The bound of an answer is far above a page of 100 teams, which are about 3 kB each.
	status, header, body, err := sso.Do(c.http, req)
	if err != nil {
		return nil, nil, sso.Unavailable(c.base.String(), err)
	}
	if err := c.status(status, header, u, body); err != nil {
		return nil, nil, err
	}
	next, err = nextPage(c.base, header.Values("Link"))
	if err != nil {
		return nil, nil, c.broken(u, err)
	}
	return body, next, nil
}

var errMoved = errors.New("a redirect: an administrator sets spec.api_endpoint_url to where the API is")

// status is what an answer means that is not 200. A list that is refused is not an
// empty one.
func (c *caller) status(status int, header http.Header, u *url.URL, body []byte) error {
	if limit := c.limited(status, header, body); limit != nil {
		return limit
	}
	what := c.base.Host + u.Path
	switch s := status; {
	case s == http.StatusOK:
		return nil
	case s == http.StatusUnauthorized:
		return api.Errorf(api.CodeForbidden, "%s answers 401: it does not accept the access token that has just been given; "+
			"an administrator checks that spec.endpoint_url and spec.api_endpoint_url are of one GitHub", what)
	case s == http.StatusForbidden || s == http.StatusNotFound:
		return api.Errorf(api.CodeForbidden, "%s answers %d: GitHub does not let the OAuth app read this; "+
			"an administrator finds out there whether the app may, and whether its scope %s was granted", what, s, scope)
	case s >= 300 && s < 400:
		return api.Errorf(api.CodeForbidden, "%s answers %d, %w", what, s, errMoved)
	default:
		return api.Errorf(api.CodeUnavailable, "%s answers %d %s: try again later", what, s, http.StatusText(s))
	}
}

// limited says that an answer is one of GitHub's limits, and until when
// (docs.github.com, "Rate limits for the REST API"), or nil.
func (c *caller) limited(status int, header http.Header, body []byte) error {
	after, remaining := header.Get("Retry-After"), header.Get("X-Ratelimit-Remaining")
	switch {
	case status == http.StatusTooManyRequests:
	case status == http.StatusForbidden && (after != "" || remaining == "0" || strings.Contains(strings.ToLower(string(body)), "rate limit")):
	default:
		return nil
	}
	wait := time.Duration(0)
	if n, err := strconv.ParseInt(after, 10, 32); err == nil && n > 0 {
		wait = time.Duration(n) * time.Second
	} else if n, err := strconv.ParseInt(header.Get("X-Ratelimit-Reset"), 10, 64); err == nil && remaining == "0" {
		wait = time.Unix(n, 0).Sub(c.now()).Round(time.Second)
	}
	when := "later"
	if wait > 0 && wait <= 24*time.Hour {
		when = "in " + wait.String()
	}
	return api.Errorf(api.CodeUnavailable, "%s has had too many requests (rate limit, status %d): try again %s", c.base.Host, status, when)
}

func (c *caller) broken(u *url.URL, err error) error {
	return api.Errorf(api.CodeUnavailable, "the answer of %s%s is not as it should be: %w", c.base.Host, u.Path, err)
}

// list walks all pages of a list. A page that fails fails the whole.
func (c *caller) list(ctx context.Context, path string, token secret, page func([]byte) error) error {
	u := c.base.JoinPath(path)
	u.RawQuery = "per_page=" + strconv.Itoa(pageSize)
	for range maxPages {
		body, next, err := c.get(ctx, u, token)
		if err != nil {
			return err
		}
		if err := page(body); err != nil {
			return c.broken(u, err)
		}
		if next == nil {
			return nil
		}
		u = next
	}
	return c.broken(u, fmt.Errorf("it has more than %d pages", maxPages))
}

func (c *caller) user(ctx context.Context, token secret) (*account, error) {
	u := c.base.JoinPath("user")
	body, _, err := c.get(ctx, u, token)
	if err != nil {
		return nil, err
	}
	who, err := parseAccount(body)
	if err != nil {
		return nil, c.broken(u, err)
	}
	return who, nil
}

func (c *caller) teams(ctx context.Context, token secret) (all []api.GithubTeam, err error) {
	err = c.list(ctx, "user/teams", token, func(body []byte) error {
		teams, err := parseTeams(body)
		all = append(all, teams...)
		return err
	})
	return all, err
}

func (c *caller) orgs(ctx context.Context, token secret) (all []string, err error) {
	err = c.list(ctx, "user/orgs", token, func(body []byte) error {
		orgs, err := parseOrgs(body)
		all = append(all, orgs...)
		return err
	})
	return all, err
}
