package guide

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/page"
)

// run types the guide.
func (w *world) run(t *testing.T) error {
	p, err := page.Read(pageName)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	return w.runner.Run(ctx, p)
}

func TestGuide(t *testing.T) { guided(t) }

// timesFile is where `make test` wants to read how long each step has taken.
const timesFile = "GUIDE_TIMES"

// clock tells of steps; it outlives the test that began them.
type clock struct {
	mu   sync.Mutex
	file *os.File
}

func (c *clock) logf(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if name := os.Getenv(timesFile); c.file == nil && name != "" {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return // only times are lost
		}
		c.file = f
	}
	if c.file != nil {
		fmt.Fprintf(c.file, format+"\n", args...)
	}
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}

func (c *clock) close() error {
	if c.file == nil {
		return nil
	}
	return c.file.Close()
}
