package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/cluster/peer"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/atomicfile"
	"github.com/sallyport-dev/sallyport/internal/seal"
)

// A replica with another cluster secret than the others' can't even ask them what the
// state is sealed under: it would wait for a leader for ever, and say no more than that.
// So it keeps a copy of the record that tells, and looks at it when the others turn out
// to have another secret.

const (
	// sealedRecord is the record whose value names the line of the cluster secret that opens
	// all the others: the data key, wrapped (see seal).
	sealedRecord = "system/data_key"
	// sealedFile is the copy of its value in the data directory.
	sealedFile = "data-key"

	secretFirst = 3 * time.Second // before that, others may be starting
	secretEvery = 5 * time.Second
	// strangersAsked is how many addresses of a name are asked.
	strangersAsked = 8
)

// keepSealed keeps the copy until ctx ends.
func (s *Server) keepSealed(ctx context.Context) {
	path := filepath.Join(s.opts.DataDir, sealedFile)
	last, _ := os.ReadFile(path) //nolint:gosec // ours; what can't be read is written anew
	for {
		rec, ok, changed := s.state.View().Watch(sealedRecord)
		if ok && !bytes.Equal(rec.Value, last) {
			if err := atomicfile.Write(path, rec.Value, 0o600); err != nil {
				s.log.Warn("what the state is sealed under could not be noted", "error", err)
			} else {
				last = rec.Value
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// checkSecret looks, until ctx ends, whether other replicas have another cluster secret.
// It says so, again and again, as long as this replica is not ready; and it is an error if
// this replica's does not open its own state either. As long as there is no leader,
// that alone is none: it may be a state from before the secret was rotated.
func (s *Server) checkSecret(ctx context.Context) error {
	defer s.unlike.Store(nil)
	var told, toldUnread reminder
	for wait := s.opts.secretFirst; pauseFor(ctx, wait); wait = secretEvery {
		others := s.strangers(ctx)
		sealed, unread := s.openSealed()
		if unread != nil && toldUnread.due(unread.Error(), s.opts.Clock()) {
			s.log.WarnContext(ctx, "what the state is sealed under can't be read, so nobody sees whether this is the right cluster secret", "error", unread)
		}
		if len(others) == 0 && (sealed == nil || s.node.Status().LeaderID != "") { // with a leader it soon knows
			s.unlike.Store(nil)
			continue
		}
		level, why := slog.LevelError, fmt.Sprintf("the other replicas (%s) have another cluster secret than this one, whose keys are %s: give all the same file with --cluster-secret",
			strings.Join(others, ", "), strings.Join(s.secret.IDs(), ", "))
		if len(others) == 0 {
			level, why = slog.LevelWarn, fmt.Sprintf("%v; there is no leader by whom to see whether the cluster's state still needs it", sealed)
		}
		s.unlike.Store(&why)
		if told.due(why, s.opts.Clock()) {
			s.log.Log(ctx, level, "this replica can't join", "reason", why)
		}
		if len(others) > 0 && sealed != nil {
			return sealed
		}
	}
	return nil
}

// reminder says when to say once more what is wrong: at once if it is something else than
// before, then now and then, for who looks at the end of a log alone.
type reminder struct {
	said string
	at   time.Time
}

const remindEvery = time.Minute

func (r *reminder) due(what string, now time.Time) bool {
	if what == r.said && now.Sub(r.at).Abs() < remindEvery {
		return false
	}
	r.said, r.at = what, now
	return true
}

// openSealed says why the cluster secret does not open what this replica last knew the
// state to be sealed under; or why that can't be read, which is no fault of the secret.
func (s *Server) openSealed() (wrong, unread error) {
	wrapped, err := os.ReadFile(filepath.Join(s.opts.DataDir, sealedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // it was never of a cluster
	}
	if err == nil {
		_, err = seal.Unwrap(s.secret, wrapped, s.opts.Rand)
	}
	if wrongSecret(err) {
		return sealedUnder(err), nil
	}
	return nil, err
}

func wrongSecret(err error) bool {
	_, unknown := errors.AsType[*seal.UnknownKeyError](err)
	return unknown || errors.Is(err, seal.ErrOpen)
}

// sealedUnder says what to do about a cluster secret that does not open the state. Other
// errors stay as they are.
func sealedUnder(err error) error {
	if !wrongSecret(err) {
		return err
	}
	return api.Errorf(api.CodeInvalid, "this replica has the wrong cluster secret: %w, or start it with the file (--cluster-secret) that the cluster was made with", err)
}

// strangers are the addresses of other replicas whose certificates are not of our cluster
// secret.
func (s *Server) strangers(ctx context.Context) (found []string) {
	at := map[string]peer.Target{}
	for _, srv := range s.node.Status().Servers {
		if srv.ID != s.node.ID() {
			at[srv.Addr] = peer.Target{ID: srv.ID, Addr: srv.Addr, Guest: true}
		}
	}
	// Gossip names nobody to who has another key. Replicas have one peer port as a rule.
	_, port, _ := net.SplitHostPort(s.opts.PeerAdvertise) // checked before
	for _, join := range s.opts.Join {
		host, _, _ := net.SplitHostPort(join) // "" resolves to nobody
		ips, _ := net.DefaultResolver.LookupHost(ctx, host)
		for _, ip := range ips[:min(len(ips), strangersAsked)] {
			addr := net.JoinHostPort(ip, port) // it may be our own, which has our secret
			at[addr] = peer.Target{Addr: addr, Guest: true}
		}
	}
	for addr, target := range at {
		ctx, cancel := context.WithTimeout(ctx, askServing)
		err := s.port.Call(ctx, target, pathServing, struct{}{}, nil)
		cancel()
		if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
			found = append(found, addr)
		}
	}
	slices.Sort(found)
	return found
}
