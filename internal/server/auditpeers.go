package server

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/sallyport-dev/sallyport/cluster/peer"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/audit"
)

// What replicas ask one another about their copies of the audit log.
const (
	pathAuditState  = "/server/audit/state"  // POST nothing: audit.Holding
	pathAuditFetch  = "/server/audit/fetch"  // POST audit.FetchRequest: audit.FetchAnswer
	pathAuditVerify = "/server/audit/verify" // GET: lines of api.AuditVerified
)

const (
	auditAskFor   = 5 * time.Second  // how long to wait for what a replica has
	auditFetchFor = 30 * time.Second // and for a piece of it
)

// journalState is how far the journal is. What is before the floor counts for nothing,
// whether or not the files hold some of it.
func (s *Server) journalState() audit.JournalState {
	st := s.journal.State()
	floor, err := record(s.state.View(), audit.KeyFloor, audit.Floor{})
	if err != nil {
		st.Err = errors.Join(st.Err, err)
	}
	st.First = max(st.First, floor.First)
	return st
}

// holding is what this replica tells the others of its log.
func (s *Server) holding() audit.Holding {
	h := s.journalState().Holding()
	h.Room = s.auditRoom()
	return h
}

// handleAuditCalls registers what other replicas ask.
func (s *Server) handleAuditCalls() {
	s.port.Handle(pathAuditState, peer.Members, peer.JSON(func(context.Context, peer.Peer, struct{}) (audit.Holding, error) {
		return s.holding(), nil
	}))
	s.port.Handle(pathAuditFetch, peer.Members, peer.JSON(func(_ context.Context, _ peer.Peer, in audit.FetchRequest) (audit.FetchAnswer, error) {
		return s.journal.Serve(in)
	}))
	s.port.HandleHTTP("GET "+pathAuditVerify, peer.Members, http.HandlerFunc(s.servePeerVerify))
}

// auditPeers are all other servers of the Raft configuration.
func (s *Server) auditPeers() []api.Server {
	var out []api.Server
	for _, srv := range s.node.Status().Servers {
		if srv.ID != s.node.ID() {
			out = append(out, srv)
		}
	}
	return out
}

// askAuditState asks another replica what it has.
func (s *Server) askAuditState(ctx context.Context, srv api.Server) (audit.Holding, error) {
	ctx, cancel := context.WithTimeout(ctx, auditAskFor)
	defer cancel()
	var out audit.Holding
	err := s.port.Call(ctx, peer.Target{ID: srv.ID, Addr: srv.Addr}, pathAuditState, struct{}{}, &out)
	return out, err
}

// keepJournal lets the journal fetch what it lacks from other replicas, and delete
// what the store no longer names, until ctx ends.
func (s *Server) keepJournal(ctx context.Context) {
	// What a replica remembers when it starts may name files that were deleted since.
	if !s.awaitReady(ctx, ctx) {
		return
	}
	s.journal.Keep(ctx, audit.KeepOptions{
		Peers: func() (ids []string) {
			for _, srv := range s.auditPeers() {
				ids = append(ids, srv.ID)
			}
			return ids
		},
		Fetch: func(ctx context.Context, id string, r audit.FetchRequest) (out audit.FetchAnswer, err error) {
			ctx, cancel := context.WithTimeout(ctx, auditFetchFor)
			defer cancel()
			for _, srv := range s.auditPeers() {
				if srv.ID == id {
					err = s.port.Call(ctx, peer.Target{ID: id, Addr: srv.Addr}, pathAuditFetch, r, &out)
					return out, err
				}
			}
			return out, api.Errorf(api.CodeNotFound, "replica %s has left the cluster", id)
		},
		ManifestChanged: s.records.manifestChanged,
	})
}
