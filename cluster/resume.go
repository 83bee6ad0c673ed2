package cluster

import "github.com/hashicorp/raft"

const (
	resumeEntries = 256
	resumeBytes   = 4 << 20
)

// resume brings a follower up to date that has just become reachable again.
//
// After failures Raft waits longer and longer, up to 10 s, before it tries to
// replicate to a follower, while heartbeats come back within 250 ms: for that
// time the follower believes itself in touch with the leader and lacks what
// was written since, a revocation for example. So a leader whose heartbeat is
// answered while replication still waits sends the missing entries itself, in
// the same words. Raft does not learn of it and finds nothing left to do.
type resume struct {
	failing bool // Raft's last attempt to replicate failed
	busy    bool
}

// isHeartbeat tells Raft's heartbeats from its replication, as its own transport does.
func isHeartbeat(a *raft.AppendEntriesRequest) bool {
	return a.PrevLogEntry == 0 && a.PrevLogTerm == 0 && len(a.Entries) == 0 && a.LeaderCommitIndex == 0
}

// noteLocked looks at the outcome of a call and says whether to push now.
func (t *ackTransport) noteLocked(id raft.ServerID, args *raft.AppendEntriesRequest, ok bool) bool {
	r := t.resumes[id]
	if !isHeartbeat(args) {
		r.failing = !ok
		t.resumes[id] = r
		return false
	}
	if !ok || !r.failing || r.busy || t.source == nil {
		return false
	}
	r.busy = true
	t.resumes[id] = r
	return true
}

func (t *ackTransport) failing(id raft.ServerID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.resumes[id].failing
}

// push sends what follows last, the follower's last index, until it has all or
// Raft is at it again. hb is the heartbeat that was answered.
func (t *ackTransport) push(id raft.ServerID, target raft.ServerAddress, hb *raft.AppendEntriesRequest, last uint64) {
	defer func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		r := t.resumes[id]
		r.busy = false
		t.resumes[id] = r
	}()
	for t.failing(id) {
		req, ok := t.source(hb.Term, last)
		if !ok {
			return
		}
		req.RPCHeader, req.Term = hb.RPCHeader, hb.Term
		var resp raft.AppendEntriesResponse
		if err := t.Transport.AppendEntries(id, target, req, &resp); err != nil || !resp.Success {
			return // gone again, or its log differs from ours: that is Raft's business
		}
		last = req.PrevLogEntry + uint64(len(req.Entries))
		select {
		case <-t.done:
			return
		default:
		}
	}
}

// entriesAfter makes the AppendEntries of term's leader that continues a log
// which ends at last, if this server still leads in that term and there is
// anything to say.
func (in *instance) entriesAfter(term, last uint64) (*raft.AppendEntriesRequest, bool) {
	own := in.raft.LastIndex()
	if last == 0 || last >= own {
		return nil, false
	}
	req := &raft.AppendEntriesRequest{PrevLogEntry: last}
	var prev raft.Log
	if in.st.logs.GetLog(last, &prev) != nil {
		return nil, false // compacted away: it takes a snapshot
	}
	req.PrevLogTerm = prev.Term
	size := 0
	for i := last + 1; i <= own && len(req.Entries) < resumeEntries && size < resumeBytes; i++ {
		entry := new(raft.Log)
		if in.st.logs.GetLog(i, entry) != nil {
			return nil, false
		}
		req.Entries, size = append(req.Entries, entry), size+len(entry.Data)
	}
	// Not beyond what this message vouches for: the follower commits up to its own last index.
	req.LeaderCommitIndex = min(in.raft.CommitIndex(), last+uint64(len(req.Entries)))
	// Read before this check, so as the log of that term's leader.
	return req, in.raft.State() == raft.Leader && in.raft.CurrentTerm() == term
}
