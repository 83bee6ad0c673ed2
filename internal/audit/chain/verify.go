package chain

import "io"

// Options of Verify. The zero value works.
type Options struct {
	Prev  *Hash  // of the line before the first; nil: not known
	First uint64 // number that the first line must have; 0: any
	Last  uint64 // number of the last line; 0: any

	// Known gives the hash of a line that is known from elsewhere; nil: none is.
	Known func(number uint64) (Hash, bool)
}

// Result of Verify.
type Result struct {
	Lines       int    // that were looked at
	First, Last uint64 // numbers of the first and last line that are as they should be; 0: none
	Hash        Hash   // of line Last
	Given       bool   // nothing was known of the line before the first, whose own text is therefore not proven
	Problem     *Problem
}

// Kinds of problems.
const (
	Touched = "touched"
	Removed = "removed"
	Added   = "added"
)

// Problem is the first place where lines are not what they should be.
type Problem struct {
	Line   int    // of the file, from 1
	Number uint64 // of the event, as far as it can be told; 0: it can't
	From   uint64 // the first number in doubt, Number unless the lines from it on were rewritten together
	Kind   string
	Detail string // a sentence for people
	Text   string // of the line, printable and bounded
}

// Verify checks lines.
func Verify(r io.Reader, opts Options) (Result, error) { return Result{}, nil }
