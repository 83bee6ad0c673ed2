package server

import (
	"bytes"
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport-dev/sallyport/cluster/peer"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/proxy/web"
)

// A change of rights answers when every reachable replica has applied it, or
// after settleFor, naming those that have not said so: whoever
// removes a user may rely on it that from now on no replica in contact lets
// them in.
const settleFor = time.Second

const pathApplied = "/server/applied"

type appliedCall struct {
	Index uint64 `json:"index"`
}

type appliedAnswer struct {
	Index uint64 `json:"index"`
}

// serveApplied answers once this replica has applied the index.
func (s *Server) serveApplied(ctx context.Context, _ peer.Peer, in appliedCall) (appliedAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, settleFor)
	defer cancel()
	if s.state.Applied() < in.Index {
		// Asked of the leader, not waited for: a follower holds the entry long before Raft tells it, with
		// the next heartbeat, that it is committed. Asking the leader tells at once.
		if err := s.node.Linearize(ctx); err != nil {
			return appliedAnswer{}, api.Errorf(api.CodeUnavailable, "entry %d is not applied here yet: %w", in.Index, err)
		}
	}
	return appliedAnswer{Index: s.state.Applied()}, nil
}

// settle waits until all servers have applied what this one has, and names
// those that did not say so in time.
func (s *Server) settle(ctx context.Context) (missing []string) {
	ctx, cancel := context.WithTimeout(ctx, settleFor)
	defer cancel()
	index := s.state.Applied()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, srv := range s.node.Status().Servers {
		if srv.ID == s.node.ID() {
			continue
		}
		wg.Go(func() {
			var out appliedAnswer
			err := s.port.Call(ctx, peer.Target{ID: srv.ID, Addr: srv.Addr}, pathApplied, appliedCall{index}, &out)
			if err != nil || out.Index < index {
				s.log.Debug("a replica has not confirmed a change", "peer", srv.ID, "index", index, "error", err)
				mu.Lock()
				missing = append(missing, srv.ID)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.Sort(missing)
	return missing
}

// heldKey is of a request's *atomic.Bool: whether its answer is to be held back.
type heldKey struct{}

// noteCommit tells the request that a commit was made for.
func noteCommit(ctx context.Context) { hold(ctx) }

// noteUser tells the request that it is of a user, and no stranger's.
func noteUser(ctx context.Context) { hold(ctx) }

func hold(ctx context.Context) {
	if held, ok := ctx.Value(heldKey{}).(*atomic.Bool); ok {
		held.Store(true)
	}
}

// whose requests an answer is held back for.
type whose bool

const (
	ofStrangers whose = false // if they changed something, or proved to be a user's: a stranger's POST must not cost calls to all others
	ofUsers     whose = true  // always: what an earlier try has changed may still be on its way
)

// settled holds the answer to a successful change back until it has settled.
func (s *Server) settled(requests whose, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if (r.Method == http.MethodGet || r.Method == http.MethodHead) && !web.MakesSessions(r.URL.Path) {
			next.ServeHTTP(w, r)
			return
		}
		held := &heldAnswer{header: w.Header()}
		var wanted atomic.Bool
		next.ServeHTTP(held, r.WithContext(context.WithValue(r.Context(), heldKey{}, &wanted)))
		if held.status < http.StatusBadRequest && (requests == ofUsers || wanted.Load()) {
			if missing := s.settle(r.Context()); len(missing) > 0 {
				w.Header().Set(api.HeaderUnsettled, strings.Join(missing, ","))
			}
		}
		w.WriteHeader(max(held.status, http.StatusOK))
		_, _ = w.Write(held.body.Bytes()) // the client is gone: nobody to tell
	})
}

// heldAnswer is an answer not sent yet. The bodies here are single documents.
type heldAnswer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (h *heldAnswer) Header() http.Header { return h.header }

func (h *heldAnswer) WriteHeader(status int) {
	if h.status == 0 {
		h.status = status
	}
}

func (h *heldAnswer) Write(p []byte) (int, error) {
	h.WriteHeader(http.StatusOK)
	return h.body.Write(p)
}
