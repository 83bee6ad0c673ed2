package page

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Options of a run. The zero value runs a page without calls.
type Options struct {
	// Do are the calls that a page's comments name. They may use the runner's session unless
	// they are called while a command runs.
	Do   map[string]func(context.Context, *Runner) error
	Vars map[string]string // $NAME in what is typed
	// Takes is how long a command has; 0: a minute.
	Takes time.Duration
	// Log is told of each step, with how long it took; nil: nobody is.
	Log func(format string, args ...any)
}

// Runner runs pages in a session, one after another.
type Runner struct {
	Session *Session
	Dir     string // where its files go, and the session began
	// Printed is all that the last command printed.
	Printed string

	o     Options
	where []Where
}

// NewRunner runs pages in s, which began in dir.
func NewRunner(s *Session, dir string, o Options) *Runner {
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	return &Runner{Session: s, Dir: dir, o: o}
}

// Run does all that the page says, until something fails.
func (r *Runner) Run(ctx context.Context, p *Page) error {
	for i := range p.Steps {
		s := &p.Steps[i]
		start := time.Now()
		err := r.step(ctx, s)
		took := time.Since(start).Seconds()
		if err != nil {
			return fmt.Errorf("%s:%d: %s: after %.1f s: %w", p.Name, s.Line, s.title(), took, err)
		}
		if s.Where == "" {
			r.o.Log("%6.1f s  %s:%d: %s", took, p.Name, s.Line, s.title())
		}
	}
	return nil
}

func (s *Step) title() string {
	what := cmp.Or(s.Command, s.Do, s.File)
	first, _, more := strings.Cut(what, "\n")
	if more {
		first = strings.TrimSuffix(first, "\\") + "…"
	}
	switch {
	case s.Skip != "":
		first = "(skipped: " + s.Skip + ") " + first
	case s.Hidden && s.Command != "":
		first = "(test) " + first
	case s.Do != "":
		first = "(test) do " + first
	case s.File != "":
		first = "save " + first
	}
	return first
}

func (r *Runner) step(ctx context.Context, s *Step) error {
	switch {
	case s.Skip != "":
		return nil
	case s.Where != "":
		r.where = append(r.where, Where{s.Where, s.Pattern})
		return nil
	case s.File != "":
		if !filepath.IsLocal(s.File) {
			return fmt.Errorf("a file outside of where the page is run: %q", s.File)
		}
		return os.WriteFile(filepath.Join(r.Dir, s.File), []byte(s.Content), 0o600)
	case s.Do != "":
		return r.call(ctx, s.Do)
	}
	deadline := time.Now().Add(s.Until)
	for {
		err := r.command(ctx, s)
		if err == nil || s.Until == 0 || time.Now().After(deadline) {
			return err
		}
		pause := time.NewTimer(300 * time.Millisecond)
		select {
		case <-ctx.Done():
			pause.Stop()
			return err
		case <-pause.C:
		}
	}
}

func (r *Runner) call(ctx context.Context, name string) error {
	do, found := r.o.Do[name]
	if !found {
		return fmt.Errorf("the test has no call %q", name)
	}
	return do(ctx, r)
}

// command runs a command once and judges it.
func (r *Runner) command(ctx context.Context, s *Step) error {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(s.Takes, r.o.Takes, time.Minute))
	defer cancel()
	var types []Typing
	for _, t := range s.Types {
		missing := ""
		t.Text = os.Expand(t.Text, func(name string) string {
			v, found := r.o.Vars[name]
			if !found {
				missing = name
			}
			return v
		})
		if missing != "" {
			return fmt.Errorf("the test has no variable %q", missing)
		}
		types = append(types, t)
	}
	beside := make(chan error, 1)
	if s.During != "" {
		go func() { beside <- r.call(ctx, s.During) }()
	} else {
		beside <- nil
	}
	output, status, err := r.Session.Run(ctx, s.Command, types...)
	if err != nil {
		cancel() // whoever waits for it beside
	}
	besideErr := <-beside
	r.Printed = output
	switch {
	case err != nil && besideErr != nil:
		return fmt.Errorf("%w (beside it: %w), it printed:\n%s", err, besideErr, output)
	case err != nil:
		return fmt.Errorf("%w, it printed:\n%s", err, output)
	case besideErr != nil:
		return fmt.Errorf("beside it: %w, it printed:\n%s", besideErr, output)
	case s.Fails && status == 0:
		return fmt.Errorf("it succeeded and should fail, it printed:\n%s", output)
	case !s.Fails && status != 0:
		return fmt.Errorf("exit status %d, it printed:\n%s", status, output)
	case len(s.Output) > 0:
		return Match(s.Output, output, r.where)
	}
	return nil
}

// Get is what a variable of the session holds.
func (r *Runner) Get(ctx context.Context, name string) (string, error) {
	out, status, err := r.Session.Run(ctx, `printf %s "${`+name+`?}"`)
	if err == nil && status != 0 {
		err = fmt.Errorf("exit status %d", status)
	}
	return out, err
}
