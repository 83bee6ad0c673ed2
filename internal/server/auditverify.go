package server

import (
	"bufio"
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
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
)

// serveAuditVerify walks the chain of one replica's log, or of all, each by the
// manifest in its own store.
func (s *Server) serveAuditVerify(w http.ResponseWriter, r *http.Request) error {
	servers, err := s.toVerify(r.URL.Query().Get("server"))
	if err != nil {
		return err
	}
	takesLong(w)
	newReports().serve(w, func(tell func(api.AuditVerified)) {
		var work sync.WaitGroup
		for _, srv := range servers {
			work.Go(func() {
				if srv.ID == s.node.ID() {
					tell(s.verifyOwn(r.Context(), tell))
					return
				}
				v := s.verifyPeer(r.Context(), srv, tell)
				s.compare(r.Context(), &v)
				tell(v)
			})
		}
		work.Wait()
	})
	return nil
}

// servePeerVerify verifies this replica's log for another one.
func (s *Server) servePeerVerify(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := s.untilStop(r.Context())
	defer cancel()
	w.Header().Set("Content-Type", ndjson)
	newReports().serve(w, func(tell func(api.AuditVerified)) { tell(s.verifyOwn(ctx, tell)) })
}

// toVerify are the servers that a request names: an id, all, or none for this one.
func (s *Server) toVerify(name string) ([]api.Server, error) {
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
	if name != api.AllServers {
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
	m, err := s.records.manifest()
	if err != nil {
		return name(api.AuditVerified{Done: true, Error: err.Error()})
	}
	v := name(s.journal.Verify(ctx, m, func(v api.AuditVerified) { progress(name(v)) }))
	v.Done = true
	return v
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
	lines.Buffer(nil, api.MaxVerifiedLine)
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

// reports are what is to be told of verifications. Those who verify only leave it here:
// a client that does not read must not keep a log from being verified for others.
type reports struct {
	mu   sync.Mutex
	last map[string]api.AuditVerified // of each replica
	told map[string]time.Time         // when that was written; absent: it was not
}

func newReports() *reports {
	return &reports{last: map[string]api.AuditVerified{}, told: map[string]time.Time{}}
}

// tell says how far a replica is, or how it ended.
func (o *reports) tell(v api.AuditVerified) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.last[v.ServerID] != v {
		o.last[v.ServerID] = v
		delete(o.told, v.ServerID)
	}
}

// due takes what is to be written now: what is new, and now and then what is not.
func (o *reports) due(now time.Time) (out []api.AuditVerified) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(o.last)) {
		if at, told := o.told[id]; !told || !o.last[id].Done && now.Sub(at) >= beatEvery {
			out = append(out, o.last[id])
			o.told[id] = now
		}
	}
	return out
}

// serve writes what work tells as lines, until it has ended. When the client is gone,
// the request's context ends, and work with it.
func (o *reports) serve(w http.ResponseWriter, work func(tell func(api.AuditVerified))) {
	end := make(chan struct{})
	go func() {
		defer close(end)
		work(o.tell)
	}()
	enc, flush := json.NewEncoder(w), http.NewResponseController(w)
	enc.SetEscapeHTML(false)
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	for ended := false; !ended; {
		select {
		case <-end:
			ended = true
		case <-tick.C:
		}
		for _, v := range o.due(time.Now()) {
			_ = enc.Encode(v)
		}
		_ = flush.Flush()
	}
}
