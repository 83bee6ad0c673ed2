package audit

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestJournal_aCrashAnywhereInASealIsMended(t *testing.T) {
	for name, segment := range map[string]int64{"small segments": 1500, "segments longer than the copies": 330_000} {
		h := newHistory(segment)
		h.grow(int(min(60, segment)))
		if segment > 100_000 {
			h.grow(2500)
			h.adds = mergeAdditions(h, 40)
		}
		want := folder(t, h.reference(t))
		if len(want) < 2 {
			t.Fatal("nothing is sealed")
		}
		t.Run(name, func(t *testing.T) {
			for steps := 0; ; steps++ {
				disk := &dying{left: steps}
				dir := t.TempDir()
				snapshot := 0
				j, err := openJournal(dir, JournalOptions{Logger: quiet}, disk)
				if err == nil {
					for i, add := range h.adds {
						_ = j.Write(add)
						if i%7 == 3 && j.Sync() == nil {
							snapshot = i + 1
						}
					}
					_ = j.closeFiles()
				}
				after := h.open(t, dir)
				if snapshot > 0 {
					after.Expect(h.adds[snapshot-1].Head)
				}
				h.give(t, after, snapshot)
				if err := after.Close(); err != nil {
					t.Fatal(err)
				}
				if s := after.State(); s.Gap != nil {
					t.Fatalf("killed at step %d: a gap %+v", steps, s.Gap)
				}
				wantFolder(t, folder(t, dir), want)
				if !disk.dead {
					return
				}
			}
		})
	}
}

// mergeAdditions makes fewer of them, as if entries had held more events.
func mergeAdditions(h *history, n int) []*Addition {
	var out []*Addition
	for i, a := range h.adds {
		if i%n == 0 || a.Sealed != nil {
			c := *a
			c.Lines = slices.Clone(a.Lines)
			out = append(out, &c)
			continue
		}
		last := out[len(out)-1]
		last.Count, last.Head, last.Lines = last.Count+a.Count, a.Head, append(last.Lines, a.Lines...)
	}
	return out
}

func BenchmarkJournal(b *testing.B) {
	h := newHistory(64 << 20)
	var adds []*Addition
	var size int64
	for size < 20<<20 { // so that its own fsyncs count
		var events []string
		for range 200 { // about 64 KiB of lines
			events = append(events, `{"event":"kube.request","code":"T3009I","pad":"`+strings.Repeat("x", 100)+`"}`)
		}
		add := h.entry(events...)
		adds, size = append(adds, add), size+int64(len(add.Lines))
	}
	per := size / int64(len(adds))
	b.SetBytes(per)
	var journal, plain time.Duration
	var dir string
	var j *Journal
	var file *os.File
	for i := 0; b.Loop(); i++ {
		if i%len(adds) == 0 { // the same lines again, to a new journal
			if j != nil {
				_ = j.Close()
				_ = file.Close()
			}
			dir = b.TempDir()
			var err error
			if j, err = Open(dir, JournalOptions{Logger: quiet}); err != nil {
				b.Fatal(err)
			}
			if file, err = openPrivate(filepath.Join(dir, "plain"), os.O_APPEND); err != nil {
				b.Fatal(err)
			}
		}
		add := adds[i%len(adds)]
		begin := time.Now()
		if err := j.Write(add); err != nil {
			b.Fatal(err)
		}
		journal += time.Since(begin)
		begin = time.Now()
		_, err := file.Write(add.Lines)
		if err = errors.Join(err, file.Sync()); err != nil {
			b.Fatal(err)
		}
		plain += time.Since(begin)
	}
	b.ReportMetric(float64(journal.Microseconds())/float64(b.N), "journal-µs/op")
	b.ReportMetric(float64(plain.Microseconds())/float64(b.N), "write+fsync-µs/op")
	b.ReportMetric(float64(plain)/float64(journal), "times-write+fsync")
	_ = j.Close()
	_ = file.Close()
}
