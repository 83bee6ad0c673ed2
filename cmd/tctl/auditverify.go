package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/audit/chain"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

// How a check ends that found something, or could not be made.
var (
	errNotWhole   = errors.New("the audit log is not what it should be")
	errNotChecked = errors.New("the audit log could not be checked")
)

// head is a line's number and hash, which stand for all lines up to it.
type head struct {
	number uint64
	hash   chain.Hash
}

// String is what --head takes.
func (h head) String() string { return fmt.Sprintf("%d:%s", h.number, h.hash) }

// parseHead reads what String wrote; nil for "".
func parseHead(text string) (*head, error) {
	if text == "" {
		return nil, nil //nolint:nilnil // none was given
	}
	number, hash, _ := strings.Cut(strings.TrimSpace(text), ":")
	var h head
	var err error
	if h.number, err = strconv.ParseUint(number, 10, 64); err != nil || h.number == 0 || h.hash.UnmarshalText([]byte(strings.ToLower(hash))) != nil {
		return nil, api.Errorf(api.CodeInvalid, "--head=%s: want the number of a line, a colon, and the 64 digits of its hash, as 'tctl audit verify' prints them", text)
	}
	return &h, nil
}

func auditVerify(ctx context.Context, c *cliapp.Call) error {
	kept, err := parseHead(c.String("head"))
	if err != nil {
		return err
	}
	if len(c.Args) > 0 {
		if c.Bool("all") {
			return api.Errorf(api.CodeInvalid, "--all is about replicas, and files are checked here: give one of them")
		}
		return verifyFiles(ctx, c, kept)
	}
	return withReplica(c, func(r *replica) error { return verifyReplicas(ctx, c, r, kept) })
}

func verifyReplicas(ctx context.Context, c *cliapp.Call, r *replica, kept *head) error {
	server := ""
	if c.Bool("all") {
		server = api.AllServers
	}
	bar := newTicker(c)
	results, err := r.AuditVerify(ctx, server, func(v api.AuditVerified) {
		bar.show("%s: %s of %s lines checked", v.ServerID, thousands(v.Number), thousands(v.Last))
	})
	bar.clear()
	if len(results) == 0 && err != nil {
		return err
	}
	var found error
	for i := range results {
		switch {
		case results[i].Problem != nil:
			found = errNotWhole
		case !results[i].OK && found == nil:
			found = errNotChecked
		}
	}
	printed := show(c, results, func() {
		for i := range results {
			printVerified(c, &results[i])
		}
	})
	if err = errors.Join(printed, err); err != nil {
		return err
	}
	if found != nil {
		return found
	}
	if kept != nil {
		if err := compareHead(ctx, r, kept); err != nil {
			return err
		}
		if c.String("format") == "text" {
			c.Printf("Line %d has the hash that was kept: nothing up to it has changed since.\n", kept.number)
		}
	} else if !scripted(c) {
		noteHead(c)
	}
	return nil
}

func noteHead(c *cliapp.Call) {
	c.Notef("Keep the head where nobody who can write the log can write; later, --head=NUMBER:HASH shows that nothing up to it has changed.")
}

func printVerified(c *cliapp.Call, v *api.AuditVerified) {
	switch {
	case v.OK && v.Number == 0:
		c.Printf("%s: ok, no lines yet\n", oneLine(v.ServerID, mostName))
	case v.OK:
		c.Printf("%s: ok, %s, from %d on; head %d:%s\n", oneLine(v.ServerID, mostName), plural(v.Number+1-min(v.First, v.Number), "line"), v.First, v.Number, oneLine(v.Hash, mostName))
	case v.Problem != nil:
		c.Alertf("%s: NOT OK: %s\n", oneLine(v.ServerID, mostName), placeOf(v.Problem))
		printDoubtful(c, v.Problem.Text)
	default:
		c.Alertf("%s: NOT CHECKED: %s\n", oneLine(v.ServerID, mostName), oneLine(v.Error, mostWhat))
	}
}

// placeOf says where a problem is, and what.
func placeOf(p *api.AuditProblem) string {
	text := p.Kind + " in " + p.File
	if p.Line > 0 {
		text += fmt.Sprintf(", line %d", p.Line)
	}
	if p.Number > 0 {
		text += fmt.Sprintf(" (event %d)", p.Number)
	}
	return oneLine(text+": "+p.Detail, 2*mostWhat)
}

func printDoubtful(c *cliapp.Call, text string) {
	if text != "" {
		c.Printf("  %s\n", oneLine(text, 2*mostWhat))
	}
}

// compareHead compares a hash kept from before with that of the replica's line, whose
// chain has been checked. As all checked replicas agree on the end of the chain, one
// stands for all.
func compareHead(ctx context.Context, r *replica, kept *head) error {
	page, err := r.Audit(ctx, api.AuditQuery{After: kept.number - 1, Limit: 1})
	if err != nil {
		return fmt.Errorf("read line %d: %w", kept.number, err)
	}
	if len(page.Events) == 0 && page.Last < kept.number {
		return fmt.Errorf("the log has lines up to %d only: line %d, whose hash was kept, and all after it are gone", page.Last, kept.number)
	}
	for _, raw := range page.Events {
		switch t, ok := chain.ParseTrailer(raw); {
		case ok && t.Number > kept.number:
			return fmt.Errorf("line %d is not kept any more, the first is %d: there is nothing to compare --head with", kept.number, page.First)
		case ok && t.Number == kept.number && t.Hash == kept.hash:
			return nil
		case ok && t.Number == kept.number:
			return fmt.Errorf("line %d has the hash %s, and not the one that was kept: something up to this line has been rewritten", kept.number, t.Hash)
		}
	}
	return api.Errorf(api.CodeInternal, "the replica does not show line %d, whose hash was kept", kept.number)
}

// verifiedFile is what became of checking a file.
type verifiedFile struct {
	File    string            `json:"file"`
	OK      bool              `json:"ok"`
	Lines   int               `json:"lines"`
	First   uint64            `json:"first"`  // the number of the first line
	Number  uint64            `json:"number"` // and of the last that is good
	Hash    string            `json:"hash"`   // of line Number
	Problem *api.AuditProblem `json:"problem"`
	Error   string            `json:"error,omitempty"`
}

// fileVerifier checks files that follow each other. One may begin with lines of the
// file before it, as those of replicas do.
type fileVerifier struct {
	kept  *head
	found bool  // the line of kept
	last  *head // of the file before; nil: there was none
}

func verifyFiles(ctx context.Context, c *cliapp.Call, kept *head) error {
	v := &fileVerifier{kept: kept}
	bar := newTicker(c)
	var results []verifiedFile
	for _, name := range c.Args {
		result := v.open(ctx, c, name, bar)
		bar.clear()
		results = append(results, result)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !result.OK {
			break // what follows can't be judged
		}
	}
	last := results[len(results)-1]
	if err := show(c, results, func() { printFiles(c, results) }); err != nil {
		return err
	}
	switch {
	case last.Problem != nil:
		return errNotWhole
	case !last.OK:
		return errNotChecked
	case kept != nil && !v.found:
		return fmt.Errorf("there is no line %d in it, whose hash was kept: nothing was compared with --head", kept.number)
	case kept != nil && c.String("format") == "text":
		c.Printf("Line %d has the hash that was kept: nothing up to it has changed since.\n", kept.number)
	case kept == nil && !scripted(c) && v.last != nil:
		c.Notef("The lines fit each other. That they are the cluster's, --head=NUMBER:HASH shows, with a head from elsewhere.")
	}
	return nil
}

func printFiles(c *cliapp.Call, results []verifiedFile) {
	for i := range results {
		f := &results[i]
		switch {
		case f.OK:
			c.Printf("%s: ok, %s, from %d on; head %d:%s\n", f.File, plural(uint64(f.Lines), "line"), f.First, f.Number, f.Hash) //nolint:gosec // a count
		case f.Problem != nil:
			c.Alertf("%s: NOT OK: %s\n", f.File, placeOf(f.Problem))
			printDoubtful(c, f.Problem.Text)
		default:
			c.Alertf("%s: NOT CHECKED: %s\n", f.File, oneLine(f.Error, mostWhat))
		}
	}
}

func (v *fileVerifier) open(ctx context.Context, c *cliapp.Call, name string, bar *ticker) verifiedFile {
	failed := func(err error) verifiedFile { return verifiedFile{File: name, Error: err.Error()} }
	var in io.Reader = c.Stdin
	if name != "-" {
		f, err := os.Open(name) //nolint:gosec // the user named it
		if err != nil {
			return failed(err)
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	plain, err := unzipped(&counted{ctx: ctx, in: in, name: name, bar: bar})
	if err != nil {
		return failed(err)
	}
	result, err := v.check(name, plain)
	if err != nil {
		return failed(err)
	}
	return result
}

// check checks a file that follows those already checked.
func (v *fileVerifier) check(name string, r *bufio.Reader) (verifiedFile, error) {
	var opts chain.Options
	first, ok := firstNumber(r)
	overlap := v.last != nil && ok && first <= v.last.number
	switch {
	case v.last != nil && !overlap:
		opts.Prev, opts.First = &v.last.hash, v.last.number+1
	case v.last == nil && v.kept != nil && ok && first == v.kept.number+1: // it goes on where the head was
		opts.Prev, v.found = &v.kept.hash, true
	}
	opts.Known = func(number uint64) (chain.Hash, bool) {
		switch {
		case v.kept != nil && number == v.kept.number:
			return v.kept.hash, true
		case v.last != nil && number == v.last.number:
			return v.last.hash, true
		}
		return chain.Hash{}, false
	}
	got, err := chain.Verify(r, opts)
	if err != nil {
		return verifiedFile{}, err
	}
	if got.Lines == 0 {
		return verifiedFile{}, errors.New("there is nothing in it")
	}
	out := verifiedFile{File: name, OK: got.Problem == nil, Lines: got.Lines, First: got.First, Number: got.Last, Hash: got.Hash.String()}
	switch {
	case got.Problem != nil:
		out.Problem = problemIn(name, got.Problem)
		if got.First == 0 && !ok { // a file named by mistake may hold secrets
			out.Problem.Text = ""
		}
		return out, nil
	case overlap && got.Last < v.last.number:
		return verifiedFile{}, fmt.Errorf("it ends with line %d, before the end of the file before it: give the oldest file first, and each once", got.Last)
	}
	if v.kept != nil && got.First <= v.kept.number && v.kept.number <= got.Last {
		v.found = true
	}
	v.last = &head{got.Last, got.Hash}
	return out, nil
}

func problemIn(file string, p *chain.Problem) *api.AuditProblem {
	return &api.AuditProblem{File: file, Line: p.Line, Number: p.Number, Kind: p.Kind, Detail: p.Detail, Text: p.Text}
}

// mostLine is what is looked at to find the first line's number: a line of the log
// is shorter.
const mostLine = 64 << 10

func firstNumber(r *bufio.Reader) (uint64, bool) {
	begin, _ := r.Peek(mostLine) // as much as there is
	line, _, _ := bytes.Cut(begin, []byte("\n"))
	t, ok := chain.ParseTrailer(line)
	return t.Number, ok
}

// unzipped reads what gzip wrote, and anything else as it is.
func unzipped(in io.Reader) (*bufio.Reader, error) {
	r := bufio.NewReaderSize(in, mostLine)
	magic, _ := r.Peek(2)
	if !bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		return r, nil
	}
	zip, err := gzip.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("unpack: %w", err)
	}
	return bufio.NewReaderSize(zip, mostLine), nil
}

// counted shows how much has been read, and ends with the context.
type counted struct {
	ctx  context.Context //nolint:containedctx // of one read after the other
	in   io.Reader
	name string
	bar  *ticker
	n    int64
}

func (r *counted) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := r.in.Read(b)
	r.n += int64(n)
	r.bar.show("%s: %s checked", r.name, api.FormatSize(r.n))
	return n, err
}
