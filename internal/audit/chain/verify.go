package chain

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// remembered is how many lines back it is known what stood there, to tell a line
// that is repeated from one that was slipped in.
const remembered = 1024

// Options of a Verifier. The zero value takes the first line's word for its place
// and for the line before.
type Options struct {
	Prev  *Hash  // of the line before the first; nil: not known
	First uint64 // number that the first line must have; 0: any
	Last  uint64 // number of the last line; 0: any

	// Known gives the hash of a line that is known from elsewhere; nil: none is. Only
	// this can tell lines that were rewritten together with their hashes.
	Known func(number uint64) (Hash, bool)
}

// Result is what a Verifier found.
type Result struct {
	Lines       int    // that were looked at
	First, Last uint64 // numbers of the first and last line that are as they should be; 0: none
	Hash        Hash   // of line Last
	Problem     *Problem
}

// Kinds of problems.
const (
	Touched = "touched" // the line's content is not what its hash says
	Removed = "removed" // lines are gone
	Added   = "added"   // a line that no replica ever wrote
)

// Problem is the first place where lines are not what they should be.
type Problem struct {
	Line   int    // of the file, from 1; where lines are gone at its end, the first that is
	Number uint64 // of the event, as far as it can be told; 0: it can't
	From   uint64 // Number, or less: the lines from there to Number were rewritten together, or some of them
	Kind   string
	Detail string // a sentence for people
	Text   string // of the line, see Printable
	Short  bool   // the file ends before Options.Last, and this is the problem
}

// Verifier checks lines that are given one after another. What follows the first
// problem is looked at only to tell what kind of problem it is: a line that was
// added is one after which the true one still comes.
type Verifier struct {
	opts    Options
	res     Result
	started bool
	next    uint64 // number of the line that must come
	prev    Hash   // of the line before it
	hasPrev bool
	sure    uint64 // the last line whose hash is known from elsewhere
	recent  []link // by number
	bad     *suspect
	done    bool
}

// link is where a line hangs in the chain.
type link struct {
	number     uint64
	line       int
	prev, hash Hash
}

// suspect is the first line that is not what must come.
type suspect struct {
	line    int
	trailer Trailer
	ok      bool // it has one
	forged  bool // it fits, but its hash is known to be another
	text    []byte

	after    int     // lines since
	next     Trailer // of the one after it
	nextOK   bool
	nextText []byte
}

// NewVerifier begins before the first line.
func NewVerifier(opts Options) *Verifier {
	v := &Verifier{opts: opts, recent: make([]link, remembered)}
	if opts.First > 0 {
		v.begin(opts.First)
	}
	return v
}

func (v *Verifier) begin(number uint64) {
	v.started, v.next, v.sure = true, number, number-1
	v.hasPrev = v.opts.Prev != nil || number == 1 // zeros are before the first line of all
	if v.opts.Prev != nil {
		v.prev = *v.opts.Prev
	}
}

// Line takes the next line, without its line feed. False says that the rest need
// not be given.
func (v *Verifier) Line(text []byte) bool {
	if v.done {
		return false
	}
	v.res.Lines++
	t, ok := ParseTrailer(text)
	if v.bad != nil {
		return v.look(text, t, ok)
	}
	if ok && !v.started {
		v.begin(t.Number)
	}
	fits := ok && v.fits(text, t)
	forged := false
	if fits {
		if known, is := v.known(v.next); is && known != t.Hash {
			fits, forged = false, true
		} else if is {
			v.sure = v.next
		}
	}
	if !fits {
		v.bad = &suspect{line: v.res.Lines, trailer: t, ok: ok, forged: forged, text: append([]byte(nil), text...)}
		return true
	}
	v.recent[v.next%remembered] = link{number: v.next, line: v.res.Lines, prev: v.prev, hash: t.Hash}
	if v.res.First == 0 {
		v.res.First = v.next
	}
	v.res.Last, v.res.Hash = v.next, t.Hash
	v.prev, v.hasPrev = t.Hash, true
	v.next++
	return true
}

// Last is the last line that is as it should be; 0: none yet.
func (v *Verifier) Last() (uint64, Hash) { return v.res.Last, v.res.Hash }

// fits says whether a line is the one that must come, as far as the chain can tell.
func (v *Verifier) fits(text []byte, t Trailer) bool {
	return v.started && t.Number == v.next && (v.opts.Last == 0 || t.Number <= v.opts.Last) &&
		(!v.hasPrev || Link(v.prev, text[:t.Body]) == t.Hash)
}

func (v *Verifier) known(number uint64) (Hash, bool) {
	if v.opts.Known == nil {
		return Hash{}, false
	}
	return v.opts.Known(number)
}

// look takes a line after the first problem: is it the one that should have come?
func (v *Verifier) look(text []byte, t Trailer, ok bool) bool {
	x := v.bad
	x.after++
	if x.after == 1 {
		x.next, x.nextOK, x.nextText = t, ok, append([]byte(nil), text...)
	}
	if !ok || !v.fits(text, t) {
		return true
	}
	if known, is := v.known(v.next); is && known != t.Hash {
		return true
	}
	v.done = true
	n := v.next
	switch {
	case x.ok && x.after == 1 && x.trailer.Number == n+1 && Link(t.Hash, x.text[:x.trailer.Body]) == x.trailer.Hash:
		v.problem(Touched, n, "lines "+num(n)+" and "+num(n+1)+" have changed places")
	case x.after > 1 && x.nextFollows(n, t.Hash):
		v.problem(Touched, n, fmt.Sprintf("line %d was moved from here to line %d of the file, and something else stands in its place", n, v.res.Lines))
	default:
		v.added()
	}
	return false
}

// nextFollows says whether the line after the suspect continues a line.
func (x *suspect) nextFollows(number uint64, h Hash) bool {
	return x.nextOK && x.next.Number == number+1 && Link(h, x.nextText[:x.next.Body]) == x.next.Hash
}

// added says of the suspect that it was slipped in.
func (v *Verifier) added() {
	x := v.bad
	if !x.ok {
		v.problem(Added, v.next, "it is no line that a replica ever wrote; line "+num(v.next)+" should come here")
		return
	}
	m := x.trailer.Number
	if v.repeats() {
		v.problem(Added, m, "it repeats line "+num(m)+", which stands where it belongs")
		return
	}
	v.problem(Added, m, "it calls itself line "+num(m)+", but no replica wrote it here")
}

// Partial takes what follows the last line feed, before Finish.
func (v *Verifier) Partial(text []byte) {
	if v.done || v.bad != nil || len(text) == 0 {
		return
	}
	v.done = true
	v.res.Lines++
	t, ok := ParseTrailer(text)
	v.bad = &suspect{line: v.res.Lines, trailer: t, ok: ok, text: text}
	switch {
	case ok && v.fits(text, t):
		v.problem(Touched, v.next, "the line feed after it is missing")
	case v.opts.Last > 0 && v.next > v.opts.Last:
		v.problem(Added, v.next, "it stands after the last line, and no replica wrote it")
	case strings.HasPrefix(string(text), `{"`):
		v.problem(Removed, v.next, "the file ends in the middle of this line")
		v.res.Problem.Short = true
	default:
		v.problem(Added, v.next, "it is no line that a replica ever wrote")
	}
}

// Finish says what was found. It is called once, after the last line.
func (v *Verifier) Finish() Result {
	switch {
	case v.done:
	case v.bad != nil:
		v.decide()
	case v.started && v.opts.Last > 0 && v.next <= v.opts.Last:
		v.bad = &suspect{line: v.res.Lines + 1}
		v.problem(Removed, v.next, "the file ends before line "+num(v.next)+", its last one should be line "+num(v.opts.Last))
		v.res.Problem.Short = true
	}
	v.done = true
	return v.res
}

// repeats says whether the suspect is a line that was seen.
func (v *Verifier) repeats() bool {
	t := v.bad.trailer
	l := v.recent[t.Number%remembered]
	return v.bad.ok && l.number == t.Number && l.hash == t.Hash
}

// joined says whether the suspect begins with the line that must come.
func (v *Verifier) joined() bool {
	text := v.bad.text
	for end := 0; ; {
		i := bytes.Index(text[end:], []byte(`"}`))
		if i < 0 {
			return false
		}
		end += i + len(`"}`)
		if t, ok := ParseTrailer(text[:end]); ok && t.Number == v.next && v.fits(text[:end], t) {
			return true
		}
	}
}

// decide says what the suspect is when the line that should have come in its place
// is nowhere behind it.
func (v *Verifier) decide() {
	x, n := v.bad, v.next
	m := x.trailer.Number
	switch {
	case !v.started:
		v.problem(Touched, 0, "it is not a line of an audit log")
	case x.forged:
		v.problem(Touched, n, "this line is not the one that the cluster knows by its number, though its hash was made to fit")
		if v.sure+1 < n {
			v.res.Problem.From = v.sure + 1
			v.res.Problem.Detail = fmt.Sprintf("lines from %d on were rewritten together with their hashes: line %d does not have the hash that the cluster knows; which one is the first can't be told from this file", v.sure+1, n)
		}
	case v.opts.Last > 0 && n > v.opts.Last && v.repeats():
		v.added()
	case v.opts.Last > 0 && n > v.opts.Last:
		v.problem(Added, max(m, n), "it stands after line "+num(v.opts.Last)+", the last one, and no replica wrote it")
	case v.joined():
		v.problem(Touched, n, "something that is not the end of the line follows it")
	case !x.ok && x.after == 0 && !strings.HasPrefix(string(x.text), `{"`):
		v.problem(Added, n, "it is no line that a replica ever wrote")
	case !x.ok:
		v.problem(Touched, n, "it is not a line of the log any more: it does not end with its number and hash")
	case m == n && v.hasPrev:
		v.problem(Touched, n, "its content does not fit its hash: this line was changed, or the one before it was replaced")
	case m < n:
		v.decideLower(m)
	case x.nextOK && x.next.Number == n+1, v.opts.Last > 0 && m > v.opts.Last, v.isKnown(n, x.trailer.Hash):
		v.problem(Touched, n, "its number is "+num(m)+", but line "+num(n)+" must stand here")
	case m == n+1:
		v.problem(Removed, n, "line "+num(n)+" is gone: line "+num(m)+" stands in its place")
	default:
		v.problem(Removed, n, fmt.Sprintf("lines %d to %d are gone: line %d stands in their place", n, m-1, m))
	}
}

// decideLower is for a suspect with a number that has been seen. Two lines that both
// continue the same one are told apart by the line that continues one of them.
func (v *Verifier) decideLower(m uint64) {
	x, n := v.bad, v.next
	l := v.recent[m%remembered]
	if v.repeats() {
		v.added()
		return
	}
	if l.number == m && m > 0 && Link(l.prev, x.text[:x.trailer.Body]) == x.trailer.Hash {
		switch {
		case x.nextFollows(m, x.trailer.Hash) || v.isKnown(m, x.trailer.Hash):
			first := l.line
			v.problem(Added, m, fmt.Sprintf("the true line %d stands at line %d of the file, and what follows continues that one", m, x.line))
			v.res.Problem.Line, v.res.Problem.Text = first, "" // what it said is not kept
		default:
			v.problem(Added, m, fmt.Sprintf("there are two lines %d, here and at line %d of the file: one of them no replica wrote", m, l.line))
		}
		return
	}
	v.problem(Touched, n, "its number is "+num(m)+", but line "+num(n)+" must stand here")
}

func (v *Verifier) isKnown(number uint64, h Hash) bool {
	known, is := v.known(number)
	return is && known == h
}

func (v *Verifier) problem(kind string, number uint64, detail string) {
	v.res.Problem = &Problem{Line: v.bad.line, Number: number, From: number, Kind: kind, Detail: detail, Text: Printable(v.bad.text)}
}

func num(n uint64) string { return strconv.FormatUint(n, 10) }

// Printable is a line for people to look at: at most 2 KiB, without what would
// steer a terminal.
func Printable(line []byte) string {
	var b strings.Builder
	for len(line) > 0 {
		if b.Len() > maxText-16 {
			b.WriteString("…")
			break
		}
		r, size := utf8.DecodeRune(line)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, line[0])
		case !unicode.IsPrint(r):
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		default:
			b.WriteRune(r)
		}
		line = line[size:]
	}
	return b.String()
}

// Verify checks a file of lines, such as an exported one, which may begin anywhere.
// An error means that it could not be read; what is wrong with its lines is in the
// result.
func Verify(r io.Reader, opts Options) (Result, error) {
	v := NewVerifier(opts)
	lines := NewScanner(r)
	for line := lines.Next(); line != nil; line = lines.Next() {
		if !v.Line(line) {
			return v.Finish(), nil
		}
	}
	if err := lines.Err(); err != nil {
		return v.Finish(), fmt.Errorf("read line %d: %w", v.res.Lines+1, err)
	}
	v.Partial(lines.Rest())
	return v.Finish(), nil
}
