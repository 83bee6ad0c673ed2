package chain_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/sallyport-dev/sallyport/internal/audit/chain"
)

// write makes lines from a number on.
func write(prev chain.Hash, from, to uint64) (lines [][]byte, last chain.Hash) {
	for n := from; n <= to; n++ {
		line := fmt.Appendf(nil, `{"event":"e%d","number":%d`, n, n)
		prev = chain.Link(prev, line)
		line = append(line, `,"hash":"`+hex.EncodeToString(prev[:])+"\"}\n"...)
		lines = append(lines, line)
	}
	return lines, prev
}

func TestVerifyOfAnExportedFile(t *testing.T) {
	lines, last := write(chain.Hash{}, 1, 20)
	hashOf := func(n uint64) chain.Hash { _, h := write(chain.Hash{}, 1, n); return h }
	four := hashOf(4)
	join := func(l [][]byte) string { return string(bytes.Join(l, nil)) }
	touched := strings.Replace(join(lines), `"e7"`, `"e8"`, 1)
	forged, _ := write(hashOf(3), 9, 9)
	for _, tt := range []struct {
		name, text string
		opts       chain.Options
		want       string // first-last, or the problem
	}{
		{"whole", join(lines), chain.Options{}, "1-20"},
		{"whole, as it must be", join(lines), chain.Options{First: 1, Last: 20, Known: func(n uint64) (chain.Hash, bool) { return last, n == 20 }}, "1-20"},
		{"nothing", "", chain.Options{}, "0-0"},
		{"nothing where something must be", "", chain.Options{First: 1, Last: 3}, "removed line 1 number 1"},
		{"begins anywhere", join(lines[4:]), chain.Options{}, "5-20"},
		{"begins where the line before is known", join(lines[4:]), chain.Options{Prev: &four}, "5-20"},
		{"begins elsewhere", join(lines[4:]), chain.Options{First: 4}, "removed line 1 number 4"},
		{"begins before", join(lines[4:]), chain.Options{First: 6}, "added line 1 number 5"},
		{"ends early", join(lines[:9]), chain.Options{Last: 20}, "removed line 10 number 10"},
		{"goes on", join(lines), chain.Options{Last: 19}, "added line 20 number 20"},
		{"other line before", join(lines[5:]), chain.Options{Prev: &four}, "touched line 1 number 6"},
		{"touched", touched, chain.Options{}, "touched line 7 number 7"},
		{"first line touched, and its hash taken as given", strings.Replace(join(lines[4:]), `"e5"`, `"e4"`, 1), chain.Options{}, "5-20"},
		{"removed at the beginning", join(lines[2:]), chain.Options{First: 1}, "removed line 1 number 1"},
		{"several removed", join(append(lines[:3:3], lines[8:]...)), chain.Options{}, "removed line 4 number 4"},
		{"first line is none", "what\n" + join(lines), chain.Options{First: 1}, "added line 1 number 1"},
		{"no log at all", "what\nis\nthis\n", chain.Options{}, "touched line 1 number 0"},
		{"no log, no line feed", "what", chain.Options{}, "added line 1 number 0"},
		{"cut", join(lines[:5]) + string(lines[5][:20]), chain.Options{}, "removed line 6 number 6"},
		{"last line feed gone", strings.TrimSuffix(join(lines), "\n"), chain.Options{}, "touched line 20 number 20"},
		{"CR LF", strings.Replace(join(lines), "\"}\n", "\"}\r\n", 1), chain.Options{First: 1}, "touched line 1 number 1"},
		{"number touched", strings.Replace(join(lines), `"number":7,`, `"number":9,`, 1), chain.Options{}, "touched line 7 number 7"},
		{"number touched downwards", strings.Replace(join(lines), `"number":7,`, `"number":2,`, 1), chain.Options{}, "touched line 7 number 7"},
		{"moved far", join([][]byte{lines[0], lines[5], lines[2], lines[3], lines[4], lines[1], lines[6]}), chain.Options{}, "touched line 2 number 2"},
		{"foreign line with a high number", join(append(append(lines[:3:3], forged...), lines[3:]...)), chain.Options{}, "added line 4 number 9"},
		{"rewritten together", join(lines), chain.Options{Known: func(n uint64) (chain.Hash, bool) {
			if n == 5 {
				return hashOf(5), true
			}
			return four, n == 20
		}}, "touched line 20 number 20 from 6"},
		{"a line without end", join(lines[:3]) + `{"` + strings.Repeat("x", 5<<20) + string(lines[3][2:]) + join(lines[4:]), chain.Options{}, "touched line 4 number 4"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			res, err := chain.Verify(iotest.OneByteReader(strings.NewReader(tt.text)), tt.opts)
			if len(tt.text) > 1<<20 {
				res, err = chain.Verify(strings.NewReader(tt.text), tt.opts)
			}
			if err != nil {
				t.Fatal(err)
			}
			got := fmt.Sprintf("%d-%d", res.First, res.Last)
			if p := res.Problem; p != nil {
				got = fmt.Sprintf("%s line %d number %d", p.Kind, p.Line, p.Number)
				if p.From != p.Number {
					got += " from " + strconv.FormatUint(p.From, 10)
				}
				if p.Detail == "" || len(p.Text) > 2<<10 {
					t.Errorf("detail %q, text of %d bytes", p.Detail, len(p.Text))
				}
			}
			if got != tt.want {
				t.Errorf("got %s, want %s: %+v", got, tt.want, res.Problem)
			}
		})
	}
}

func TestVerifyFindsEachByteThatWasFlipped(t *testing.T) {
	lines, last := write(chain.Hash{}, 1, 12)
	whole := bytes.Join(lines, nil)
	at := len(bytes.Join(lines[:4], nil))
	for i, c := range lines[4] {
		text := bytes.Clone(whole)
		text[at+i] ^= 1
		res, err := chain.Verify(bytes.NewReader(text), chain.Options{First: 1, Last: 12, Known: func(n uint64) (chain.Hash, bool) { return last, n == 12 }})
		if err != nil || res.Problem == nil || res.Problem.Number != 5 || res.Problem.Line != 5 || res.Problem.Kind != chain.Touched {
			t.Errorf("byte %d (%q): %+v, %v", i, c, res.Problem, err)
		}
	}
}

func TestVerifyTellsThatAFileCannotBeRead(t *testing.T) {
	lines, _ := write(chain.Hash{}, 1, 3)
	broken := errors.New("disk")
	_, err := chain.Verify(io.MultiReader(bytes.NewReader(lines[0]), iotest.ErrReader(broken)), chain.Options{})
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("got %v", err)
	}
}

func TestPrintableDoesNotSteerATerminal(t *testing.T) {
	for in, want := range map[string]string{
		"plain é":           "plain é",
		"\x1b[2J\r\n\u202e": `\x1b[2J\r\n\u202e`,
		"\xff":              `\xff`,
		"\u009b":            `\u009b`,
	} {
		if got := chain.Printable([]byte(in)); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
	if got := chain.Printable(bytes.Repeat([]byte("\x00"), 1<<20)); len(got) > 2<<10 || !strings.HasSuffix(got, "…") {
		t.Errorf("%d bytes", len(got))
	}
}

func FuzzParseTrailer(f *testing.F) {
	lines, _ := write(chain.Hash{}, 9, 10)
	f.Add(bytes.TrimSpace(lines[1]))
	f.Add([]byte(`{"a":1,"number":18446744073709551615,"hash":"` + strings.Repeat("a", 64) + `"}`))
	f.Add([]byte(`,"number":1,"hash":"` + strings.Repeat("0", 64) + `"}`))
	f.Add([]byte(`{"a":1,"number":01,"hash":"` + strings.Repeat("0", 64) + `"}`))
	f.Add([]byte(`1,"hash":"` + strings.Repeat("A", 64) + `"}`))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, line []byte) {
		tr, ok := chain.ParseTrailer(line)
		if !ok {
			if tr != (chain.Trailer{}) && tr.Body > 0 {
				t.Fatalf("no, but %+v", tr)
			}
			return
		}
		end := fmt.Sprintf(`,"number":%d,"hash":"%s"}`, tr.Number, tr.Hash)
		if tr.Number == 0 || !strings.HasSuffix(string(line), end) || len(line)-tr.Body != len(`,"hash":""}`)+64 {
			t.Fatalf("%q: %+v", line, tr)
		}
	})
}

// FuzzVerify changes a file: it must be found unless it is still the same lines, and
// nothing may make it fail.
func FuzzVerify(f *testing.F) {
	lines, last := write(chain.Hash{}, 1, 12)
	whole := bytes.Join(lines, nil)
	f.Add(100, 3, []byte("x"))
	f.Add(0, 0, []byte("\n"))
	f.Add(len(lines[0]), 0, bytes.Clone(lines[0]))
	f.Add(len(lines[0]), len(lines[1]), []byte(nil))
	f.Add(0, len(whole), bytes.Repeat([]byte("{}\n"), 9))
	f.Fuzz(func(t *testing.T, at, cut int, put []byte) {
		if at < 0 || at > len(whole) || cut < 0 || cut > len(whole)-at {
			return
		}
		text := append(append(bytes.Clone(whole[:at]), put...), whole[at+cut:]...)
		opts := chain.Options{First: 1, Last: 12, Known: func(n uint64) (chain.Hash, bool) { return last, n == 12 }}
		res, err := chain.Verify(bytes.NewReader(text), opts)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(text, whole) != (res.Problem == nil) {
			t.Fatalf("problem %+v", res.Problem)
		}
		if res.Problem != nil && (res.Problem.Line < 1 || res.Problem.Line > bytes.Count(text, []byte("\n"))+1 || res.Problem.From > res.Problem.Number) {
			t.Fatalf("problem %+v", res.Problem)
		}
		if _, err := chain.Verify(bytes.NewReader(put), chain.Options{}); err != nil {
			t.Fatal(err)
		}
	})
}
