package web

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

//go:embed assets templates
var files embed.FS

// Options say what the pages show and where they take it from. PublicAddr,
// ClusterName, Invites and Accounts are required.
type Options struct {
	PublicAddr  string // host:port by which people reach the cluster
	ClusterName string
	Version     string
	Invites     Invites
	Accounts    Accounts
	SSO         SSO              // nil: there is no single sign-on
	Audit       Audit            // nil: there is no page for auditors
	Clock       func() time.Time // nil: time.Now
	ClockError  func() error     // why this replica can't judge what is still valid, or nil; nil: it always can
	Rand        io.Reader        // nil: crypto/rand
	Logger      *slog.Logger     // nil: slog.Default
}

// site is the handler's state; it never changes after New.
type site struct {
	opts   Options
	pages  map[string]*template.Template
	assets map[string]asset
	digest string // of all assets, part of their URLs
	hsts   bool
}

type asset struct {
	contentType string
	body        []byte
}

// New makes the handler of /, /web, /web/… and /assets/…. Every other path gets
// its 404 page, so it may also be mounted as the last resort.
func New(opts Options) (http.Handler, error) {
	if opts.PublicAddr == "" || opts.ClusterName == "" || opts.Invites == nil || opts.Accounts == nil {
		return nil, errors.New("web pages: a public address, a cluster name, invites and accounts are needed")
	}
	if opts.Clock == nil {
		opts.Clock = time.Now
	}
	if opts.ClockError == nil {
		opts.ClockError = func() error { return nil }
	}
	if opts.Rand == nil {
		opts.Rand = rand.Reader
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	s := &site{opts: opts, hsts: hostOf(opts.PublicAddr) != "localhost"}
	if err := s.loadAssets(); err != nil {
		return nil, fmt.Errorf("web pages: %w", err)
	}
	if err := s.loadPages(); err != nil {
		return nil, fmt.Errorf("web pages: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/", s.get(s.home))
	mux.Handle("/web", s.get(s.home))
	mux.Handle("/web/", s.get(s.home))
	mux.Handle("/web/invite/{token}", s.form(s.showInvite, s.redeemInvite))
	mux.Handle("/web/reset/{token}", s.form(s.showInvite, s.redeemInvite))
	mux.Handle(loginPath, s.form(s.showLogin, s.takeLogin))
	mux.Handle(factorPath, s.form(s.showFactor, s.takeFactor))
	mux.Handle(logoutPath, s.visits(s.leaver, s.nobody, s.showLogout, s.takeLogout))
	mux.Handle(accountPath, s.members(s.showAccount, nil))
	mux.Handle(passwordPath, s.members(s.locals(s.showPassword), s.locals(s.takePassword)))
	mux.Handle(endPath, s.members(toAccount, s.endSession))
	mux.Handle(othersPath, s.members(toAccount, s.endOthers))
	for _, a := range []adding{addingApp(), addingPasskey()} {
		mux.Handle(a.path, s.members(s.locals(s.showAdd(a)), s.locals(s.takeAdd(a))))
	}
	mux.Handle("/web/account/factors/{id}/remove", s.members(s.locals(s.fresh(s.showRemove)), s.locals(s.fresh(s.takeRemove))))
	mux.Handle(ConsolePath+"{id}", s.visits(s.visit, s.nobodysConsole, s.showConsole, s.takeConsole))
	if opts.Audit != nil {
		mux.Handle(auditPath, s.members(s.auditors(s.showAudit), nil))
	}
	if opts.SSO != nil {
		s.routeSSO(mux)
	}
	mux.Handle("/web/msg/{kind}/{name...}", s.get(s.message))
	mux.Handle("/assets/{digest}/{file}", s.get(s.asset))
	return s.secure(s.onTime(mux)), nil
}

func (s *site) loadAssets() error {
	s.assets = map[string]asset{}
	all := sha256.New()
	err := fs.WalkDir(files, "assets", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		body, err := files.ReadFile(name)
		if err != nil {
			return err
		}
		fmt.Fprintf(all, "%s %d\n%s", name, len(body), body) // a hash takes everything
		s.assets[path.Base(name)] = asset{contentType(name), body}
		return nil
	})
	s.digest = hex.EncodeToString(all.Sum(nil)[:8])
	return err
}

// contentType does not ask the machine: a script is refused unless its type is
// one of JavaScript's.
func contentType(name string) string {
	switch path.Ext(name) {
	case ".css":
		return "text/css; charset=utf-8"
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	default:
		return "application/octet-stream"
	}
}

func (s *site) loadPages() error {
	s.pages = map[string]*template.Template{}
	pages, err := fs.Glob(files, "templates/*.html")
	if err != nil {
		return err
	}
	for _, file := range pages {
		name := strings.TrimSuffix(path.Base(file), ".html")
		if name == "layout" || name == "parts" {
			continue
		}
		t, err := template.ParseFS(files, "templates/layout.html", "templates/parts.html", file)
		if err != nil {
			return err
		}
		s.pages[name] = t
	}
	return nil
}

// policy is the content security policy: no script at all. The pages that ask the
// browser for a passkey, which nothing but a script can, add ours.
const (
	policy       = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
	policyScript = policy + "; script-src 'self'"
)

// secure sets on every answer, errors and redirects too, what keeps it from
// being framed, sniffed, stored, or told of elsewhere.
func (s *site) secure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("X-Robots-Tag", "noindex, nofollow")
		h.Set("Cache-Control", "no-store")
		if s.hsts { // on localhost it would bind every other port of the machine too
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		next.ServeHTTP(w, r)
	})
}

// onTime lets nobody do anything on a replica whose clock is wrong: a login would
// get times that no other replica accepts, an invite would seem expired.
func (s *site) onTime(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := s.opts.ClockError(); err != nil && (sends(r) || strings.HasPrefix(r.URL.Path, "/web/") || IsPage(r.URL.Path)) {
			s.problem(w, r, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// sends reports whether a request is more than a look at a page.
func sends(r *http.Request) bool { return r.Method != http.MethodGet && r.Method != http.MethodHead }

// get lets GET and HEAD through; net/http leaves out the body of the latter.
func (s *site) get(h http.HandlerFunc) http.Handler { return s.methods("GET, HEAD", h, nil) }

// form lets POST through as well.
func (s *site) form(get, post http.HandlerFunc) http.Handler {
	return s.methods("GET, HEAD, POST", get, post)
}

func (s *site) methods(allow string, get, post http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodGet || r.Method == http.MethodHead:
			get(w, r)
		case r.Method == http.MethodPost && post != nil:
			post(w, r)
		default:
			s.refuseMethod(w, r, allow)
		}
	})
}

func (s *site) refuseMethod(w http.ResponseWriter, r *http.Request, allow string) {
	w.Header().Set("Allow", allow)
	n := notice{Title: "That does not work here", Lines: []string{"This page can be opened, but not sent to in this way."}}
	if allow == http.MethodPost {
		n.Lines = []string{"This page is for your identity provider, which has your browser send something here. It can’t be opened."}
	}
	s.notice(w, r, http.StatusMethodNotAllowed, n)
}

// page is what a handler shows.
type page struct {
	name    string // of the template
	title   string
	body    any
	visit   *visit // nil: nobody is logged in, or it does not matter here
	script  bool   // the page asks for a passkey
	refresh string // where the browser goes at once
}

// view is what every template gets.
type view struct {
	Title   string
	Cluster string
	Version string
	Assets  string // the folder of style sheet and pictures
	User    string // who is logged in
	Logout  string // token of the form
	Auditor bool   // they may look at the audit log
	Here    string // the page's name, to mark it in the navigation
	Script  bool
	Refresh string
	Body    any
}

// render writes a page that looks the same to everyone.
func (s *site) render(w http.ResponseWriter, status int, name, title string, body any) {
	s.show(w, status, page{name: name, title: title, body: body})
}

// show writes a page whole or not at all: a template that fails midway must
// not leave half a form behind.
func (s *site) show(w http.ResponseWriter, status int, p page) {
	v := view{
		Title: p.title, Cluster: s.opts.ClusterName, Version: s.opts.Version, Assets: "/assets/" + s.digest,
		Here: p.name, Script: p.script, Refresh: p.refresh, Body: p.body,
	}
	if p.visit != nil {
		v.User, v.Logout, v.Auditor = p.visit.User, p.visit.key.token(logoutPath), p.visit.auditor
	}
	var out bytes.Buffer
	if err := s.pages[p.name].ExecuteTemplate(&out, "layout", v); err != nil {
		s.opts.Logger.Error("a page cannot be rendered", "page", p.name, "error", err)
		http.Error(w, "internal error, see the log of the replica", http.StatusInternalServerError)
		return
	}
	if p.script {
		w.Header().Set("Content-Security-Policy", policyScript)
	}
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "10")
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = out.WriteTo(w) // the client is gone: nobody to tell
}

// asset serves one embedded file. Its URL names the digest of all, so browsers
// may keep it; another digest is of a replica of another version, whose page
// deserves a style sheet too, but not for ever.
func (s *site) asset(w http.ResponseWriter, r *http.Request) {
	a, ok := s.assets[r.PathValue("file")]
	if !ok {
		s.notFound(w, r)
		return
	}
	if r.PathValue("digest") == s.digest {
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	w.Header().Set("Content-Type", a.contentType)
	_, _ = w.Write(a.body) // the client is gone: nobody to tell
}

func hostOf(addr string) string {
	if host, _, err := net.SplitHostPort(addr); err == nil {
		return host
	}
	return addr
}

// loginLine is what a user pastes into a terminal, in words that a page should
// not break. Either may be "": whoever has a connector has no use for a name.
func (s *site) loginLine(user, connector string) []string {
	words := []string{"tsh", "login", "--proxy=" + api.ShellQuote(s.opts.PublicAddr)}
	switch {
	case connector != "":
		words = append(words, "--auth="+api.ShellQuote(connector))
	case user != "":
		words = append(words, "--user="+api.ShellQuote(user))
	}
	return words
}
