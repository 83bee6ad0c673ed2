package server

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/api"
)

func TestTheSecretIsMadeOnceAndOnlyForAReplicaThatIsNewAndAlone(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	t.Run("new and alone", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "state")
		made, err := LoadSecret("", dir, true, log)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(filepath.Join(dir, secretFile)); err != nil || info.Mode().Perm() != 0o600 {
			t.Error(info, err)
		}
		// It has state by the second start.
		if err := os.WriteFile(filepath.Join(dir, "server-id"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if again, err := LoadSecret("", dir, false, log); err != nil || string(again) != string(made) {
			t.Errorf("%q, %v; want what was made", again, err)
		}
	})
	for name, c := range map[string]struct {
		path  string // in the data directory; "": not given
		state string
		alone bool
		want  string // words of the message
	}{
		"to join others":                {want: "secret generate"},
		"a file that is not there":      {path: "typo", alone: true, want: "typo"},
		"state without its secret":      {state: "raft.db", alone: true, want: "raft.db"},
		"an id without its secret":      {state: "server-id", alone: true, want: "server-id"},
		"a cluster without its secret":  {state: "cluster.json", alone: true, want: "cluster.json"},
		"joined, and lost its secret":   {state: "cluster.json", want: "put that file back"},
		"a secret that can not be read": {path: ".", alone: true, want: "directory"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if c.state != "" {
				if err := os.WriteFile(filepath.Join(dir, c.state), []byte("x"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			path := c.path
			if path != "" {
				path = filepath.Join(dir, path)
			}
			_, err := LoadSecret(path, dir, c.alone, log)
			if !api.IsCode(err, api.CodeInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want invalid with %q", err, c.want)
			}
			if _, err := os.Stat(filepath.Join(dir, secretFile)); err == nil {
				t.Error("a secret was made")
			}
		})
	}
}
