package page

import (
	"fmt"
	"regexp"
	"strings"
)

// Where is what a text of the page stands for.
type Where struct{ Text, Pattern string }

// ansi are colours and the like, which count for nothing.
var ansi = regexp.MustCompile("\x1b(\\[[0-9;?]*[A-Za-z]|\\][^\a]*\a)")

// clean is what a terminal shows, as lines without what doesn't count.
func clean(output string) []string {
	var lines []string
	for line := range strings.SplitSeq(ansi.ReplaceAllString(output, ""), "\n") {
		line = strings.TrimRight(line, "\r")
		if i := strings.LastIndexByte(line, '\r'); i >= 0 { // written over
			line = line[i+1:]
		}
		if line = strings.Join(strings.Fields(line), " "); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// anyLines stands for lines left out.
const anyLines = "..."

// Match says how what was printed differs from what the page shows; nil: not at all.
func Match(want []string, output string, where []Where) error {
	got := clean(output)
	var patterns []*regexp.Regexp // nil: any lines
	var shown []string
	for _, line := range want {
		line = strings.Join(strings.Fields(line), " ")
		switch line {
		case "":
			continue
		case anyLines:
			patterns = append(patterns, nil)
		default:
			re, err := pattern(line, where)
			if err != nil {
				return err
			}
			patterns = append(patterns, re)
		}
		shown = append(shown, line)
	}
	if far, ok := matchLines(patterns, got); !ok {
		missing := "nothing more"
		if far < len(shown) {
			missing = fmt.Sprintf("%q", shown[far])
		}
		return fmt.Errorf("the page shows\n\t%s\nand it printed\n\t%s\nwhere there should be %s", strings.Join(shown, "\n\t"), strings.Join(got, "\n\t"), missing)
	}
	return nil
}

// pattern is a line of the page as a regular expression. The longest text is replaced first.
func pattern(line string, where []Where) (*regexp.Regexp, error) {
	var b strings.Builder
	for line != "" {
		best, at := -1, len(line)
		for i, w := range where {
			if n := strings.Index(line, w.Text); n >= 0 && (n < at || n == at && best >= 0 && len(w.Text) > len(where[best].Text)) {
				best, at = i, n
			}
		}
		b.WriteString(regexp.QuoteMeta(line[:at]))
		if best < 0 {
			break
		}
		fmt.Fprintf(&b, "(?:%s)", where[best].Pattern)
		line = line[at+len(where[best].Text):]
	}
	return regexp.Compile("^" + b.String() + "$")
}

// matchLines also tells how many patterns were met at best.
func matchLines(patterns []*regexp.Regexp, lines []string) (far int, ok bool) {
	switch {
	case len(patterns) == 0:
		return 0, len(lines) == 0
	case patterns[0] == nil:
		for i := 0; i <= len(lines); i++ {
			n, ok := matchLines(patterns[1:], lines[i:])
			far = max(far, n+1)
			if ok {
				return far, true
			}
		}
		return far, false
	case len(lines) == 0 || !patterns[0].MatchString(lines[0]):
		return 0, false
	}
	far, ok = matchLines(patterns[1:], lines[1:])
	return far + 1, ok
}
