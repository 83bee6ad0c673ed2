package web

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
)

// consolePath is where tsh sends a browser, with the id of its login.
const consolePath = "/web/cli/"

// consolePage is what cli.html shows.
type consolePage struct {
	form
	Cluster   string
	User      string
	Other     string // the login is for this user instead
	LoginURL  string
	MatchCode string
	Addr      string
	Elsewhere string // our own address, if it is another
	Length    string
	Begun     moment
}

// showConsole asks whether tsh may log in.
func (s *site) showConsole(w http.ResponseWriter, r *http.Request, v *visit) {
	c, ok := s.console(w, r)
	if !ok {
		return
	}
	if s.age(v) > auth.FreshFor-timeToDecide {
		toLogin(w, r)
		return
	}
	s.renderConsole(w, r, v, http.StatusOK, c, "")
}

// console finds the login of the URL, or answers why there is none.
func (s *site) console(w http.ResponseWriter, r *http.Request) (*auth.ConsoleLogin, bool) {
	c, err := s.opts.Accounts.Console(r.Context(), r.PathValue("id"), clientAddr(r))
	if api.IsCode(err, api.CodeNotFound) || err == nil && !c.Expires.IsZero() && !s.opts.Clock().Before(c.Expires) {
		s.notice(w, r, http.StatusNotFound, notice{
			Title: "This login is over", Error: true,
			Lines: []string{"tsh waits for ten minutes, and for one answer. Run this again in your terminal:"},
			// The name of who began it is not known any more, or not for everyone to see.
			Command: []string{"tsh", "login", "--proxy=" + api.ShellQuote(s.opts.PublicAddr)},
		})
		return nil, false
	}
	if api.IsCode(err, api.CodeConflict) {
		s.notice(w, r, http.StatusConflict, notice{Title: "This login is over", Error: true, Lines: []string{sentence(err.Error())}})
		return nil, false
	}
	if err != nil {
		s.problem(w, r, err)
		return nil, false
	}
	return c, true
}

func (s *site) renderConsole(w http.ResponseWriter, r *http.Request, v *visit, status int, c *auth.ConsoleLogin, problem string) {
	path := r.URL.Path
	p := consolePage{
		form:    form{Token: v.key.token(path), Action: path, Error: problem},
		Cluster: s.opts.ClusterName, User: v.User, MatchCode: c.MatchCode, Addr: addrWords(c.Addr),
		Length: sessionLength(c.TTL), Begun: s.moment(c.Created), LoginURL: loginURL(path),
	}
	if c.User != v.User {
		p.Other = c.User
	}
	if from := clientAddr(r); from != c.Addr {
		p.Elsewhere = addrWords(from)
	}
	s.show(w, status, page{name: "cli", title: titled("Let tsh log in?", problem), visit: v, body: p})
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
		to  string
		err error
	)
	p := page{name: "clidone", visit: v}
	body := map[string]any{"Approved": false, "Cluster": s.opts.ClusterName}
	switch r.PostForm.Get("answer") {
	case "approve":
		p.title, body["Approved"] = "Go back to your terminal", true
		to, err = s.opts.Accounts.ApproveConsole(r.Context(), v.cookie, id, clientAddr(r))
	case "deny":
		p.title = "tsh is refused"
		to, err = s.opts.Accounts.DenyConsole(r.Context(), v.cookie, id, clientAddr(r))
	default:
		if c, ok := s.console(w, r); ok {
			s.renderConsole(w, r, v, http.StatusBadRequest, c, "Choose one of the two: approve or deny.")
		}
		return
	}
	switch api.CodeOf(err) {
	case "":
	case api.CodeUnauthenticated: // not fresh any more, or ended meanwhile
		toLogin(w, r)
		return
	case api.CodeNotFound, api.CodeConflict:
		s.notice(w, r, api.CodeOf(err).HTTPStatus(), notice{
			Title: "This login is over", Error: true,
			Lines: []string{"It was answered already, or took too long. If tsh still waits, run tsh login again in your terminal."},
		})
		return
	default:
		s.problem(w, r, err)
		return
	}
	if !isCallback(to) {
		s.problem(w, r, fmt.Errorf("a console login would lead to %.40q", to))
		return
	}
	body["To"] = to
	p.refresh, p.body = to, body
	s.show(w, http.StatusOK, p)
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
