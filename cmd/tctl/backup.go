package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/atomicfile"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

func backupCommand() cliapp.Command {
	return cliapp.Command{
		Name: "backup", Usage: "write a snapshot of the whole state", ArgsUsage: "FILE|-", MinArgs: 1, MaxArgs: 1,
		Description: "The cluster goes on running. Secrets in the snapshot are sealed with the cluster\nsecret: keep that elsewhere, and restore with both ('sallyport restore'). A file\nof that name is replaced only when the new one is complete.",
		Examples:    []string{"tctl backup /backup/sallyport.snap", "tctl backup - | ssh vault 'cat > sallyport.snap'"},
		Run:         backup,
	}
}

func backup(ctx context.Context, c *cliapp.Call) error {
	toStdout := c.Args[0] == "-"
	if toStdout && c.StdoutIsTerminal() {
		return api.Errorf(api.CodeInvalid, "a backup is binary: name a file, or pipe it on")
	}
	path, err := filepath.Abs(c.Args[0])
	if err != nil {
		return err
	}
	return withReplica(c, func(r *replica) error {
		bar := newProgress(c, time.Now)
		defer bar.clear()
		if toStdout {
			_, err := r.Backup(ctx, io.MultiWriter(c.Stdout, bar))
			return err
		}
		var size int64
		err := atomicfile.WriteFrom(path, 0o600, func(w io.Writer) error {
			var err error
			size, err = r.Backup(ctx, io.MultiWriter(w, bar))
			return err
		})
		bar.clear()
		if err != nil {
			return err
		}
		c.Notef("Backup written to %s (%s bytes). It is worth nothing without the cluster secret.", path, strconv.FormatInt(size, 10))
		return nil
	})
}

// progressEvery is how often progress is drawn.
const progressEvery = 200 * time.Millisecond

// progress shows on a terminal how many bytes have come so far; elsewhere it
// shows nothing.
type progress struct {
	out   io.Writer // nil: no terminal
	now   func() time.Time
	bytes int64
	drawn time.Time // zero: nothing stands on the line
}

func newProgress(c *cliapp.Call, now func() time.Time) *progress {
	p := &progress{now: now}
	if c.StderrIsTerminal() {
		p.out = c.Stderr
	}
	return p
}

func (p *progress) Write(b []byte) (int, error) {
	p.bytes += int64(len(b))
	if now := p.now(); p.out != nil && now.Sub(p.drawn) >= progressEvery {
		p.drawn = now
		_, _ = fmt.Fprintf(p.out, "\r%s so far ", size(p.bytes)) // grows only: nothing of the old is left standing
	}
	return len(b), nil
}

// clear takes the progress off the line.
func (p *progress) clear() {
	if !p.drawn.IsZero() {
		_, _ = fmt.Fprintf(p.out, "\r%20s\r", "")
		p.drawn = time.Time{}
	}
}

// size writes bytes for people.
func size(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, i := float64(n)/unit, 0
	for ; value >= unit && i < 3; i++ {
		value /= unit
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGT"[i])
}
