package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestKeep_closesTheGapOfAReplicaThatComesLate(t *testing.T) {
	for _, segment := range []int64{4000, 50_000, 1 << 20} {
		h := grown(segment, 1600)
		n := len(h.adds)
		d := h.donor(t)
		want := folder(t, d.dir)
		for name, c := range map[string]struct{ had, snapshot int }{
			"wiped":                       {0, n / 2},
			"wiped, and nothing new":      {0, n},
			"behind":                      {n / 3, n / 2},
			"behind, and nothing new":     {n / 3, n},
			"behind by one":               {n / 2, n/2 + 1},
			"the first of the log":        {0, 1},
			"all but the last is missing": {0, n - 1},
		} {
			t.Run(fmt.Sprintf("%s, segments of %d bytes", name, segment), func(t *testing.T) {
				r := newReplica(t, h)
				r.peers["a"] = d.j.Serve
				r.apply(c.had)
				r.restore(c.snapshot)
				r.apply((n - c.snapshot) / 2)
				g := r.j.State().Gap
				had := uint64(0)
				if c.had > 0 {
					had = h.heads[c.had-1].Head.Number
				}
				head := h.heads[c.snapshot-1].Head
				wantGap := &Gap{From: had + 1, To: head.Number, Hash: head.Hash}
				if r.applied > c.snapshot {
					wantGap.Pending = h.heads[r.applied-1].Head.Number
				}
				if diff := cmp.Diff(wantGap, g); diff != "" {
					t.Fatal(diff)
				}
				r.apply(n - r.applied)
				r.mustRound()
				r.wantEqual(want)
			})
		}
	}
}

func TestKeep_survivesAKillAtAnyMoment(t *testing.T) {
	h := grown(9000, 220)
	n := len(h.adds)
	d := h.donor(t)
	want := folder(t, d.dir)
	for name, c := range map[string]struct{ had, snapshot, pending int }{
		"wiped":                     {0, n / 2, n / 4},
		"behind":                    {n / 4, n / 2, n / 4},
		"nothing came since":        {n / 4, n / 2, 0},
		"pending has several seals": {n / 5, n / 4, n / 2},
	} {
		t.Run(name, func(t *testing.T) {
			for steps := 0; ; steps += 1 {
				r := newReplica(t, h)
				r.peers["a"] = d.j.Serve
				r.apply(c.had)
				if err := r.j.Close(); err != nil {
					t.Fatal(err)
				}
				disk := &dying{left: steps}
				if err := r.open(disk); err == nil {
					r.restore(c.snapshot)
					for range c.pending {
						_ = r.j.Write(h.adds[r.applied])
						r.applied++
					}
					_ = r.j.Sync()
					_ = r.round()
				} else {
					r.applied = c.snapshot
				}
				r.reopen(c.snapshot)
				r.mustRound()
				r.apply(n - r.applied)
				r.mustRound()
				r.wantEqual(want)
				if !disk.dead {
					return
				}
			}
		})
	}
}

func TestKeep_goesOnWithAFolderThatWasNotSyncedToTheEnd(t *testing.T) {
	h := grown(9000, 120)
	n := len(h.adds)
	d := h.donor(t)
	r := newReplica(t, h)
	r.restore(n / 3)
	r.apply(n / 3)
	if err := r.j.Sync(); err != nil {
		t.Fatal(err)
	}
	text := content(t, filepath.Join(r.dir, pendingName))
	for _, cut := range []int{0, 5, strings.Index(text, "\n") + 1, len(text) / 2, len(text) - 1} {
		r.tamper(pendingName, func([]byte) []byte { return []byte(text[:cut] + "\x00\x00") })
		r.reopen(n / 3)
		if g := r.j.State().Gap; g == nil || g.Hash != h.heads[n/3-1].Head.Hash {
			t.Errorf("cut at %d: gap %+v", cut, g)
		}
	}
	r.peers["a"] = d.j.Serve
	r.apply(n - r.applied)
	r.mustRound()
	r.wantEqual(folder(t, d.dir))
}

func TestKeep_aReplayThatIsNotOverIsWaitedFor(t *testing.T) {
	h := grown(5000, 200)
	n := len(h.adds)
	d := h.donor(t)
	r := newReplica(t, h)
	r.peers["a"] = d.j.Serve
	r.restore(n / 3)
	r.apply(n - n/3)
	if err := r.j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.open(hasty{}); err != nil {
		t.Fatal(err)
	}
	r.restore(n / 3) // the state is behind pending.log, which has segments that it does not know
	if err := r.round(); !errors.Is(err, errWait) {
		t.Errorf("got %v", err)
	}
	r.apply(n - n/3)
	r.mustRound()
	r.wantEqual(folder(t, d.dir))
}

// otherLog makes answers of another history than the cluster's: the same numbers, a
// chain that is sound, and other events.
func otherLog(t testing.TB, segment int64, lines int) func(FetchRequest) (FetchAnswer, error) {
	h := newHistory(segment)
	h.index = 7
	h.grow(lines)
	return h.donor(t).j.Serve
}

func TestKeep_refusesWhatIsNotTheClustersLog(t *testing.T) {
	h := grown(20_000, 1500)
	n := len(h.adds)
	d := h.donor(t)
	honest := d.j.Serve
	change := func(f func(lines [][]byte) []byte) func(FetchRequest) (FetchAnswer, error) {
		return func(q FetchRequest) (FetchAnswer, error) {
			q.Max = 6000
			a, err := honest(q)
			if len(a.Lines) > 0 {
				a.Lines = f(bytes.SplitAfter(slices.Clone(a.Lines), []byte("\n")))
			}
			return a, err
		}
	}
	join := func(lines [][]byte) []byte { return bytes.Join(lines, nil) }
	for name, evil := range map[string]func(FetchRequest) (FetchAnswer, error){
		"altered":              change(func(l [][]byte) []byte { l[1][10] ^= 1; return join(l) }),
		"altered first line":   change(func(l [][]byte) []byte { l[0][10] ^= 1; return join(l) }),
		"a hash was altered":   change(func(l [][]byte) []byte { l[1][len(l[1])-10] = '0'; l[1][len(l[1])-11] = '0'; return join(l) }),
		"truncated":            change(func(l [][]byte) []byte { b := join(l); return b[:len(b)-3] }),
		"reordered":            change(func(l [][]byte) []byte { l[0], l[1] = l[1], l[0]; return join(l) }),
		"a line left out":      change(func(l [][]byte) []byte { return join(slices.Delete(l, 1, 2)) }),
		"a line twice":         change(func(l [][]byte) []byte { return join(slices.Insert(l, 1, l[0])) }),
		"empty lines":          change(func(l [][]byte) []byte { return []byte("\n\n\n") }),
		"NUL":                  change(func(l [][]byte) []byte { return make([]byte, 100) }),
		"more than asked for":  change(func(l [][]byte) []byte { return bytes.Repeat(join(l), 100) }),
		"other numbers":        func(q FetchRequest) (FetchAnswer, error) { q.From++; return honest(q) },
		"another log's":        otherLog(t, 20_000, 1500),
		"an error":             func(FetchRequest) (FetchAnswer, error) { return FetchAnswer{}, errors.New("unreachable") },
		"nothing, and has all": func(FetchRequest) (FetchAnswer, error) { return FetchAnswer{First: 1, Last: 1 << 60}, nil },
	} {
		t.Run(name, func(t *testing.T) {
			for _, had := range []int{0, n / 4} {
				r := newReplica(t, h)
				r.apply(had)
				r.restore(n / 2)
				r.apply(n / 4)
				if err := r.j.Sync(); err != nil {
					t.Fatal(err)
				}
				before := folder(t, r.dir)
				r.peers["evil"] = evil
				err := r.round()
				if err == nil {
					t.Fatal("accepted")
				}
				after := folder(t, r.dir)
				wantFolder(t, after, before)
				r.peers["good"] = honest
				r.mustRound()
				r.apply(n - r.applied)
				r.wantEqual(folder(t, d.dir))
			}
		})
	}
}

func TestKeep_copiesBeforeTheOldestSegmentAreCheckedToo(t *testing.T) {
	h := grown(20_000, 3000)
	n := len(h.adds)
	d := h.donor(t)
	m, _ := h.manifest()
	oldest := m.Segments[len(m.Segments)/2].First
	start := copyStart(oldest)
	r := newReplica(t, h)
	r.change = retained(oldest)
	r.peers["a"] = func(q FetchRequest) (FetchAnswer, error) { // alters the very first copy
		a, err := d.j.Serve(q)
		if q.From == start && len(a.Lines) > 0 {
			a.Lines = bytes.Replace(a.Lines, []byte(`{"event":"e`), []byte(`{"event":"f`), 1)
		}
		return a, err
	}
	r.restore(n)
	if err := r.round(); !errors.Is(err, errChain) {
		t.Errorf("got %v", err)
	}
	r.peers["b"] = d.j.Serve
	r.mustRound()
	d.change = r.change
	d.mustRound()
	r.wantEqual(folder(t, d.dir))
}

func TestKeep_rotationsAndRetentionGoOnWhileTheGapIsOpen(t *testing.T) {
	h := grown(15_000, 3000)
	n := len(h.adds)
	m, _ := h.manifest()
	for _, had := range []int{0, n / 10, n / 3} {
		for name, oldest := range map[string]uint64{
			"in what it has":  m.Segments[1].First,
			"in the gap":      m.Segments[len(m.Segments)/2].First,
			"behind the gap":  m.Segments[len(m.Segments)-4].First,
			"all sealed ones": m.Head.First,
		} {
			t.Run(fmt.Sprintf("%s, %d", name, had), func(t *testing.T) {
				d := newReplica(t, h)
				d.apply(n)
				r := newReplica(t, h)
				r.apply(had)
				r.restore(n * 2 / 3)
				asked := 0
				r.peers["a"] = func(q FetchRequest) (FetchAnswer, error) {
					r.apply(min(3, n-r.applied)) // and its seals
					if asked++; asked == 5 {
						r.change = retained(oldest)
						d.change = r.change
						d.mustRound()
					}
					q.Max = 3000
					return d.j.Serve(q)
				}
				for range 20 {
					err := r.round()
					if err == nil {
						break
					}
				}
				r.change = retained(oldest)
				d.change = r.change
				d.mustRound()
				r.apply(n - r.applied)
				r.mustRound()
				want := folder(t, d.dir)
				if len(want) > len(m.Segments) {
					t.Errorf("retention left %d files", len(want))
				}
				r.wantEqual(want)
				if s := r.j.State(); s.First != oldest || s.Last != m.Head.Number {
					t.Errorf("has %d to %d", s.First, s.Last)
				}
			})
		}
	}
}

func TestKeep_fetchesSegmentsThatWereDeletedByHand(t *testing.T) {
	h := grown(15_000, 2000)
	d := h.donor(t)
	want := folder(t, d.dir)
	m, _ := h.manifest()
	for _, gone := range [][]int{{0}, {3, 4, 5}, {len(m.Segments) - 1}, {len(m.Segments) - 2, len(m.Segments) - 1}} {
		for _, restarted := range []bool{false, true} {
			r := newReplica(t, h)
			r.peers["a"] = d.j.Serve
			r.apply(len(h.adds) - 1)
			for _, i := range gone {
				if err := os.Remove(filepath.Join(r.dir, sealedName(m.Segments[i].First))); err != nil {
					t.Fatal(err)
				}
			}
			if restarted {
				r.reopen(len(h.adds) - 2)
			}
			r.mustRound()
			r.apply(1)
			r.wantEqual(want)
			if got := r.j.files(); len(got) != len(want) || got[len(got)-1].first != m.Head.First {
				t.Errorf("%d files, the last one of %d", len(got), got[len(got)-1].first)
			}
		}
	}
}

func TestKeep_putsEventsLogBackWhereItWasDeleted(t *testing.T) {
	h := grown(15_000, 300)
	n := len(h.adds)
	d := h.donor(t)
	for _, restarted := range []bool{false, true} {
		r := newReplica(t, h)
		r.peers["a"] = d.j.Serve
		r.apply(n - 2)
		if err := os.Remove(filepath.Join(r.dir, activeName)); err != nil {
			t.Fatal(err)
		}
		if restarted {
			r.reopen(n - 4)
		}
		r.mustRound()
		r.apply(2)
		r.wantEqual(folder(t, d.dir))
	}
}

func TestKeep_whatNobodyHasEndsWithAFloor(t *testing.T) {
	h := grown(15_000, 2000)
	n := len(h.adds)
	snapshot := n / 2
	for _, had := range []int{0, n / 4} {
		lost, other := newReplica(t, h), newReplica(t, h)
		both := []*replica{lost, other}
		lost.apply(had)
		for i, r := range both {
			r.peers["other"] = both[1-i].j.Serve
			r.restore(snapshot)
			r.apply(10)
			if err := r.round(); err == nil {
				t.Fatal("no error")
			}
			if s := r.j.State(); s.Gap == nil || !slices.Equal(s.Gap.Lacking, []string{"other"}) {
				t.Errorf("%+v %+v", s, s.Gap)
			}
		}
		gap := other.j.State().Gap
		floor := func(m Manifest) Manifest {
			m.Floor = Floor{First: gap.To + 1, Prev: gap.Hash}
			m.Segments = slices.DeleteFunc(slices.Clone(m.Segments), func(s Segment) bool { return s.Last < m.Floor.First })
			return m
		}
		whole := h.donor(t) // one that comes back with lines that were given up
		for _, r := range append(both, whole) {
			r.change = floor
			r.mustRound()
			r.apply(n - r.applied)
			r.mustRound()
		}
		// What each had from before is kept: nobody knows what it is worth.
		before := filepath.Join(whole.dir, beforeName(gap.To+1))
		kept := ""
		for _, name := range slices.Sorted(maps.Keys(folder(t, before))) {
			for line := range strings.Lines(content(t, filepath.Join(before, name))) {
				if n := trailer(t, []byte(line)).Number; n == uint64(strings.Count(kept, "\n"))+1 { // the others are copies
					kept += line
				}
			}
		}
		if all := h.text(); !strings.HasPrefix(all, kept) || strings.Count(kept, "\n") != int(gap.To) {
			t.Errorf("%d of %d lines are kept", strings.Count(kept, "\n"), gap.To)
		}
		if s := whole.j.State(); !slices.Equal(s.Aside, []string{filepath.Base(before)}) {
			t.Errorf("told of %v", s.Aside)
		}
		if had > 0 && len(folder(t, filepath.Join(lost.dir, filepath.Base(before)))) == 0 {
			t.Error("the one with a part of it has kept none")
		}
		want := folder(t, whole.dir)
		for _, text := range want {
			if first, ok := firstTrailer([]byte(text)); !ok || first.Number < gap.To+1 {
				t.Errorf("line %d is kept", first.Number)
			}
		}
		for _, r := range both {
			r.wantEqual(want)
		}
		late := newReplica(t, h) // and one that is wiped later
		late.change = floor
		late.peers["a"] = whole.j.Serve
		late.restore(n)
		late.mustRound()
		late.wantEqual(want)
	}
}

func TestKeep_aLaterGapTakesTheFirstOnesPlace(t *testing.T) {
	h := grown(15_000, 2000)
	n := len(h.adds)
	d := h.donor(t)
	r := newReplica(t, h)
	r.apply(n / 8)
	r.restore(n / 4)
	r.apply(n / 8)
	r.restore(n / 2)
	if g := r.j.State().Gap; g.From != h.heads[n/8-1].Head.Number+1 || g.To != h.heads[n/2-1].Head.Number {
		t.Errorf("%+v", g)
	}
	r.apply(n / 8)
	r.peers["a"] = d.j.Serve
	r.mustRound()
	r.restore(n * 3 / 4) // and another one when that is closed
	r.apply(n - n*3/4)
	r.mustRound()
	r.wantEqual(folder(t, d.dir))
}

func TestKeep_syncCoversPendingLines(t *testing.T) {
	h := grown(0, 100)
	n := len(h.adds)
	r := newReplica(t, h)
	r.restore(n / 2)
	r.apply(1)
	f := &brokenFile{logFile: r.j.gap.log.file, syncErr: errors.New("input/output error")}
	r.j.gap.log.file = f
	r.apply(5)
	if err := r.j.Sync(); !errors.Is(err, f.syncErr) || r.j.State().Err == nil || r.j.Pending() == 0 {
		t.Errorf("Sync says %v", err)
	}
	f.syncErr = nil
	if err := r.j.Sync(); err != nil || r.j.Pending() != 0 {
		t.Errorf("Sync says %v", err)
	}
	snapshot := r.applied // may replace the entries now
	r.reopen(snapshot)
	if g := r.j.State().Gap; g == nil || g.To != h.heads[n/2-1].Head.Number {
		t.Errorf("gap %+v: what was synced is not there", g)
	}
	r.peers["a"] = h.donor(t).j.Serve
	r.apply(n - r.applied)
	r.mustRound()
	r.wantEqual(folder(t, h.reference(t)))
}

func TestKeep_aFullDiskDelaysIt(t *testing.T) {
	h := grown(15_000, 1000)
	n := len(h.adds)
	r := newReplica(t, h)
	r.peers["a"] = h.donor(t).j.Serve
	if err := r.j.Close(); err != nil {
		t.Fatal(err)
	}
	disk := &outOfSpace{}
	if err := r.open(disk); err != nil {
		t.Fatal(err)
	}
	r.apply(n / 8)
	disk.set(true)
	r.apply(n / 8)
	r.restore(n / 2)
	r.apply(n / 8)
	if err := r.round(); !errors.Is(err, errFull) {
		t.Errorf("got %v", err)
	}
	disk.set(false)
	r.apply(n - r.applied)
	r.mustRound()
	r.wantEqual(folder(t, h.reference(t)))
}

func TestKeep_aLastLineThatWasTouchedIsFetchedAnew(t *testing.T) {
	h := grown(15_000, 1000)
	n := len(h.adds)
	d := h.donor(t)
	for _, lacks := range []bool{false, true} { // whether there is another peer, which has nothing
		r := newReplica(t, h)
		r.peers["a"] = d.j.Serve
		if lacks {
			r.peers["b"] = newReplica(t, h).j.Serve
		}
		r.apply(n / 3)
		text := r.tamper(activeName, func(text []byte) []byte { copy(text[len(text)-10:], "00000"); return text })
		if err := r.open(hasty{}); err != nil {
			t.Fatal(err)
		}
		r.restore(n)
		r.mustRound()
		if got := asideText(t, r.dir, activeName); got != string(text) {
			t.Errorf("another peer lacks all: %v; kept %d bytes", lacks, len(got))
		}
		r.wantEqual(folder(t, d.dir))
	}
}

func TestKeep_aTouchedPendingFileIsFetchedAnew(t *testing.T) {
	h := grown(15_000, 1000)
	n := len(h.adds)
	d := h.donor(t)
	for _, at := range []int{2, 1} { // parts of pending.log
		r := newReplica(t, h)
		r.peers["a"] = d.j.Serve
		r.restore(n / 3)
		r.apply(n - n/3)
		r.tamper(pendingName, func(text []byte) []byte {
			i := len(text) / at / 2
			i += bytes.Index(text[i:], []byte(`{"event":"e`)) + len(`{"event":"`)
			text[i] = 'f'
			return text
		})
		r.reopen(n)
		r.mustRound()
		r.wantEqual(folder(t, d.dir))
	}
}

func TestKeep_runsUntilItsContextEnds(t *testing.T) {
	h := grown(15_000, 1000)
	n := len(h.adds)
	d := h.donor(t)
	want := folder(t, d.dir)
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(t, h)
		r.applied = n
		down := true
		var mu sync.Mutex
		opts := r.k.opts
		opts.Peers = func() []string { return []string{"a"} }
		opts.Fetch = func(_ context.Context, _ string, q FetchRequest) (FetchAnswer, error) {
			mu.Lock()
			defer mu.Unlock()
			if down {
				return FetchAnswer{}, errors.New("unreachable")
			}
			return d.j.Serve(q)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { r.j.Keep(ctx, opts) })
		pass(time.Second)
		synctest.Wait()
		r.j.Expect(h.head()) // wakes it
		pass(time.Second)
		synctest.Wait()
		if s := r.j.State(); s.Gap == nil || s.KeepErr == nil {
			t.Errorf("%+v", s)
		}
		mu.Lock()
		down = false
		mu.Unlock()
		pass(2 * maxBackoff)
		synctest.Wait()
		r.wantEqual(want)
		if err := os.Remove(filepath.Join(r.dir, sealedName(1))); err != nil {
			t.Fatal(err)
		}
		pass(lookEvery + time.Second)
		synctest.Wait()
		r.wantEqual(want)
		cancel()
		wg.Wait()
	})
}

// There is room again, and nobody writes a line: the fault must not stay.
func TestKeep_writesWhatWaitsWhenThereIsRoomAgain(t *testing.T) {
	h := grown(0, 30)
	synctest.Test(t, func(t *testing.T) {
		j := h.open(t, t.TempDir())
		f := broken(j)
		f.writeErr = errFull
		h.give(t, j, 0)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { j.Keep(ctx, KeepOptions{}) })
		pass(2 * lookEvery)
		synctest.Wait()
		if s := j.State(); !errors.Is(s.Err, errFull) || s.PendingBytes == 0 {
			t.Errorf("on a full disk: %+v", s)
		}
		j.mu.Lock()
		f.writeErr = nil
		j.mu.Unlock()
		pass(lookEvery + time.Second)
		synctest.Wait()
		if s := j.State(); s.Err != nil || s.PendingBytes != 0 {
			t.Errorf("with room again: %+v", s)
		}
		cancel()
		wg.Wait()
	})
}
