package authapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/netip"
	"sync"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

// Caller is who makes a request, as the listener knows it.
type Caller struct {
	Admin    bool              // came over the unix socket
	Identity *pki.UserIdentity // of the verified client certificate; nil: none
	Addr     netip.Addr        // where from; not valid for the unix socket
}

type callerKey struct{}

// WithCaller puts the caller into a request's context. Only listeners call it.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerFrom is the caller of a request; the zero value is nobody.
func CallerFrom(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}

func (c Caller) actor() auth.Actor {
	switch {
	case c.Admin:
		return auth.Actor{User: auth.SocketUser}
	case c.Identity != nil:
		return auth.Actor{User: c.Identity.User, Addr: c.Addr, Session: *c.Identity}
	default:
		return auth.Actor{Addr: c.Addr}
	}
}

// Options are the options of New.
type Options struct {
	Auth   *auth.Service
	DB     auth.DB
	Ping   api.Ping // what strangers are told; the server fills in all but Auth
	Logger *slog.Logger
	// Replicas are, by the ids of agents, the server ids that they have tunnels to;
	// nil: none.
	Replicas func() map[string][]string
	// Duplicates are the ids of agents whose identity two processes use; nil: none.
	Duplicates func() []string
	// Joined is told of each agent that joined, and of each join that was refused: the
	// response is nil then. nil: nobody is.
	Joined func(addr netip.Addr, resp *api.JoinResponse, err error)
	// Refused is told of each call by a certificate whose session is over. nil: nobody is.
	Refused func(context.Context, auth.Actor, error)
}

// Handler serves the calls.
type Handler struct {
	auth *auth.Service
	db   auth.DB
	ping api.Ping
	log  *slog.Logger
	// replicas are Options.Replicas, never nil.
	replicas   func() map[string][]string
	duplicates func() []string                            // Options.Duplicates, never nil
	joined     func(netip.Addr, *api.JoinResponse, error) // Options.Joined, never nil
	refused    func(context.Context, auth.Actor, error)   // Options.Refused, never nil
	stopping   chan struct{}                              // closed by Stop
	stop       sync.Once
}

// New makes a handler.
func New(o Options) *Handler {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Replicas == nil {
		o.Replicas = func() map[string][]string { return nil }
	}
	if o.Duplicates == nil {
		o.Duplicates = func() []string { return nil }
	}
	if o.Joined == nil {
		o.Joined = func(netip.Addr, *api.JoinResponse, error) {}
	}
	if o.Refused == nil {
		o.Refused = func(context.Context, auth.Actor, error) {}
	}
	o.Ping.Auth.DefaultSessionTTL = api.Duration(o.Auth.Login.DefaultTTL())
	o.Ping.Auth.Type = api.AuthLocal
	o.Ping.Auth.Local = &api.PingLocal{Name: api.AuthLocal}
	return &Handler{auth: o.Auth, db: o.DB, ping: o.Ping, log: o.Logger, replicas: o.Replicas, duplicates: o.Duplicates, joined: o.Joined, refused: o.Refused, stopping: make(chan struct{})}
}

// Stop lets calls that wait for something answer now that it has not happened yet:
// clients ask again, another replica if this one stops.
func (h *Handler) Stop() { h.stop.Do(func() { close(h.stopping) }) }

// waiting is the context of a call that may wait: it ends with the request, or with
// Stop.
func (h *Handler) waiting(r *http.Request) (ctx context.Context, cancel func()) {
	ctx, end := context.WithCancel(r.Context())
	done := make(chan struct{})
	go func() { // ends with cancel at the latest, which waits for it
		defer close(done)
		select {
		case <-h.stopping:
			end()
		case <-ctx.Done():
		}
	}()
	return ctx, func() { end(); <-done }
}

// Public serves what needs no certificate, at Teleport's paths and again
// below /v1.
func (h *Handler) Public() http.Handler {
	mux := http.NewServeMux()
	for _, prefix := range []string{"", "/v1"} {
		h.handle(mux, "GET "+prefix+api.PathPing, h.servePing)
		h.handle(mux, "GET "+prefix+api.PathPing+"/{connector}", h.servePing)
		h.handle(mux, "GET "+prefix+api.PathFind, h.servePing)
		h.handle(mux, "POST "+prefix+api.PathLogin, h.login)
		h.handle(mux, "GET "+prefix+PathPasswordToken+"/{token}", h.invite)
		h.handle(mux, "PUT "+prefix+PathPasswordToken, h.redeem)
		h.handle(mux, "POST "+prefix+api.PathConsoleLogin, h.consoleLogin(""))
		h.handle(mux, "POST "+prefix+api.PathConsoleRedeem, h.consoleRedeem)
		h.handle(mux, "POST "+prefix+api.PathConsoleWait, h.consoleWait)
		h.handle(mux, "POST "+prefix+api.PathConsoleCancel, h.consoleCancel)
		for _, kind := range api.ConnectorKinds() {
			h.handle(mux, "POST "+prefix+fmt.Sprintf(api.PathSSOConsole, kind), h.consoleLogin(kind))
		}
		h.handle(mux, "POST "+prefix+api.PathJoin, h.join)
	}
	h.handle(mux, "/", notFound)
	return mux
}

// Authenticated serves /v1 for callers that WithCaller named, and ping for all
// of them.
func (h *Handler) Authenticated() http.Handler {
	mux := http.NewServeMux()
	h.handle(mux, "GET "+api.PathPing, h.servePing)
	h.handle(mux, "GET /v1"+api.PathPing, h.servePing)
	h.handle(mux, "GET "+api.PathPing+"/{connector}", h.servePing)
	h.handle(mux, "POST "+api.PathUsers, h.addUser)
	h.handle(mux, "GET "+api.PathSSOUsers, h.ssoUsers)
	h.handle(mux, "POST "+api.PathReset, h.resetUser)
	h.handle(mux, "POST "+api.PathSign, h.sign)
	h.handle(mux, "POST "+api.PathTokens, h.addToken)
	h.handle(mux, "GET "+api.PathAgents, h.agents)
	h.handle(mux, "DELETE "+api.PathAgents+"/{id}", h.deleteAgent)
	h.handle(mux, "PUT "+api.PathResources, h.put)
	h.handle(mux, "GET "+api.PathResources+"/{kind}", h.list)
	h.handle(mux, "GET "+api.PathResources+"/{kind}/{name}", h.get)
	h.handle(mux, "DELETE "+api.PathResources+"/{kind}/{name}", h.delete)
	h.handle(mux, "POST "+api.PathSSOTests, h.startSSOTest)
	h.handle(mux, "GET "+api.PathSSOTests+"/{id}", h.awaitSSOTest)
	h.handle(mux, "GET "+api.PathKube, h.kubeClusters)
	h.handle(mux, "GET "+api.PathSession, h.session)
	h.handle(mux, "DELETE "+api.PathSession, h.logout)
	h.handle(mux, "GET "+api.PathSessions, h.sessions)
	h.handle(mux, "DELETE "+api.PathSessions+"/{user}/{id}", h.endSession)
	h.handle(mux, "/", notFound)
	return mux
}

func notFound(r *http.Request) (any, error) {
	return nil, api.Errorf(api.CodeNotFound, "no such call: %s %s", r.Method, r.URL.Path)
}

// handle mounts a call: its answer becomes JSON, its error api.WriteError's.
func (h *Handler) handle(mux *http.ServeMux, pattern string, call func(*http.Request) (any, error)) {
	csrf := http.NewCrossOriginProtection()
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Cache-Control", "no-store") // certificates, links, names
		header.Set("X-Content-Type-Options", "nosniff")
		r.Body = http.MaxBytesReader(w, r.Body, api.MaxRequestBody)
		var answer any
		err := csrf.Check(r)
		if err != nil {
			err = api.Errorf(api.CodeForbidden, "requests from other sites' pages are refused")
		} else {
			answer, err = call(r)
		}
		if c := CallerFrom(r.Context()); c.Identity != nil && api.IsCode(err, api.CodeUnauthenticated) {
			h.refused(r.Context(), c.actor(), err)
		}
		if err != nil {
			if code := api.CodeOf(err); code == api.CodeInternal {
				h.log.ErrorContext(r.Context(), "call failed", "pattern", pattern, "error", err)
			}
			api.WriteError(w, err)
			return
		}
		header.Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer) // the client is gone: nobody to tell
	})
}

// decode reads a strict JSON body.
func decode(r *http.Request, into any) error {
	body, err := read(r)
	if err != nil {
		return err
	}
	return api.DecodeStrict(body, into)
}

func read(r *http.Request) ([]byte, error) {
	if ct := r.Header.Get("Content-Type"); ct != "" {
		if t, _, err := mime.ParseMediaType(ct); err != nil || t != "application/json" {
			return nil, api.Errorf(api.CodeInvalid, "content type %q: want application/json", ct)
		}
	}
	body, err := io.ReadAll(r.Body)
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return nil, api.Errorf(api.CodeTooLarge, "the request's body has more than %d bytes", api.MaxRequestBody)
	}
	if err != nil {
		return nil, api.Errorf(api.CodeInvalid, "the request's body broke off: %w", err)
	}
	return body, nil
}

// principal is the living session of a caller who did not come by the socket.
func (h *Handler) principal(c Caller) (*auth.Principal, error) {
	if c.Identity == nil {
		return nil, api.Errorf(api.CodeUnauthenticated, "a client certificate is needed: log in with tsh login")
	}
	return h.auth.Access.Certificate(h.db.View(), *c.Identity)
}

// Authorize says whether the caller of a request may do a verb on a kind. The
// socket's may.
func (h *Handler) Authorize(r *http.Request, verb, kind string) error {
	c := CallerFrom(r.Context())
	if c.Admin {
		return nil
	}
	p, err := h.principal(c)
	if err != nil {
		return err
	}
	return p.Can(verb, kind)
}
