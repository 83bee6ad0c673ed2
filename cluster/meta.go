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
)

const (
	serverIDFile = "server-id"
	metaFile     = "cluster.json"
	raftFile     = "raft.db"
	snapshotDir  = "raft" // FileSnapshotStore makes raft/snapshots
)

// meta is what a node knows of its cluster beside Raft's state.
type meta struct {
	ClusterID string    `json:"cluster_id,omitempty"` // "": none yet
	Expect    int       `json:"expect"`               // bootstrap-expect at birth
	Birth     time.Time `json:"birth"`
}

// ServerID reads the server id of a data directory, and makes one at first. It
// is random: a wiped directory is another server, whatever address it has.
func ServerID(dir string) (string, error) {
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
	if err := writeFileSync(path, []byte(id+"\n")); err != nil {
		return "", err
	}
	return id, nil
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

// writeFileSync replaces a file so that after a crash it is the old or the new one.
func writeFileSync(path string, data []byte) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = tmp.Close()           // the error is what matters
			_ = os.Remove(tmp.Name()) // likewise
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	if _, err = tmp.Write(data); err != nil {
		return err
	}
	if err = tmp.Sync(); err != nil {
		return err
	}
	if err = tmp.Close(); err != nil {
		return err
	}
	if err = os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path)) // the rename is durable once its directory is
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }() // read only
	return d.Sync()
}
