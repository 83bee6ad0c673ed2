package cluster

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/atomicfile"
)

const (
	serverIDFile = "server-id"
	metaFile     = "cluster.json"
	raftFile     = "raft.db"
	snapshotDir  = "raft" // FileSnapshotStore makes raft/snapshots
	seedingFile  = "restore-unfinished"
)

// meta is what a node knows of its cluster beside Raft's state.
type meta struct {
	ClusterID string    `json:"cluster_id,omitempty"` // "": none yet
	Expect    int       `json:"expect"`               // bootstrap-expect at birth
	Birth     time.Time `json:"birth"`
	Seeded    bool      `json:"seeded,omitempty"` // there is, or was, data here; see seeded.go
}

// ServerID reads the server id of a data directory, and makes one at first. It
// is random: a wiped directory is another server, whatever address it has.
func ServerID(dir string) (string, error) {
	if err := refuseUnfinished(dir); err != nil {
		return "", err
	}
	return serverID(dir)
}

func serverID(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make data directory: %w", err)
	}
	path := filepath.Join(dir, serverIDFile)
	b, err := os.ReadFile(path) //nolint:gosec // the operator's own directory
	if err == nil {
		id := strings.TrimSpace(string(b))
		if raw, err := hex.DecodeString(id); err != nil || len(raw) != 8 {
			return "", fmt.Errorf("%s holds %q, not a server id: restore it, or empty the data directory to join as a new server", path, id)
		}
		return id, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read server id: %w", err)
	}
	id := randomID(8)
	if err := atomicfile.Write(path, []byte(id+"\n"), 0o600); err != nil {
		return "", err
	}
	return id, nil
}

// StateIn names a file by which one sees that a replica has used a data
// directory, "" if none has.
func StateIn(dir string) (string, error) {
	for _, name := range []string{seedingFile, serverIDFile, metaFile, raftFile, snapshotDir} {
		path := filepath.Join(dir, name)
		if _, err := os.Lstat(path); err == nil {
			return path, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("look for state: %w", err)
		}
	}
	return "", nil
}

// refuseUnfinished refuses what Seed left behind when it was interrupted: a
// part of a restored state looks like another state.
func refuseUnfinished(dir string) error {
	path := filepath.Join(dir, seedingFile)
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s exists: a restore into this directory was not finished; repeat it, or empty the directory to join as a new server", path)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look for an unfinished restore: %w", err)
	}
	return nil
}

// beginSeeding marks dir as being filled, and clears what an unfinished Seed
// left there. Nothing that a replica has used is touched.
func beginSeeding(dir string) error {
	used, err := StateIn(dir)
	if err != nil {
		return err
	}
	marker := filepath.Join(dir, seedingFile)
	if used != "" && used != marker {
		return fmt.Errorf("%s exists: restore needs a data directory that no replica has used", used)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	if err := atomicfile.Write(marker, []byte("A restore began here. This file goes when it is done.\n"), 0o600); err != nil {
		return err
	}
	for _, name := range []string{metaFile, raftFile, snapshotDir, serverIDFile} {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("clear an unfinished restore: %w", err)
		}
	}
	return nil
}

// endSeeding makes what Seed wrote count.
func endSeeding(dir string) error {
	if err := syncDir(dir); err != nil { // raft.db and raft have their names on the disk
		return err
	}
	if err := os.Remove(filepath.Join(dir, seedingFile)); err != nil {
		return fmt.Errorf("finish the restore: %w", err)
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // the operator's own directory
	if err != nil {
		return fmt.Errorf("sync data directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync data directory: %w", err)
	}
	return nil
}

// randomID is n random bytes in hex.
func randomID(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return hex.EncodeToString(b)
}

func decodeMeta(b []byte) (meta, error) {
	var m meta
	if b == nil {
		return m, nil
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("%s is damaged (%w): restore it, or empty the data directory to join as a new server", metaFile, err)
	}
	return m, nil
}

func (m meta) encode() ([]byte, error) {
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", metaFile, err)
	}
	return append(b, '\n'), nil
}
