package audit

import (
	"bytes"
	"math"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/audit/chain"
)

func TestServe_answersAreBounded(t *testing.T) {
	h := newHistory(1 << 20)
	for range 300 {
		h.entry(`{"event":"` + strings.Repeat("x", 10_000) + `"}`)
	}
	d := h.donor(t)
	for _, limit := range []int{-1, 0, 1, 5000, 100_000, 1 << 30} {
		a, err := d.j.Serve(FetchRequest{From: 100, Max: limit})
		if err != nil {
			t.Fatal(err)
		}
		if first, ok := firstTrailer(a.Lines); !ok || first.Number != 100 || len(a.Lines) > maxFetch || a.First != 1 || a.Last != 300 {
			t.Errorf("limit %d: %d bytes from %d of %d to %d", limit, len(a.Lines), first.Number, a.First, a.Last)
		}
		if limit == 1 && bytes.Count(a.Lines, []byte("\n")) != 1 {
			t.Error("not one line")
		}
	}
	for _, from := range []uint64{0, 301, 1 << 63} {
		if a, err := d.j.Serve(FetchRequest{From: from}); err != nil || len(a.Lines) > 0 {
			t.Errorf("from %d: %d bytes, %v", from, len(a.Lines), err)
		}
	}
}

// What a replica shows and never gives another is a gap that never closes.
func TestServe_givesEachLineThatIsShown(t *testing.T) {
	h := newHistory(400 << 10)
	for _, size := range []int{20, chain.MaxEvent, chain.MaxEvent + 1, 300 << 10, 900 << 10} {
		event := `{"event":"` + strings.Repeat("x", size-len(`{"event":""}`)) + `"}`
		for range 6 {
			h.entry(event)
		}
	}
	j := h.donor(t).j
	var shown []byte
	for line, err := range j.Lines(1) {
		if err != nil {
			t.Fatal(err)
		}
		shown = append(append(shown, line.Text...), '\n')
	}
	var served []byte
	for next := uint64(1); ; {
		a, err := j.Serve(FetchRequest{From: next})
		if err != nil {
			t.Fatal(err)
		}
		if len(a.Lines) == 0 {
			break
		}
		served = append(served, a.Lines...)
		next += uint64(bytes.Count(a.Lines, []byte("\n"))) //nolint:gosec // small
	}
	if string(shown) != h.text() || !bytes.Equal(served, shown) {
		t.Errorf("%d bytes were written, %d are shown and %d served", len(h.text()), len(shown), len(served))
	}
}

func TestLocate_findsEachLine(t *testing.T) {
	h := grown(0, 500)
	h.entry(`{"event":"` + strings.Repeat("x", 3<<20) + `"}`) // becomes malformed, yet a line
	h.grow(2000)
	all := h.text()
	lines := strings.SplitAfter(all, "\n")
	text := "# a note\n" + all + "\n# another\n"
	size := int64(len(text))
	for number := uint64(1); number <= 2501; number += 13 {
		got, err := locate(strings.NewReader(text), size, number, math.MaxUint64)
		if err != nil || got.number != number || !strings.HasPrefix(text[got.begin:], lines[number-1]) || got.end > got.begin {
			t.Fatalf("line %d: found %+v, %v", number, got, err)
		}
	}
	if got, err := locate(strings.NewReader(text), size, 2502, math.MaxUint64); err != nil || got.number != 0 || got.begin != size {
		t.Errorf("%+v, %v", got, err)
	}
}
