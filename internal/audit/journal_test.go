package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/audit/chain"
)

func TestJournal_filesAreEqualOnAllReplicas(t *testing.T) {
	h := grown(0, 3000)
	h.now = h.now.Add(24 * time.Hour) // a new day
	h.grow(10)
	h.now = h.now.Add(24 * time.Hour)
	h.grow(20)
	want := folder(t, h.reference(t))
	lines := strings.SplitAfter(h.text(), "\n")
	wantFolder(t, want, map[string]string{
		sealedName(1):    strings.Join(lines[:3000], ""),
		sealedName(3001): strings.Join(lines[2000:3010], ""),
		activeName:       strings.Join(lines[2010:3030], ""), // copies over two segments
	})
	for range 2 {
		wantFolder(t, folder(t, h.reference(t)), want)
	}
}

func TestJournal_modes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	h := grown(2000, 50)
	h.give(t, h.open(t, dir), 0)
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Error(info.Mode(), err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) < 3 {
		t.Fatal(entries, err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v %v", e.Name(), info.Mode(), err)
		}
	}
}

func TestJournal_tellsItsFilesInOrder(t *testing.T) {
	h := newHistory(0)
	dir := t.TempDir()
	j := h.open(t, dir)
	h.grow(1500)
	h.now = h.now.Add(24 * time.Hour)
	h.grow(1)
	changed := j.Changed()
	h.give(t, j, 0)
	<-changed
	want := []fileInfo{{path: filepath.Join(dir, sealedName(1)), first: 1}, {path: filepath.Join(dir, activeName), first: 1501, active: true}}
	if diff := cmp.Diff(want, j.files(), cmp.AllowUnexported(fileInfo{})); diff != "" {
		t.Error(diff)
	}
	wantState(t, j, 1, 1501)
}

func TestJournal_replayAfterACrashAnywhereAddsNothingTwice(t *testing.T) {
	h := grown(0, 12)
	text := h.text()
	for cut := 0; cut <= len(text); cut += 3 {
		dir := t.TempDir()
		path := filepath.Join(dir, activeName)
		if err := os.WriteFile(path, []byte(text[:cut]), 0o600); err != nil {
			t.Fatal(err)
		}
		j := h.open(t, dir)
		h.give(t, j, 0)
		if got := content(t, path); got != text {
			t.Fatal(cmp.Diff(text, got))
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestJournal_cutsBlocksThatThePowerCutLeftEmpty(t *testing.T) {
	h := grown(0, 12)
	text := h.text()
	hole := []byte(text)
	clear(hole[500:600])
	for name, torn := range map[string][]byte{
		"at the end":                append([]byte(text), make([]byte, 4096)...),
		"in the middle":             hole,
		"nothing but empty blocks":  make([]byte, 4096),
		"half a first line":         []byte(text[:10]),
		"an empty block and a line": append(make([]byte, 512), text...),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, activeName)
			if err := os.WriteFile(path, torn, 0o600); err != nil {
				t.Fatal(err)
			}
			h.give(t, h.open(t, dir), 0)
			if diff := cmp.Diff(text, content(t, path)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestJournal_passesOverLinesAddedByHand(t *testing.T) {
	h := grown(0, 12)
	dir := t.TempDir()
	path := filepath.Join(dir, activeName)
	edited := h.text() + "# looked at by hand\n\n{\"event\":\"note\"}\n"
	if err := os.WriteFile(path, []byte(edited), 0o600); err != nil {
		t.Fatal(err)
	}
	h.give(t, h.open(t, dir), 0)
	if diff := cmp.Diff(edited, content(t, path)); diff != "" {
		t.Error(diff)
	}
}

func TestJournal_movesTheLogOfAnEarlierBuildAside(t *testing.T) {
	dir := t.TempDir()
	old := `{"event":"x","replica":"a","raft_index":900,"raft_position":0}` + "\n"
	if err := os.WriteFile(filepath.Join(dir, activeName), []byte(old), 0o600); err != nil {
		t.Fatal(err)
	}
	h := grown(0, 5)
	h.give(t, h.open(t, dir), 0)
	if diff := cmp.Diff(h.text(), content(t, filepath.Join(dir, activeName))); diff != "" {
		t.Error(diff)
	}
	kept, err := filepath.Glob(filepath.Join(dir, activeName+".old-*"))
	if err != nil || len(kept) != 1 || content(t, kept[0]) != old {
		t.Error(kept, err)
	}
}

func TestJournal_leavesForeignFilesAlone(t *testing.T) {
	dir := t.TempDir()
	names := []string{"events.log.1", "events.log.old-1", "events-1.log", "events-00000000000000000000.log", "events-99999999999999999999.log", "spool", "notes"}
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("mine\n"), 0o644); err != nil { //nolint:gosec // on purpose
			t.Fatal(err)
		}
	}
	h := grown(1000, 50)
	j := h.open(t, dir)
	h.give(t, j, 0)
	if err := (&keeper{j: j}).round(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := folder(t, dir)
	for _, name := range names {
		if got[name] != "mine\n" {
			t.Errorf("%s holds %q", name, got[name])
		}
		delete(got, name)
	}
	wantFolder(t, got, folder(t, h.reference(t)))
}

func TestJournal_refusesSymbolicLinks(t *testing.T) {
	for _, name := range []string{activeName, pendingName, nextName, fetchName, sealedName(1)} {
		t.Run(name, func(t *testing.T) {
			h := grown(1000, 50)
			dir := t.TempDir()
			target := filepath.Join(t.TempDir(), "target")
			if err := os.WriteFile(target, []byte("precious\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
			j, err := Open(dir, JournalOptions{Logger: quiet})
			if err == nil {
				h.give(t, j, 0)
				if err := j.Close(); err != nil {
					t.Fatal(err)
				}
			} else if name != activeName && name != pendingName {
				t.Error(err)
			}
			if got := content(t, target); got != "precious\n" {
				t.Errorf("wrote through a link: %q", got)
			}
		})
	}
}

func TestJournal_writesWhatIsNoEventAsText(t *testing.T) {
	h := newHistory(0)
	bad := []string{"", "{}", "{", "null", "[1]", "{\"a\":1}\n{\"b\":2}", "{\"a\":\n1}", "\x1b[2J", "{\"a\":\"\x7f\"}", strings.Repeat("x", 1<<20), `{"a":1} {"b":1}`}
	h.entry(bad...)
	dir := h.reference(t)
	lines := strings.Split(strings.TrimSuffix(content(t, filepath.Join(dir, activeName)), "\n"), "\n")
	if len(lines) != len(bad) {
		t.Fatalf("%d events became %d lines", len(bad), len(lines))
	}
	for i, line := range lines {
		if !strings.Contains(line, `"event":"audit.malformed"`) || !json.Valid([]byte(line)) || len(line) > chain.MaxLine {
			t.Errorf("%.100q became %.200s", bad[i], line)
		}
	}
}

func TestJournal_writesSyncsAndIsReadAtOnce(t *testing.T) {
	h := grown(5000, 1000)
	dir := t.TempDir()
	j := h.open(t, dir)
	var wg sync.WaitGroup
	written := make(chan struct{})
	wg.Go(func() { defer close(written); h.give(t, j, 0) })
	wg.Go(func() {
		for range 20 {
			if err := j.Sync(); err != nil {
				t.Error(err)
			}
			_ = j.State()
		}
	})
	wg.Go(func() {
		for next := uint64(1); next <= 1000; {
			a, err := j.Serve(FetchRequest{From: next, Max: 1000})
			if err != nil {
				t.Error(err)
				return
			}
			if len(a.Lines) == 0 {
				select {
				case <-written:
					if a, err := j.Serve(FetchRequest{From: next}); err != nil || len(a.Lines) == 0 {
						t.Errorf("has none of %d, and says it has %d to %d", next, a.First, a.Last)
						return
					}
				default: // about to be written
				}
				continue
			}
			if tr, ok := firstTrailer(a.Lines); !ok || tr.Number != next {
				t.Errorf("number %d instead of %d", tr.Number, next)
				return
			}
			next += uint64(bytes.Count(a.Lines, []byte("\n")))
		}
	})
	wg.Wait()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	wantFolder(t, folder(t, dir), folder(t, h.reference(t)))
	if err := j.Write(h.entry(`{"event":"e"}`)); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("write after close: %v", err)
	}
}

func FuzzJournal_opensAnyFile(f *testing.F) {
	h := grown(0, 6)
	f.Add([]byte(h.text()), []byte(nil), []byte(nil))
	f.Add([]byte(h.text()[:50]), []byte(h.text()), []byte(h.text()[300:]))
	f.Add([]byte("\x00\x00\n{}\n"), []byte("\n"), []byte("\n\n"))
	f.Add([]byte(`{"number":18446744073709551615,"hash":"`+strings.Repeat("0", 64)+`"}`+"\n"), []byte(nil), []byte(nil))
	f.Fuzz(func(t *testing.T, active, sealed, pending []byte) {
		dir := t.TempDir()
		for name, b := range map[string][]byte{activeName: active, sealedName(1): sealed, pendingName: pending} {
			if len(b) == 0 && name != activeName {
				continue
			}
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		j, err := openJournal(dir, JournalOptions{Logger: quiet}, hasty{})
		if err != nil {
			return
		}
		last := j.State().Last
		if j.State().Gap == nil && last < 1<<63 {
			line := fmt.Sprintf(`{"event":"e","number":%d,"hash":"%s"}`+"\n", last+1, strings.Repeat("0", 64))
			if err := j.Write(&Addition{First: last + 1, Prev: j.hash, Count: 1, Lines: []byte(line), Head: Head{Number: last + 1, First: 1}}); err != nil {
				t.Fatal(err)
			}
			if got := j.State().Last; got != last+1 {
				t.Errorf("line %d was not taken", last+1)
			}
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		got := []byte(content(t, filepath.Join(dir, activeName)))
		if len(got) > 0 && !bytes.HasSuffix(got, []byte("\n")) {
			t.Errorf("the file ends in the middle of a line: %q", got)
		}
	})
}
