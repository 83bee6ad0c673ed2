package server

import (
	"encoding/json"
	"net/http"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

// The calls about the cluster as a whole live here, beside the node they ask:
// no domain below knows both Raft and the identities that may see it.

// kindCluster is what role rules call status and backup.
const kindCluster = "cluster"

func (s *Server) serveStatus(w http.ResponseWriter, r *http.Request) {
	if err := s.authAPI.Authorize(r, "read", kindCluster); err != nil {
		api.WriteError(w, err)
		return
	}
	st := s.node.Status()
	st.ClusterName = s.opts.ClusterName
	if cas, err := s.auth.Authorities.States(); err == nil {
		st.CAs = cas
	} else if st.Reason == "" {
		st.Reason = err.Error()
	}
	answer(w, st)
}

// serveAuthorities gives the certificates of the CAs, which are no secret.
func (s *Server) serveAuthorities(w http.ResponseWriter, _ *http.Request) {
	hosts, err := s.auth.Authorities.HostSigners()
	if err != nil {
		api.WriteError(w, err)
		return
	}
	users, err := s.auth.Authorities.UserCAs()
	if err != nil {
		api.WriteError(w, err)
		return
	}
	out := api.Authorities{}
	for _, h := range hosts {
		out.Host = append(out.Host, h.TLSCerts...)
	}
	for _, u := range users {
		out.User = append(out.User, pki.EncodeCert(u.Raw))
	}
	answer(w, out)
}

// serveBackup streams a snapshot that holds every write acknowledged before the
// call. Secrets in it are sealed, as they are everywhere outside memory.
func (s *Server) serveBackup(w http.ResponseWriter, r *http.Request) {
	if err := s.authAPI.Authorize(r, "create", kindCluster); err != nil {
		api.WriteError(w, err)
		return
	}
	// Without a quorum a backup of what this replica has is worth more than none.
	if err := s.store.Linearize(r.Context()); err != nil {
		w.Header().Set("Sallyport-Backup-Warning", "no leader: the newest writes may be missing")
		s.log.Warn("backup without a leader: the newest writes may be missing", "error", err)
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if _, err := s.state.Snapshot().WriteTo(w); err != nil {
		s.log.Warn("a backup broke off", "error", err)
		panic(http.ErrAbortHandler) // the client must not take half a backup for a whole one
	}
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(v) // the client is gone: nobody to tell
}
