package authapi

import (
	"net/http"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// startSSOTest begins a test of a connector. A document is as good as a connector
// that is created, as its identity provider is asked for things; to try a saved one
// is to use its secrets, and shows who tried.
func (h *Handler) startSSOTest(r *http.Request) (any, error) {
	// Before the body is read: who is nobody learns nothing.
	c := CallerFrom(r.Context())
	if !c.Admin {
		if _, err := h.principal(c); err != nil {
			return nil, err
		}
	}
	var req api.SSOTestRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	kind, err := h.auth.SSOTests.Kind(req)
	if err != nil {
		return nil, err
	}
	verb := api.VerbUpdate
	if len(req.Document) > 0 {
		verb = api.VerbCreate
	}
	if err := h.Authorize(r, verb, kind); err != nil {
		return nil, err
	}
	return h.auth.SSOTests.Start(r.Context(), c.actor(), req)
}

// awaitSSOTest answers who began the test alone; late, as consoleWait does.
func (h *Handler) awaitSSOTest(r *http.Request) (any, error) {
	c := CallerFrom(r.Context())
	if !c.Admin {
		if _, err := h.principal(c); err != nil {
			return nil, err
		}
	}
	ctx, cancel := h.waiting(r)
	defer cancel()
	return h.auth.SSOTests.Wait(ctx, c.actor(), r.PathValue("id"))
}
