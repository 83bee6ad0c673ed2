package server

import (
	"bufio"
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/cluster/peer"
	"github.com/sallyport-dev/sallyport/internal/api"
)

const (
	tellEvery = 500 * time.Millisecond // how often a replica's progress is told
	// beatEvery is when it is told again although there is none: what is between client
	// and server may take silence for death.
	beatEvery = 10 * time.Second
	// catchUpLines is how long to wait for a line that another replica has already.
	catchUpLines = 5 * time.Second
	// maxVerifiedLine bounds what is read of a peer's report in one piece.
	maxVerifiedLine = 1 << 20
)

// serveAuditVerify walks the chain of one replica's log, or of all, each by the
// manifest in its own store.
func (s *Server) serveAuditVerify(w http.ResponseWriter, r *http.Request) error {
	servers, err := s.toVerify(r.URL.Query().Get("server"))
	if err != nil {
		return err
	}
	takesLong(w)
	out := newReports(w)
	defer out.beat()()
	var work sync.WaitGroup
	for _, srv := range servers {
		work.Go(func() {
			var v api.AuditVerified
			if srv.ID == s.node.ID() {
				v = s.verifyOwn(r.Context(), out.tell)
			} else {
				v = s.verifyPeer(r.Context(), srv, out.tell)
				s.compare(r.Context(), &v)
			}
			out.tell(v)
		})
	}
	work.Wait()
	return nil
}

// servePeerVerify verifies this replica's log for another one.
func (s *Server) servePeerVerify(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := s.untilStop(r.Context())
	defer cancel()
	w.Header().Set("Content-Type", ndjson)
	out := newReports(w)
	defer out.beat()()
	out.tell(s.verifyOwn(ctx, out.tell))
}

// toVerify are the servers that a request names: an id, all, or none for this one.
func (s *Server) toVerify(name string) ([]api.Server, error) {
	const all = "all"
	own := api.Server{ID: s.node.ID()}
	if name == "" || name == own.ID {
		return []api.Server{own}, nil
	}
	servers := []api.Server{own}
	for _, srv := range s.auditPeers() {
		if srv.ID == name {
			return []api.Server{srv}, nil
		}
		servers = append(servers, srv)
	}
	if name != all {
		return nil, api.Errorf(api.CodeNotFound, "there is no replica %q: 'tctl status' lists them", name)
	}
	return servers, nil
}

// verifyOwn walks this replica's files, one walk at a time: each reads all of them.
func (s *Server) verifyOwn(ctx context.Context, progress func(api.AuditVerified)) api.AuditVerified {
	name := func(v api.AuditVerified) api.AuditVerified {
		v.ServerID = s.node.ID()
		return v
	}
	progress(name(api.AuditVerified{}))
	select {
	case s.verifying <- struct{}{}:
		defer func() { <-s.verifying }()
	case <-ctx.Done():
		return name(api.AuditVerified{Done: true, Error: "given up while another verification was under way"})
	}
	const tries = 3
	for try := 1; ; try++ {
		before, err := s.records.manifest()
		if err != nil {
			return name(api.AuditVerified{Done: true, Error: err.Error()})
		}
		v := name(s.journal.Verify(ctx, before, func(v api.AuditVerified) { progress(name(v)) }))
		v.Done = true
		if v.OK || v.Problem == nil || try == tries {
			return v
		}
		// What was deleted by retention during the walk is no loss.
		if after, err := s.records.manifest(); err != nil || manifestFirst(after) == manifestFirst(before) {
			return v
		}
	}
}

// verifyPeer has another replica verify its log.
func (s *Server) verifyPeer(ctx context.Context, srv api.Server, progress func(api.AuditVerified)) (last api.AuditVerified) {
	defer func() { last.ServerID = srv.ID }()
	failed := func(err error) api.AuditVerified {
		return api.AuditVerified{Done: true, Error: fmt.Sprintf("this replica could not be asked: %v", err)}
	}
	target := peer.Target{ID: srv.ID, Addr: srv.Addr}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://peer"+pathAuditVerify, nil)
	if err != nil {
		return failed(err)
	}
	resp, err := s.port.RoundTripper(target).RoundTrip(req)
	if err != nil {
		return failed(err)
	}
	defer func() { _ = resp.Body.Close() }() // read only
	if resp.StatusCode != http.StatusOK {
		return failed(api.ReadError(resp))
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxVerifiedLine)
	for lines.Scan() {
		var v api.AuditVerified
		if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
			return failed(fmt.Errorf("its answer is malformed: %w", err))
		}
		v.ServerID = srv.ID
		if v.Done {
			return v
		}
		progress(v)
	}
	if err := lines.Err(); err != nil {
		return failed(err)
	}
	return failed(fmt.Errorf("its answer broke off"))
}

// compare holds the end of another replica's chain against the same line here: each
// chain may be sound in itself, and the store beside it rewritten to match.
func (s *Server) compare(ctx context.Context, v *api.AuditVerified) {
	if !v.OK || v.Number == 0 {
		return
	}
	own, ok := s.ownHash(ctx, v.Number)
	if !ok || own == v.Hash {
		return
	}
	v.OK = false
	v.Problem = &api.AuditProblem{
		File: "events.log", Number: v.Number, Kind: api.AuditTouched,
		Detail: fmt.Sprintf("event %d has the hash %s there and %s on replica %s: one of the two logs was rewritten, with everything that vouches for it; an older copy (an export, a forwarder's) tells which",
			v.Number, cmp.Or(v.Hash, "none"), own, s.node.ID()),
	}
}

// ownHash is the hash of a line of this replica, which may be about to get it.
func (s *Server) ownHash(ctx context.Context, number uint64) (string, bool) {
	ctx, cancel := context.WithTimeout(ctx, catchUpLines)
	defer cancel()
	for {
		changed := s.journal.Changed()
		st := s.journalState()
		if st.First <= number && number <= st.Last {
			break
		}
		if number < st.First {
			return "", false
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", false
		}
	}
	for line, err := range s.journal.Lines(number) {
		if err != nil || line.Number != number {
			return "", false
		}
		return hex.EncodeToString(line.Hash[:]), true
	}
	return "", false
}

// reports writes what becomes of verifications as lines, each at once.
type reports struct {
	mu    sync.Mutex
	enc   *json.Encoder
	flush *http.ResponseController
	last  map[string]api.AuditVerified // of each replica that is not done
	told  map[string]time.Time
}

func newReports(w http.ResponseWriter) *reports {
	return &reports{enc: json.NewEncoder(w), flush: http.NewResponseController(w), last: map[string]api.AuditVerified{}, told: map[string]time.Time{}}
}

// tell writes how far a replica is, now and then, and how it ended.
func (o *reports) tell(v api.AuditVerified) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if now := time.Now(); v.Done {
		delete(o.last, v.ServerID)
	} else {
		o.last[v.ServerID] = v
		if now.Sub(o.told[v.ServerID]) < tellEvery {
			return
		}
		o.told[v.ServerID] = now
	}
	o.write(v)
}

// write does not fail: when the client is gone, the request's context ends.
func (o *reports) write(v api.AuditVerified) {
	_ = o.enc.Encode(v)
	_ = o.flush.Flush()
}

// beat repeats what was told last, until the function that it returns is called.
func (o *reports) beat() (stop func()) {
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(beatEvery)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
			}
			o.mu.Lock()
			for _, v := range o.last {
				o.write(v)
			}
			o.mu.Unlock()
		}
	}()
	return func() { close(end); <-done }
}
