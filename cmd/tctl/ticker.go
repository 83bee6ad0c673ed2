package main

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

// progressEvery is how often progress is drawn.
const progressEvery = 200 * time.Millisecond

// ticker shows on a terminal how far something has come, on one line; elsewhere it
// shows nothing.
type ticker struct {
	out   io.Writer // nil: no terminal
	now   func() time.Time
	drawn time.Time
	width int // of what stands on the line
}

func newTicker(c *cliapp.Call) *ticker {
	t := &ticker{now: time.Now}
	if c.StderrIsTerminal() {
		t.out = c.Stderr
	}
	return t
}

func (t *ticker) show(format string, args ...any) {
	now := t.now()
	if t.out == nil || now.Sub(t.drawn) < progressEvery {
		return
	}
	text := oneLine(fmt.Sprintf(format, args...), screen-1)
	width := utf8.RuneCountInString(text)
	_, _ = fmt.Fprintf(t.out, "\r%s%s", text, strings.Repeat(" ", max(0, t.width-width)))
	t.drawn, t.width = now, width
}

// clear takes what was shown off the line.
func (t *ticker) clear() {
	if t.width > 0 {
		_, _ = fmt.Fprintf(t.out, "\r%s\r", strings.Repeat(" ", t.width))
		t.drawn, t.width = time.Time{}, 0
	}
}

// meter shows how much was written.
type meter struct {
	bar   *ticker
	bytes int64
}

func (m *meter) Write(b []byte) (int, error) {
	m.bytes += int64(len(b))
	m.bar.show("%s so far", api.FormatSize(m.bytes))
	return len(b), nil
}
