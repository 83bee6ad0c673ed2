package splice

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// writer counts, and keeps the end apart from an error.
type writer struct {
	strings.Builder
	ended bool
	fail  error
}

func (w *writer) Write(p []byte) (int, error) {
	if w.fail != nil {
		return 0, w.fail
	}
	return w.Builder.Write(p)
}

func (w *writer) CloseWrite() error {
	w.ended = true
	return nil
}

// sizes notes how much is asked for.
type sizes struct {
	io.Reader
	asked []int
}

func (s *sizes) Read(p []byte) (int, error) {
	s.asked = append(s.asked, len(p))
	return s.Reader.Read(p)
}

func TestCopyTellsAnEndFromAFailure(t *testing.T) {
	broken := errors.New("broken")
	text := strings.Repeat("x", 3*Big+1)
	for name, c := range map[string]struct {
		src   io.Reader
		dst   *writer
		want  error
		ended bool
	}{
		"an end":              {strings.NewReader(text), &writer{}, nil, true},
		"bytes with an end":   {iotest.DataErrReader(strings.NewReader(text)), &writer{}, nil, true},
		"a source that fails": {io.MultiReader(strings.NewReader(text), iotest.ErrReader(broken)), &writer{}, broken, false},
		"a reader that fails": {strings.NewReader(text), &writer{fail: broken}, broken, false},
	} {
		t.Run(name, func(t *testing.T) {
			pieces := 0
			err := NewPools().Copy(c.dst, c.src, func() { pieces++ })
			if !errors.Is(err, c.want) || c.dst.ended != c.ended {
				t.Errorf("%v, told of the end: %v", err, c.dst.ended)
			}
			if c.dst.fail == nil && c.dst.String() != text || pieces == 0 {
				t.Errorf("%d bytes in %d pieces", c.dst.Len(), pieces)
			}
		})
	}
	if err := NewPools().Copy(struct{ io.Writer }{&writer{}}, strings.NewReader(text), nil); err == nil {
		t.Error("an end that nobody could be told of is clean")
	}
}

func TestTheBufferFollowsWhatComes(t *testing.T) {
	s := &sizes{Reader: io.MultiReader(
		strings.NewReader("little"), strings.NewReader(strings.Repeat("x", Small+Big)), strings.NewReader("little"), strings.NewReader("little"))}
	if err := NewPools().Copy(&writer{}, s, nil); err != nil {
		t.Fatal(err)
	}
	want := []int{Small, Small, Big, Big, Small, Small}
	if len(s.asked) < len(want) {
		t.Fatalf("%d reads", len(s.asked))
	}
	for i, n := range want {
		if s.asked[i] != n {
			t.Errorf("read %d asks for %d bytes, want %d (%v)", i, s.asked[i], n, s.asked)
		}
	}
}
