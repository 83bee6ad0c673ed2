package authapi

import (
	"net/http"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

// session is the caller's own: always allowed, whatever the roles say.
func (h *Handler) session(r *http.Request) (any, error) {
	p, err := h.principal(CallerFrom(r.Context()))
	if err != nil {
		return nil, err
	}
	return p.Session(), nil
}

// logout ends the caller's own session. It needs no living one, so that a
// client may repeat it.
func (h *Handler) logout(r *http.Request) (any, error) {
	c := CallerFrom(r.Context())
	if c.Identity == nil {
		return nil, api.Errorf(api.CodeUnauthenticated, "a client certificate is needed: there is no session to end")
	}
	if s, err := h.auth.Sessions.Get(*c.Identity); err == nil && s.Kind == api.SessionWeb {
		return nil, api.Errorf(api.CodeUnauthenticated, "this session is no certificate's")
	}
	return nothing{}, h.auth.Sessions.Delete(r.Context(), c.actor(), *c.Identity)
}

// sessions lists those of one user, or of all that the caller may see: one's own
// may always be listed.
func (h *Handler) sessions(r *http.Request) (any, error) {
	user := r.URL.Query().Get("user")
	err := h.authorizeOr(r, api.VerbList, user)
	if user == "" && api.IsCode(err, api.CodeForbidden) {
		var p *auth.Principal
		if p, err = h.principal(CallerFrom(r.Context())); err == nil {
			user = p.User
		}
	}
	if err != nil {
		return nil, err
	}
	answer := api.Sessions{Sessions: h.auth.Sessions.List(user)}
	if answer.Sessions == nil {
		answer.Sessions = []api.Session{}
	}
	return answer, nil
}

// endSession ends anybody's session, if the rules say so, or one's own.
func (h *Handler) endSession(r *http.Request) (any, error) {
	id := pki.UserIdentity{User: r.PathValue("user"), SessionID: r.PathValue("id")}
	if err := h.authorizeOr(r, api.VerbDelete, id.User); err != nil {
		return nil, err
	}
	return nothing{}, h.auth.Sessions.Delete(r.Context(), CallerFrom(r.Context()).actor(), id)
}

// sign makes a session for somebody who does not log in.
func (h *Handler) sign(r *http.Request) (any, error) {
	if err := h.Authorize(r, api.VerbImpersonate, api.KindUser); err != nil {
		return nil, err
	}
	var req api.SignRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	return h.auth.Login.Sign(r.Context(), CallerFrom(r.Context()).actor(), req)
}

// authorizeOr is Authorize for sessions, with those of the caller left free.
func (h *Handler) authorizeOr(r *http.Request, verb, owner string) error {
	c := CallerFrom(r.Context())
	if c.Admin {
		return nil
	}
	p, err := h.principal(c)
	if err != nil || owner == p.User {
		return err
	}
	return p.Can(verb, api.KindSession)
}
