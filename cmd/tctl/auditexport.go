package main

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/atomicfile"
	"github.com/sallyport-dev/sallyport/internal/audit/chain"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

func auditExport(ctx context.Context, c *cliapp.Call) error {
	from, err := lineNumber(c, "from")
	if err != nil {
		return err
	}
	to, err := lineNumber(c, "to")
	if err != nil {
		return err
	}
	if to > 0 && to < from {
		return api.Errorf(api.CodeInvalid, "--from=%d lies behind --to=%d", from, to)
	}
	out := c.String("out")
	if out == "" && c.StdoutIsTerminal() {
		return api.Errorf(api.CodeInvalid, "this is for programs: name a file with --out, or pipe it on; 'tctl audit ls' shows events to people")
	}
	if err := placeForFile(out); err != nil {
		return err
	}
	return withReplica(c, func(r *replica) error {
		bar := newTicker(c)
		defer bar.clear()
		var got chain.Result
		copied := func(w io.Writer) (err error) {
			got, err = copyAudit(ctx, r, from, to, w, bar)
			return err
		}
		var err error
		if out == "" {
			err = copied(c.Stdout)
		} else {
			err = exportFile(out, copied)
		}
		bar.clear()
		if err != nil {
			return err
		}
		return tellExport(c, got, out)
	})
}

// lineNumber is the value of a flag; 0 if it is not given.
func lineNumber(c *cliapp.Call, flag string) (uint64, error) {
	text := c.String(flag)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n == 0 {
		return 0, api.Errorf(api.CodeInvalid, "--%s=%s is no number of a line: the first is 1, and each line ends with its own", flag, text)
	}
	return n, nil
}

// placeForFile says why no file can be written there, before a replica is asked for it and
// logs that.
func placeForFile(out string) error {
	if out == "" {
		return nil
	}
	if info, err := os.Stat(out); err == nil && !info.Mode().IsRegular() {
		return api.Errorf(api.CodeInvalid, "--out=%s is no file: give the name of one, or leave out --out and redirect", out)
	}
	if info, err := os.Stat(filepath.Dir(out)); err != nil || !info.IsDir() {
		return api.Errorf(api.CodeInvalid, "--out=%s: there is no directory %s", out, filepath.Dir(out))
	}
	return nil
}

func exportFile(path string, write func(io.Writer) error) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	return atomicfile.WriteFrom(path, 0o600, func(w io.Writer) error {
		if !strings.HasSuffix(path, ".gz") {
			return write(w)
		}
		zip := gzip.NewWriter(w)
		if err := write(zip); err != nil {
			return err
		}
		return zip.Close()
	})
}

// copyAudit copies lines and checks them on the way. What the check finds is no
// error of the copy: whoever has to look into it needs the lines as they are.
func copyAudit(ctx context.Context, r *replica, from, to uint64, w io.Writer, bar *ticker) (chain.Result, error) {
	lines, feed := io.Pipe()
	type checked struct {
		result chain.Result
		err    error
	}
	done := make(chan checked, 1)
	go func() {
		result, err := chain.Verify(lines, chain.Options{First: from})
		_, _ = io.Copy(io.Discard, lines) // the copy goes on behind a problem
		done <- checked{result, err}
	}()
	_, err := r.AuditExport(ctx, from, to, io.MultiWriter(w, feed, &meter{bar: bar}))
	_ = feed.Close()
	check := <-done
	if api.IsCode(err, api.CodeUnavailable) {
		err = whyBroken(ctx, r, max(from, check.result.Last+1), err)
	}
	if err != nil {
		return chain.Result{}, err
	}
	return check.result, check.err
}

// whyBroken asks why the copy broke off before line next: a replica that lacks lines, or
// can't read them, can say so only before its first byte.
func whyBroken(ctx context.Context, r *replica, next uint64, broken error) error {
	page, err := r.Audit(ctx, api.AuditQuery{After: max(next, 1) - 1, Limit: 1})
	if err != nil {
		return broken
	}
	for _, m := range page.Missing {
		if m.From <= next && next <= m.To {
			return fmt.Errorf("the replica lacks %s of the log, or can't read them, and the copy ends before: 'tctl status' says whether it is fetching them, and 'tctl audit verify' what is wrong; or ask another replica", api.FormatLines([]api.AuditRange{m}))
		}
	}
	return broken
}

func tellExport(c *cliapp.Call, got chain.Result, out string) error {
	where := ""
	if out != "" {
		where = " to " + out
	}
	if p := got.Problem; p != nil {
		return fmt.Errorf("the log was written%s as it is, but it is not whole: %s", where, oneLine(fmt.Sprintf("%s at line %d of it (event %d): %s", p.Kind, p.Line, p.Number, p.Detail), mostWhat))
	}
	if got.Lines == 0 {
		c.Notef("No lines in that part of the log.")
		return nil
	}
	c.Notef("%s written%s, %d to %d; the chain is whole.", plural(uint64(got.Lines), "line"), where, got.First, got.Last) //nolint:gosec // a count
	c.Notef("Keep the head elsewhere: %s", head{got.Last, got.Hash})
	return nil
}
