package cliapp

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"golang.org/x/term"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// Call is one run of a command: its arguments and flags, and where it reads and writes.
type Call struct {
	Args           []string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	values         values
	line           *parsed
	again          func(map[string]Setting) (*Call, error)
	unwritten      error // the first of writing to standard output
}

// values are a command's flags and those of the commands above it.
type values interface {
	String(name string) string
	StringSlice(name string) []string
	Bool(name string) bool
	Duration(name string) time.Duration
	Int(name string) int
}

// String is the value of a String flag.
func (c *Call) String(name string) string { return c.values.String(name) }

// Strings is the value of a Strings flag: trimmed, without blanks and repetitions.
func (c *Call) Strings(name string) []string {
	var out []string
	for _, s := range c.values.StringSlice(name) {
		if s = strings.TrimSpace(s); s != "" && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// Raw are the values of a Strings flag as they were given, commas and all; none
// where the default holds.
func (c *Call) Raw(name string) []string {
	f, level := c.line.lookup(name)
	if f == nil {
		return nil
	}
	return c.line.typed(f, level)
}

// HasBlank says whether one of the values of a Strings flag is empty: of those that
// a shell has made of a variable that is not set, too.
func (c *Call) HasBlank(name string) bool {
	for _, value := range c.Raw(name) {
		for part := range strings.SplitSeq(value, ",") {
			if strings.TrimSpace(part) == "" {
				return true
			}
		}
	}
	return false
}

// Bool is the value of a Bool flag.
func (c *Call) Bool(name string) bool { return c.values.Bool(name) }

// Duration is the value of a Duration flag.
func (c *Call) Duration(name string) time.Duration { return c.values.Duration(name) }

// Int is the value of an Int flag.
func (c *Call) Int(name string) int { return c.values.Int(name) }

// Size is the value of a Size flag, in bytes.
func (c *Call) Size(name string) int64 {
	n, _ := ParseSize(c.values.String(name)) // checked when it was parsed; "": zero
	return n
}

// Text is a flag's value as it would be typed: the same for all ways to say the same.
func (c *Call) Text(name string) string {
	f, _ := c.line.lookup(name)
	if f == nil {
		return ""
	}
	switch f.Kind {
	case Strings:
		return strings.Join(c.Strings(name), ",")
	case Bool:
		return strconv.FormatBool(c.Bool(name))
	case Duration:
		return ShortDuration(c.Duration(name))
	case Int:
		return strconv.Itoa(c.Int(name))
	case Size:
		return FormatSize(c.Size(name))
	case String:
	}
	return c.String(name)
}

// WithSettings is the call as it would be had the settings been others.
func (c *Call) WithSettings(settings map[string]Setting) (*Call, error) { return c.again(settings) }

// Source says where a flag's value is from: "--proxy", "SALLYPORT_PROXY", a place
// in the settings file, or "default".
func (c *Call) Source(name string) string { return cmp.Or(c.line.sources[name], "default") }

// IsSet says whether the flag was given on the command line, in the environment
// or in the settings.
func (c *Call) IsSet(name string) bool { return c.line.sources[name] != "" }

// Typed says whether the flag was given on the command line.
func (c *Call) Typed(name string) bool { return c.line.sources[name] == dashed(name) }

// Printf writes to standard output, control characters of the operands spelled out.
// What can't be written makes the run fail in the end.
func (c *Call) Printf(format string, args ...any) { c.write(Clean(fmt.Sprintf(format, args...))) }

// Alertf is Printf for a line that tells of a failure: red on terminals.
func (c *Call) Alertf(format string, args ...any) {
	text, ends := strings.CutSuffix(Clean(fmt.Sprintf(format, args...)), "\n")
	if text = paint(c.Stdout, red, text); ends {
		text += "\n"
	}
	c.write(text)
}

// write keeps the first error for the end: what an answer holds, such as a link,
// is there only once. Who closes a pipe has read enough.
func (c *Call) write(text string) {
	if _, err := io.WriteString(c.Stdout, text); err != nil && c.unwritten == nil && !errors.Is(err, syscall.EPIPE) {
		c.unwritten = fmt.Errorf("not all of the answer could be written: %w", err)
	}
}

// Notef writes a line to standard error, which scripts don't read as data.
func (c *Call) Notef(format string, args ...any) {
	_, _ = fmt.Fprintln(c.Stderr, Clean(fmt.Sprintf(format, args...)))
}

// Warnf is Notef for what must not be missed.
func (c *Call) Warnf(format string, args ...any) {
	_, _ = fmt.Fprintln(c.Stderr, paint(c.Stderr, yellow, "WARNING:"), Clean(fmt.Sprintf(format, args...)))
}

// JSON writes v to standard output.
func (c *Call) JSON(v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	// What Clean spells out is the same text as an escape of JSON.
	_, err = io.WriteString(c.Stdout, Clean(string(b))+"\n")
	return err
}

// Table writes rows in columns under a header and dashes, without blanks at line ends.
func (c *Call) Table(header []string, rows [][]string) {
	all := make([][]string, 0, len(rows)+2)
	dashes := make([]string, len(header))
	for i, h := range header {
		dashes[i] = strings.Repeat("-", len(h))
	}
	all = append(append(all, header, dashes), rows...)
	width := make([]int, len(header))
	for r, row := range all {
		for i, cell := range row {
			if r == 1 {
				continue
			}
			width[i] = max(width[i], len([]rune(Clean(cell))))
		}
	}
	for _, row := range all {
		var line strings.Builder
		for i, cell := range row {
			cell = Clean(cell)
			line.WriteString(cell)
			line.WriteString(strings.Repeat(" ", width[i]-len([]rune(cell))+1))
		}
		c.write(strings.TrimRight(line.String(), " ") + "\n")
	}
}

// Interactive says whether standard input is a terminal.
func (c *Call) Interactive() bool { return isTerminal(c.Stdin) }

// StdoutIsTerminal says whether a person reads standard output.
func (c *Call) StdoutIsTerminal() bool { return isTerminal(c.Stdout) }

// StderrIsTerminal says whether a person reads standard error.
func (c *Call) StderrIsTerminal() bool { return isTerminal(c.Stderr) }

// StdoutWidth is how many columns the terminal at standard output has; 0: it is none, or
// does not say.
func (c *Call) StdoutWidth() int {
	f, ok := c.Stdout.(*os.File)
	if !ok {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return width
}

// maxLine bounds a line read from standard input.
const maxLine = 4 << 10

// ReadLine asks on standard error and reads a line from standard input.
func (c *Call) ReadLine(ctx context.Context, prompt string) (string, error) {
	_, _ = io.WriteString(c.Stderr, Clean(prompt))
	line, err := interruptible(ctx, func() (string, error) {
		line, err := bufio.NewReader(io.LimitReader(c.Stdin, maxLine)).ReadString('\n')
		if errors.Is(err, io.EOF) && line != "" {
			err = nil // the last line may lack its end
		}
		return line, err
	})
	if err != nil {
		return "", api.Errorf(api.CodeInvalid, "nothing to read on standard input: %w", err)
	}
	return strings.TrimRight(line, "\r\n"), nil
}

// interruptible makes Ctrl-C work while a person is asked: the read itself can't
// be cut short, so its goroutine is left behind to a process about to end.
func interruptible(ctx context.Context, read func() (string, error)) (string, error) {
	type result struct {
		text string
		err  error
	}
	done := make(chan result, 1)
	go func() {
		text, err := read()
		done <- result{text, err}
	}()
	select {
	case r := <-done:
		return r.text, r.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// ReadPassword asks on a terminal without echo; what is no terminal is read as
// one line, without a prompt.
func (c *Call) ReadPassword(ctx context.Context, prompt string) (string, error) {
	f, ok := c.Stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return c.ReadLine(ctx, "")
	}
	_, _ = io.WriteString(c.Stderr, Clean(prompt))
	state, err := term.GetState(int(f.Fd()))
	if err != nil {
		return "", fmt.Errorf("read the terminal's state: %w", err)
	}
	defer func() { _ = term.Restore(int(f.Fd()), state) }() // with echo, however this ends
	password, err := interruptible(ctx, func() (string, error) {
		b, err := term.ReadPassword(int(f.Fd()))
		return string(b), err
	})
	_, _ = fmt.Fprintln(c.Stderr)
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	return password, nil
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

const (
	red    = "31"
	yellow = "33"
)

// paint colours text on terminals, unless NO_COLOR (no-color.org) is set.
func paint(stream any, colour, text string) string {
	if os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" || !isTerminal(stream) {
		return text
	}
	return "\x1b[1;" + colour + "m" + text + "\x1b[0m"
}

// Clean spells out control characters other than newline and tab, and
// directional overrides, so that no server can drive the terminal.
func Clean(s string) string {
	dirty := func(r rune) bool {
		return r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == unicode.ReplacementChar)
	}
	if strings.IndexFunc(s, dirty) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if dirty(r) {
			fmt.Fprintf(&b, "\\u%04x", r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}
