package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/audit/chain"
)

// progressEvery is how often Verify says how far it is, at most.
const progressEvery = 250 * time.Millisecond

// Verify walks all files of the journal and compares them with what the cluster
// knows of it: each line with the one before, the end of each segment with its
// record, the last line with the head, and the copies with which files begin with
// the lines they are copies of. Lines that are written meanwhile do no harm.
//
// It ends at the first line that was touched, removed or added. Lines that this
// replica has not fetched yet are a problem only if there is no such line.
func (j *Journal) Verify(ctx context.Context, m Manifest, progress func(api.AuditVerified)) api.AuditVerified {
	v := j.reader().verify(ctx, m, progress)
	if v.OK {
		if v.Problem = j.stray(m); v.Problem != nil {
			v.OK = false
		}
	}
	return v
}

// stray finds a file in the folder that says it is a segment's, and is not.
func (j *Journal) stray(m Manifest) *api.AuditProblem {
	entries, err := os.ReadDir(j.dir)
	if err != nil {
		return &api.AuditProblem{File: ".", Kind: api.AuditUnreadable, Detail: err.Error()}
	}
	if j.manifest != nil { // segments may have been sealed, or deleted, since
		if now, err := j.manifest(); err == nil {
			m = now
		}
	}
	known := j.files()
	for _, e := range entries {
		first, ok := parseSealedName(e.Name())
		if !ok || first < m.oldest() {
			continue // retention has not removed it yet
		}
		if s, ok := m.segmentOf(first); ok && s.First == first {
			continue
		}
		// The state may not know yet that what was being written is sealed.
		if first == m.Head.First && slices.ContainsFunc(known, func(f fileInfo) bool { return f.first == first && !f.active }) {
			continue
		}
		return &api.AuditProblem{File: e.Name(), Number: first, Kind: api.AuditAdded, Detail: "no segment of the log begins there: the file is not the replica's"}
	}
	return nil
}

// walk is one verification.
type walk struct {
	reader
	manifest Manifest
	progress func(api.AuditVerified)
	reported time.Time
	res      api.AuditVerified
	missing  *api.AuditProblem
	recent   [copiedLines + 1]place // the last lines, by number
}

// place is where a line hangs in the chain.
type place struct {
	number uint64
	hash   chain.Hash
}

func (r reader) verify(ctx context.Context, m Manifest, progress func(api.AuditVerified)) api.AuditVerified {
	w := &walk{reader: r, manifest: m, progress: progress, reported: r.clock()}
	head := m.Head
	last := Segment{First: max(head.First, 1), Last: head.Number, Prev: head.Prev, Hash: head.Hash}
	segments := append(slices.Clone(m.Segments), last)
	w.res.First, w.res.Last = max(segments[0].First, m.Floor.First), head.Number
	var problem *api.AuditProblem
	var err error
	for i, s := range segments {
		if s.Last < m.Floor.First && i < len(m.Segments) {
			continue // nobody has it any more
		}
		if s.First < m.Floor.First {
			s.First, s.Prev = m.Floor.First, m.Floor.Prev
		}
		if problem, err = w.segment(ctx, s, i == len(m.Segments)); problem != nil || err != nil {
			break
		}
	}
	if problem == nil && err == nil {
		problem = w.strangers(segments)
	}
	if problem == nil {
		problem = w.missing
	}
	w.res.Done, w.res.Problem, w.res.OK = true, problem, problem == nil && err == nil
	if err != nil {
		w.res.Error = err.Error()
	}
	return w.res
}

// segment checks one file. The last one goes on being written: it has no end, but
// must come as far as the head.
func (w *walk) segment(ctx context.Context, s Segment, last bool) (*api.AuditProblem, error) {
	name := sealedName(s.First)
	if last {
		name = activeName
	}
	p, file, size, err := w.find(s)
	if errors.Is(err, fs.ErrNotExist) {
		w.absent(s, name, last)
		return nil, nil //nolint:nilnil // noted
	}
	if err != nil {
		return &api.AuditProblem{File: name, Number: s.First, Kind: api.AuditUnreadable, Detail: err.Error()}, nil
	}
	defer file.Close()
	lines := newScanner(file, 0, toEnd)
	text := lines.Next()
	v := chain.NewVerifier(w.options(s, last, text))
	for settled := false; ; text = lines.Next() {
		if text == nil && !settled && w.growing(p) {
			settled = true // what was being written is now there
			continue
		}
		if text == nil {
			break
		}
		settled = false
		more := v.Line(text)
		w.note(v)
		if err := w.report(ctx); err != nil {
			return nil, err
		}
		if !more {
			break
		}
	}
	if err := lines.Err(); err != nil {
		return &api.AuditProblem{File: filepath.Base(p.path), Number: w.res.Number + 1, Kind: api.AuditUnreadable, Detail: err.Error()}, nil
	}
	state := w.state()
	if text == nil && (!p.active || state.PendingBytes == 0) {
		v.Partial(lines.Rest())
	}
	found := w.judge(v.Finish(), s, last, state)
	if found == nil {
		return nil, nil //nolint:nilnil // all is well
	}
	if found.Kind == chain.Touched {
		w.refine(file, size, s, found)
	}
	if found.Text == "" && found.Kind != chain.Removed {
		found.Text = textOfLine(newScanner(file, 0, toEnd), found.Line)
	}
	problem := &api.AuditProblem{File: filepath.Base(p.path), Line: found.Line, Number: found.Number, Kind: found.Kind, Detail: found.Detail, Text: found.Text}
	if found.Short && lacking(state, found.Number) {
		problem.Kind, problem.Line, problem.Text = api.AuditMissing, 0, ""
		problem.Detail = fmt.Sprintf("lines from %d on are not in this replica's files yet", found.Number)
		w.lack(problem)
		return nil, nil //nolint:nilnil // noted
	}
	return problem, nil
}

// find opens the file of a segment.
func (w *walk) find(s Segment) (part, *os.File, int64, error) {
	for range openTries {
		p, ok := w.holding(s.First)
		if !ok || p.first > s.First || p.last < s.First {
			return part{}, nil, 0, fs.ErrNotExist
		}
		if p.first != s.First && s.First != w.manifest.Floor.First {
			return part{}, nil, 0, fs.ErrNotExist
		}
		file, size, err := w.open(p)
		if !errors.Is(err, fs.ErrNotExist) {
			return p, file, size, err
		}
	}
	return part{}, nil, 0, fs.ErrNotExist
}

// options says what is known of the file's lines, of which the first one is given.
func (w *walk) options(s Segment, last bool, text []byte) chain.Options {
	floor := w.manifest.Floor
	begin := uint64(1)
	if s.First > copiedLines {
		begin = s.First - copiedLines
	}
	// The copies may begin later after a loss, but not later than the log itself.
	opts := chain.Options{First: begin, Known: func(n uint64) (chain.Hash, bool) {
		switch {
		case n == s.First-1:
			return s.Prev, true
		case n == s.Last:
			return s.Hash, true
		case n < s.First:
			return w.hash(n)
		}
		return chain.Hash{}, false
	}}
	if t, ok := chain.ParseTrailer(text); ok && t.Number > begin && t.Number <= min(floor.First, s.First) {
		opts.First = t.Number
	}
	if opts.First > 1 {
		if h, ok := opts.Known(opts.First - 1); ok {
			opts.Prev = &h
		} else if opts.First == floor.First {
			opts.Prev = &floor.Prev
		}
	}
	if !last {
		opts.Last = s.Last
	}
	return opts
}

// growing says whether the file may have more lines than were seen, now or a moment
// ago. It waits for a write that is under way.
func (w *walk) growing(p part) bool {
	if !p.active {
		return false
	}
	_ = w.state()
	return true
}

func (w *walk) note(v *chain.Verifier) {
	n, h := v.Last()
	w.recent[n%uint64(len(w.recent))] = place{n, h}
	if n > w.res.Number {
		w.res.Number, w.res.Hash = n, h.String()
	}
}

// hash is that of a line that was walked over not long ago.
func (w *walk) hash(number uint64) (chain.Hash, bool) {
	r := w.recent[number%uint64(len(w.recent))]
	return r.hash, r.number == number && number > 0
}

func (w *walk) report(ctx context.Context) error {
	if w.res.Number%256 != 0 {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if now := w.clock(); w.progress != nil && now.Sub(w.reported) >= progressEvery {
		w.reported = now
		w.progress(w.res)
	}
	return nil
}

// judge adds to what the chain says what the journal knows of its end.
func (w *walk) judge(res chain.Result, s Segment, last bool, state JournalState) *chain.Problem {
	end := max(state.Last, s.Last)
	if p, ok := w.holding(s.First); ok && p.last != math.MaxUint64 {
		end = p.last
	}
	if last && res.Problem != nil && res.Problem.Kind == chain.Removed && res.Problem.Number > end {
		res.Problem.Kind, res.Problem.Detail = chain.Added, fmt.Sprintf("line %d is the cluster's last; what follows somebody else has written", end)
	}
	if res.Problem != nil || !last {
		return res.Problem
	}
	have := max(res.Last, s.First-1)
	switch {
	case have < s.Last:
		return &chain.Problem{
			Line: res.Lines + 1, Number: have + 1, From: have + 1, Kind: chain.Removed, Short: true,
			Detail: fmt.Sprintf("the file ends before line %d; the cluster's last line is %d", have+1, s.Last),
		}
	case have > end:
		return &chain.Problem{
			Line: res.Lines - int(have-end) + 1, Number: end + 1, From: end + 1, Kind: chain.Added, //nolint:gosec // lines of one file
			Detail: fmt.Sprintf("line %d is the last that this replica wrote; what follows somebody else did", end),
		}
	}
	return nil
}

// lacking says whether the replica knows that it does not have a line yet.
func lacking(state JournalState, number uint64) bool {
	return state.PendingBytes > 0 || state.Gap != nil && number >= state.Gap.From
}

func (w *walk) lack(p *api.AuditProblem) {
	if w.missing == nil {
		w.missing = p
	}
}

// absent notes that a whole file is not there.
func (w *walk) absent(s Segment, name string, last bool) {
	if last && s.Last == 0 {
		return // nothing was ever written
	}
	if !last && w.dropped(s) {
		return
	}
	w.lack(&api.AuditProblem{
		File: name, Number: s.First, Kind: api.AuditMissing,
		Detail: fmt.Sprintf("the file with lines %d to %d is missing; the replica fetches it from the others", s.First, s.Last),
	})
}

// dropped says whether retention has removed a segment meanwhile.
func (w *walk) dropped(s Segment) bool {
	if w.current == nil {
		return false
	}
	m, err := w.current()
	return err == nil && !slices.ContainsFunc(m.Segments, func(now Segment) bool { return now.First == s.First })
}

// strangers finds a file among the others that is none of the journal's.
func (w *walk) strangers(segments []Segment) *api.AuditProblem {
	for _, f := range w.files() {
		if f.first <= max(segments[0].First, w.manifest.Floor.First) || f.first >= segments[len(segments)-1].First {
			continue // retention has not removed it yet, or it began meanwhile
		}
		if !slices.ContainsFunc(segments, func(s Segment) bool { return s.First == f.first }) {
			return &api.AuditProblem{
				File: filepath.Base(f.path), Number: f.first, Kind: api.AuditAdded,
				Detail: "no segment of the log begins there: the file is not the replica's",
			}
		}
	}
	return nil
}

// refine looks into the copies with which the next file begins. Where they are as
// they should be, they tell which line is the first that is not.
func (w *walk) refine(file *os.File, size int64, s Segment, found *chain.Problem) {
	copies := w.copies(s)
	if len(copies) == 0 {
		return
	}
	from, err := locate(file, size, copies[0].number, s.Last)
	if err != nil {
		return
	}
	before := newScanner(file, 0, toEnd)
	line := 1
	for before.at() < from.end && before.Next() != nil {
		line++
	}
	lines := newScanner(file, from.end, toEnd)
	for i, c := range copies {
		text := lines.Next()
		if text == nil {
			return
		}
		t, ok := chain.ParseTrailer(text)
		if ok && t.Number == c.number && t.Hash == c.hash {
			continue
		}
		if c.number >= found.Number && found.From == found.Number || i == 0 && s.First < c.number {
			return // it is no news, or the first one may be before the copies
		}
		found.Line, found.Number, found.From, found.Text = line+i, c.number, c.number, chain.Printable(text)
		found.Detail = "it is not the line of which the next file has a copy, though its hash was made to fit"
		return
	}
}

// copies reads what the next file says of the end of a segment, if that is sound.
func (w *walk) copies(s Segment) []place {
	p, ok := w.holding(s.Last + 1)
	if !ok || p.first != s.Last+1 {
		return nil
	}
	file, _, err := w.open(p)
	if err != nil {
		return nil
	}
	defer file.Close()
	v := chain.NewVerifier(chain.Options{})
	var all []place
	lines := newScanner(file, 0, toEnd)
	for text := lines.Next(); text != nil && v.Line(text); text = lines.Next() {
		n, h := v.Last()
		if n > s.Last || len(all) > copiedLines {
			break
		}
		if n >= s.First {
			all = append(all, place{n, h})
		}
		if n == s.Last && h == s.Hash {
			return all
		}
	}
	return nil
}

func textOfLine(lines *scanner, number int) string {
	for range number - 1 {
		if lines.Next() == nil {
			return ""
		}
	}
	return chain.Printable(lines.Next())
}
