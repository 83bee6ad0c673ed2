package server

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/sallyport-dev/sallyport/cluster"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/atomicfile"
	"github.com/sallyport-dev/sallyport/internal/seal"
)

// secretFile is the cluster secret's default place in the data directory.
const secretFile = "cluster-secret"

// GenerateSecret makes a new cluster secret, as Options.Secret wants it.
func GenerateSecret() []byte { return seal.GenerateSecret(rand.Reader) }

// LoadSecret reads the cluster secret from a file, "" for the one in dataDir. A
// replica that is to be alone may start without any: it then gets one made,
// which is durable before anything is sealed under it. One that is to join
// others may not, because a secret of its own would only make it a stranger
// to them; nor one that has state, which a new secret would leave sealed for ever.
func LoadSecret(path, dataDir string, alone bool, log *slog.Logger) ([]byte, error) {
	given := path != ""
	if !given {
		path = filepath.Join(dataDir, secretFile)
	}
	b, err := os.ReadFile(path) //nolint:gosec // the operator names the file
	if err == nil {
		return b, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, api.Errorf(api.CodeInvalid, "the cluster secret: %w", err)
	}
	if given {
		return nil, api.Errorf(api.CodeInvalid, "the cluster secret: %w (make one with 'sallyport secret generate > FILE', and give the same file to every replica)", err)
	}
	state, err := cluster.StateIn(dataDir)
	switch {
	case err != nil:
		return nil, fmt.Errorf("data directory: %w", err)
	case state != "":
		return nil, api.Errorf(api.CodeInvalid, "the cluster secret is missing: there is no %s, but %s is of a replica that was started with one, and no other opens what is sealed there: put that file back, or name it with --cluster-secret", path, state)
	case !alone:
		return nil, api.Errorf(api.CodeInvalid, "the cluster secret is missing: make one with 'sallyport secret generate > FILE', and give the same file to every replica with --cluster-secret")
	}
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	b = GenerateSecret()
	if err := atomicfile.Write(path, b, 0o600); err != nil {
		return nil, fmt.Errorf("the cluster secret: %w", err)
	}
	log.Warn("made a cluster secret: keep a copy of it apart from backups, without it they can't be opened", "file", path)
	return b, nil
}
