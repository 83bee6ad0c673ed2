package audit

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRefusedEventsAreKeptUpToABound(t *testing.T) {
	why := errors.New("no\n")
	if err := (refusals{}).add([]byte(`{}`), why, bookStart); err == nil || (refusals{}).exists() != "" {
		t.Error("kept without a file")
	}
	r := refusals{path: filepath.Join(t.TempDir(), "spool.refused")}
	if r.exists() != "" {
		t.Errorf("%q before anything was refused", r.exists())
	}
	for _, event := range []string{`{"event":"e"}`, "no\njson"} {
		if err := r.add([]byte(event), why, bookStart); err != nil {
			t.Fatal(err)
		}
	}
	const want = `{"refused":"2030-01-02T03:00:00Z","error":"no\n","event":{"event":"e"}}` + "\n" + `{"refused":"2030-01-02T03:00:00Z","error":"no\n","event":"no\njson"}` + "\n"
	if got, err := os.ReadFile(r.path); err != nil || string(got) != want || r.exists() != r.path {
		t.Errorf("%q: %s, %v", r.exists(), got, err)
	}
	if err := os.Truncate(r.path, refusedBytes-20); err != nil {
		t.Fatal(err)
	}
	if err := r.add([]byte(`{}`), why, bookStart); err == nil || !strings.Contains(err.Error(), r.path+" is full") {
		t.Errorf("beyond the bound: %v", err)
	}
	if info, err := os.Stat(r.path); err != nil || info.Size() != refusedBytes-20 {
		t.Errorf("%v, %v", info, err)
	}
}
