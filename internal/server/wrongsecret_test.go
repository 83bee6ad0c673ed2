package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
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

// R5-10: nobody else is there to say that it is wrong, and the log's only line about it has long gone by.
func TestAReplicaAloneWithTheWrongSecretNamesItAsTheReason(t *testing.T) {
	t.Parallel()
	r := startReplicas(t, 2, nil)
	eventually(t, patience, "it knows what the state is sealed under", func() error {
		_, err := os.Stat(filepath.Join(r.opts[0].DataDir, sealedFile))
		return err
	})
	for i, run := range r.run {
		run.cancel()
		r.stop(i, run)
	}
	secret := r.opts[0].Secret
	r.opts[0].Secret, r.opts[0].secretFirst = GenerateSecret(), 10*time.Millisecond
	want := []string{"wrong cluster secret", secretID(t, secret), secretID(t, r.opts[0].Secret), "--cluster-secret", "there is no leader"}
	r.start(0)
	eventually(t, patience, "/readyz and status say why", func() error {
		status, reason := r.readiness(0)
		st, err := r.admin(0).Status(t.Context())
		if err != nil {
			return err
		}
		for _, w := range want {
			if status != http.StatusServiceUnavailable || !strings.Contains(reason, w) || st.Ready || !strings.Contains(st.Reason, w) {
				return fmt.Errorf("%q: %d %s; status: %v %s", w, status, reason, st.Ready, st.Reason)
			}
		}
		return nil
	})
	// With the right one it goes on as if nothing had been.
	r.run[0].cancel()
	r.stop(0, r.run[0])
	r.opts[0].Secret = secret
	r.start(0)
	r.start(1)
	r.awaitReady(0)
}

// R6-N2: a disk that can't be read is no reason to look for another secret.
func TestARecordThatCantBeReadIsNoWrongSecret(t *testing.T) {
	t.Parallel()
	r := startReplicas(t, 2, nil)
	for i, run := range r.run {
		run.cancel()
		r.stop(i, run)
	}
	o := &r.opts[0]
	path := filepath.Join(o.DataDir, sealedFile)
	if err := errors.Join(os.RemoveAll(path), os.Mkdir(path, 0o700)); err != nil {
		t.Fatal(err)
	}
	log := &testWriter{}
	o.Logger, o.secretFirst = slog.New(slog.NewTextHandler(log, nil)), 10*time.Millisecond
	r.start(0) // alone: there is no leader
	eventually(t, patience, "it has looked", func() error {
		if !strings.Contains(log.text(), "can't be read") {
			return errors.New(log.text())
		}
		return nil
	})
	eventually(t, patience, "it is not ready, for another reason", func() error {
		status, reason := r.readiness(0)
		if status != http.StatusServiceUnavailable || strings.Contains(reason, sealedFile) {
			return fmt.Errorf("%d %s", status, reason)
		}
		return nil
	})
	if text := log.text(); strings.Contains(text, "can't join") {
		t.Error(text)
	}
	r.start(1) // with a leader, it goes on
	r.awaitReady(0)
}

func TestWhatIsWrongIsSaidAgain(t *testing.T) {
	t.Parallel()
	var r reminder
	now := time.Date(2036, 1, 2, 3, 4, 5, 0, time.UTC)
	for i, c := range []struct {
		what  string
		after time.Duration
		want  bool
	}{
		{"a", 0, true}, {"a", 5 * time.Second, false}, {"b", time.Second, true}, {"b", remindEvery - time.Second, false},
		{"b", time.Second, true}, {"b", time.Second, false}, {"b", -time.Hour, true},
	} {
		now = now.Add(c.after)
		if got := r.due(c.what, now); got != c.want {
			t.Errorf("%d: %q: %v", i, c.what, got)
		}
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
