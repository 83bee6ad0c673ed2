package server

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/acme"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth/authapi"
)

// acmeRetryWait is how long who asks for an order waits for it: clients give up after a
// minute.
const acmeRetryWait = 45 * time.Second

// serveACMERetry orders a certificate now, for who has mended what was in the way.
func (s *Server) serveACMERetry(w http.ResponseWriter, r *http.Request) {
	if err := s.authAPI.Authorize(r, api.VerbUpdate, api.KindCluster); err != nil {
		s.refuse(w, r, err)
		return
	}
	var req api.ACMERetryRequest
	if err := readRequest(w, r, &req); err != nil {
		s.refuse(w, r, err)
		return
	}
	out, err := s.retryACME(r.Context(), req.Name)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	answer(w, out)
}

func (s *Server) retryACME(ctx context.Context, name string) (out api.ACMERetryResponse, err error) {
	names := s.web.names
	switch {
	case s.web.file.Load() != nil:
		return out, api.Errorf(api.CodeInvalid, "nothing is ordered: the certificate is from the file of --cert-file, which is read again by itself")
	case s.web.acme == nil:
		return out, api.Errorf(api.CodeInvalid, "nothing is ordered: this replica was started without --acme")
	case name == "":
		name = s.web.acme.Statuses()[0].Names[0] // what 'tctl status' tells most of
	}
	if name = api.Hostname(name); !slices.Contains(names, name) {
		return out, api.Errorf(api.CodeNotFound, "no certificate is ordered for %.255q, but for %s", name, strings.Join(names, " and "))
	}
	told := ofCaller(ctx, api.EventACMERetry, api.EventCodeACMERetry, map[string]any{"name": name})
	if err := s.events.Commit(ctx, told); err != nil && !authapi.CallerFrom(ctx).Admin {
		return out, err
	} else if err != nil {
		s.log.Warn("a certificate is ordered for somebody, whose event could not be kept", "name", name, "error", err)
	}
	waiting, cancel := context.WithTimeout(ctx, acmeRetryWait)
	defer cancel()
	defer context.AfterFunc(s.leaving, cancel)()
	issued, err := s.web.acme.Retry(waiting, name)
	out.Outcome = api.ACMERetryNotDue
	switch {
	case s.leaving.Err() != nil && err != nil:
		return out, api.Errorf(api.CodeUnavailable, "%w", errStopping)
	case errors.Is(err, acme.ErrOrdering):
		out.Outcome = api.ACMERetryOrdering
	case err != nil:
		return out, retryError(err)
	case issued:
		out.Outcome = api.ACMERetryIssued
	}
	for _, is := range s.web.acme.Statuses() {
		if slices.Contains(is.Names, name) {
			out.Certificate = is
		}
	}
	return out, nil
}

// retryError says for people why there is no certificate. An order that failed counts at the
// authority: a script isn't told to try later.
func retryError(err error) error {
	if code := api.CodeOf(err); code != api.CodeInternal {
		return err
	}
	if _, refused := errors.AsType[*acme.RefusedError](err); refused {
		return api.Errorf(api.CodeUnavailable, "%w", err) // it says that nothing is ordered
	}
	return api.Errorf(api.CodeInternal, "no certificate was issued: %w", err)
}
