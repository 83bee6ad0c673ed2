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
	pathAuditState  = "/server/audit/state"  // POST nothing: auditState
	pathAuditFetch  = "/server/audit/fetch"  // POST audit.FetchRequest: audit.FetchAnswer
	pathAuditVerify = "/server/audit/verify" // GET: lines of api.AuditVerified
)

const (
	auditAskFor   = 5 * time.Second  // how long to wait for what a replica has
	auditFetchFor = 30 * time.Second // and for a piece of it
	// maxFetch bounds the lines of one answer: the link is Raft's, too.
	maxFetch = 512 << 10
)

// auditState is what a replica has of the audit log.
type auditState struct {
	First uint64    `json:"first"`         // of its lines; none if First > Last
	Last  uint64    `json:"last"`          // and all up to this one, but for Gap
	Gap   *auditGap `json:"gap,omitempty"` // what it is fetching
}

// auditGap is lines that a replica lacks; both ends belong to it.
type auditGap struct {
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
}

// has says whether a replica has all lines from first to last.
func (a auditState) has(first, last uint64) bool {
	return a.First <= first && last <= a.Last && (a.Gap == nil || a.Gap.To < first || last < a.Gap.From)
}

// next is the first line from a number on that a replica has; false: none.
func (a auditState) next(from uint64) (uint64, bool) {
	n := max(from, a.First)
	if a.Gap != nil && a.Gap.From <= n && n <= a.Gap.To {
		n = a.Gap.To + 1
	}
	return n, n <= a.Last
}

// journalState is how far the journal is. What is before the floor counts for nothing,
// whether or not the files hold some of it.
func (s *Server) journalState() audit.JournalState {
	st := s.journal.State()
	var floor audit.Floor
	if err := get(s.state.View(), s.records.floors, audit.KeyFloor, &floor); err != nil {
		st.Err = errors.Join(st.Err, err)
	}
	st.First = max(st.First, floor.First)
	return st
}

// auditState is what this replica has.
func (s *Server) auditState() auditState {
	st := s.journalState()
	out := auditState{First: st.First, Last: st.Last}
	if st.Gap != nil {
		out.Gap = &auditGap{st.Gap.From, st.Gap.To}
	}
	return out
}

// handleAuditCalls registers what other replicas ask.
func (s *Server) handleAuditCalls() {
	s.port.Handle(pathAuditState, peer.Members, peer.JSON(func(context.Context, peer.Peer, struct{}) (auditState, error) {
		return s.auditState(), nil
	}))
	s.port.Handle(pathAuditFetch, peer.Members, peer.JSON(func(_ context.Context, _ peer.Peer, in audit.FetchRequest) (audit.FetchAnswer, error) {
		if in.Max <= 0 || in.Max > maxFetch {
			in.Max = maxFetch
		}
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
func (s *Server) askAuditState(ctx context.Context, srv api.Server) (auditState, error) {
	ctx, cancel := context.WithTimeout(ctx, auditAskFor)
	defer cancel()
	var out auditState
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
