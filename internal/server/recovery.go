package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/cluster"
	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/seal"
)

// serveRecover makes this replica the sole voter of a new cluster after the
// majority is lost for good. The state before that is kept in a file beside it.
func (s *Server) serveRecover(w http.ResponseWriter, r *http.Request) {
	var req api.RecoverRequest
	if err := readRequest(w, r, &req); err != nil {
		s.refuse(w, r, err)
		return
	}
	if id := s.node.ClusterID(); req.ClusterID == "" || req.ClusterID != id {
		s.refuse(w, r, api.Errorf(api.CodeInvalid, "this replica's cluster id is %q, not %q: read it with 'tctl status'", id, req.ClusterID))
		return
	}
	name := filepath.Join(s.opts.DataDir, "before-recovery-"+s.opts.Clock().UTC().Format("20060102T150405Z")+".snapshot")
	end, err := s.recovering.begin()
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // a name of our own making
	if err != nil {
		end()
		s.refuse(w, r, api.Errorf(api.CodeUnavailable, "no place for the backup that comes first: %w", err))
		return
	}
	s.log.Warn("recovery asked for over the admin socket", "cluster_id", req.ClusterID, "backup", name)
	within := cmp.Or(s.opts.recoverWithin, 2*time.Minute)
	answered := make(chan func(), 1)
	go func() { // lastEvents waits for it
		defer end()
		// Half a recovery is worse than a slow one: the client may go, this goes on.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), within)
		defer cancel()
		resp, err := s.recover(ctx, f)
		answered <- func() {
			if err != nil {
				s.refuse(w, r, err)
				return
			}
			answer(w, resp)
		}
	}()
	select {
	case give := <-answered:
		give()
	case <-time.After(within + max(within/4, 5*time.Second)): // what has begun is not given up
		s.refuse(w, r, api.Errorf(api.CodeAmbiguous, "the recovery takes long, and goes on: it waits for this replica's disk (is it full?). Make room, and see 'tctl status': it is made once this replica leads; the state before is in %s", name))
	}
}

// recover is what serveRecover does, however long it takes. f is the backup.
func (s *Server) recover(ctx context.Context, f *os.File) (api.RecoverResponse, error) {
	name, recoverBy := f.Name(), s.opts.recoverBy
	if recoverBy == nil {
		recoverBy = s.node.Recover
	}
	done, err := recoverBy(ctx, durableFile{f})
	if cerr := f.Close(); cerr != nil {
		s.log.Warn("close the backup, which is on disk", "file", name, "error", cerr)
	}
	if done.ClusterID != "" { // it is made, whatever came after
		s.recordForGood(ofCaller(ctx, api.EventClusterRecover, api.EventCodeClusterRecover, map[string]any{
			"server_id": s.node.ID(), "cluster_id": done.ClusterID, "last_index": done.LastIndex, "backup": name,
		}))
	}
	if err != nil {
		if done.ClusterID == "" && !api.IsCode(err, api.CodeInternal) {
			_ = os.Remove(name) // nothing was changed, so nobody needs it
		}
		return api.RecoverResponse{}, err
	}
	return api.RecoverResponse{ClusterID: done.ClusterID, BackupFile: name, LastIndex: done.LastIndex}, nil
}

// recordForGood records the event of what was done already, and returns when it is durable, as
// far as that can be had now.
func (s *Server) recordForGood(ev api.Event) {
	var err error
	if ev.UID, err = api.NewEventID(s.opts.Rand); err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), settleEvent)
		defer cancel()
		err = s.events.Commit(ctx, ev)
	}
	if err != nil {
		s.log.Warn("an event is recorded, but not durable yet", "event", ev.Event, "reason", err)
		s.events.Record(ev) // should it be there twice, its id says that it is one
	}
}

const (
	settleEvent  = 10 * time.Second // for the event of a recovery to become durable
	recoveryEnds = 5 * time.Second  // after the node, which ends it
)

// recoveries are those of a replica: one at a time.
type recoveries struct {
	mu     sync.Mutex
	over   chan struct{} // closed when the one under way has ended; nil: there is none
	closed bool
}

// begin must be followed by end.
func (r *recoveries) begin() (end func(), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		return nil, api.Errorf(api.CodeUnavailable, "nothing was changed: this replica is shutting down")
	case r.over != nil:
		return nil, api.Errorf(api.CodeConflict, "a recovery is under way already: see 'tctl status'")
	}
	r.over = make(chan struct{})
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		close(r.over)
		r.over = nil
	}, nil
}

// close lets none begin, and says when the one under way has ended; nil: there is none.
func (r *recoveries) close() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	return r.over
}

// durableFile is on disk, its name too, once Sync returns nil.
type durableFile struct{ *os.File }

func (f durableFile) Sync() error {
	if err := f.File.Sync(); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(f.Name()))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// RestoreOptions say where a backup goes.
type RestoreOptions struct {
	DataDir       string
	PeerAdvertise string // as this replica will be started; 127.0.0.1:7443
	Secret        []byte // the cluster secret that the backup was made under
	Backup        io.Reader
}

// Restored says what Restore made.
type Restored struct {
	ServerID, ClusterID string
	Records             int
	// Events is how many events the audit log had. Their text is in no backup.
	Events uint64
}

// Restore turns a backup into the first replica of a new cluster. The backup is
// read to its end and checked, and the secret tried on it, before anything is
// written.
func Restore(ctx context.Context, o RestoreOptions) (Restored, error) {
	if o.PeerAdvertise == "" {
		o.PeerAdvertise = "127.0.0.1:7443"
	}
	if _, _, err := splitHostPort(o.PeerAdvertise); err != nil {
		return Restored{}, &OptionError{"peer-advertise", err}
	}
	secret, err := seal.ParseSecret(o.Secret)
	if err != nil {
		return Restored{}, err
	}
	state := fsm.New(fsm.Options{})
	if err := state.Restore(o.Backup); err != nil {
		return Restored{}, api.Errorf(api.CodeInvalid, "this is no whole backup: %w", err)
	}
	if err := auth.CheckSecret(state.View(), secret); err != nil {
		return Restored{}, err
	}
	if err := os.MkdirAll(o.DataDir, 0o700); err != nil {
		return Restored{}, fmt.Errorf("data directory: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return Restored{}, err
	}
	snap := state.Snapshot()
	r, w := io.Pipe()
	go func() {
		_, err := snap.WriteTo(w)
		_ = w.CloseWithError(err) // never fails
	}()
	m, err := newAuditRecords(state.View).manifest()
	if err != nil {
		return Restored{}, api.Errorf(api.CodeInvalid, "this is no sound backup: %w", err)
	}
	done := Restored{Records: snap.Len(), Events: m.Head.Number}
	done.ServerID, done.ClusterID, err = cluster.Seed(o.DataDir, r, cluster.SeedOptions{
		Index: snap.Index(), Advertise: o.PeerAdvertise, Logger: slog.New(slog.DiscardHandler),
	})
	_ = r.Close() // ends the writer if Seed gave up early
	if err != nil {
		return Restored{}, api.Errorf(api.CodeInvalid, "restore into %s: %w", o.DataDir, err)
	}
	return done, nil
}
