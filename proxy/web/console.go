package web

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
)

// ConsolePath is where tsh sends a browser, with the id of its login.
const ConsolePath = "/web/cli/"

// consolePage is what cli.html shows.
type consolePage struct {
	form
	Cluster   string
	User      string
	Other     string // the login is for this user instead
	LoginURL  string
	With      string // the connector that it leads to; "": a password
	MatchCode string
	Addr      string
	Elsewhere string // our own address, if it is another
	Length    string
	Begun     moment

	Headless bool
	Device   string
	By       *provider // it is to be with this connector, and this session is not
	ByLocal  bool      // likewise, with a password
}

// showConsole asks whether tsh may log in.
func (s *site) showConsole(w http.ResponseWriter, r *http.Request, v *visit) {
	c, ok := s.console(w, r)
	if !ok {
		return
	}
	by, ok := s.consoleProvider(w, r, c)
	if !ok {
		return
	}
	if s.age(v) > auth.FreshFor-timeToDecide {
		s.logInFor(w, r, by)
		return
	}
	s.renderConsole(w, r, v, http.StatusOK, c, "")
}

// nobodysConsole answers a look at a login of tsh by somebody who is not logged in:
// one that names a connector leads to its identity provider at once.
func (s *site) nobodysConsole(w http.ResponseWriter, r *http.Request, err error) {
	if !api.IsCode(err, api.CodeUnauthenticated) {
		s.nobody(w, r, err)
		return
	}
	c, err := s.opts.Accounts.Console(r.Context(), r.PathValue("id"), clientAddr(r))
	switch {
	case api.IsCode(err, api.CodeConflict): // logging in would be in vain
		s.consoleIsOver(w, r, err)
		return
	case err != nil: // the login page comes first, whether there is such a login or not
		toLogin(w, r)
		return
	}
	if by, ok := s.consoleProvider(w, r, c); ok {
		s.logInFor(w, r, by)
	}
}

// consoleProvider is the connector that a login of tsh names, or nil. Not ok: there is
// none of that name any more, and that is said.
func (s *site) consoleProvider(w http.ResponseWriter, r *http.Request, c *auth.ConsoleLogin) (by *provider, ok bool) {
	if c.Connector == "" || c.Connector == api.AuthLocal {
		return nil, true
	}
	p, ok := s.provider(c.Connector, r.URL.Path)
	if !ok {
		n := notice{
			Title: "There is no such way to log in", Error: true,
			Lines: []string{"The connector that this login of tsh names was removed. Run tsh login again in your terminal, without --auth or with another."},
		}
		s.render(w, http.StatusNotFound, "notice", n.Title, n)
		return nil, false
	}
	return &p, true
}

// wentCookie names the login of tsh for which a browser was sent to an identity
// provider a moment ago. If it comes back and is still nobody, such as where its
// cookies are not kept, the next step wants a click: otherwise the two would send
// it to each other for ever.
const (
	wentCookie = "__Host-sallyport-went"
	wentTime   = 2 * time.Minute
)

// logInFor leads to the login that a login of tsh wants, and from there back.
func (s *site) logInFor(w http.ResponseWriter, r *http.Request, by *provider) {
	if by == nil {
		toLogin(w, r)
		return
	}
	id := r.PathValue("id")
	if went, _ := oneCookie(r, wentCookie); went == id {
		s.askToLogIn(w, http.StatusOK, by, "tsh in your terminal waits for a login with "+by.Display+".")
		return
	}
	// Lax, because the identity provider leads back here.
	http.SetCookie(w, &http.Cookie{
		Name: wentCookie, Value: id, Path: "/", MaxAge: int(wentTime.Seconds()), Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
	http.Redirect(w, r, by.URL, http.StatusSeeOther)
}

func (s *site) askToLogIn(w http.ResponseWriter, status int, by *provider, why string) {
	n := notice{Title: "Log in with " + by.Display, Lines: []string{why}, Link: by.URL, LinkText: "Log in with " + by.Display}
	s.render(w, status, "notice", n.Title, n)
}

// console finds the login of the URL, or answers why there is none.
func (s *site) console(w http.ResponseWriter, r *http.Request) (*auth.ConsoleLogin, bool) {
	c, err := s.opts.Accounts.Console(r.Context(), r.PathValue("id"), clientAddr(r))
	if api.IsCode(err, api.CodeNotFound) || err == nil && !c.Expires.IsZero() && !s.opts.Clock().Before(c.Expires) {
		s.notice(w, r, http.StatusNotFound, notice{
			Title: "This login is over", Error: true,
			Lines: []string{"tsh waits for ten minutes, and for one answer. Run this again in your terminal:"},
			// The name of who began it is not known any more, or not for everyone to see.
			Command: s.loginLine("", ""),
		})
		return nil, false
	}
	if api.IsCode(err, api.CodeConflict) {
		s.consoleIsOver(w, r, err)
		return nil, false
	}
	if err != nil {
		s.problem(w, r, err)
		return nil, false
	}
	return c, true
}

func (s *site) consoleIsOver(w http.ResponseWriter, r *http.Request, err error) {
	s.notice(w, r, http.StatusConflict, notice{Title: "This login is over", Error: true, Lines: []string{sentence(err.Error())}})
}

func (s *site) renderConsole(w http.ResponseWriter, r *http.Request, v *visit, status int, c *auth.ConsoleLogin, problem string) {
	if _, ok := oneCookie(r, wentCookie); ok {
		dropCookie(w, wentCookie)
	}
	path := r.URL.Path
	p := consolePage{
		form:    form{Token: v.key.token(path), Action: path, Error: problem},
		Cluster: s.opts.ClusterName, User: v.User, MatchCode: c.MatchCode, Addr: addrWords(c.Addr),
		Length: sessionLength(c.TTL), Begun: s.moment(c.Created), LoginURL: loginURL(path),
		Headless: c.Headless, Device: plain(c.Device, maxDisplay),
	}
	if c.Headless {
		p.MatchCode = "" // the one that is typed must come from the terminal
	}
	by, ok := s.consoleProvider(w, r, c)
	if !ok {
		return
	}
	if by != nil {
		p.LoginURL, p.With = by.URL, by.Display
		if v.Connector != c.Connector {
			p.By = by
		}
	}
	p.ByLocal = c.Connector == api.AuthLocal && v.Connector != ""
	if c.User != v.User {
		p.Other = c.User
	}
	if from := clientAddr(r); from != c.Addr {
		p.Elsewhere = addrWords(from)
	}
	title := "Let tsh log in?"
	if c.Headless {
		title = "Let another machine log in?"
	}
	s.show(w, status, page{name: "cli", title: titled(title, problem), visit: v, body: p})
}

func addrWords(a netip.Addr) string {
	if !a.IsValid() {
		return "an unknown address"
	}
	return a.String()
}

// takeConsole passes on what the user decided. The browser then goes to tsh by a
// refresh, because the policy lets no form of ours lead to another origin.
func (s *site) takeConsole(w http.ResponseWriter, r *http.Request, v *visit) {
	id := r.PathValue("id")
	var (
		told auth.ConsoleAnswer
		err  error
	)
	p := page{name: "clidone", visit: v}
	body := map[string]any{"Approved": false, "Cluster": s.opts.ClusterName}
	switch r.PostForm.Get("answer") {
	case "approve":
		p.title, body["Approved"] = "Go back to your terminal", true
		told, err = s.opts.Accounts.ApproveConsole(r.Context(), v.cookie, id, strings.TrimSpace(r.PostForm.Get("code")), clientAddr(r))
	case "deny":
		p.title = "tsh is refused"
		told, err = s.opts.Accounts.DenyConsole(r.Context(), v.cookie, id, clientAddr(r))
	default:
		if c, ok := s.console(w, r); ok {
			s.renderConsole(w, r, v, http.StatusBadRequest, c, "Choose one of the two: approve or deny.")
		}
		return
	}
	switch api.CodeOf(err) {
	case "":
	case api.CodeUnauthenticated: // not fresh any more, or ended meanwhile
		s.consoleLoginAgain(w, r)
		return
	case api.CodeInvalid: // not the code, and there may be another try
		if c, ok := s.console(w, r); ok {
			s.renderConsole(w, r, v, http.StatusBadRequest, c, sentence(err.Error()))
		}
		return
	case api.CodeNotFound, api.CodeConflict:
		s.notice(w, r, api.CodeOf(err).HTTPStatus(), notice{
			Title: "This login is over", Error: true,
			Lines: []string{overWords(err), "If tsh still waits, run tsh login again in your terminal."},
		})
		return
	default:
		s.problem(w, r, err)
		return
	}
	if !told.Headless && !isCallback(told.Redirect) {
		s.problem(w, r, fmt.Errorf("a console login would lead to %.40q", told.Redirect))
		return
	}
	if !told.Headless {
		p.refresh, body["To"] = told.Redirect, told.Redirect
	}
	p.body = body
	s.show(w, http.StatusOK, p)
}

// overWords is why a login of tsh can't be answered any more.
func overWords(err error) string {
	if e, ok := errors.AsType[*api.Error](err); ok && e.Code == api.CodeConflict && e.Message != "" {
		return sentence(e.Message)
	}
	return "It was answered already, or took too long."
}

// consoleLoginAgain leads to a login after a form was sent. An identity provider wants
// a click: browsers let no form of ours lead to another origin, by way of redirects
// neither.
func (s *site) consoleLoginAgain(w http.ResponseWriter, r *http.Request) {
	c, err := s.opts.Accounts.Console(r.Context(), r.PathValue("id"), clientAddr(r))
	if err != nil {
		toLogin(w, r)
		return
	}
	by, ok := s.consoleProvider(w, r, c)
	switch {
	case !ok:
	case by == nil:
		toLogin(w, r)
	default:
		s.askToLogIn(w, http.StatusUnauthorized, by, "That took too long: approving a login of tsh wants a login of the last few minutes. Nothing was changed.")
	}
}

// isCallback reports whether an address is tsh's on this machine. Whoever makes
// it has checked; a page that leads elsewhere would be ours nevertheless.
func isCallback(to string) bool {
	u, err := url.Parse(to)
	if err != nil || u.Scheme != "http" || u.User != nil || u.Path != "/callback" || u.RawPath != "" || u.Opaque != "" || u.Fragment != "" {
		return false
	}
	addr, err := netip.ParseAddrPort(u.Host)
	return err == nil && addr.Addr() == netip.AddrFrom4([4]byte{127, 0, 0, 1}) && addr.Port() > 0
}
