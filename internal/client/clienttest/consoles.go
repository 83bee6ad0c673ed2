package clienttest

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// console is a login in a browser.
type console struct {
	req      api.ConsoleLoginRequest
	code     string // "" until approved, and of a headless one
	approved bool
	failed   error
	by       string        // the connector of who approved
	decided  chan struct{} // closed when somebody has
	asked    bool          // what became of it
}

func (c *console) open() bool { return !c.approved && c.failed == nil }

// SetConnectors says which connectors there are, as KIND/NAME.
func (s *Server) SetConnectors(connectors ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.connectors = nil
	for _, c := range connectors {
		kind, name, _ := strings.Cut(c, "/")
		s.connectors = append(s.connectors, api.PingConnector{Kind: kind, Name: name, Display: strings.ToUpper(name)})
	}
}

// SetDefaultConnector says by which connector people log in unless they say; "": local.
func (s *Server) SetDefaultConnector(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.preferred = name
}

// SetIDPDown makes the identity provider of a connector answer nothing.
func (s *Server) SetIDPDown(connector string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idpDown[connector] = true
}

// SetIDPWarning is what logins by a connector begin with.
func (s *Server) SetIDPWarning(connector, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idpWarning[connector] = text
}

// FailWaits makes so many questions what became of a login fail, in turn with a
// page of a load balancer, a failure of our own, and a connection that breaks.
func (s *Server) FailWaits(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waitsFail = n
}

// WaitsToFail is how many of them are left.
func (s *Server) WaitsToFail() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waitsFail
}

// SetOld makes the server one that knows no connectors yet.
func (s *Server) SetOld() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.old = true
}

// ConsolePage is the page of a login in a browser that waits for approval, or "".
func (s *Server) ConsolePage() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, c := range s.consoles {
		if c.open() {
			return "https://" + s.PublicAddr + "/web/cli/" + id
		}
	}
	return ""
}

// ConsoleAsked says whether whoever began the login that waits has asked what became of it,
// and so knows that it was begun.
func (s *Server) ConsoleAsked() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.consoles {
		if c.open() && c.asked {
			return true
		}
	}
	return false
}

// ForgetConsoles ends all logins in a browser, as their expiry does.
func (s *Server) ForgetConsoles() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, c := range s.consoles {
		if c.open() {
			close(c.decided)
		}
		delete(s.consoles, id)
	}
}

// ApproveAs approves all headless logins as a user of a connector, or of none,
// whatever they ask for.
func (s *Server) ApproveAs(user, connector string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.consoles {
		if c.open() && c.req.Headless {
			c.approved, c.by, c.req.User = true, connector, user
			close(c.decided)
		}
	}
}

// LastCode is the last one that a browser got for tsh.
func (s *Server) LastCode() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lastCode
}

// ConsoleRequest is how the last login in a browser was begun.
func (s *Server) ConsoleRequest() api.ConsoleLoginRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lastConsole
}

// pingConnectors fills in what ping says of connectors; name is the one it was asked
// about, if any.
func (s *Server) pingConnectors(p *api.Ping, name string) error {
	about := name
	if name == "" {
		about = s.preferred
		p.Auth.Connectors = s.connectors
	}
	if about == "" {
		return nil
	}
	i := slices.IndexFunc(s.connectors, func(c api.PingConnector) bool { return c.Name == about })
	if i < 0 {
		return api.Errorf(api.CodeNotFound, "there is no connector %q", about)
	}
	p.Auth.Type, p.Auth.Connector = s.connectors[i].Kind, &s.connectors[i]
	return nil
}

// consoleRoutes are logins in a browser. GET of the page stands for a person who
// logs in as ?user= and approves, having typed ?typed= if the login is headless;
// with ?deny refuses; or with ?fail=WHY[&code=CODE] can't log in there.
func (s *Server) consoleRoutes(mux *http.ServeMux) {
	mux.HandleFunc("POST "+api.PathConsoleLogin, handle(s, s.startConsole))
	for _, kind := range api.ConnectorKinds() {
		mux.HandleFunc("POST "+fmt.Sprintf(api.PathSSOConsole, kind), handle(s, func(r *http.Request, in *api.ConsoleLoginRequest) (any, error) {
			if !slices.ContainsFunc(s.connectors, func(c api.PingConnector) bool { return c.Kind == kind && c.Name == in.ConnectorID }) {
				return nil, api.Errorf(api.CodeNotFound, "%s connector %q not found", kind, in.ConnectorID)
			}
			return s.startConsole(r, in)
		}))
	}
	mux.HandleFunc("GET /web/cli/{id}", s.consolePage)
	mux.HandleFunc("POST "+api.PathConsoleWait, func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		n := s.waitsFail
		s.waitsFail = max(0, n-1)
		s.mu.Unlock()
		switch {
		case n == 0:
			handle(s, s.findConsole)(w, r)
		case n%3 == 0:
			http.Error(w, "<h1>Bad Gateway</h1>", http.StatusBadGateway)
		case n%3 == 1:
			panic(http.ErrAbortHandler) // the connection breaks
		default:
			api.WriteError(w, api.Errorf(api.CodeUnavailable, "there is no leader"))
		}
	})
	mux.HandleFunc("POST "+api.PathConsoleCancel, handle(s, s.cancelConsole))
	mux.HandleFunc("POST "+api.PathConsoleRedeem, handle(s, s.redeemConsole))
}

func (s *Server) startConsole(_ *http.Request, in *api.ConsoleLoginRequest) (any, error) {
	back := strings.HasPrefix(in.RedirectURL, "http://127.0.0.1:") && strings.HasSuffix(in.RedirectURL, "/callback")
	switch {
	case s.old && in.Device != "":
		return nil, api.Errorf(api.CodeInvalid, "%w", &api.FieldError{Path: "device", Reason: "unknown field"})
	case s.old && in.ConnectorID != "":
		return nil, api.Errorf(api.CodeInvalid, "%w", &api.FieldError{Path: "connector_id", Reason: "unknown field"})
	case s.old && in.Headless:
		return nil, api.Errorf(api.CodeInvalid, "%w", &api.FieldError{Path: "headless", Reason: "unknown field"})
	case back == in.Headless || in.Headless && in.RedirectURL != "":
		return nil, api.Errorf(api.CodeInvalid, "redirect_url: %q", in.RedirectURL)
	case s.idpDown[in.ConnectorID]:
		return nil, api.Errorf(api.CodeUnavailable, "the identity provider of connector %q does not answer (connection refused); log in as a local user meanwhile: tsh login --proxy=%s --auth=local --user=NAME", in.ConnectorID, s.PublicAddr)
	}
	id := rand.Text()
	s.consoles[id] = &console{req: *in, decided: make(chan struct{})}
	s.lastConsole = *in
	return api.ConsoleLoginResponse{
		ID: id, RedirectURL: "https://" + s.PublicAddr + "/web/cli/" + id, Expires: time.Now().Add(10 * time.Minute),
		Warning: s.idpWarning[in.ConnectorID],
	}, nil
}

func (s *Server) cancelConsole(_ *http.Request, in *api.ConsoleWaitRequest) (any, error) {
	c := s.consoles[in.ID]
	if c == nil || !c.proven(in.CodeVerifier) {
		return nil, api.Errorf(api.CodeNotFound, "this login is not known (any more)")
	}
	if c.open() {
		c.failed = api.Errorf(api.CodeForbidden, "it was ended in the terminal")
		close(c.decided)
	}
	return nil, nil //nolint:nilnil // nothing to say
}

// consolePage is a person in a browser.
func (s *Server) consolePage(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, query := r.PathValue("id"), r.URL.Query()
	c, ok := s.consoles[id]
	if !ok || !c.open() {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Match-Code", api.MatchCode(c.req.TLSPubKey))
	answer := url.Values{"id": {id}}
	switch {
	case query.Has("fail"):
		c.failed = api.Errorf(cmp.Or(api.Code(query.Get("code")), api.CodeForbidden), "%s", query.Get("fail"))
		close(c.decided)
		http.Error(w, query.Get("fail"), http.StatusForbidden) // and the browser stays there
		return
	case query.Has("deny"):
		answer.Set("error", "denied")
		c.failed = api.Errorf(api.CodeForbidden, "the login was refused in the browser")
	case c.req.Headless && query.Get("typed") != api.MatchCode(c.req.TLSPubKey):
		http.Error(w, "this is not the code that tsh shows", http.StatusBadRequest)
		return
	default:
		if user := query.Get("user"); user != "" {
			c.req.User = user
		}
		if c.req.User == "" {
			c.req.User = "alice"
		}
		c.approved = true
		if c.by = c.req.ConnectorID; c.by == api.AuthLocal {
			c.by = ""
		}
		if !c.req.Headless {
			c.code = rand.Text()
			s.lastCode = c.code
			answer.Set("code", c.code)
		}
	}
	close(c.decided)
	if !c.req.Headless {
		http.Redirect(w, r, c.req.RedirectURL+"?"+answer.Encode(), http.StatusSeeOther)
	}
}

// waitLong is how long an answer is held back while nobody has decided.
const waitLong = 20 * time.Second

// findConsole waits, unlocked, until somebody has decided.
func (s *Server) findConsole(r *http.Request, in *api.ConsoleWaitRequest) (any, error) {
	if s.old {
		return nil, api.Errorf(api.CodeNotFound, "no such call: %s %s", r.Method, r.URL.Path)
	}
	if len(in.CodeVerifier) < 43 {
		return nil, api.Errorf(api.CodeInvalid, "code_verifier: want 43 to 128 characters")
	}
	c := s.consoles[in.ID]
	if c == nil || !c.proven(in.CodeVerifier) {
		return nil, api.Errorf(api.CodeNotFound, "this login is not known (any more)")
	}
	c.asked = true
	timer := time.NewTimer(waitLong)
	defer timer.Stop()
	s.mu.Unlock()
	select {
	case <-c.decided:
	case <-timer.C:
	case <-r.Context().Done():
	}
	s.mu.Lock()
	switch {
	case s.consoles[in.ID] == nil && !c.approved:
		return nil, api.Errorf(api.CodeNotFound, "this login is not known (any more)")
	case c.failed != nil:
		return api.ConsoleWaitResponse{State: api.ConsoleFailed, Code: api.CodeOf(c.failed), Message: c.failed.Error()}, nil
	case c.approved:
		return api.ConsoleWaitResponse{State: api.ConsoleApproved}, nil
	}
	return api.ConsoleWaitResponse{State: api.ConsolePending}, nil
}

func (c *console) proven(verifier string) bool {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:]) == c.req.CodeChallenge
}

func (s *Server) redeemConsole(_ *http.Request, in *api.ConsoleRedeemRequest) (any, error) {
	c := s.consoles[in.ID]
	if c == nil || !c.approved || in.Code != c.code || !c.proven(in.CodeVerifier) {
		return nil, api.Errorf(api.CodeUnauthenticated, "the login was not approved with this code: run tsh login again")
	}
	delete(s.consoles, in.ID)
	out, err := s.issue(c.req.User, c.req.TLSPubKey, c.req.CertTTL)
	if resp, ok := out.(api.LoginResponse); ok {
		resp.Connector = c.by
		out = resp
	}
	return out, err
}
