package audit

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var quiet = slog.New(slog.DiscardHandler)

func open(t *testing.T, path string) *Log {
	t.Helper()
	l, err := Open(path, LogOptions{Self: "a", Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// item is one call of Append.
type item struct {
	index  uint64
	origin string
	events []string
}

// history is what Raft would give, and give again from any index on.
var history = []item{
	{1, "a", []string{"1.0", "1.1"}},
	{2, "b", []string{"2.0"}},
	{4, "b", []string{"4.0"}},
	{4, "a", []string{"4.1"}},
	{4, "a", nil},
	{4, "a", []string{"4.2", "4.3"}},
	{5, "a", []string{"5.0"}},
}

const wantHistory = `{"event":"1.0","replica":"a","raft_index":1,"raft_position":0}
{"event":"1.1","replica":"a","raft_index":1,"raft_position":1}
{"event":"4.1","replica":"a","raft_index":4,"raft_position":1}
{"event":"4.2","replica":"a","raft_index":4,"raft_position":2}
{"event":"4.3","replica":"a","raft_index":4,"raft_position":3}
{"event":"5.0","replica":"a","raft_index":5,"raft_position":0}
`

func replay(t *testing.T, l *Log, from uint64) {
	t.Helper()
	for _, it := range history {
		if it.index >= from {
			appendItem(t, l, it)
		}
	}
}

func appendItem(t *testing.T, l *Log, it item) {
	t.Helper()
	var events [][]byte
	for _, e := range it.events {
		events = append(events, []byte(`{"event":"`+e+`"}`))
	}
	if err := l.Append(it.index, it.origin, events); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func wantContent(t *testing.T, path, want string) {
	t.Helper()
	if diff := cmp.Diff(want, content(t, path)); diff != "" {
		t.Error(diff)
	}
}

func TestLog_writesItsOwnEventsWithTheirPlace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log", "events.log")
	l := open(t, path)
	replay(t, l, 0)
	wantContent(t, path, wantHistory)
	for p, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700 | os.ModeDir} {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != want {
			t.Errorf("%s has mode %v, want %v", p, info.Mode(), want)
		}
	}
}

func TestLog_replayAfterACrashAnywhereAddsNothingTwice(t *testing.T) {
	dir := t.TempDir()
	for _, from := range []uint64{0, 2} { // without a snapshot, and with one of index 1
		synced := 0
		if from == 2 {
			synced = strings.Index(wantHistory, `{"event":"4.1"`) // Sync(1) came before it
		}
		for cut := synced; cut <= len(wantHistory); cut++ {
			path := filepath.Join(dir, fmt.Sprintf("%d-%d", from, cut))
			if err := os.WriteFile(path, []byte(wantHistory[:cut]), 0o600); err != nil {
				t.Fatal(err)
			}
			l := open(t, path)
			replay(t, l, from)
			wantContent(t, path, wantHistory)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestLog_cutsBlocksThatThePowerCutLeftEmpty(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.log")
	hole := []byte(wantHistory)
	clear(hole[100:200])
	for name, torn := range map[string][]byte{
		"at the end":                append([]byte(wantHistory), make([]byte, 4096)...),
		"in the middle":             hole,
		"nothing but empty blocks":  make([]byte, 4096),
		"half a first line":         []byte(wantHistory[:10]),
		"an empty block and a line": append(make([]byte, 512), wantHistory...),
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, torn, 0o600); err != nil {
				t.Fatal(err)
			}
			l := open(t, path)
			replay(t, l, 0)
			wantContent(t, path, wantHistory)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestLog_ofAnotherServerIDIsAnotherHistory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.log")
	old := `{"event":"x","replica":"wiped","raft_index":900,"raft_position":0}` + "\n"
	if err := os.WriteFile(path, []byte(old), 0o600); err != nil {
		t.Fatal(err)
	}
	l := open(t, path)
	replay(t, l, 0)
	wantContent(t, path, old+wantHistory)
}

func TestLog_goesOnAfterTheNewestRotatedFile(t *testing.T) {
	half := strings.Index(wantHistory, `{"event":"4.2"`)
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"numbered":         {map[string]string{"events.log.1": wantHistory[:half]}, wantHistory[half:]},
		"dated":            {map[string]string{"events.log-20261122": wantHistory[:half], "events.log": ""}, wantHistory[half:]},
		"all of it":        {map[string]string{"events.log.1": wantHistory}, ""},
		"the newest of us": {map[string]string{"events.log.1": wantHistory[:half], "events.log.2": wantHistory[:strings.Index(wantHistory, `{"event":"4.1"`)]}, wantHistory[half:]},
		"a torn line":      {map[string]string{"events.log.1": wantHistory[:half+10]}, wantHistory[half:]},
		"lines since":      {map[string]string{"events.log.1": wantHistory[:half], "events.log": wantHistory[half:]}, wantHistory[half:]},
		"another server's": {map[string]string{"events.log.1": `{"event":"x","replica":"wiped","raft_index":900,"raft_position":0}` + "\n"}, wantHistory},
		"compressed":       {map[string]string{"events.log.1.gz": "\x1f\x8b\x08\x00\n\x00"}, wantHistory},
		"another file's":   {map[string]string{"events.logbook": wantHistory}, wantHistory},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for f, text := range c.files {
				if err := os.WriteFile(filepath.Join(dir, f), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			path := filepath.Join(dir, "events.log")
			replay(t, open(t, path), 0)
			wantContent(t, path, c.want)
			for f, text := range c.files {
				if f != "events.log" {
					wantContent(t, filepath.Join(dir, f), text)
				}
			}
		})
	}
}

func TestLog_passesOverLinesAddedByHand(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.log")
	edited := wantHistory + "# rotated by hand\n\n{\"event\":\"note\"}\n"
	if err := os.WriteFile(path, []byte(edited), 0o600); err != nil {
		t.Fatal(err)
	}
	l := open(t, path)
	replay(t, l, 0)
	wantContent(t, path, edited)
}

func TestLog_rewindLetsRaftGiveEntriesAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.log")
	l := open(t, path)
	replay(t, l, 0)
	replay(t, l, 2) // an index that went back speaks for itself
	l.Rewind()      // the last one again does not
	replay(t, l, 5)
	wantContent(t, path, wantHistory)
}

func TestLog_writesWhatIsNoEventAsText(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.log")
	l := open(t, path)
	bad := []string{"", "{}", "{", "null", "[1]", "{\"a\":1}\n{\"b\":2}", "{\"a\":\n1}", "\x1b[2J", "{\"a\":\"\x7f\"}", strings.Repeat("x", 1<<20), `{"a":1} {"b":1}`}
	var events [][]byte
	for _, b := range bad {
		events = append(events, []byte(b))
	}
	if err := l.Append(9, "a", events); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(content(t, path), "\n"), "\n")
	if len(lines) != len(bad) {
		t.Fatalf("%d events became %d lines", len(bad), len(lines))
	}
	for i, line := range lines {
		checkLine(t, []byte(line))
		if !strings.Contains(line, `"event":"audit.malformed"`) || !strings.HasSuffix(line, fmt.Sprintf(`,"raft_position":%d}`, i)) {
			t.Errorf("%.100q became %.200s", bad[i], line)
		}
	}
}

func TestLog_ownFieldsWinOverAnEventsOwn(t *testing.T) {
	line := appendLine(nil, []byte(`{"event":"e","replica":"b","RAFT_INDEX":99,"raft_position":99}`), "a", mark{3, 1})
	if got, _ := lastMark(line, "a"); got != (mark{3, 2}) {
		t.Errorf("read back as %+v", got)
	}
}

// brokenFile fails as told, after taking part of a write.
type brokenFile struct {
	logFile
	takes    int // bytes of a write that is going to fail
	writeErr error
	truncErr error
	syncErr  error
	syncs    int
}

func (f *brokenFile) Write(p []byte) (int, error) {
	if f.writeErr == nil {
		return f.logFile.Write(p)
	}
	n, err := f.logFile.Write(p[:min(f.takes, len(p))])
	return n, errors.Join(err, f.writeErr)
}

func (f *brokenFile) Truncate(size int64) error {
	if f.truncErr != nil {
		return f.truncErr
	}
	return f.logFile.Truncate(size)
}

func (f *brokenFile) Sync() error { f.syncs++; return f.syncErr }

func TestLog_fullDiskDelaysLinesAndForbidsSnapshots(t *testing.T) {
	for _, truncErr := range []error{nil, errors.New("read-only")} {
		path := filepath.Join(t.TempDir(), "events.log")
		l := open(t, path)
		f := &brokenFile{logFile: l.file, writeErr: errors.New("no space left on device"), takes: 25, truncErr: truncErr}
		l.file = f
		for _, it := range history[:4] {
			appendItem(t, l, it)
		}
		if truncErr == nil {
			wantContent(t, path, "")
		}
		if err := l.Sync(4); !errors.Is(err, f.writeErr) {
			t.Errorf("Sync says %v with lines unwritten", err)
		}
		if l.Pending() == 0 {
			t.Error("nothing pending")
		}
		f.writeErr = nil
		for _, it := range history[4:] {
			appendItem(t, l, it)
		}
		wantContent(t, path, wantHistory)
		if err := l.Sync(5); err != nil || l.Pending() != 0 {
			t.Errorf("Sync: %v, pending %d", err, l.Pending())
		}
	}
}

func TestLog_refusesWhatItCannotKeep(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.log")
	l := open(t, path)
	f := &brokenFile{logFile: l.file, writeErr: errors.New("no space left on device")}
	l.file = f
	line := []byte(`{"event":"` + strings.Repeat("x", 1<<20) + `"}`)
	var index uint64
	for index = 1; ; index++ {
		if err := l.Append(index, "a", [][]byte{line}); err != nil {
			break
		}
		if index > 100 {
			t.Fatal("memory is not bounded")
		}
	}
	f.writeErr = nil
	if err := l.Append(index, "a", [][]byte{line}); err != nil { // the same call again
		t.Fatal(err)
	}
	if got := strings.Count(content(t, path), "\n"); got != int(index) {
		t.Errorf("%d lines, want %d", got, index)
	}
}

func TestLog_writesAgainWhatAFailedSyncLeftInDoubt(t *testing.T) {
	eio := errors.New("input/output error")
	for name, truncErr := range map[string]error{"tail cut": nil, "tail stays": errors.New("read-only")} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "events.log")
			l := open(t, path)
			f := &brokenFile{logFile: l.file}
			l.file = f
			for _, it := range history[:1] {
				appendItem(t, l, it)
			}
			if err := l.Sync(1); err != nil {
				t.Fatal(err)
			}
			for _, it := range history[1:] {
				appendItem(t, l, it)
			}
			f.syncErr, f.truncErr = eio, truncErr
			for range 2 {
				if err := l.Sync(5); err == nil {
					t.Error("Sync succeeded on a disk that does not")
				}
				if l.Pending() == 0 {
					t.Error("what may be lost is not kept")
				}
			}
			if synced := strings.Index(wantHistory, `{"event":"4.1"`); truncErr == nil {
				wantContent(t, path, wantHistory[:synced]) // what is in doubt must not be skipped by a restart
			}
			f.syncErr, f.truncErr = nil, nil
			if err := l.Sync(5); err != nil || l.Pending() != 0 {
				t.Errorf("Sync: %v, pending %d", err, l.Pending())
			}
			wantContent(t, path, wantHistory)
		})
	}
}

func TestLog_heardOfADiskThatSyncsAgainByAppendAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.log")
	l := open(t, path)
	f := &brokenFile{logFile: l.file, syncErr: errors.New("input/output error")}
	l.file = f
	const calls = 3000
	line := [][]byte{[]byte(`{"event":"e"}`)}
	if err := l.Append(1, "a", line); err != nil {
		t.Fatal(err)
	}
	_ = l.Sync(1) // fails
	for i := uint64(2); i <= calls; i++ {
		if err := l.Append(i, "a", line); err != nil {
			t.Fatal(err)
		}
	}
	if f.syncs > 20 {
		t.Errorf("%d attempts, each of which writes everything again", f.syncs)
	}
	f.syncErr = nil
	for i := uint64(1); i <= calls; i++ {
		if err := l.Append(calls+i, "a", line); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Count(content(t, path), "\n"); got != 2*calls || l.Pending() != 0 {
		t.Errorf("%d lines, pending %d", got, l.Pending())
	}
}

func TestLog_countsAnEntryAnewAfterAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.log")
	l := open(t, path)
	f := &brokenFile{logFile: l.file, writeErr: errors.New("no space left on device")}
	l.file = f
	big := [][]byte{[]byte(`{"event":"` + strings.Repeat("x", maxPending) + `"}`)}
	if err := l.Append(1, "a", big); err != nil {
		t.Fatal(err)
	}
	give := func() error {
		return errors.Join(l.Append(2, "b", [][]byte{[]byte(`{"event":"b"}`)}), l.Append(2, "a", [][]byte{[]byte(`{"event":"a"}`)}))
	}
	for range 3 {
		if err := give(); !errors.Is(err, f.writeErr) {
			t.Fatalf("got %v", err)
		}
	}
	f.writeErr = nil
	if err := give(); err != nil {
		t.Fatal(err)
	}
	if got := content(t, path); !strings.HasSuffix(got, `{"event":"a","replica":"a","raft_index":2,"raft_position":1}`+"\n") {
		t.Errorf("the file ends with %q", got[len(got)-100:])
	}
}

func TestLog_syncsOnlyWhatIsNew(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "events.log"))
	f := &brokenFile{logFile: l.file}
	l.file = f
	replay(t, l, 0)
	for range 3 {
		if err := l.Sync(5); err != nil {
			t.Fatal(err)
		}
	}
	if f.syncs != 1 {
		t.Errorf("%d fsyncs", f.syncs)
	}
	big := []byte(`{"event":"` + strings.Repeat("x", syncEvery/4) + `"}`)
	for i := range uint64(4) {
		if err := l.Append(10+i, "a", [][]byte{big}); err != nil {
			t.Fatal(err)
		}
	}
	if f.syncs != 2 {
		t.Errorf("%d fsyncs after 8 MiB more, want 2", f.syncs)
	}
}

func TestLog_refusesASymbolicLink(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "target")
	if err := os.WriteFile(target, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "events.log")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if l, err := Open(link, LogOptions{Self: "a"}); err == nil {
		_ = l.Close()
		t.Error("opened through a symbolic link")
	}
}

func TestLog_appendsAndSyncsAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.log")
	l := open(t, path)
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range uint64(500) {
			if err := l.Append(i+1, "a", [][]byte{[]byte(`{"event":"e"}`)}); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Go(func() {
		for i := range uint64(20) {
			if err := l.Sync(i); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(content(t, path), "\n"); got != 500 {
		t.Errorf("%d lines", got)
	}
	if err := l.Append(501, "a", nil); !errors.Is(err, os.ErrClosed) {
		t.Errorf("append after close: %v", err)
	}
}

func FuzzLog_opensAnyFile(f *testing.F) {
	f.Add([]byte(wantHistory))
	f.Add([]byte(wantHistory[:50]))
	f.Add([]byte("\x00\x00\n{}\n"))
	f.Add([]byte(`{"replica":"a","raft_index":18446744073709551615,"raft_position":-1}` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "events.log")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := Open(path, LogOptions{Self: "a", Logger: quiet})
		if err != nil {
			return
		}
		if err := l.Append(1<<63, "a", [][]byte{[]byte(`{"event":"e"}`)}); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		got := []byte(content(t, path))
		if len(got) > 0 && !bytes.HasSuffix(got, []byte("\n")) {
			t.Errorf("the file ends in the middle of a line: %q", got)
		}
	})
}
