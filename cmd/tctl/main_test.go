package main

import (
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sallyport-dev/sallyport/internal/client/clienttest"
)

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"tctl": main}) }

// TestScripts runs the real main against a stand-in for a replica.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			srv, err := clienttest.Start(env.WorkDir)
			if err != nil {
				return err
			}
			env.Defer(srv.Close)
			env.Setenv("SALLYPORT_SOCKET", srv.Socket)
			env.Setenv("HOME", env.WorkDir)
			return nil
		},
	})
}

func TestShortDurations(t *testing.T) {
	for d, want := range map[time.Duration]string{
		time.Hour: "1h", 48 * time.Hour: "48h", 90 * time.Minute: "1h30m", 30 * time.Minute: "30m",
		90 * time.Second: "1m30s", 10 * time.Second: "10s", 100 * time.Minute: "1h40m",
	} {
		if got := short(d); got != want {
			t.Errorf("short(%s) = %q, want %q", d, got, want)
		}
	}
}
