package server

import (
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/seal"
)

// secretID is the id of the only line of a cluster secret.
func secretID(t *testing.T, secret []byte) string {
	t.Helper()
	s, err := seal.ParseSecret(secret)
	if err != nil {
		t.Fatal(err)
	}
	return s.IDs()[0]
}

// refuses runs a replica that must end by itself, and gives why it does.
func refuses(t *testing.T, o Options) error {
	t.Helper()
	srv, err := New(o)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err = srv.Run(ctx)
	if ctx.Err() != nil {
		t.Errorf("it did not end by itself: %v", err)
	}
	return err
}

// threats.md, secrets at rest: whoever starts a replica with another secret is told which one it needs.
func TestAReplicaWithTheWrongSecretRefusesToStart(t *testing.T) {
	t.Parallel()
	for name, n := range map[string]int{"alone": 1, "of several": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := startReplicas(t, n, nil)
			last := n - 1
			eventually(t, patience, "it knows what the state is sealed under", func() error {
				_, err := os.Stat(filepath.Join(r.opts[last].DataDir, sealedFile))
				return err
			})
			r.run[last].cancel()
			r.stop(last, r.run[last])
			o := r.opts[last]
			o.Secret, o.secretFirst = GenerateSecret(), 10*time.Millisecond
			err := refuses(t, o)
			need, has := `"`+secretID(t, r.secret)+`"`, secretID(t, o.Secret)
			if err == nil || !api.IsCode(err, api.CodeInvalid) || !strings.Contains(err.Error(), "wrong cluster secret") ||
				!strings.Contains(err.Error(), need) || !strings.Contains(err.Error(), has) {
				t.Errorf("%v; want that it needs %s and has %s", err, need, has)
			}
			// The right one still does, with the other beside it too.
			r.opts[last].Secret = append(append([]byte{}, r.secret...), o.Secret...)
			r.start(last)
			r.awaitReady(last)
		})
	}
}

// readiness is what /readyz says.
func (r *replicas) readiness(i int) (int, string) {
	r.t.Helper()
	resp, err := http.Get("http://" + r.opts[i].DiagAddr + "/readyz") //nolint:noctx // loopback
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Error(err)
	}
	return resp.StatusCode, string(b)
}
