package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/audit/chain"
)

// history is what Raft would give to journals, and give again from any entry on.
type history struct {
	store map[string][]byte
	adds  []*Addition
	heads []Manifest // after each
	index uint64
	now   time.Time
}

func newHistory(segmentBytes int64) *history {
	h := &history{store: make(map[string][]byte), now: time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)}
	if segmentBytes > 0 {
		h.store[KeyLimits] = encode(Limits{SegmentBytes: segmentBytes})
	}
	return h
}

// entry applies one entry of some events.
func (h *history) entry(events ...string) *Addition {
	h.index++
	b := Batch{Origin: "a"}
	for _, e := range events {
		b.Events = append(b.Events, []byte(e))
	}
	changes, add, err := Extend(Entry{Index: h.index, Time: h.now, Batches: []Batch{b}}, func(k string) []byte { return h.store[k] })
	if err != nil {
		panic(err)
	}
	for _, c := range changes {
		h.store[c.Key] = c.Value
	}
	h.adds = append(h.adds, add)
	m, _ := h.manifest()
	h.heads = append(h.heads, m)
	return add
}

// large is events of so many bytes together.
func large(size int) []string {
	return slices.Repeat([]string{`{"event":"` + strings.Repeat("x", 32<<10) + `"}`}, size/(32<<10))
}

// grow adds entries of a few events each until there are so many lines.
func (h *history) grow(lines int) {
	for n := 0; n < lines; {
		count := min(1+int(h.index%5), lines-n)
		events := make([]string, count)
		for i := range events {
			events[i] = fmt.Sprintf(`{"event":"e%d.%d","pad":"%s"}`, h.index, i, strings.Repeat("x", int(h.index%97)))
		}
		h.entry(events...)
		n += count
	}
}

func (h *history) manifest() (Manifest, error) {
	m := Manifest{Head: Head{First: 1}}
	for key, v := range h.store {
		var err error
		switch {
		case key == KeyHead:
			err = json.Unmarshal(v, &m.Head)
		case key == KeyFloor:
			err = json.Unmarshal(v, &m.Floor)
		case strings.HasPrefix(key, KeySegments):
			var s Segment
			err = json.Unmarshal(v, &s)
			m.Segments = append(m.Segments, s)
		}
		if err != nil {
			return m, err
		}
	}
	slices.SortFunc(m.Segments, func(a, b Segment) int { return int(a.First) - int(b.First) })
	return m, nil
}

func (h *history) head() Head { m, _ := h.manifest(); return m.Head }

// text is all lines.
func (h *history) text() string {
	var b strings.Builder
	for _, a := range h.adds {
		b.Write(a.Lines)
	}
	return b.String()
}

func (h *history) line(number uint64) (string, chain.Trailer) {
	lines := strings.SplitAfter(h.text(), "\n")
	line := lines[number-1]
	t, ok := chain.ParseTrailer([]byte(strings.TrimSuffix(line, "\n")))
	if !ok || t.Number != number {
		panic(line)
	}
	return line, t
}

func (h *history) open(t testing.TB, dir string) *Journal {
	t.Helper()
	return h.openOn(t, dir, hasty{})
}

// hasty are files that no fsync waits for: no test pulls the plug.
type hasty struct{ osFiles }

type hastyFile struct{ logFile }

func (hasty) Open(path string, flag int) (logFile, error) {
	f, err := osFiles{}.Open(path, flag)
	if err != nil {
		return nil, err
	}
	return hastyFile{f}, nil
}

func (hasty) SyncDir(string) error { return nil }
func (hastyFile) Sync() error      { return nil }

func (h *history) openOn(t testing.TB, dir string, files fileSystem) *Journal {
	t.Helper()
	j, err := openJournal(dir, JournalOptions{Logger: quiet, Manifest: h.manifest}, files)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

func (h *history) give(t testing.TB, j *Journal, from int) {
	t.Helper()
	for _, add := range h.adds[from:] {
		if err := j.Write(add); err != nil {
			t.Fatal(err)
		}
	}
}

// reference is the folder of a replica to which nothing happened.
func (h *history) reference(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	j := h.open(t, dir)
	h.give(t, j, 0)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// folder is the files of a folder.
func folder(t testing.TB, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string)
	for _, e := range entries {
		if e.Name() == fetchName || e.IsDir() {
			continue // what a try has left, which the next one clears; what was before a floor
		}
		out[e.Name()] = content(t, filepath.Join(dir, e.Name()))
	}
	return out
}

func content(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// wantFolder compares names and, without printing megabytes, contents.
func wantFolder(t testing.TB, got, want map[string]string) {
	t.Helper()
	brief := func(m map[string]string) map[string]string {
		out := make(map[string]string)
		for name, text := range m {
			first, _ := chain.ParseTrailer([]byte(text[:max(0, strings.IndexByte(text, '\n'))]))
			last, _ := lastTrailer([]byte(text))
			out[name] = fmt.Sprintf("%d bytes, %d to %d, %s", len(text), first.Number, last.Number, chain.Link(chain.Hash{}, []byte(text)))
		}
		return out
	}
	if diff := cmp.Diff(brief(want), brief(got)); diff != "" {
		t.Fatal(diff)
	}
}

func wantState(t *testing.T, j *Journal, first, last uint64) {
	t.Helper()
	s := j.State()
	if s.First != first || s.Last != last || s.Gap != nil || s.Err != nil || s.PendingBytes != 0 {
		t.Errorf("state %+v, want %d to %d and no gap", s, first, last)
	}
}

func TestJournal_filesAreEqualOnAllReplicas(t *testing.T) {
	h := newHistory(0)
	h.grow(3000)
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
	h := newHistory(2000)
	h.grow(50)
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
	h := newHistory(0)
	h.grow(12)
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
	h := newHistory(0)
	h.grow(12)
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
	h := newHistory(0)
	h.grow(12)
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
	h := newHistory(0)
	h.grow(5)
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
	h := newHistory(1000)
	h.grow(50)
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
			h := newHistory(1000)
			h.grow(50)
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

var errFull = errors.New("no space left on device")

func broken(j *Journal) *brokenFile {
	f := &brokenFile{logFile: j.log.file}
	j.log.file = f
	return f
}

func TestJournal_fullDiskDelaysLinesAndForbidsSnapshots(t *testing.T) {
	for _, truncErr := range []error{nil, errors.New("read-only")} {
		h := newHistory(0)
		h.grow(30)
		dir := t.TempDir()
		j := h.open(t, dir)
		f := broken(j)
		f.writeErr, f.takes, f.truncErr = errFull, 25, truncErr
		half := len(h.adds) / 2
		for _, add := range h.adds[:half] {
			if err := j.Write(add); err != nil {
				t.Fatal(err)
			}
		}
		if got := content(t, filepath.Join(dir, activeName)); truncErr == nil && got != "" {
			t.Errorf("the file holds %q", got)
		}
		if err := j.Sync(); !errors.Is(err, errFull) {
			t.Errorf("Sync says %v with lines unwritten", err)
		}
		if j.Pending() == 0 || j.State().Err == nil {
			t.Error("nothing pending")
		}
		f.writeErr = nil
		h.give(t, j, half)
		if diff := cmp.Diff(h.text(), content(t, filepath.Join(dir, activeName))); diff != "" {
			t.Error(diff)
		}
		if err := j.Sync(); err != nil {
			t.Error(err)
		}
		wantState(t, j, 1, 30)
	}
}

// outOfSpace fails what needs space, in the way of a full disk: files can be
// renamed and removed, and even created, but not filled.
type outOfSpace struct {
	osFiles
	mu   sync.Mutex
	full bool
}

type spaceFile struct {
	logFile
	disk *outOfSpace
}

func (d *outOfSpace) Open(path string, flag int) (logFile, error) {
	f, err := d.osFiles.Open(path, flag)
	if err != nil {
		return nil, err
	}
	return &spaceFile{f, d}, nil
}

func (d *outOfSpace) set(full bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.full = full
}

func (f *spaceFile) Write(b []byte) (int, error) {
	f.disk.mu.Lock()
	full := f.disk.full
	f.disk.mu.Unlock()
	if full {
		n, _ := f.logFile.Write(b[:len(b)/2])
		return n, errFull
	}
	return f.logFile.Write(b)
}

func TestJournal_sealsThatAreDueWhileTheDiskIsFullComeLater(t *testing.T) {
	h := newHistory(3000)
	h.grow(200)
	disk := &outOfSpace{}
	dir := t.TempDir()
	j := h.openOn(t, dir, disk)
	for i, add := range h.adds {
		disk.set(i%20 >= 5 && i%20 < 15)
		if err := j.Write(add); err != nil {
			t.Fatal(err)
		}
		if i%20 == 10 && (j.Sync() == nil || j.Pending() == 0) {
			t.Error("all is well on a full disk")
		}
	}
	disk.set(false)
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	wantFolder(t, folder(t, dir), folder(t, h.reference(t)))
	wantState(t, j, 1, 200)
}

func TestJournal_refusesWhatItCannotKeep(t *testing.T) {
	h := newHistory(4 << 20) // several seals wait, too
	dir := t.TempDir()
	disk := &outOfSpace{full: true}
	j := h.openOn(t, dir, disk)
	var refused *Addition
	for refused == nil {
		add := h.entry(large(1 << 20)...)
		if err := j.Write(add); errors.Is(err, errFull) {
			refused = add
		} else if err != nil {
			t.Fatal(err)
		}
		if h.index > 100 {
			t.Fatal("memory is not bounded")
		}
	}
	if err := j.Write(refused); !errors.Is(err, errFull) {
		t.Errorf("the same call again: %v", err)
	}
	disk.set(false)
	if err := j.Write(refused); err != nil {
		t.Fatal(err)
	}
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	wantFolder(t, folder(t, dir), folder(t, h.reference(t)))
}

func TestJournal_writesAgainWhatAFailedSyncLeftInDoubt(t *testing.T) {
	eio := errors.New("input/output error")
	for name, truncErr := range map[string]error{"tail cut": nil, "tail stays": errors.New("read-only")} {
		t.Run(name, func(t *testing.T) {
			h := newHistory(0)
			h.grow(30)
			dir := t.TempDir()
			path := filepath.Join(dir, activeName)
			j := h.open(t, dir)
			f := broken(j)
			if err := j.Write(h.adds[0]); err != nil {
				t.Fatal(err)
			}
			if err := j.Sync(); err != nil {
				t.Fatal(err)
			}
			h.give(t, j, 1)
			f.syncErr, f.truncErr = eio, truncErr
			for range 2 {
				if err := j.Sync(); err == nil {
					t.Error("Sync succeeded on a disk that does not")
				}
				if j.Pending() == 0 {
					t.Error("what may be lost is not kept")
				}
			}
			if truncErr == nil { // what is in doubt must not be skipped by a restart
				if diff := cmp.Diff(string(h.adds[0].Lines), content(t, path)); diff != "" {
					t.Error(diff)
				}
			}
			f.syncErr, f.truncErr = nil, nil
			if err := j.Sync(); err != nil || j.Pending() != 0 {
				t.Errorf("Sync: %v, pending %d", err, j.Pending())
			}
			if diff := cmp.Diff(h.text(), content(t, path)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestJournal_aSealWhoseSyncFailsComesLater(t *testing.T) {
	h := newHistory(3000)
	h.grow(100)
	dir := t.TempDir()
	j := h.open(t, dir)
	f := broken(j)
	f.syncErr = errors.New("input/output error")
	h.give(t, j, 0)
	if s := j.State(); s.Files != 1 || s.Err == nil {
		t.Errorf("sealed what the disk did not take: %+v", s)
	}
	f.syncErr = nil
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	wantFolder(t, folder(t, dir), folder(t, h.reference(t)))
}

func TestJournal_hearsOfADiskThatSyncsAgainByWriteAlone(t *testing.T) {
	h := newHistory(0)
	j := h.open(t, t.TempDir())
	f := broken(j)
	f.syncErr = errors.New("input/output error")
	h.entry(`{"event":"e"}`)
	h.give(t, j, 0)
	_ = j.Sync() // fails
	write := func(n int) {
		for range n {
			if err := j.Write(h.entry(`{"event":"e"}`)); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(3000)
	if f.syncs > 20 {
		t.Errorf("%d attempts, each of which writes everything again", f.syncs)
	}
	f.syncErr = nil
	write(3000)
	wantState(t, j, 1, 6001)
}

func TestJournal_syncsOnlyWhatIsNew(t *testing.T) {
	h := newHistory(0)
	h.grow(20)
	j := h.open(t, t.TempDir())
	f := broken(j)
	h.give(t, j, 0)
	for range 3 {
		if err := j.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	if f.syncs != 1 {
		t.Errorf("%d fsyncs", f.syncs)
	}
}

// Entries are applied one after another, and state writes among them wait: an
// fsync of much that was logged must not stand in their way, unless the disk
// does not keep pace.
func TestJournal_syncsBesideTheWritesUntilTooMuchWaits(t *testing.T) {
	h := newHistory(0)
	j := h.open(t, t.TempDir())
	f := &slowFile{logFile: j.log.file, begun: make(chan struct{}), end: make(chan error)}
	j.log.file = f
	write := func() {
		if err := j.Write(h.entry(large(syncAhead / 2)...)); err != nil {
			t.Error(err)
		}
	}
	write()
	write()
	<-f.begun
	for range 2 * (syncEvery - syncAhead) / syncAhead {
		write() // none waits for the fsync
	}
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		write()
	}()
	select {
	case <-wrote:
		t.Error("8 MiB are not on the disk, and more is written")
	case <-f.begun:
		t.Error("two fsyncs at a time")
	case <-time.After(50 * time.Millisecond):
	}
	f.end <- nil
	<-f.begun // what came meanwhile
	f.end <- errFull
	<-wrote
	j.ahead.Wait()
	if err := j.State().Err; !errors.Is(err, errFull) {
		t.Errorf("told of the fsync that failed: %v", err)
	}
	go func() {
		for range f.begun {
			f.end <- nil
		}
	}()
	if err := j.Sync(); err != nil {
		t.Error(err)
	}
	write()
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	close(f.begun)
	wantFolder(t, folder(t, filepath.Dir(j.log.path)), map[string]string{activeName: h.text()})
}

// slowFile ends an fsync when the test says so.
type slowFile struct {
	logFile
	begun chan struct{}
	end   chan error
}

func (f *slowFile) Sync() error {
	f.begun <- struct{}{}
	return <-f.end
}

func TestJournal_writesSyncsAndIsReadAtOnce(t *testing.T) {
	h := newHistory(5000)
	h.grow(1000)
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
	h := newHistory(0)
	h.grow(6)
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
