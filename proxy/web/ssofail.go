package web

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"unicode"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
)

// What a page shows of what an identity provider sent: enough to ask for access by,
// however much it was.
const (
	maxAttributes = 30
	maxValues     = 20
	maxValue      = 120 // characters
	maxReason     = 1000
)

// ssoFailure is what ssofail.html shows.
type ssoFailure struct {
	Title      string
	Reason     string // as the terminal and the audit log say it
	Advice     []string
	Display    string   // of the connector
	Console    bool     // a login of tsh has ended with it
	Told       bool     // tctl has been told
	Command    []string // to run again in the terminal
	Reload     bool     // to ask for this very page once more may help
	Again      string   // to try again from the beginning; "": there is no use, or no knowing
	Local      string   // to log in with a password
	Attributes []ssoAttribute
	Left       string // how much is not shown
}

// ssoFailed is a login that came to nothing.
type ssoFailed struct {
	SSOFinish
	by       provider
	starting bool // nobody was sent to the identity provider
}

type ssoAttribute struct {
	Name   string
	Values []string
	Left   string // how many values are not shown
}

// failSSO shows why a login at an identity provider came to nothing, and what to do.
// Nobody is logged in by it, so the page says nothing of who may have been before.
func (s *site) failSSO(w http.ResponseWriter, r *http.Request, f ssoFailed, err error) {
	code := api.CodeOf(err)
	if strings.TrimSpace(f.by.Display) == "" {
		f.by.Display = "your identity provider"
	}
	p := ssoFailure{Display: f.by.Display, Console: s.consoleOver(r, f.Next), Local: loginURL(f.Next)}
	p.Title, p.Advice = f.trouble(code, byProvider(err))
	if e, ok := errors.AsType[*api.Error](err); ok {
		p.Reason = plain(e.Message, maxReason)
	}
	if h, ok := errors.AsType[*auth.Hinted](err); ok {
		p.Reason = plain(h.Error(), maxReason)
	}
	if code == api.CodeInternal {
		s.opts.Logger.Error("a login at an identity provider failed", "connector", f.by.Name, "error", err)
		p.Reason = "the log of the replica says why"
	}
	p.Attributes, p.Left = ssoAttributes(f.Attributes)
	switch {
	case f.Repeat && sends(r): // no link repeats that
		p.Local = ""
		p.Advice = append(p.Advice, "To do so, reload this page. Your browser may ask whether to send the form again: let it.")
	case f.Repeat:
		p.Local, p.Reload = "", true
	case f.Test:
		p.Local, p.Told = "", f.starting || f.Cookie != "" // else nothing was decided, and tctl waits on
	case p.Console:
		// tsh has been told, and waits no more: what it asked for is over.
		p.Local, p.Command = "", s.loginLine("", f.by.Name)
	case f.by.Name != "" && !(f.starting && code == api.CodeForbidden):
		p.Again = f.by.URL
	}
	s.show(w, code.HTTPStatus(), page{name: "ssofail", title: titled(p.Title, p.Title), body: p})
}

// consoleOver reports whether the login of tsh that a login was for has ended: one that
// could as well be approved by other means goes on.
func (s *site) consoleOver(r *http.Request, next string) bool {
	id, ok := strings.CutPrefix(next, ConsolePath)
	if !ok {
		return false
	}
	_, err := s.opts.Accounts.Console(r.Context(), id, clientAddr(r))
	_, approved := errors.AsType[*auth.ConsoleApproved](err) // in another window: the terminal goes on
	return api.IsCode(err, api.CodeConflict) && !approved
}

func byProvider(err error) bool {
	_, ok := errors.AsType[*ProviderError](err)
	return ok
}

// trouble is what happened, in a few words, and what to do about it.
func (f *ssoFailed) trouble(code api.Code, theirs bool) (title string, advice []string) {
	name := f.by.Display
	switch {
	case code == api.CodeForbidden && len(f.Attributes) > 0:
		return "You have no access here yet", []string{"Ask an administrator for access, and show them this page: it says what they need to know."}
	case code == api.CodeForbidden && f.starting:
		return name + " can’t be used", []string{"Ask an administrator, and show them this page: trying again does not help until they have changed something."}
	case code == api.CodeForbidden && theirs:
		return name + " did not log you in", []string{"If you did not stop it yourself, ask an administrator, and show them this page: trying again may not help until something has changed."}
	case code == api.CodeUnauthenticated:
		return "The answer of " + name + " was not accepted", []string{"Try again: it may have come too late. If it keeps failing, tell an administrator what this page says."}
	case code == api.CodeUnavailable && theirs:
		return "No answer from " + name, []string{"Try again in a minute. If you have a password here, you can log in with it meanwhile."}
	case code == api.CodeUnavailable, code == api.CodeRateLimited:
		return "Not just now", []string{"Nothing is wrong with your account at " + name + ". Wait a moment, then try again."}
	case code == api.CodeAmbiguous:
		return "That may or may not have been done", []string{"The cluster took the login but did not confirm it in time. Try again."}
	case code == api.CodeInternal:
		return "Something went wrong on our side", []string{"Try again in a moment, or tell an administrator the time of this attempt."}
	default:
		return "You could not be logged in", []string{"If it happens again, tell an administrator what this page says."}
	}
}

// ssoAttributes puts attributes in order, and cuts what is too much for a page.
func ssoAttributes(all map[string][]string) (out []ssoAttribute, left string) {
	names := slices.Sorted(maps.Keys(all))
	if n := len(names) - maxAttributes; n > 0 {
		names, left = names[:maxAttributes], more(n)
	}
	for _, name := range names {
		a := ssoAttribute{Name: plain(name, maxValue)}
		values := all[name]
		if n := len(values) - maxValues; n > 0 {
			values, a.Left = values[:maxValues], more(n)
		}
		for _, v := range values {
			a.Values = append(a.Values, plain(v, maxValue))
		}
		out = append(out, a)
	}
	return out, left
}

func more(n int) string { return fmt.Sprintf("and %d more", n) }

// plain is a stranger's text as a page may show it: of bounded length, and without
// what turns other text around or can't be seen.
func plain(s string, length int) string {
	var b strings.Builder
	n := 0
	for _, r := range s {
		if n == length {
			return b.String() + "…"
		}
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			r = ' '
		case !unicode.IsPrint(r) || r == unicode.ReplacementChar:
			r = '\uFFFD'
		}
		b.WriteRune(r)
		n++
	}
	return b.String()
}

// keptElsewhere is the page of who has no password or second factor here.
func (s *site) keptElsewhere(w http.ResponseWriter, v *visit) {
	display := v.Connector
	if p, ok := s.provider(v.Connector, ""); ok {
		display = p.Display
	}
	n := notice{
		Title: "You log in with " + display, Error: true,
		Lines: []string{"You have no password and no second factor here: " + display + " keeps them, and that is where you change them."},
		Link:  accountPath, LinkText: "To your account",
	}
	s.show(w, http.StatusForbidden, page{name: "notice", title: n.Title, visit: v, body: n})
}

// locals is for pages of those who have a password here.
func (s *site) locals(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request, v *visit) {
		if v.Connector != "" {
			s.keptElsewhere(w, v)
			return
		}
		h(w, r, v)
	}
}
