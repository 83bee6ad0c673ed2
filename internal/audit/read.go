package audit

import (
	"context"
	"io"
	"iter"

	"github.com/sallyport-dev/sallyport/internal/audit/chain"
)

// Line is a line of the journal.
type Line struct {
	Number uint64
	Hash   chain.Hash
	Text   []byte // without the line feed; valid until the next line is asked for
}

// Lines gives the journal's lines from a number on, oldest first, up to its end.
func (j *Journal) Lines(from uint64) iter.Seq2[Line, error] {
	return func(func(Line, error) bool) {}
}

// Backward gives the lines with numbers below before, newest first; 0 means
// from the end.
func (j *Journal) Backward(before uint64) iter.Seq2[Line, error] {
	return func(func(Line, error) bool) {}
}

// Export writes the lines from one number to another, both inclusive, as they
// are; to 0 means to the end. It returns how many it wrote.
func (j *Journal) Export(ctx context.Context, w io.Writer, from, to uint64) (uint64, error) {
	return 0, nil
}
