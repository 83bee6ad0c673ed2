package server

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authapi"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

// The calls about the cluster as a whole live here, beside the node they ask:
// no domain below knows both Raft and the identities that may see it.

func (s *Server) serveStatus(w http.ResponseWriter, r *http.Request) {
	if err := s.authAPI.Authorize(r, api.VerbRead, api.KindCluster); err != nil {
		s.refuse(w, r, err)
		return
	}
	st := s.node.Status()
	st.ClusterName = s.opts.ClusterName
	if ok, why := s.ready(); !ok {
		if st.Ready = false; st.State != "fenced" { // whose reason is the cause of all others
			st.Reason = why
		}
	}
	if cas, err := s.auth.Authorities.States(); err == nil {
		st.CAs = cas
	} else if st.Reason == "" {
		st.Reason = err.Error()
	}
	if st.Audit = s.auditStatus(); st.Audit.Problem != "" && st.Reason == "" {
		st.Reason = "audit: " + st.Audit.Problem // no reason not to be ready: requests can be served
	}
	st.Certificate, st.Certificates = s.certificateStatuses()
	answer(w, st)
}

// serveAuthorities gives the certificates of the CAs, which are no secret.
func (s *Server) serveAuthorities(w http.ResponseWriter, r *http.Request) {
	hosts, err := s.auth.Authorities.HostSigners()
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	users, err := s.auth.Authorities.UserCAs()
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	out := api.Authorities{}
	for _, h := range hosts {
		out.Host = append(out.Host, h.TLSCerts...)
	}
	for _, u := range users {
		out.User = append(out.User, pki.EncodeCert(u.Raw))
	}
	agents, err := s.auth.Authorities.AgentCAs()
	if err != nil && !api.IsCode(err, api.CodeUnavailable) {
		s.refuse(w, r, err)
		return
	}
	for _, a := range agents {
		out.Agent = append(out.Agent, pki.EncodeCert(a.Raw))
	}
	answer(w, out)
}

// serveBackup streams a snapshot that holds every write acknowledged before the
// call. Secrets in it are sealed, as they are everywhere outside memory.
func (s *Server) serveBackup(w http.ResponseWriter, r *http.Request) {
	if err := s.authAPI.Authorize(r, api.VerbCreate, api.KindCluster); err != nil {
		s.refuse(w, r, err)
		return
	}
	// A backup is the whole state; who takes one is told first. Root on this machine
	// has the files anyway, and may need one most when nothing can be told.
	told := ofCaller(r.Context(), api.EventClusterBackup, api.EventCodeClusterBackup, map[string]any{})
	if err := s.events.Commit(r.Context(), told); err != nil && !authapi.CallerFrom(r.Context()).Admin {
		s.refuse(w, r, err)
		return
	} else if err != nil {
		s.log.Warn("a backup whose event could not be kept", "error", err)
	}
	// Without a quorum a backup of what this replica has is worth more than none.
	if err := s.store.Linearize(r.Context()); err != nil {
		w.Header().Set(api.HeaderBackupWarning, "no leader: the newest writes may be missing")
		s.log.Warn("backup without a leader: the newest writes may be missing", "error", err)
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if _, err := s.state.Snapshot().WriteTo(w); err != nil {
		s.log.Warn("a backup broke off", "error", err)
		panic(http.ErrAbortHandler) // the client must not take half a backup for a whole one
	}
}

// refuse answers with an error, and logs what the answer only hints at; that a client
// has gone is no error of ours.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	switch c := authapi.CallerFrom(r.Context()); {
	case c.Identity != nil && api.IsCode(err, api.CodeUnauthenticated):
		s.refusals.Refused(r.Context(), auth.Actor{User: c.Identity.User, Addr: c.Addr, Session: *c.Identity}, err)
	case api.IsCode(err, api.CodeRateLimited):
		w.Header().Set("Retry-After", "2")
	case errors.Is(err, context.Canceled) && r.Context().Err() != nil:
	case api.IsCode(err, api.CodeInternal):
		s.log.ErrorContext(r.Context(), "call failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	api.WriteError(w, err)
}

// readRequest decodes the body of a request.
func readRequest(w http.ResponseWriter, r *http.Request, v any) error {
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, api.MaxRequestBody)).Decode(v); err != nil {
		return api.Errorf(api.CodeInvalid, "the request is no JSON document: %w", err)
	}
	return nil
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false) // lines of the audit log are given as they are: their hash covers each byte
	_ = enc.Encode(v)        // the client is gone: nobody to tell
}
