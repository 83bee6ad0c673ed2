package server

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
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
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, api.MaxRequestBody)).Decode(&req); err != nil {
		s.refuse(w, r, api.Errorf(api.CodeInvalid, "the request is no JSON document: %w", err))
		return
	}
	if id := s.node.ClusterID(); req.ClusterID == "" || req.ClusterID != id {
		s.refuse(w, r, api.Errorf(api.CodeInvalid, "this replica's cluster id is %q, not %q: read it with 'tctl status'", id, req.ClusterID))
		return
	}
	name := filepath.Join(s.opts.DataDir, "before-recovery-"+s.opts.Clock().UTC().Format("20060102T150405Z")+".snapshot")
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // a name of our own making
	if err != nil {
		s.refuse(w, r, api.Errorf(api.CodeUnavailable, "no place for the backup that comes first: %w", err))
		return
	}
	// Half a recovery is worse than a slow one: the client may go, this goes on.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), cmp.Or(s.opts.recoverWithin, 2*time.Minute))
	defer cancel()
	s.log.Warn("recovery asked for over the admin socket", "cluster_id", req.ClusterID, "backup", name)
	done, err := s.node.Recover(ctx, durableFile{f})
	if cerr := f.Close(); cerr != nil {
		s.log.Warn("close the backup, which is on disk", "file", name, "error", cerr)
	}
	if done.ClusterID != "" { // it is made, whatever came after
		s.events.Record(ofCaller(r.Context(), api.EventClusterRecover, api.EventCodeClusterRecover, map[string]any{
			"server_id": s.node.ID(), "cluster_id": done.ClusterID, "last_index": done.LastIndex, "backup": name,
		}))
	}
	if err != nil {
		if done.ClusterID == "" && !api.IsCode(err, api.CodeInternal) {
			_ = os.Remove(name) // nothing was changed, so nobody needs it
		}
		s.refuse(w, r, err)
		return
	}
	answer(w, api.RecoverResponse{ClusterID: done.ClusterID, BackupFile: name, LastIndex: done.LastIndex})
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
