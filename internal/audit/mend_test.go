package audit

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// threats.md, audit injection: a line that somebody adds takes no real one's place.
func TestJournal_aForgedEndTakesNoLinesPlace(t *testing.T) {
	for _, far := range []uint64{1, 7, 1 << 40} {
		for name, when := range map[string]struct{ snapshot, looks bool }{
			"a snapshot stands for all": {snapshot: true}, "all is given again": {},
			"and Keep comes first": {snapshot: true, looks: true}, "given again, and Keep comes first": {looks: true},
		} {
			t.Run(fmt.Sprint(name, ", number ", far), func(t *testing.T) {
				h := grown(9000, 150)
				r := newReplica(t, h)
				n := len(h.adds)
				r.apply(n)
				head := h.head()
				line, hash := forge(head.Hash, head.Number+far, "mallory")
				second, _ := forge(hash, head.Number+far+1, "mallory")
				r.tamper(activeName, adds(line, second))
				if when.snapshot {
					r.reopen(n)
				} else {
					r.reopen(0)
				}
				if when.looks {
					r.mustRound()
				}
				if s := r.j.State(); s.Last != head.Number {
					t.Errorf("told others of %d lines, there are %d", s.Last, head.Number)
				}
				m, _ := r.manifest()
				if v := r.j.Verify(t.Context(), m, nil); !when.looks && (v.OK || v.Problem == nil || v.Problem.Kind != api.AuditAdded) {
					t.Errorf("verified %+v %+v", v, v.Problem)
				}
				h.grow(140)
				r.apply(len(h.adds) - n)
				r.mustRound()
				if got := asideText(t, r.dir, activeName); got != string(line)+string(second) {
					t.Errorf("kept %q", got)
				}
				r.wantEqual(folder(t, h.reference(t)))
				m, _ = r.manifest()
				if v := r.j.Verify(t.Context(), m, nil); !v.OK {
					t.Errorf("verified %+v %+v", v, v.Problem)
				}
			})
		}
	}
}

func TestJournal_aForgedEndOfWhatIsPendingTakesNoLinesPlace(t *testing.T) {
	h := grown(9000, 200)
	n := len(h.adds)
	r := newReplica(t, h)
	r.restore(n / 2)
	r.apply(n / 4)
	head := h.heads[r.applied-1].Head
	line, _ := forge(head.Hash, head.Number+1, "mallory")
	r.tamper(pendingName, adds(line))
	r.reopen(r.applied)
	r.apply(n - r.applied)
	r.peers["a"] = h.donor(t).j.Serve
	r.mustRound()
	if got := asideText(t, r.dir, pendingName); !strings.HasSuffix(got, string(line)) {
		t.Errorf("kept %q", got)
	}
	r.wantEqual(folder(t, h.reference(t)))
}

// A data directory was made anew, or a backup restored, and log/ is of another time.
func TestJournal_anotherHistorysFilesAreSetAside(t *testing.T) {
	for _, c := range []struct{ common, others, cluster, snapshot int }{
		{0, 400, 300, 300}, {0, 400, 300, 0}, {0, 100, 300, 300}, {0, 100, 300, 0},
		{150, 300, 200, 150}, {150, 300, 200, 0}, {150, 300, 160, 160}, {150, 20, 200, 150}, {290, 30, 300, 290},
	} {
		for _, looks := range []bool{false, true} {
			t.Run(fmt.Sprintf("%+v, Keep first %v", c, looks), func(t *testing.T) {
				h, old := newHistory(5000), grown(5000, c.common)
				old.grow(c.common)
				at := len(h.adds)
				old.entry(`{"event":"of another history"}`)
				old.grow(c.others)
				h.grow(c.cluster - c.common)
				n := len(h.adds)
				snapshot := n * c.snapshot / c.cluster
				if c.snapshot == c.common && c.common > 0 {
					snapshot = at
				}
				dir := old.reference(t)
				r := newReplica(t, h)
				if err := r.j.Close(); err != nil {
					t.Fatal(err)
				}
				r.dir = dir
				if err := r.open(hasty{}); err != nil {
					t.Fatal(err)
				}
				r.peers["a"] = h.donor(t).j.Serve
				r.restore(snapshot)
				if looks {
					_ = r.round() // some is there already, the rest comes
				}
				h.grow(20)
				r.apply(n - r.applied)
				r.mustRound()
				r.apply(len(h.adds) - r.applied)
				r.mustRound()
				for l, err := range r.j.Lines(1) {
					if want, _ := h.line(l.Number); err != nil || want != string(l.Text)+"\n" {
						t.Fatalf("%s, %v", l.Text, err)
					}
				}
				if kept := asideText(t, dir, "events*"); !strings.Contains(kept, "of another history") {
					t.Error("what was there is not kept")
				}
				m, _ := r.manifest()
				if v := r.j.Verify(t.Context(), m, nil); !v.OK {
					t.Errorf("verified %+v %+v", v, v.Problem)
				}
			})
		}
	}
}

func TestJournal_whoRotatesOrEditsItsFileTakesNothingAway(t *testing.T) {
	lines := func(s string, n int) string { return strings.Join(strings.SplitAfter(s, "\n")[:n], "") }
	for name, touch := range map[string]func(t *testing.T, path string){
		"mv and create": func(t *testing.T, path string) {
			if err := os.Rename(path, path+".1"); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"sed -i": func(t *testing.T, path string) {
			if err := os.WriteFile(path+".sed", []byte(lines(content(t, path), 3)), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(path+".sed", path); err != nil {
				t.Fatal(err)
			}
		},
		"copytruncate": func(t *testing.T, path string) {
			if err := os.Truncate(path, 0); err != nil {
				t.Fatal(err)
			}
		},
		"cut in a line": func(t *testing.T, path string) {
			if err := os.Truncate(path, int64(len(content(t, path))/2+1)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		for _, segment := range []int64{1 << 20, 9000} {
			for _, byKeep := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s, segments of %d, seen by Keep %v", name, segment, byKeep), func(t *testing.T) {
					h := grown(segment, 150)
					r := newReplica(t, h)
					r.apply(len(h.adds))
					if err := r.j.Sync(); err != nil {
						t.Fatal(err)
					}
					touch(t, filepath.Join(r.dir, activeName))
					n := len(h.adds)
					h.grow(20)
					r.peers["a"] = h.donor(t).j.Serve
					r.apply(len(h.adds) - n)
					if byKeep {
						r.mustRound()
					}
					if err := r.j.Sync(); err != nil {
						t.Fatal(err)
					}
					r.mustRound()
					_ = asideText(t, r.dir, activeName)
					_ = os.Remove(filepath.Join(r.dir, activeName+".1"))
					r.wantEqual(folder(t, h.reference(t)))
					r.reopen(len(h.adds))
					r.wantEqual(folder(t, h.reference(t)))
				})
			}
		}
	}
}

func TestJournal_keepsGoodLinesBehindAByteThatWasHarmed(t *testing.T) {
	h := grown(0, 500)
	r := newReplica(t, h)
	r.apply(len(h.adds))
	text := r.tamper(activeName, func(text []byte) []byte { text[len(text)/10] = 0; return text })
	r.reopen(len(h.adds))
	if kept := content(t, filepath.Join(r.dir, activeName)) + asideText(t, r.dir, activeName); kept != string(text) {
		t.Errorf("%d of %d bytes are kept", len(kept), len(text))
	}
	r.peers["a"] = h.donor(t).j.Serve
	r.mustRound()
	r.wantEqual(folder(t, h.reference(t)))
}

// badSector fails to read one file.
type badSector struct {
	hasty
	name string
}

func (d badSector) Open(p string, flag int) (logFile, error) {
	if filepath.Base(p) == d.name {
		return nil, syscall.EIO
	}
	return d.hasty.Open(p, flag)
}

func TestJournal_startsWithAnOldSegmentThatCannotBeRead(t *testing.T) {
	h := grown(4000, 300)
	m, _ := h.manifest()
	for _, first := range []uint64{1, m.Segments[2].First, m.Segments[len(m.Segments)-1].First} {
		r := newReplica(t, h)
		r.apply(len(h.adds))
		_ = r.j.Close()
		if err := r.open(badSector{name: sealedName(first)}); err != nil {
			t.Fatal(err)
		}
		r.peers["a"] = h.donor(t).j.Serve
		r.mustRound()
		if files := r.j.files(); len(files) != len(m.Segments)+1 {
			t.Errorf("%d files", len(files))
		}
	}
}

func TestJournal_aStrayFileBlindsNobody(t *testing.T) {
	line, _ := forge(newHistory(0).head().Hash, 1_000_005, "mallory")
	for name, text := range map[string][]byte{"empty": nil, "a forged line": line} {
		for _, restarted := range []bool{false, true} {
			for _, number := range []uint64{1_000_000, 150} {
				t.Run(fmt.Sprint(name, restarted, number), func(t *testing.T) {
					h := grown(4000, 300)
					r := newReplica(t, h)
					r.apply(len(h.adds))
					if err := r.j.Sync(); err != nil {
						t.Fatal(err)
					}
					stray := filepath.Join(r.dir, sealedName(number))
					if err := os.WriteFile(stray, text, 0o600); err != nil {
						t.Fatal(err)
					}
					if restarted {
						r.reopen(len(h.adds))
					}
					r.mustRound()
					var last uint64
					for l, err := range r.j.Lines(1) {
						if err != nil {
							t.Error(err)
						}
						last = l.Number
					}
					if last != h.head().Number {
						t.Errorf("read to line %d", last)
					}
					if a, err := r.j.Serve(FetchRequest{From: h.head().First}); err != nil || len(a.Lines) == 0 {
						t.Errorf("serves %d bytes, %v", len(a.Lines), err)
					}
					m, _ := r.manifest()
					if v := r.j.Verify(t.Context(), m, nil); v.OK || v.Problem == nil || v.Problem.Kind != api.AuditAdded || v.Problem.File != filepath.Base(stray) {
						t.Errorf("verified %+v %+v", v, v.Problem)
					}
					n := len(h.adds)
					h.grow(50)
					r.apply(len(h.adds) - n)
					if err := os.Remove(stray); err != nil {
						t.Fatal(err)
					}
					r.mustRound()
					r.wantEqual(folder(t, h.reference(t)))
				})
			}
		}
	}
}

func TestJournal_noFIFOStopsAReader(t *testing.T) {
	h := grown(4000, 300)
	r := newReplica(t, h)
	r.apply(len(h.adds))
	if err := r.j.Sync(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(r.dir, sealedName(1))
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	m, _ := r.manifest()
	if v := r.j.Verify(t.Context(), m, nil); v.OK { // and it ends
		t.Error("all is well with a FIFO")
	}
	r.peers["a"] = h.donor(t).j.Serve
	r.mustRound()
	r.wantEqual(folder(t, h.reference(t)))
}

func TestJournal_tellsItsStateWhileAnFsyncHangs(t *testing.T) {
	h := newHistory(syncEvery) // the seal waits for an fsync, too
	j := h.open(t, t.TempDir())
	f := &slowFile{logFile: j.log.file, begun: make(chan struct{}), end: make(chan error)}
	j.log.file = f
	events := slices.Repeat([]string{`{"event":"` + strings.Repeat("x", 25<<10) + `"}`}, 36)
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		for range 12 {
			if err := j.Write(h.entry(events...)); err != nil {
				t.Error(err)
			}
		}
	}()
	hung := 0
	for ended := false; !ended; {
		select {
		case <-f.begun:
			hung++
			told := make(chan JournalState)
			go func() { told <- j.State() }()
			select {
			case s := <-told:
				if s.Files != 1 {
					t.Errorf("%+v", s)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("nothing is told while an fsync hangs")
			}
			_, _ = j.Serve(FetchRequest{From: 1})
			f.end <- nil
		case <-wrote:
			ended = true
		}
	}
	go func() {
		for range f.begun {
			f.end <- nil
		}
	}()
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	close(f.begun)
	if hung < 2 {
		t.Errorf("%d fsyncs", hung)
	}
}

func TestKeep_severalPeersWithPartsGiveAll(t *testing.T) {
	h := grown(0, 400)
	n := len(h.adds)
	d := h.donor(t)
	part := func(from, to uint64) func(FetchRequest) (FetchAnswer, error) {
		return func(q FetchRequest) (FetchAnswer, error) {
			q.Max = 500
			a, err := d.j.Serve(q)
			if q.From < from || q.From > to {
				a.Lines = nil
			}
			return a, err
		}
	}
	r := newReplica(t, h)
	r.apply(n / 4)
	r.restore(n)
	r.peers["a"], r.peers["b"], r.peers["c"] = part(1, 150), part(140, 300), part(290, 400)
	r.mustRound()
	r.wantEqual(folder(t, d.dir))
}

func TestKeep_linesBehindAGapAreGivenToOthers(t *testing.T) {
	h := grown(9000, 300)
	n := len(h.adds)
	a, b := newReplica(t, h), newReplica(t, h)
	a.peers["b"], b.peers["a"] = b.j.Serve, a.j.Serve
	a.apply(n / 2) // the beginning
	a.restore(n)   // nothing after it
	b.restore(n / 3)
	b.apply(n - n/3) // the rest
	if got := b.j.State().Holding(); !got.Has(h.heads[n/3-1].Head.Number+1, h.head().Number) || got.Has(1, h.head().Number) {
		t.Errorf("%+v", got)
	}
	for range 2 {
		_ = a.round()
		_ = b.round()
	}
	want := folder(t, h.reference(t))
	a.wantEqual(want)
	b.wantEqual(want)
}

func TestJournal_startsOnAFullDiskAfterACrashInASeal(t *testing.T) {
	h := grown(9000, 100)
	for h.adds[len(h.adds)-1].Sealed == nil {
		h.grow(1)
	}
	n := len(h.adds)
	r := newReplica(t, h)
	r.apply(n - 1)
	_ = r.j.Close()
	path := filepath.Join(r.dir, activeName)
	if err := os.Rename(path, filepath.Join(r.dir, sealedName(h.adds[n-1].Sealed.First))); err != nil {
		t.Fatal(err)
	}
	disk := &outOfSpace{full: true}
	if err := r.open(disk); err != nil {
		t.Fatal(err)
	}
	r.restore(n - 1)
	r.apply(1)
	if r.j.Pending() == 0 {
		t.Error("nothing waits")
	}
	disk.set(false)
	h.grow(10)
	r.apply(len(h.adds) - n)
	r.mustRound()
	r.wantEqual(folder(t, h.reference(t)))
}

func TestJournal_itsFolderIsNarrowed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	if err := os.Mkdir(dir, 0o755); err != nil { //nolint:gosec // on purpose
		t.Fatal(err)
	}
	newHistory(0).open(t, dir)
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Error(info.Mode(), err)
	}
}

func TestJournal_aReplayOfMuchIsCheap(t *testing.T) {
	h := grown(0, 3000)
	r := newReplica(t, h)
	r.apply(len(h.adds))
	_ = r.j.Close()
	files := &countedReads{}
	if err := r.open(files); err != nil {
		t.Fatal(err)
	}
	files.bytes = 0
	r.applied = 0
	r.apply(len(h.adds))
	if size := int64(len(h.text())); files.bytes > 2*size+(1<<20) {
		t.Errorf("%d bytes of a file of %d were read", files.bytes, size)
	}
	if got := bytes.Count([]byte(content(t, filepath.Join(r.dir, activeName))), []byte("\n")); got != 3000 {
		t.Errorf("%d lines", got)
	}
}

type countedReads struct {
	hasty
	bytes int64
}

type countedFile struct {
	logFile
	c *countedReads
}

func (c *countedReads) Open(p string, flag int) (logFile, error) {
	f, err := c.hasty.Open(p, flag)
	if err != nil {
		return nil, err
	}
	return countedFile{f, c}, nil
}

func (f countedFile) ReadAt(b []byte, off int64) (int, error) {
	n, err := f.logFile.ReadAt(b, off)
	f.c.bytes += int64(n)
	return n, err
}
