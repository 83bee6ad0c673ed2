package api

import (
	"regexp"
	"strings"
)

// Pattern is the value of a label as roles and tsh write it: a text, a glob (* stands
// for any text), or RE2 when written ^…$. The zero Pattern is the empty text.
type Pattern struct {
	parts []string // what stands between asterisks
	text  string
	re    *regexp.Regexp
}

// CompilePattern reads a Pattern.
func CompilePattern(v string) (Pattern, error) {
	switch {
	case len(v) > 1 && v[0] == '^' && v[len(v)-1] == '$':
		inner := v[1 : len(v)-1]
		if _, err := regexp.Compile(inner); err != nil { // alone, lest it close the group below
			return Pattern{}, err
		}
		// The anchors hold for the whole: ^a|b$ means a or b, not a… or …b.
		re, err := regexp.Compile(`\A(?:` + inner + `)\z`)
		return Pattern{re: re}, err
	case strings.Contains(v, "*"):
		return Pattern{parts: strings.Split(v, "*")}, nil
	}
	return Pattern{text: v}, nil
}

// HalfExpression says that a pattern is written like RE2 and taken for a text or a glob,
// for it lacks one of the two anchors.
func HalfExpression(v string) bool {
	return len(v) > 1 && (v[0] == '^') != (v[len(v)-1] == '$')
}

// Match says whether a label's value is meant.
func (p Pattern) Match(v string) bool {
	switch {
	case p.re != nil:
		return p.re.MatchString(v)
	case p.parts != nil:
		return glob(p.parts, v)
	}
	return p.text == v
}

// glob matches text against the parts between asterisks, of which there is one at
// least. Taking each part where it first occurs is enough.
func glob(parts []string, text string) bool {
	first, last := parts[0], parts[len(parts)-1]
	if len(text) < len(first)+len(last) || !strings.HasPrefix(text, first) || !strings.HasSuffix(text, last) {
		return false
	}
	text = text[len(first) : len(text)-len(last)]
	for _, part := range parts[1 : len(parts)-1] {
		i := strings.Index(text, part)
		if i < 0 {
			return false
		}
		text = text[i+len(part):]
	}
	return true
}
