package web

import (
	"net/http"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// notice is a page that says something and offers at most one line to paste.
type notice struct {
	Title    string
	Lines    []string // empty ones are left out
	Command  []string // its words
	Error    bool
	Link     string // where to go from here; "": to the start page
	LinkText string
}

// notice shows it with the header of whoever is logged in, and otherwise of
// nobody.
func (s *site) notice(w http.ResponseWriter, r *http.Request, status int, n notice) {
	v, err := s.visit(r)
	s.noticeTo(w, status, n, v, err)
}

// noticeTo is notice for whom it is known already: err is what visit said. Who is
// logged in but may do nothing (a role is broken, say) can leave.
func (s *site) noticeTo(w http.ResponseWriter, status int, n notice, v *visit, err error) {
	if api.IsCode(err, api.CodeForbidden) && n.Link == "" {
		n.Link, n.LinkText = logoutPath, "Log out"
	}
	s.show(w, status, page{name: "notice", title: n.Title, visit: v, body: n})
}

func (s *site) notFound(w http.ResponseWriter, r *http.Request) {
	s.notice(w, r, http.StatusNotFound, notice{
		Title: "There is no such page",
		Lines: []string{"The address may be mistyped, or the page may have gone."},
	})
}

// home is also the catch-all of the mux, so it looks at the path itself.
func (s *site) home(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/", "/web", "/web/":
	default:
		s.notFound(w, r)
		return
	}
	v, err := s.visit(r)
	switch {
	case err == nil:
		s.clusters(w, r, v)
		return
	case !api.IsCode(err, api.CodeUnauthenticated):
		s.nobody(w, r, err)
		return
	}
	s.render(w, http.StatusOK, "home", "Kubernetes, through one gate", map[string]any{
		"Login": s.loginLine("YOU", ""), "Cluster": s.opts.ClusterName, "By": s.loginLines(),
	})
}

// maxHome is how many connectors the home page names; the login page has all.
const maxHome = 3

type loginBy struct {
	Display string
	Login   []string
}

// loginLines are what a user pastes into a terminal to log in with a connector.
func (s *site) loginLines() (out []loginBy) {
	for _, p := range s.providers("") {
		if len(out) == maxHome {
			break
		}
		out = append(out, loginBy{p.Display, s.loginLine("", p.Name)})
	}
	return out
}

// message shows one of our own texts. The paths are Teleport's: logins in a
// browser end here.
func (s *site) message(w http.ResponseWriter, r *http.Request) {
	retry := "Run tsh login again. If it keeps failing, show your administrator the time of this attempt: the audit log says why."
	texts := map[string]notice{
		"info/login_success": {
			Title: "You are logged in",
			Lines: []string{"tsh has what it needs. You can close this window and go back to your terminal."},
		},
		"error/login": {
			Title: "You could not be logged in", Error: true, Lines: []string{retry},
		},
		"error/login/callback": {
			Title: "Your identity provider’s answer was not accepted", Error: true,
			Lines: []string{"It may have come too late, or for a login that was not begun here.", retry},
		},
		"error/login/auth": {
			Title: "You have no access here yet", Error: true,
			Lines: []string{
				"Your identity provider knows you, but none of your groups there leads to a role here.",
				"Ask your administrator for a role, then run tsh login again.",
			},
		},
	}
	n, ok := texts[r.PathValue("kind")+"/"+r.PathValue("name")]
	if !ok {
		s.notFound(w, r)
		return
	}
	s.notice(w, r, http.StatusOK, n)
}
