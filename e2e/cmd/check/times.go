package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// times remembers how long each part took here last, in seconds, so that the
// next run can say what to expect. Losing it costs nothing, so errors are not told.
type times map[string]float64

func timesFile() string { return filepath.Join(testbed.Home(), "check-times.json") }

func loadTimes() times {
	t := times{}
	if b, err := os.ReadFile(timesFile()); err == nil && json.Unmarshal(b, &t) != nil {
		t = times{}
	}
	return t
}

func (t times) of(part string, guess time.Duration) time.Duration {
	if s, ok := t[part]; ok {
		return time.Duration(s * float64(time.Second))
	}
	return guess
}

func (t times) set(part string, took time.Duration) { t[part] = took.Seconds() }

func (t times) save() {
	if b, err := json.Marshal(t); err == nil && os.MkdirAll(testbed.Home(), 0o700) == nil {
		_ = os.WriteFile(timesFile(), b, 0o600)
	}
}
