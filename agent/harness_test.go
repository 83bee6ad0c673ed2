package agent

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

const (
	testName  = "tele.example.com"
	testAddr  = testName + ":443"
	testToken = "0123456789abcdef0123456789abcdef"
)

// bubble runs a test in a time of its own.
func bubble(t *testing.T, run func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, run)
}

// pass lets a bubble's time go by, and all settle that happened in it.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// running is an agent that runs.
type running struct {
	*Agent
	stop context.CancelFunc
	done chan error
	log  *logBuffer
}

func options(f *fake) Options {
	return Options{
		Proxy: testAddr, Token: testToken, CAPins: []string{api.Pin(f.hostCA.cert)}, Dial: f.dial,
		Clusters: []Cluster{{Name: "cookie", Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s %s as %s", r.Method, r.URL, r.Header.Get("Impersonate-User"))
		})}},
		Name: "pod-1", Version: "1.2.3",
	}
}

func start(t *testing.T, o Options) *running {
	t.Helper()
	log := &logBuffer{}
	o.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Agent: a, stop: cancel, done: make(chan error, 1), log: log}
	go func() { r.done <- a.Run(ctx) }()
	return r
}

// end stops the agent and waits for it.
func (r *running) end(t *testing.T) {
	t.Helper()
	r.stop()
	if err := <-r.done; err != nil {
		t.Errorf("Run: %v", err)
	}
	synctest.Wait() // the replicas have seen it, too
	if t.Failed() {
		t.Logf("log of the agent:\n%s", r.log.String())
	}
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// lines are those of at least info that hold a text.
func (l *logBuffer) lines(text string) []string {
	var out []string
	for line := range strings.Lines(l.String()) {
		if strings.Contains(line, text) && !strings.Contains(line, "level=DEBUG") {
			out = append(out, line)
		}
	}
	return out
}
