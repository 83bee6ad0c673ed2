package page

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// Page is what is to be done, in order.
type Page struct {
	Name  string
	Steps []Step
}

// Step is one command, file or call.
type Step struct {
	Line int // of the page, from 1

	// One of these is set.
	Command string // for bash
	File    string // name of a file with Content
	Do      string // a call
	Where   string // Text to replace by Pattern from here on

	Content string
	Pattern string // regexp
	Hidden  bool   // people don't see it
	Skip    string // why it isn't run

	Output []string // lines that it prints; nil: any
	Fails  bool
	Until  time.Duration // 0: it is run once
	Takes  time.Duration // 0: the default
	Types  []Typing
	During string
}

// Typing is what is typed when a prompt is shown.
type Typing struct{ Prompt, Text string }

// Commands are those that people see, skipped or not.
func (p *Page) Commands() []string {
	var all []string
	for _, s := range p.Steps {
		if s.Command != "" && !s.Hidden {
			all = append(all, s.Command)
		}
	}
	return all
}

var (
	fenceLine = regexp.MustCompile("^( *)(```+)([a-z]*)[ ]*$")
	fileName  = regexp.MustCompile("[Ss]ave the file below as\\s+`([^`]+)`")
	atLine    = regexp.MustCompile("^at `([^`]+)`: ([a-z]+)(?: (.*))?$")
	typeArgs  = regexp.MustCompile(`^"([^"]+)" (.*)$`)
	whereArgs = regexp.MustCompile(`^where (.+) is (.+)$`)
)

// parser goes through the lines of a page once.
type parser struct {
	page  *Page
	lines []string
	n     int // lines read

	text  []string // of the paragraphs since the last block
	skip  string   // of the next block
	at    []at
	where int // of the last instruction, for errors
}

// at is an instruction about a command of the next block.
type at struct {
	line             int
	text, verb, args string
}

// Read reads a page of the repository, as in "docs/guide.md".
func Read(name string) (*Page, error) {
	root, err := testbed.Root()
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		return nil, err
	}
	return Parse(name, b)
}

// Parse reads a page in Markdown.
func Parse(name string, src []byte) (*Page, error) {
	p := &parser{page: &Page{Name: name}, lines: strings.Split(strings.ReplaceAll(string(src), "\r\n", "\n"), "\n")}
	for p.n < len(p.lines) {
		if err := p.next(); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, p.n, err)
		}
	}
	if p.skip != "" || len(p.at) > 0 {
		return nil, fmt.Errorf("%s:%d: no block follows this instruction", name, p.where)
	}
	return p.page, nil
}

func (p *parser) read() string { p.n++; return p.lines[p.n-1] }

func (p *parser) next() error {
	line := p.read()
	trimmed := strings.TrimSpace(line)
	switch m := fenceLine.FindStringSubmatch(line); {
	case m != nil:
		return p.fence(len(m[1]), m[2], m[3])
	case strings.HasPrefix(trimmed, "```"), strings.HasPrefix(trimmed, "~~~"):
		return fmt.Errorf("a fence that isn't understood: %q", trimmed)
	case trimmed == "<!--test" || trimmed == "<!-- test" || strings.HasPrefix(trimmed, "<!-- test "):
		return p.comment(strings.TrimSpace(strings.TrimPrefix(strings.TrimPrefix(trimmed, "<!--"), " ")))
	case strings.HasPrefix(trimmed, "<!--"):
		return p.otherComment(trimmed)
	}
	p.text = append(p.text, line)
	return nil
}

// otherComment is nobody's business, however long it is.
func (p *parser) otherComment(line string) error {
	for !strings.Contains(line, "-->") {
		if p.n == len(p.lines) {
			return errors.New("a comment without an end")
		}
		line = p.read()
	}
	return nil
}

// comment holds instructions. A command in it may go on over several lines, as elsewhere.
func (p *parser) comment(first string) error {
	first = strings.TrimSpace(strings.TrimPrefix(first, "test"))
	if rest, one := strings.CutSuffix(first, "-->"); one {
		return p.instruction(strings.TrimSpace(rest))
	}
	if first != "" {
		if err := p.instruction(first); err != nil {
			return err
		}
	}
	for p.n < len(p.lines) {
		line := strings.TrimSpace(p.read())
		switch {
		case line == "-->":
			return nil
		case line == "":
			continue
		}
		if err := p.instruction(line); err != nil {
			return err
		}
	}
	return errors.New("a comment without an end")
}

func (p *parser) instruction(line string) error {
	p.where = p.n
	verb, args, _ := strings.Cut(line, " ")
	step := Step{Line: p.n, Hidden: true}
	switch verb {
	case "$":
		first := p.n
		command, err := p.command(args, 0, "-->")
		if err != nil {
			return err
		}
		step.Command, step.Line = command, first
	case "do":
		step.Do = args
	case "where":
		m := whereArgs.FindStringSubmatch(line)
		if m == nil {
			return fmt.Errorf("want where TEXT is REGEXP: %q", line)
		}
		if _, err := regexp.Compile(m[2]); err != nil {
			return err
		}
		step.Where, step.Pattern = m[1], m[2]
	case "skip":
		if args == "" {
			return errors.New("skip needs a reason")
		}
		p.skip = args
		return nil
	case "at":
		m := atLine.FindStringSubmatch(line)
		if m == nil {
			return fmt.Errorf("want at `TEXT`: INSTRUCTION: %q", line)
		}
		p.at = append(p.at, at{p.n, m[1], m[2], m[3]})
		return nil
	default:
		return fmt.Errorf("no such instruction: %q", line)
	}
	p.page.Steps = append(p.page.Steps, step)
	return nil
}

// fence is a block.
func (p *parser) fence(indent int, mark, language string) error {
	start := p.n
	var lines []string
	for {
		if p.n == len(p.lines) {
			return errors.New("a block without an end")
		}
		line := p.read()
		if strings.TrimSpace(line) == mark {
			break
		}
		if strings.TrimSpace(line) != "" && len(line)-len(strings.TrimLeft(line, " ")) < indent {
			return fmt.Errorf("this line is indented less than its block: %q", line)
		}
		lines = append(lines, line[min(indent, len(line)):])
	}
	text, skip, instructions := strings.Join(p.text, "\n"), p.skip, p.at
	p.text, p.skip, p.at = nil, "", nil
	var steps []Step
	var err error
	switch language {
	case "bash":
		steps, err = bash(lines, start)
	case "yaml":
		names := fileName.FindAllStringSubmatch(text, -1)
		switch {
		case len(names) > 0:
			steps = []Step{{File: names[len(names)-1][1], Content: strings.Join(lines, "\n") + "\n", Line: start}}
		case skip == "":
			err = errors.New("a block of yaml, and no \"Save the file below as `NAME`\" above it")
		}
	case "text":
	default:
		err = fmt.Errorf("a block of %q: neither bash, yaml nor text", language)
	}
	if err == nil {
		err = instruct(steps, instructions)
	}
	if err != nil {
		return fmt.Errorf("in the block from line %d on: %w", start, err)
	}
	for i := range steps {
		steps[i].Skip = skip
	}
	p.page.Steps = append(p.page.Steps, steps...)
	return nil
}

// bash reads a block of commands and what they print.
func bash(lines []string, start int) ([]Step, error) {
	b := &parser{lines: lines}
	var steps []Step
	for b.n < len(b.lines) {
		line := b.read()
		first := b.n
		switch command, is := strings.CutPrefix(line, "$ "); {
		case is:
			text, err := b.command(command, 0, "")
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", start+first, err)
			}
			steps = append(steps, Step{Command: text, Line: start + first})
		case line == "$" || strings.HasPrefix(line, "$") && len(steps) == 0:
			return nil, fmt.Errorf("line %d: a command begins with \"$ \": %q", start+first, line)
		case strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
		case len(steps) == 0:
			return nil, fmt.Errorf("line %d: no command prints this: %q", start+first, line)
		default:
			last := &steps[len(steps)-1]
			last.Output = append(last.Output, line)
		}
	}
	if len(steps) == 0 {
		return nil, errors.New("no command (a line that begins with \"$ \")")
	}
	return steps, nil
}

// command is complete when no quote is open, no here-document misses its end, and the last
// line does not end in a backslash.
func (p *parser) command(line string, indent int, end string) (string, error) {
	text := line
	for {
		open, err := unfinished(text)
		if err != nil {
			return "", err
		}
		if !open {
			return text, nil
		}
		if p.n == len(p.lines) || end != "" && strings.TrimSpace(p.lines[p.n]) == end {
			return "", fmt.Errorf("a command without an end: %q", line)
		}
		next := p.read()
		text += "\n" + next[min(indent, len(next)):]
	}
}

var heredoc = regexp.MustCompile(`<<-?\s*(['"]?)([A-Za-z_]\w*)(['"]?)`)

// unfinished reports whether a command goes on.
func unfinished(text string) (bool, error) {
	head, body, _ := strings.Cut(text, "\n")
	if m := heredoc.FindStringSubmatch(head); m != nil && !strings.Contains(head, "<<<") {
		for line := range strings.SplitSeq(body, "\n") {
			if strings.TrimSpace(line) == m[2] {
				return false, nil
			}
		}
		return true, nil
	}
	var quote byte
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\' && quote != '\'':
			if i+1 == len(text) {
				return true, nil
			}
			i++
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '\'' || c == '"':
			quote = c
		case c == '#' && (i == 0 || text[i-1] == ' ' || text[i-1] == '\n'):
			return false, fmt.Errorf("a comment in a command: %q", text)
		}
	}
	return quote != 0, nil
}

// instruct gives the instructions to the commands of a block that they are about.
func instruct(steps []Step, all []at) error {
	for _, a := range all {
		about, err := find(steps, a)
		if err != nil {
			return err
		}
		if err := about.instruct(a.verb, a.args); err != nil {
			return fmt.Errorf("line %d: %w", a.line, err)
		}
	}
	return nil
}

// find is the one command that is the text, else the one that holds it.
func find(steps []Step, a at) (about *Step, err error) {
	for _, is := range []func(command, text string) bool{func(c, t string) bool { return c == t }, strings.Contains} {
		for i := range steps {
			if !is(steps[i].Command, a.text) {
				continue
			}
			if about != nil {
				return nil, fmt.Errorf("line %d: `%s` is in two commands of the block", a.line, a.text)
			}
			about = &steps[i]
		}
		if about != nil {
			return about, nil
		}
	}
	return nil, fmt.Errorf("line %d: `%s` is in no command of the block", a.line, a.text)
}

func (s *Step) instruct(verb, args string) (err error) {
	switch verb {
	case "fails":
		s.Fails = true
	case "until":
		s.Until, err = time.ParseDuration(args)
	case "takes":
		s.Takes, err = time.ParseDuration(args)
	case "during":
		s.During = args
	case "type":
		m := typeArgs.FindStringSubmatch(args)
		if m == nil {
			return fmt.Errorf("want type \"PROMPT\" WORDS: %q", args)
		}
		s.Types = append(s.Types, Typing{m[1], m[2]})
		return nil
	default:
		return fmt.Errorf("no such instruction about a command: %q", verb)
	}
	if (verb == "fails") != (args == "") {
		return fmt.Errorf("%s %q: wrong number of words", verb, args)
	}
	return err
}
