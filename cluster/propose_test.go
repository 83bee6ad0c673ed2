package cluster

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
)

type itemError int

func (e itemError) Error() string { return fmt.Sprintf("item %d", int(e)) }
func (e itemError) Item() int     { return int(e) }

func TestWhatCannotBeWrittenIsLeftOutOfItsGroup(t *testing.T) {
	t.Parallel()
	refuse := func(bad string, wrap func(i int) error) func(time.Time, [][]byte) ([]byte, error) {
		return func(_ time.Time, items [][]byte) ([]byte, error) {
			var entry []byte
			for i, it := range items {
				if string(it) == bad {
					return nil, wrap(i)
				}
				entry = append(entry, it...)
			}
			return entry, nil
		}
	}
	blame := func(i int) error { return fmt.Errorf("encode: %w", itemError(i)) }
	for name, c := range map[string]struct {
		encode func(time.Time, [][]byte) ([]byte, error)
		items  string // of one letter each
		entry  string
		code   api.Code
	}{
		"all good":              {refuse("x", blame), "abc", "abc", api.CodeInvalid},
		"first":                 {refuse("x", blame), "xbc", "bc", api.CodeInvalid},
		"in the middle":         {refuse("x", blame), "axc", "ac", api.CodeInvalid},
		"two":                   {refuse("x", blame), "xaxb", "ab", api.CodeInvalid},
		"alone":                 {refuse("x", blame), "x", "", api.CodeInvalid},
		"all":                   {refuse("x", blame), "xx", "", api.CodeInvalid},
		"blames nobody":         {refuse("x", func(int) error { return errors.New("the clock") }), "axb", "", api.CodeUnavailable},
		"blames who isn't here": {refuse("x", func(int) error { return itemError(7) }), "axb", "", api.CodeUnavailable},
		"makes nothing":         {func(time.Time, [][]byte) ([]byte, error) { return nil, nil }, "ab", "", api.CodeUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := &leadership{in: &instance{node: &Node{opts: Options{EncodeEntry: c.encode}}}}
			var group []*proposal
			for _, r := range c.items {
				group = append(group, &proposal{item: []byte(string(r)), done: make(chan proposed, 1)})
			}
			rest, entry := l.encode(time.Now(), group)
			var kept string
			for _, p := range rest {
				kept += string(p.item)
			}
			if d := cmp.Diff([]string{c.entry, c.entry}, []string{kept, string(entry)}); d != "" {
				t.Error(d)
			}
			answered := 0
			for _, p := range group {
				select {
				case got := <-p.done:
					answered++
					var again errRetry
					if !api.IsCode(got.err, c.code) || errors.As(got.err, &again) != (c.code == api.CodeUnavailable) {
						t.Errorf("%s: %v, want %s", p.item, got.err, c.code)
					}
				default:
				}
			}
			if answered+len(rest) != len(group) {
				t.Errorf("%d answered and %d kept of %d", answered, len(rest), len(group))
			}
		})
	}
}
