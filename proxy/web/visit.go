package web

import (
	"crypto/sha256"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
)

// sessionCookie holds a login. It is Lax, not Strict: who follows a link to a page
// of ours is logged in there. Nothing changes by a GET, and forms have tokens.
const sessionCookie = "__Host-session"

// Some pages want a login not long ago: a browser left open, or a stolen cookie,
// must not be enough to let somebody in for good. internal/auth decides; the pages
// know its rule so that they send people to log in before they have typed.
// timeToDecide is what a page that was just fresh enough leaves to read it.
const timeToDecide = 2 * time.Minute

// visit is a request of somebody who is logged in.
type visit struct {
	*Account
	cookie  string
	key     formKey
	auditor bool // the navigation leads to the audit log
}

// sessionKey is the key of forms of a session: who does not know its cookie can't
// make a token, and a token tells nothing of the cookie.
func sessionKey(cookie string) formKey {
	sum := sha256.Sum256([]byte("sallyport session forms\x00" + cookie))
	return sum[:]
}

// visit finds out who is logged in; CodeUnauthenticated if nobody is.
func (s *site) visit(r *http.Request) (*visit, error) {
	cookie, ok := oneCookie(r, sessionCookie)
	if !ok || cookie == "" {
		return nil, api.Errorf(api.CodeUnauthenticated, "not logged in")
	}
	account, err := s.opts.Accounts.Session(r.Context(), cookie, clientAddr(r))
	if err != nil {
		return nil, err
	}
	auditor := s.opts.Audit != nil && s.opts.Audit.Authorize(r.Context(), cookie) == nil
	return &visit{account, cookie, sessionKey(cookie), auditor}, nil
}

// leaver is a visit that is good for logging out: whoever may do nothing else, as
// where a role of theirs is missing, may do that.
func (s *site) leaver(r *http.Request) (*visit, error) {
	v, err := s.visit(r)
	if cookie, ok := oneCookie(r, sessionCookie); ok && api.IsCode(err, api.CodeForbidden) {
		return &visit{&Account{}, cookie, sessionKey(cookie), false}, nil
	}
	return v, err
}

// age is how long ago the login was.
func (s *site) age(v *visit) time.Duration { return s.opts.Clock().Sub(v.Created) }

// handler serves a request of somebody who is logged in.
type handler func(http.ResponseWriter, *http.Request, *visit)

// members makes pages that need a login. GET without one leads to the login and
// back; a POST is refused unless it is of a page that this session saw.
func (s *site) members(get, post handler) http.Handler {
	return s.visits(s.visit, s.nobody, get, post)
}

// visits is members for whom who finds; lost answers a GET of anybody else.
func (s *site) visits(who func(*http.Request) (*visit, error), lost func(http.ResponseWriter, *http.Request, error), get, post handler) http.Handler {
	show := func(w http.ResponseWriter, r *http.Request) {
		if v, err := who(r); err != nil {
			lost(w, r, err)
		} else {
			get(w, r, v)
		}
	}
	take := func(w http.ResponseWriter, r *http.Request) {
		if !s.fromOurPage(r) {
			s.refuseForeign(w, r)
			return
		}
		v, err := who(r)
		if err != nil {
			s.nobody(w, r, err)
			return
		}
		if err := parseForm(w, r); err != nil {
			s.notice(w, r, err.status, notice{Title: "That did not work", Error: true, Lines: []string{err.message}})
			return
		}
		if !v.key.fits(r) {
			s.notice(w, r, http.StatusForbidden, notice{
				Title: "This page had grown stale", Error: true,
				Lines: []string{"You have logged in anew since it was opened, so nothing was changed. Open it again."},
			})
			return
		}
		post(w, r, v)
	}
	if post == nil {
		return s.get(show)
	}
	return s.form(show, take)
}

// fresh wraps pages that want a login not long ago, both when they are opened and
// when they are sent.
func (s *site) fresh(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request, v *visit) {
		limit := auth.FreshFor
		if !sends(r) {
			limit -= timeToDecide
		}
		if s.age(v) > limit {
			toLogin(w, r)
			return
		}
		h(w, r, v)
	}
}

// toLogin leads to the login, and from there back.
func toLogin(w http.ResponseWriter, r *http.Request) {
	http.Redirect(w, r, loginURL(r.URL.Path), http.StatusSeeOther) //nolint:gosec // a path of ours: see safeNext
}

func loginURL(next string) string {
	if next = safeNext(next); next == "/" {
		return "/web/login"
	}
	return "/web/login?next=" + url.QueryEscape(next)
}

// nextPaths are where a login may lead: pages of ours that can be opened. Their
// alphabet leaves nothing that a browser could read as another host, nor a query.
var nextPaths = regexp.MustCompile(`^/web/(?:audit|account(?:/[A-Za-z0-9_-]+){0,4}|cli/[A-Za-z0-9_-]{1,128})$`)

// safeNext is next if it is such a path, and "/" otherwise.
func safeNext(next string) string {
	if len(next) <= maxField && nextPaths.MatchString(next) {
		return next
	}
	return "/"
}

// problem answers for a page that can't be shown, or a change that was not made,
// in a way that fits every page. Only an api.Error's words are for strangers.
func (s *site) problem(w http.ResponseWriter, r *http.Request, err error) {
	if n, status, ok := s.explain(w, r, err); ok {
		s.notice(w, r, status, n)
	}
}

// nobody is problem where visit failed: to ask once more who it is may cost the leader
// another question.
func (s *site) nobody(w http.ResponseWriter, r *http.Request, err error) {
	if n, status, ok := s.explain(w, r, err); ok {
		s.noticeTo(w, status, n, nil, err)
	}
}

// explain says what to show for an error; not ok: it is answered already.
func (s *site) explain(w http.ResponseWriter, r *http.Request, err error) (n notice, status int, ok bool) {
	code := api.CodeOf(err)
	said := ""
	if e, ok := errors.AsType[*api.Error](err); ok {
		said = sentence(e.Message)
	}
	n = notice{Error: true, Lines: []string{said}}
	switch code {
	case api.CodeUnauthenticated:
		if r.Method != http.MethodPost {
			toLogin(w, r)
			return n, 0, false
		}
		// The cookie stays: a replica that is behind does not know every login. One
		// that is worth nothing harms nobody, and the next login replaces it.
		n.Title = "Please log in again"
		n.Lines = []string{"Your login here has ended, so nothing was changed."}
		n.Link, n.LinkText = loginURL(r.URL.Path), "Log in"
		s.render(w, code.HTTPStatus(), "notice", n.Title, n) // not s.notice, which would ask once more who it is
		return n, 0, false
	case api.CodeRateLimited, api.CodeUnavailable:
		n.Title = "Not just now"
		again := "Nothing was changed. Wait a moment, then try again."
		if sends(r) {
			again = "Nothing was changed. Wait a moment, then go back in your browser and send the form again."
		}
		n.Lines = append(n.Lines, again)
	case api.CodeAmbiguous:
		n.Title = "That may or may not have been done"
		n.Lines = []string{"The cluster took the change but did not confirm it in time. Look at your account before you try again."}
		n.Link, n.LinkText = "/web/account", "To your account"
	case api.CodeNotFound:
		n.Title = "That is not there (any more)"
	case api.CodeInternal:
		s.opts.Logger.Error("a page failed", "error", err)
		n.Title = "Something went wrong on our side"
		n.Lines = []string{"The log of the replica says what. Try again in a moment, or tell your administrator."}
	default:
		n.Title = "That did not work"
	}
	return n, code.HTTPStatus(), true
}

// saidCookie names what the page after a redirect says has been done. It is a
// cookie, because a URL could come from anybody.
const saidCookie = "__Host-sallyport-said"

// sayings are all that it can name.
func saying(name string) string {
	return map[string]string{
		"password": "Your password is changed. Your other sessions have ended.",
		"app":      "The authenticator app is added. The next login asks for its code.",
		"passkey":  "The passkey is added. The next login asks for it.",
		"removed":  "The second factor is removed.",
		"ended":    "The session has ended.",
		"others":   "All your other sessions have ended.",
	}[name]
}

// done leads to a page that says what has been done.
func done(w http.ResponseWriter, r *http.Request, path, what string) {
	setCookie(w, saidCookie, what)
	http.Redirect(w, r, path, http.StatusSeeOther)
}

// said is what done wanted said here, once.
func said(w http.ResponseWriter, r *http.Request) string {
	name, ok := oneCookie(r, saidCookie)
	if ok {
		dropCookie(w, saidCookie)
	}
	return saying(name)
}

// ago says when something was, as people do.
func (s *site) ago(t time.Time) string {
	d := s.opts.Clock().Sub(t)
	switch {
	case t.IsZero():
		return "never"
	case d < time.Minute:
		return "just now"
	case d < 48*time.Hour:
		return inWords(d) + " ago"
	default:
		return t.UTC().Format("2 January 2006")
	}
}

// moment is a time in a page.
type moment struct {
	Words string
	Exact string // for <time>
	Full  string
}

func (s *site) moment(t time.Time) moment {
	return moment{s.ago(t), t.UTC().Format(time.RFC3339), t.UTC().Format("2 January 2006, 15:04 UTC")}
}
