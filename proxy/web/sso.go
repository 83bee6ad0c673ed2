package web

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/api"
)

const (
	ssoTestPath = "/web/sso/test/"

	// maxQuery is how long the query of a callback may be: codes and states are short.
	maxQuery = 16 << 10
)

// The paths of single sign-on are calls' by name, and pages by what they answer: only
// browsers ask for them. Identity providers know the callbacks with or without /v1.
type ssoRoute struct {
	path string // a name follows where it ends in {name}
	kind string // of connector
	what ssoWhat
}

type ssoWhat int

const (
	ssoStart ssoWhat = iota
	ssoCallback
	ssoMetadata
)

var ssoRoutes = makeSSORoutes()

func makeSSORoutes() []ssoRoute {
	all := []ssoRoute{{api.PathSAMLMetadata + "/{name}", api.KindSAML, ssoMetadata}}
	for kind, path := range map[string]string{
		api.KindGithub: api.PathGithubCallback, api.KindOIDC: api.PathOIDCCallback, api.KindSAML: api.PathSAMLACS,
	} { // each connector may have one of its own, so that no answer is taken for another's (RFC 9700, section 4.4)
		all = append(all, ssoRoute{path, kind, ssoCallback}, ssoRoute{path + "/{name}", kind, ssoCallback})
	}
	for _, kind := range api.ConnectorKinds() {
		all = append(all, ssoRoute{fmt.Sprintf(api.PathSSOWeb, kind), kind, ssoStart})
	}
	for _, r := range all {
		all = append(all, ssoRoute{"/v1" + r.path, r.kind, r.what})
	}
	return all
}

// IsPage reports whether a path among those of calls is a page of ours.
func IsPage(path string) bool {
	_, ok := ssoRouteOf(path)
	return ok
}

// MakesSessions reports whether a GET of a path may log somebody in, and so change
// something.
func MakesSessions(path string) bool {
	r, ok := ssoRouteOf(path)
	return ok && r.what == ssoCallback
}

func ssoRouteOf(path string) (ssoRoute, bool) {
	for _, r := range ssoRoutes {
		if r.path == path {
			return r, true
		}
		if prefix, ok := strings.CutSuffix(r.path, "{name}"); ok {
			if name, ok := strings.CutPrefix(path, prefix); ok && name != "" && !strings.Contains(name, "/") {
				return r, true
			}
		}
	}
	return ssoRoute{}, false
}

func (s *site) routeSSO(mux *http.ServeMux) {
	for _, r := range ssoRoutes {
		switch {
		case r.what == ssoStart:
			mux.Handle(r.path, s.only(http.MethodGet, s.startSSO(r.kind)))
		case r.what == ssoMetadata:
			mux.Handle(r.path, s.get(s.samlMetadata))
		case r.kind == api.KindSAML:
			mux.Handle(r.path, s.only(http.MethodPost, s.takeACS))
		default:
			mux.Handle(r.path, s.only(http.MethodGet, s.takeCallback(r.kind)))
		}
	}
	mux.Handle(ssoTestPath+"{id}", s.only(http.MethodGet, s.startTest))
}

// only lets one method through: who asks for the head of a callback would use it up.
// And only where a person's window goes there: other sites could have their pictures
// and frames begin logins, without anybody's doing, and push out those under way.
func (s *site) only(method string, h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch dest := r.Header.Get("Sec-Fetch-Dest"); {
		case r.Method != method:
			s.refuseMethod(w, r, method)
		case dest != "" && dest != "document":
			s.notice(w, r, http.StatusForbidden, notice{
				Title: "A login has its own window", Error: true,
				Lines: []string{"Your browser says that this page is to be a part of another one. Open it by itself."},
				Link:  loginPath, LinkText: "Log in",
			})
		default:
			h(w, r)
		}
	})
}

// provider is a connector on a page.
type provider struct {
	Name    string
	Display string
	URL     string // by which a login begins
}

// maxDisplay is how much of a display name a page shows.
const maxDisplay = 80

// providers are the ways to log in beside the password, each leading to next.
func (s *site) providers(next string) []provider {
	if s.opts.SSO == nil {
		return nil
	}
	var out []provider
	for _, c := range s.opts.SSO.Connectors() {
		out = append(out, providerOf(c, next))
	}
	return out
}

func providerOf(c api.PingConnector, next string) provider {
	p := provider{Name: c.Name, Display: plain(c.Display, maxDisplay), URL: fmt.Sprintf(api.PathSSOWeb, c.Kind) + "?connector_id=" + url.QueryEscape(c.Name)}
	if strings.TrimSpace(p.Display) == "" {
		p.Display = c.Name
	}
	if next = safeNext(next); next != "/" {
		p.URL += "&next=" + url.QueryEscape(next)
	}
	return p
}

// provider finds the connector of a name.
func (s *site) provider(name, next string) (provider, bool) {
	for _, p := range s.providers(next) {
		if p.Name == name {
			return p, true
		}
	}
	return provider{}, false
}

// startSSO sends a browser to an identity provider. A GET may do that: nothing is
// stored, and whoever sends a browser here has it log its own person in.
func (s *site) startSSO(kind string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		name, next := r.URL.Query().Get("connector_id"), safeNext(r.URL.Query().Get("next"))
		if len(name) > maxField {
			s.notFound(w, r)
			return
		}
		session, _ := oneCookie(r, sessionCookie)
		start, err := s.opts.SSO.Start(r.Context(), kind, name, next, session, clientAddr(r))
		if api.IsCode(err, api.CodeNotFound) {
			s.notice(w, r, http.StatusNotFound, notice{
				Title: "There is no such way to log in", Error: true,
				Lines: []string{"The connector that this link names does not exist (any more). The login page shows those that do."},
				Link:  loginURL(next), LinkText: "To the login page",
			})
			return
		}
		if err != nil {
			p, _ := s.provider(name, next)
			s.failSSO(w, r, ssoFailed{SSOFinish: SSOFinish{Next: next}, by: p, starting: true}, err)
			return
		}
		s.leave(w, r, start)
	}
}

// startTest sends a browser to the identity provider of a connector under test.
func (s *site) startTest(w http.ResponseWriter, r *http.Request) {
	start, err := s.opts.SSO.StartTest(r.Context(), r.PathValue("id"), clientAddr(r))
	if code := api.CodeOf(err); code == api.CodeNotFound || code == api.CodeConflict { // too late, or done
		s.notice(w, r, http.StatusNotFound, notice{
			Title: "This test is over", Error: true,
			Lines: []string{"A test of a connector waits for ten minutes, and for one login. Run tctl sso test again in your terminal."},
		})
		return
	}
	if err != nil {
		s.failSSO(w, r, ssoFailed{SSOFinish: SSOFinish{Test: true, Repeat: !byProvider(err)}, starting: true}, err)
		return
	}
	s.leave(w, r, start)
}

// leave sends a browser to an identity provider, with the flow's cookie.
func (s *site) leave(w http.ResponseWriter, r *http.Request, start *SSOStart) {
	if !isProvider(start.Address) || !flowCookies.MatchString(start.Cookie.Name) {
		s.problem(w, r, fmt.Errorf("a login would lead to %.60q with the cookie %.40q", start.Address, start.Cookie.Name))
		return
	}
	// Logins that never ended. Browsers send the oldest cookies first (RFC 6265, section 5.4).
	old := flowsOf(r)
	for _, name := range old[:max(0, len(old)-(maxFlows-1))] {
		dropCookie(w, name)
	}
	http.SetCookie(w, start.Cookie)
	http.Redirect(w, r, start.Address, http.StatusSeeOther) //nolint:gosec // the connector's, and checked above
}

// isProvider reports whether an address is one to send a browser to. Connectors are
// checked when they are saved; a page that leads to javascript: would be ours.
func isProvider(to string) bool {
	u, err := url.Parse(to)
	return err == nil && u.Scheme == "https" && u.Host != "" && u.User == nil && u.Opaque == ""
}

var flowCookies = regexp.MustCompile(`^` + FlowCookiePrefix + `[0-9a-f]{16}$`)

// flowsOf are the names of the cookies of flows that a browser has, each once.
func flowsOf(r *http.Request) []string {
	var names []string
	seen := map[string]bool{}
	for _, c := range r.Cookies() {
		if flowCookies.MatchString(c.Name) && !seen[c.Name] {
			seen[c.Name] = true
			names = append(names, c.Name)
		}
	}
	return names
}

// takeCallback is where a browser comes back from GitHub or an OpenID provider.
func (s *site) takeCallback(kind string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		answer, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil || len(r.URL.RawQuery) > maxQuery || len(flowsOf(r)) == 0 {
			s.lostSSO(w, r)
			return
		}
		s.finishSSO(w, r, kind, answer)
	}
}

// takeACS is where a browser brings what a SAML identity provider gave it. It is the
// one POST that another site may send: what ties it to a login of this browser is the
// flow's cookie, without which the body is not even read.
func (s *site) takeACS(w http.ResponseWriter, r *http.Request) {
	if len(flowsOf(r)) == 0 {
		s.lostSSO(w, r)
		return
	}
	if len(r.URL.RawQuery) > 0 { // RelayState and SAMLResponse are in the body, and nowhere else
		s.refuseACS(w, r, http.StatusBadRequest, "This address takes no query.")
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, api.MaxRequestBody)
	ct, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	if !strings.EqualFold(strings.TrimSpace(ct), "application/x-www-form-urlencoded") {
		s.refuseACS(w, r, http.StatusUnsupportedMediaType, "It arrived in a shape that no browser sends.")
		return
	}
	err := r.ParseForm()
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		s.refuseACS(w, r, http.StatusRequestEntityTooLarge, "It is far too long.")
		return
	}
	if err != nil {
		s.refuseACS(w, r, http.StatusBadRequest, "It arrived damaged.")
		return
	}
	s.finishSSO(w, r, api.KindSAML, r.PostForm)
}

func (s *site) refuseACS(w http.ResponseWriter, r *http.Request, status int, why string) {
	s.notice(w, r, status, notice{
		Title: "Your identity provider’s answer was not accepted", Error: true,
		Lines: []string{why + " Nobody was logged in.", "Try again; if it keeps failing, tell your administrator the time of this attempt."},
		Link:  loginPath, LinkText: "Log in again",
	})
}

// finishSSO ends a login, well or not. The flow's cookie goes, unless nothing was
// decided.
func (s *site) finishSSO(w http.ResponseWriter, r *http.Request, kind string, answer url.Values) {
	f, err := s.opts.SSO.Finish(r.Context(), kind, strings.TrimPrefix(r.URL.EscapedPath(), "/v1"), answer, func(name string) (string, bool) { return oneCookie(r, name) }, clientAddr(r))
	if flowCookies.MatchString(f.Cookie) {
		dropCookie(w, f.Cookie)
	}
	switch {
	case f.Lost:
		s.lostSSO(w, r)
	case err != nil:
		s.failSSO(w, r, ssoFailed{SSOFinish: *f, by: providerOf(f.Connector, f.Next)}, err)
	case f.Test:
		n := notice{
			Title: "Go back to the terminal",
			Lines: []string{"tctl shows there what the identity provider sent, and what the connector makes of it. Nobody was logged in. You may close this tab."},
		}
		s.render(w, http.StatusOK, "notice", n.Title, n)
	case f.Session == nil:
		s.problem(w, r, errors.New("a login ended without a session"))
	case r.Method == http.MethodPost:
		s.enterAcross(w, r, f)
	default:
		s.enter(w, r, f.Session, f.Next)
	}
}

// enterAcross is enter after a POST of another site. The page that a redirect would
// lead to is asked for on that site's behalf, so that whether the new session is sent
// along is for the browser's rules, which differ and have changed before. A page of
// ours that leads on by itself asks on our own behalf.
func (s *site) enterAcross(w http.ResponseWriter, r *http.Request, f *SSOFinish) {
	s.takeSession(w, r, f.Session)
	n := notice{
		Title: "You are logged in", Lines: []string{"One moment: the next page opens by itself."},
		Link: safeNext(f.Next), LinkText: "Go on",
	}
	s.show(w, http.StatusOK, page{name: "notice", title: n.Title, refresh: n.Link, body: n})
}

// lostSSO answers a callback that belongs to no login of this browser: another's, which
// somebody may have sent here to log this browser in as themselves, or one that took
// too long or was finished already.
func (s *site) lostSSO(w http.ResponseWriter, r *http.Request) {
	s.notice(w, r, http.StatusForbidden, notice{
		Title: "This login was begun in another browser, or too long ago", Error: true,
		Lines: []string{
			"Nobody was logged in by it. A login has to end where it began, within ten minutes, and only once.",
			"If a terminal waits for it, go back there and run tsh login again.",
		},
		Link: loginPath, LinkText: "Begin again",
	})
}

// samlMetadata is what an administrator gives to a SAML identity provider.
func (s *site) samlMetadata(w http.ResponseWriter, r *http.Request) {
	doc, err := s.opts.SSO.Metadata(r.Context(), r.PathValue("name"))
	switch {
	case api.IsCode(err, api.CodeNotFound):
		s.notFound(w, r)
	case err != nil:
		s.problem(w, r, err)
	default:
		w.Header().Set("Content-Type", "application/samlmetadata+xml")
		_, _ = w.Write(doc) // the client is gone: nobody to tell
	}
}
