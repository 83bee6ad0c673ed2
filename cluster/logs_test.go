package cluster_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/cluster/clustertest"
)

// lines is a log that a test reads.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// take returns what was logged since the last call.
func (l *lines) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := strings.TrimSpace(l.buf.String())
	l.buf.Reset()
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

func count(all []string, words ...string) (n int) {
	for _, line := range all {
		has := true
		for _, w := range words {
			has = has && strings.Contains(line, w)
		}
		if has {
			n++
		}
	}
	return n
}

func TestTheLogSaysWhatChangedOnce(t *testing.T) {
	log := &lines{}
	opts := clustertest.Options{Logger: slog.New(slog.NewTextHandler(log, nil))}
	bubble(t, opts, func(t *testing.T, c *clustertest.Cluster) {
		look := func(what string, atMost int, want ...[]string) {
			t.Helper()
			got := log.take()
			for _, words := range want {
				if n := count(got, words...); n != 1 {
					t.Errorf("%s: %d lines with %q, want 1", what, n, words)
				}
			}
			if len(got) > atMost {
				t.Errorf("%s: %d lines, want at most %d", what, len(got), atMost)
			}
			if t.Failed() {
				t.Fatalf("%s:\n%s", what, strings.Join(got, "\n"))
			}
		}
		c.Ready(20 * time.Second)
		let(5 * time.Second)
		look("a start of three", 18, []string{"founded a cluster"}, []string{"msg=leading"})

		let(10 * time.Minute)
		look("ten minutes in which nothing happens", 0)

		lead := c.Leader(time.Second)
		down := others(lead)[0]
		if err := c.Stop(down); err != nil {
			t.Fatal(err)
		}
		let(time.Minute)
		look("a follower stops", 1, []string{"level=WARN", "lost contact"})
		c.Start(down)
		c.Ready(20*time.Second, down)
		let(5 * time.Second)
		look("it comes back", 3, []string{"level=INFO", "in contact with a server again"})

		c.Crash(lead)
		let(time.Minute)
		look("the leader dies", 5, []string{"msg=leading"}, []string{"following a leader"}, []string{"lost contact", "peer=" + c.Node(lead).ID()})
		c.Start(lead)
		c.Ready(20*time.Second, lead)
		let(5 * time.Second)
		look("it comes back", 4, []string{"in contact with a server again"})

		lead = c.Leader(time.Second)
		for _, i := range others(lead) {
			c.Crash(i)
		}
		let(10 * time.Minute)
		look("ten minutes without a quorum", 6, []string{"level=WARN", "no leader"})
	})
}
