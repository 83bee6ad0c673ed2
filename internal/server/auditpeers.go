package server

import (
	"context"
	"time"

	"github.com/sallyport-dev/sallyport/cluster/peer"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// What replicas ask one another about their copies of the audit log.
const (
	pathAuditState  = "/server/audit/state"  // POST nothing: auditState
	pathAuditFetch  = "/server/audit/fetch"  // POST audit.FetchRequest: audit.FetchAnswer
	pathAuditVerify = "/server/audit/verify" // GET: lines of api.AuditVerified
)

// auditState is what a replica has of the audit log.
type auditState struct {
	First uint64    `json:"first"`         // of its lines
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

// auditAskFor is how long a duty waits for one replica's answer.
const auditAskFor = 5 * time.Second
