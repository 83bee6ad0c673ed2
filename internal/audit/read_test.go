package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/audit/chain"
)

// collect gives the numbers of lines, and checks that each is the book's.
func (b *book) collect(seq func(func(Line, error) bool), limit int) []int {
	b.t.Helper()
	var out []int
	for line, err := range seq {
		if gap := (*gapError)(nil); errors.As(err, &gap) {
			out = append(out, -int(gap.From), -int(gap.To)) //nolint:gosec // small numbers
			continue
		}
		if err != nil {
			b.t.Fatal(err)
		}
		if want := bytes.TrimSuffix(b.lines[line.Number-1], []byte("\n")); !bytes.Equal(line.Text, want) || line.Hash != trailer(b.t, want).Hash {
			b.t.Fatalf("line %d: %.200q, want %.200q", line.Number, line.Text, want)
		}
		if out = append(out, int(line.Number)); len(out) == limit { //nolint:gosec // small numbers
			break
		}
	}
	return out
}

func span2(from, to int) (out []int) {
	for i := from; i <= to; i++ {
		out = append(out, i)
	}
	for i := from; i >= to && from > to; i-- {
		out = append(out, i)
	}
	return out
}

func TestLinesAreGivenOnceFromAnyNumber(t *testing.T) {
	for _, size := range []int64{1, 12 << 10, 1 << 20} {
		b := newBook(t, size).fill(150)
		starts := map[int]bool{0: true, 1: true, 2: true, 149: true, 150: true, 151: true, 152: true}
		for i, f := range b.list { // and at the seams
			for n := int(f.first) - 1; i%5 < 2 && n <= int(f.first)+1; n++ { //nolint:gosec // small numbers
				starts[n] = true
			}
		}
		for from := range starts {
			want := span2(max(from, 1), 150)
			if from > 150 {
				want = nil
			}
			if diff := cmp.Diff(want, b.collect(b.reader().forward(uint64(from), nil), 0)); diff != "" { //nolint:gosec // small
				t.Fatalf("segments of %d bytes, from %d (-want +got):\n%s", size, from, diff)
			}
			back := span2(from-1, 1)
			switch {
			case from == 0 || from > 150:
				back = span2(150, 1)
			case from == 1:
				back = nil
			}
			if diff := cmp.Diff(back, b.collect(b.reader().backward(uint64(from), nil), 0)); diff != "" { //nolint:gosec // small
				t.Fatalf("segments of %d bytes, before %d (-want +got):\n%s", size, from, diff)
			}
		}
	}
}

func TestLinesOfAnEmptyJournal(t *testing.T) {
	b := newBook(t, 1)
	if got := append(b.collect(b.reader().forward(1, nil), 0), b.collect(b.reader().backward(0, nil), 0)...); got != nil {
		t.Errorf("got %v", got)
	}
}

func TestLinesAreFoundInLargeFiles(t *testing.T) {
	b := newBook(t, 1<<20).fill(5000)
	for _, from := range []int{1, 2, 999, 2500, 3100, 4999, 5000} {
		if got := b.collect(b.reader().forward(uint64(from), nil), 3); got[0] != from { //nolint:gosec // small
			t.Errorf("from %d: %v", from, got)
		}
		if got := b.collect(b.reader().backward(uint64(from), nil), 3); from > 1 && got[0] != from-1 { //nolint:gosec // small
			t.Errorf("before %d: %v", from, got)
		}
	}
	if got := b.collect(b.reader().forward(1, nil), 0); !cmp.Equal(got, span2(1, 5000)) {
		t.Errorf("%d lines", len(got))
	}
	if got := b.collect(b.reader().backward(0, nil), 0); !cmp.Equal(got, span2(5000, 1)) {
		t.Errorf("%d lines backward", len(got))
	}
}

func TestLinesGoOnWhileTheJournalIsSealedUnderThem(t *testing.T) {
	b := newBook(t, 2<<10).fill(10)
	var got []int
	for line, err := range b.reader().forward(1, nil) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, int(line.Number)); len(got)%3 == 0 && len(b.lines) < 200 { //nolint:gosec // small
			b.fill(5)
		}
	}
	if diff := cmp.Diff(span2(1, len(b.lines)), got); diff != "" {
		t.Error(diff)
	}
}

func TestLinesWhileAnotherWrites(t *testing.T) {
	b := newBook(t, 4<<10).fill(7)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.fill(1500)
	}()
	next := uint64(1)
	for last := false; ; {
		for line, err := range b.reader().forward(next, nil) {
			if err != nil {
				t.Fatal(err)
			}
			if line.Number != next {
				t.Fatalf("line %d, want %d", line.Number, next)
			}
			next++
		}
		if last {
			break
		}
		select {
		case <-done:
			last = true
		default:
		}
		if got := b.reader().verify(t.Context(), Manifest{}, nil); got.Error != "" {
			t.Fatal(got.Error)
		}
	}
	if next != 1508 {
		t.Errorf("ended before %d", next)
	}
}

func TestLinesWhileRetentionDeletes(t *testing.T) {
	b := newBook(t, 12<<10).fill(150)
	n := 0
	for line, err := range b.reader().forward(5, nil) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 3 {
			for _, f := range b.list[:2] {
				if err := os.Remove(f.path); err != nil {
					t.Fatal(err)
				}
			}
			b.mu.Lock()
			b.list = b.list[2:]
			b.mu.Unlock()
		}
		if n > 3 && line.Number < b.list[0].first && line.Number > b.list[0].first-30 {
			t.Fatalf("line %d is gone", line.Number)
		}
	}
	if got := b.collect(b.reader().forward(5, nil), 1); got[0] != int(b.list[0].first) { //nolint:gosec // small
		t.Errorf("begins at %v", got)
	}
}

func TestMissingFilesAreAGap(t *testing.T) {
	b := newBook(t, 12<<10).fill(150)
	f, end := b.list[1], int(b.list[2].first)-1 //nolint:gosec // small
	first := int(f.first)                       //nolint:gosec // small
	if err := os.Remove(f.path); err != nil {
		t.Fatal(err)
	}
	want := append(append(span2(1, first-1), -first, -end), span2(end+1, 150)...)
	if diff := cmp.Diff(want, b.collect(b.reader().forward(1, nil), 0)); diff != "" {
		t.Errorf("still in the list:\n%s", diff)
	}
	b.list = append(b.list[:1:1], b.list[2:]...)
	if diff := cmp.Diff(want, b.collect(b.reader().forward(1, nil), 0)); diff != "" {
		t.Errorf("not in the list:\n%s", diff)
	}
	if diff := cmp.Diff(append(span2(150, end+1), span2(first-1, 1)...), b.collect(b.reader().backward(0, nil), 0)); diff != "" {
		t.Errorf("backward:\n%s", diff)
	}
}

func TestHarmedLinesHideNoOthers(t *testing.T) {
	b := newBook(t, 12<<10).fill(170)
	f := b.list[len(b.list)-1]
	long := append([]byte(`{"`), bytes.Repeat([]byte("x"), chain.MaxLine+5)...)
	for name, harm := range map[string][]byte{
		"no line": []byte("junk\n"), "empty": []byte("\n"), "high number": bytes.Replace(b.lines[159], []byte(`"number":160`), []byte(`"number":18446744073709551615`), 1),
		"low number": b.lines[3], "very long": append(long, '\n'),
	} {
		t.Run(name, func(t *testing.T) {
			content := b.read(f.path)
			defer b.write(f.path, content)
			b.write(f.path, bytes.Replace(content, b.lines[159], harm, 1))
			var forward, backward []int
			for line, err := range b.reader().forward(156, nil) {
				if err != nil {
					t.Fatal(err)
				}
				forward = append(forward, int(line.Number)) //nolint:gosec // small
			}
			for line, err := range b.reader().backward(165, nil) {
				if err != nil {
					t.Fatal(err)
				}
				if backward = append(backward, int(line.Number)); len(backward) == 7 { //nolint:gosec // small
					break
				}
			}
			if diff := cmp.Diff(append(append(span2(156, 159), 159), span2(161, 170)...), forward); diff != "" {
				t.Errorf("forward:\n%s", diff)
			}
			if diff := cmp.Diff([]int{164, 163, 162, 161, 161, 159, 158}, backward); diff != "" {
				t.Errorf("backward:\n%s", diff)
			}
			if got := b.collect(b.reader().forward(162, nil), 0); !cmp.Equal(got, span2(162, 170)) {
				t.Errorf("from behind it: %v", got)
			}
		})
	}
}

func TestAnUnfinishedLineIsNotGiven(t *testing.T) {
	b := newBook(t, 1<<20).fill(10)
	b.write(b.list[0].path, append(b.read(b.list[0].path), `{"event":"half`...))
	if diff := cmp.Diff(span2(1, 10), b.collect(b.reader().forward(1, nil), 0)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(span2(10, 1), b.collect(b.reader().backward(0, nil), 0)); diff != "" {
		t.Error(diff)
	}
}

func TestExportWritesLinesAsTheyAre(t *testing.T) {
	j, b := openBook(t)
	for _, tt := range []struct{ from, to, first, last uint64 }{{0, 0, 1, 20}, {3, 5, 3, 5}, {20, 99, 20, 20}, {7, 7, 7, 7}} {
		var out bytes.Buffer
		n, err := j.Export(t.Context(), &out, tt.from, tt.to)
		want := bytes.Join(b.lines[tt.first-1:tt.last], nil)
		if err != nil || n != tt.last-tt.first+1 || !bytes.Equal(out.Bytes(), want) {
			t.Errorf("%+v: %d lines, %v", tt, n, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := j.Export(ctx, io.Discard, 1, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// openBook is a journal that was written by Write, and a book of the same lines.
func openBook(t *testing.T) (*Journal, *book) {
	t.Helper()
	b := newBook(t, 1<<20)
	j, err := Open(filepath.Join(t.TempDir(), "log"), JournalOptions{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	r := records{}
	for i := range 20 {
		add := extend(t, r, Entry{Index: uint64(i) + 1, Time: bookStart, Batches: []Batch{{Origin: "n1", Events: [][]byte{fmt.Appendf(nil, `{"event":"e%d"}`, i)}}}}) //nolint:gosec // small
		if err := j.Write(add); err != nil {
			t.Fatal(err)
		}
		b.lines = append(b.lines, add.Lines)
	}
	var m Manifest
	if err := load(r.get, KeyHead, &m.Head); err != nil {
		t.Fatal(err)
	}
	if got := j.Verify(t.Context(), m, nil); !got.OK {
		t.Fatalf("verify: %+v", got.Problem)
	}
	return j, b
}
