package chain_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/audit/chain"
)

func TestScannerGivesEachLineWhateverItsLength(t *testing.T) {
	whole := strings.Repeat("w", chain.MaxLine)
	long := strings.Repeat("l", chain.MaxLine+1)
	cut := long[:2<<10] + "\x00"
	for name, tt := range map[string]struct {
		text string
		want []string
		rest string
	}{
		"nothing":                {"", nil, ""},
		"no line feed":           {"a", nil, "a"},
		"empty lines":            {"\n\na\n\n", []string{"", "", "a", ""}, ""},
		"as long as a line":      {"a\n" + whole + "\nb\nc", []string{"a", whole, "b"}, "c"},
		"one byte longer":        {"a\n" + long + "\nb\nc", []string{"a", cut, "b"}, "c"},
		"many times longer":      {strings.Repeat(long, 9) + "\nb\n", []string{cut, "b"}, ""},
		"too long, twice":        {long + "\n" + long + "\n", []string{cut, cut}, ""},
		"too long, without end":  {"a\n" + strings.Repeat(long, 3), []string{"a"}, cut},
		"filling the buffer":     {strings.Repeat("x", 32<<10-1) + "\n" + strings.Repeat("y", 32<<10) + "\nz\n", []string{strings.Repeat("x", 32<<10-1), strings.Repeat("y", 32<<10), "z"}, ""},
		"doubling of the buffer": {strings.Repeat("x", 64<<10) + "\nz\n", []string{strings.Repeat("x", 64<<10), "z"}, ""},
	} {
		for how, r := range map[string]io.Reader{
			"at once": strings.NewReader(tt.text), "in halves": iotest.HalfReader(strings.NewReader(tt.text)), "with its end": iotest.DataErrReader(strings.NewReader(tt.text)),
		} {
			t.Run(name+" "+how, func(t *testing.T) {
				var got []string
				var offsets, want []int64
				s := chain.NewScanner(r)
				for line := s.Next(); line != nil; line = s.Next() {
					got, offsets = append(got, string(line)), append(offsets, s.Offset())
				}
				for at, c := range []byte(tt.text) {
					if c == '\n' {
						want = append(want, int64(at)+1)
					}
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Error(diff)
				}
				if diff := cmp.Diff(want, offsets); diff != "" {
					t.Error(diff)
				}
				if string(s.Rest()) != tt.rest || s.Err() != nil {
					t.Errorf("%d bytes are left, %v", len(s.Rest()), s.Err())
				}
			})
		}
	}
}

func TestScannerGoesOnWhereAFileGrows(t *testing.T) {
	var file bytes.Buffer
	s := chain.NewScanner(&file)
	for _, step := range []struct {
		add, want string
		none      bool
	}{{"a\nb", "a", false}, {"", "", true}, {"c", "", true}, {"\nd\n", "bc", false}, {"", "d", false}, {"", "", true}} {
		file.WriteString(step.add)
		if got := s.Next(); string(got) != step.want || (got == nil) != step.none {
			t.Errorf("got %q, want %q", got, step.want)
		}
	}
}

func TestScannerTellsWhyItEnds(t *testing.T) {
	broken := errors.New("disk")
	s := chain.NewScanner(io.MultiReader(strings.NewReader("a\nb"), iotest.ErrReader(broken)))
	if line := s.Next(); string(line) != "a" || s.Err() != nil {
		t.Errorf("%q, %v", line, s.Err())
	}
	if line := s.Next(); line != nil || !errors.Is(s.Err(), broken) || string(s.Rest()) != "b" {
		t.Errorf("%q, %v", line, s.Err())
	}
	s.Reset(strings.NewReader("c\n"))
	if line := s.Next(); string(line) != "c" || s.Err() != nil || s.Offset() != 2 {
		t.Errorf("%q, %v", line, s.Err())
	}
}

func FuzzScanner(f *testing.F) {
	f.Add([]byte("a\n\nb"), 3, uint8(2))
	f.Add([]byte("\n"), 1, uint8(255))
	f.Add([]byte("x\ny\n"), 70, uint8(7))
	f.Fuzz(func(t *testing.T, part []byte, times int, grow uint8) {
		if times < 0 || times > 64 || len(part) > 4<<10 {
			return
		}
		text := append(bytes.Repeat(part, times), bytes.Repeat([]byte{'z'}, int(grow)<<10)...)
		text = append(text, part...)
		s := chain.NewScanner(iotest.HalfReader(bytes.NewReader(text)))
		for line := s.Next(); line != nil; line = s.Next() {
			want, rest, ok := bytes.Cut(text, []byte("\n"))
			if len(want) > chain.MaxLine {
				want = append(bytes.Clone(want[:2<<10]), 0)
			}
			if !ok || !bytes.Equal(line, want) {
				t.Fatalf("%.100q, want %.100q", line, want)
			}
			text = rest
		}
		if bytes.IndexByte(text, '\n') >= 0 || s.Err() != nil || len(text) <= chain.MaxLine && !bytes.Equal(s.Rest(), text) {
			t.Fatalf("%d bytes are left, %v", len(text), s.Err())
		}
	})
}
