package web

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
)

const (
	loginPath  = "/web/login"
	factorPath = "/web/login/factor"
	logoutPath = "/web/logout"
)

// loginForm is what login.html shows.
type loginForm struct {
	form
	Cluster  string
	User     string
	Next     string
	Again    string // who is logged in already, but too long ago
	Terminal bool   // a login of tsh waits behind this one

	Providers []provider // other ways to log in
}

// form is what every form has.
type form struct {
	Token   string // of the form
	Action  string
	Carried string
	Error   string
	Field   string // the error is about this field
}

func (s *site) showLogin(w http.ResponseWriter, r *http.Request) {
	f := loginForm{Next: safeNext(r.URL.Query().Get("next"))}
	if v, err := s.visit(r); err == nil {
		if f.Next == "/" {
			http.Redirect(w, r, "/", http.StatusSeeOther)
			return
		}
		f.Again = v.User
		if v.Connector == "" { // else there is no password to it
			f.User = v.User
		}
	}
	s.renderLogin(w, r, http.StatusOK, f)
}

func (s *site) renderLogin(w http.ResponseWriter, r *http.Request, status int, f loginForm) {
	key, err := s.guestKey(w, r)
	if err != nil {
		s.problem(w, r, err)
		return
	}
	f.Token, f.Action, f.Cluster = key.token(loginPath), loginPath, s.opts.ClusterName
	f.Next = safeNext(f.Next)
	f.Providers = s.providers(f.Next)
	s.behindLogin(r, &f)
	s.show(w, status, page{name: "login", title: titled("Log in", f.Error), body: f})
}

// behindLogin looks at the login of tsh that waits behind this one: it may want a
// user, or a password and nothing else.
func (s *site) behindLogin(r *http.Request, f *loginForm) {
	id, ok := strings.CutPrefix(f.Next, ConsolePath)
	if !ok {
		return
	}
	c, err := s.opts.Accounts.Console(r.Context(), id, clientAddr(r))
	if err != nil {
		return
	}
	if c.Connector == api.AuthLocal {
		f.Providers = nil
	}
	if sends(r) { // what was typed stays
		return
	}
	f.Terminal = true
	if c.User != "" {
		f.User = c.User
	}
}

// titled is a page's title, with what a screen reader should say first.
func titled(title, problem string) string {
	if problem != "" {
		return "Error: " + title
	}
	return title
}

// guestPost reads a form of somebody who is not logged in. ok: the form is ours.
// Otherwise the page is to be shown again, with e; nil: the answer is given.
func (s *site) guestPost(w http.ResponseWriter, r *http.Request) (key formKey, e *formError, ok bool) {
	if !s.fromOurPage(r) {
		s.refuseForeign(w, r)
		return nil, nil, false
	}
	if e = parseForm(w, r); e != nil {
		return nil, e, false
	}
	key, _ = cookieKey(r)
	if !key.fits(r) {
		// Either a forgery, or the page was open twice and the other one has set the
		// cookie anew. The fresh page helps only the latter.
		return nil, &formError{http.StatusForbidden, "This page had grown stale. Please enter it again."}, false
	}
	return key, nil, true
}

// takeLogin checks the password. No second factor: that is the login. Otherwise
// the next page asks for it.
func (s *site) takeLogin(w http.ResponseWriter, r *http.Request) {
	key, stale, ok := s.guestPost(w, r)
	if !ok {
		if stale != nil {
			s.renderLogin(w, r, stale.status, loginForm{form: form{Error: stale.message}, Next: r.PostForm.Get("next")})
		}
		return
	}
	f := loginForm{User: strings.TrimSpace(r.PostForm.Get("username")), Next: safeNext(r.PostForm.Get("next"))}
	password := r.PostForm.Get("password")
	switch {
	case f.User == "":
		f.Error, f.Field = "Enter your user name.", "username"
	case password == "":
		f.Error, f.Field = "Enter your password.", "password"
	}
	if f.Error != "" {
		s.renderLogin(w, r, http.StatusBadRequest, f)
		return
	}
	c, err := s.opts.Accounts.Begin(r.Context(), f.User, password, clientAddr(r))
	if err != nil {
		s.loginProblem(w, r, f, err)
		return
	}
	if len(c.Methods) > 0 {
		s.renderFactor(w, r, http.StatusOK, key, c, factorForm{Next: f.Next})
		return
	}
	session, err := s.opts.Accounts.Login(r.Context(), c.State, auth.FactorAnswer{}, clientAddr(r))
	if err != nil {
		s.loginProblem(w, r, f, err)
		return
	}
	s.enter(w, r, session, f.Next)
}

// loginProblem shows the form again with what was wrong. The password is not
// sent back; neither is which of the two was wrong, as Begin's words do not tell.
func (s *site) loginProblem(w http.ResponseWriter, r *http.Request, f loginForm, err error) {
	code := api.CodeOf(err)
	if code == api.CodeInternal {
		s.problem(w, r, err)
		return
	}
	status := code.HTTPStatus()
	f.Error = sentence(err.Error())
	if code == api.CodeUnauthenticated {
		f.Field = "password"
	}
	s.renderLogin(w, r, status, f)
}

// enter gives the browser its new session, and leads on.
func (s *site) enter(w http.ResponseWriter, r *http.Request, session *auth.WebSession, next string) {
	s.takeSession(w, r, session)
	http.Redirect(w, r, safeNext(next), http.StatusSeeOther) //nolint:gosec // that is what safeNext is for
}

// takeSession gives the browser its new session. What it held before the login ends
// with it: the form's cookie, and a session that this one replaces.
func (s *site) takeSession(w http.ResponseWriter, r *http.Request, session *auth.WebSession) {
	if old, ok := oneCookie(r, sessionCookie); ok && old != session.Cookie {
		if err := s.opts.Accounts.Logout(r.Context(), old, clientAddr(r)); err != nil && !api.IsCode(err, api.CodeUnauthenticated) {
			s.opts.Logger.Warn("a session that a new login replaces goes on", "user", session.Identity.User, "error", err)
		}
	}
	dropCookie(w, formCookie)
	http.SetCookie(w, &http.Cookie{
		Name: sessionCookie, Value: session.Cookie, Expires: session.Expires,
		Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
}

// factorForm is what factor.html shows.
type factorForm struct {
	form
	User    string
	Next    string
	TOTP    bool
	Passkey *passkey
}

// passkey is a button that asks the browser for a passkey, with a script.
type passkey struct {
	Mode    string // create, get
	Options string // JSON
	Label   string
	Ready   string // what to say when there is one; "": send the form at once
	Primary bool   // nothing else on the page leads on
	Value   string // a passkey made before, when the form comes back
}

func (s *site) renderFactor(w http.ResponseWriter, r *http.Request, status int, key formKey, c *auth.Challenge, f factorForm) {
	carried, err := key.carry(factorPath, c)
	if err != nil {
		s.problem(w, r, err)
		return
	}
	f.Token, f.Action, f.Carried, f.User = key.token(factorPath), factorPath, carried, c.User
	if f.TOTP, f.Passkey = challengeParts(c, "Use a passkey"); f.Passkey != nil {
		f.Passkey.Primary = !f.TOTP
	}
	title := "Confirm that it is you"
	s.show(w, status, page{name: "factor", title: titled(title, f.Error), body: f, script: f.Passkey != nil})
}

// leftOf takes from a challenge what an answer says is worth nothing any more, such
// as the only passkey, which has just been locked.
func leftOf(c *auth.Challenge, err error) {
	if e, ok := errors.AsType[*api.Error](err); ok && len(e.SecondFactors) > 0 {
		c.Methods = slices.DeleteFunc(c.Methods, func(m string) bool { return !slices.Contains(e.SecondFactors, m) })
	}
}

// challengeParts says what a challenge asks for.
func challengeParts(c *auth.Challenge, label string) (totp bool, p *passkey) {
	if slices.Contains(c.Methods, api.FactorWebAuthn) && len(c.WebAuthn) > 0 {
		p = &passkey{Mode: "get", Options: string(c.WebAuthn), Label: label}
	}
	return slices.Contains(c.Methods, api.FactorTOTP), p
}

// showFactor is for who comes to the second step without the first, such as by
// reloading.
func (s *site) showFactor(w http.ResponseWriter, r *http.Request) {
	http.Redirect(w, r, loginPath, http.StatusSeeOther)
}

func (s *site) takeFactor(w http.ResponseWriter, r *http.Request) {
	key, stale, ok := s.guestPost(w, r)
	if !ok && stale == nil {
		return
	}
	next := safeNext(r.PostForm.Get("next"))
	c := &auth.Challenge{}
	if !ok || !key.carried(factorPath, r.PostForm.Get(carriedField), c) {
		status := http.StatusForbidden
		if stale != nil {
			status = stale.status
		}
		s.renderLogin(w, r, status, loginForm{form: form{Error: "This page had grown stale. Please log in again."}, Next: next})
		return
	}
	a := answer(r)
	if a.Empty() {
		f := factorForm{form: form{Error: missingFactor(c), Field: "code"}, Next: next}
		s.renderFactor(w, r, http.StatusBadRequest, key, c, f)
		return
	}
	session, err := s.opts.Accounts.Login(r.Context(), c.State, a, clientAddr(r))
	switch code := api.CodeOf(err); code {
	case "":
		s.enter(w, r, session, next)
	case api.CodeSecondFactor, api.CodeInvalid, api.CodeRateLimited, api.CodeUnavailable:
		status := code.HTTPStatus()
		f := factorForm{form: form{Error: sentence(err.Error())}, Next: next}
		if a.TOTP != "" && (code == api.CodeSecondFactor || code == api.CodeInvalid) {
			f.Field = "code"
		}
		leftOf(c, err)
		s.renderFactor(w, r, status, key, c, f)
	default: // the state is worth nothing any more: from the beginning
		f := loginForm{User: c.User, Next: next}
		if code == api.CodeUnauthenticated {
			f.Error = "That took too long, or was sent twice. Please log in again."
			s.renderLogin(w, r, http.StatusUnauthorized, f)
			return
		}
		s.loginProblem(w, r, f, err)
	}
}

// showLogout asks, because a GET changes nothing.
func (s *site) showLogout(w http.ResponseWriter, r *http.Request, v *visit) {
	s.show(w, http.StatusOK, page{name: "logout", title: "Log out", visit: v, body: map[string]any{
		"Token": v.key.token(logoutPath), "Cluster": s.opts.ClusterName,
	}})
}

func (s *site) takeLogout(w http.ResponseWriter, r *http.Request, v *visit) {
	err := s.opts.Accounts.Logout(r.Context(), v.cookie, clientAddr(r))
	if err != nil && !api.IsCode(err, api.CodeUnauthenticated) {
		// The cookie stays, so that it can be tried again: the session lives.
		s.problem(w, r, err)
		return
	}
	dropCookie(w, sessionCookie)
	w.Header().Set("Clear-Site-Data", `"cache"`)
	n := notice{
		Title: "You are logged out",
		Lines: []string{"This browser’s session has ended. Logins of tsh in a terminal go on; tsh logout ends those."},
		Link:  loginPath, LinkText: "Log in again",
	}
	s.render(w, http.StatusOK, "notice", n.Title, n)
}
