package cliapp

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Describe is a flag's usage as a sentence part without backticks, with the
// values that are allowed.
func (f *Flag) Describe() string {
	usage := strings.ReplaceAll(f.Usage, "`", "")
	if len(f.Values) > 0 {
		usage += " (" + strings.Join(f.Values, ", ") + ")"
	}
	return usage
}

// ShortDuration is a duration as people write it: 15m, not 15m0s.
func ShortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

const day = 24 * time.Hour

// longDuration is ShortDuration in days where it has whole ones: 3650d.
func longDuration(d time.Duration) string {
	if d > 0 && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	return ShortDuration(d)
}

// Wrap breaks a text into lines of at most width characters; a longer word keeps
// a line for itself. Blanks at the start of the text indent all its lines.
func Wrap(text string, width int) []string {
	if utf8.RuneCountInString(text) <= width {
		return []string{text} // with its inner blanks, too
	}
	indent := text[:len(text)-len(strings.TrimLeft(text, " "))]
	var out []string
	line, length := indent, len(indent)
	for _, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		switch {
		case length == len(indent):
		case length+1+n > width:
			out = append(out, line)
			line, length = indent, len(indent)
		default:
			line += " "
			length++
		}
		line += word
		length += n
	}
	return append(out, line)
}

// Reflow wraps paragraphs, wherever their lines ended before. Blank lines stay, and
// so does each line that begins with a blank, as those of lists do.
func Reflow(text string, width int) []string {
	var out []string
	paragraph := ""
	end := func() {
		if paragraph != "" {
			out = append(out, Wrap(paragraph, width)...)
		}
		paragraph = ""
	}
	for line := range strings.SplitSeq(text, "\n") {
		switch {
		case line == "" || line[0] == ' ':
			end()
			out = append(out, Wrap(line, width)...)
		case paragraph == "":
			paragraph = line
		default:
			paragraph += " " + line
		}
	}
	end()
	return out
}
