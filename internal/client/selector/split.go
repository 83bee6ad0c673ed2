package selector

import "strings"

// Split gives the labels (KEY=VALUE) in values of which each may hold several with
// commas between them. A comma in a regular expression, ^…$, is part of it.
func Split(values []string) []string {
	var out []string
	add := func(label string) {
		if label = strings.TrimSpace(label); label != "" {
			out = append(out, label)
		}
	}
	for _, rest := range values {
		for rest != "" {
			end := labelEnd(rest)
			add(rest[:end])
			rest = strings.TrimPrefix(rest[end:], ",")
		}
	}
	return out
}

// labelEnd is where the first label of a text ends.
func labelEnd(text string) int {
	end := strings.IndexByte(text, ',')
	if end < 0 {
		return len(text)
	}
	_, value, _ := strings.Cut(text[:end], "=")
	if !strings.HasPrefix(strings.TrimSpace(value), "^") {
		return end
	}
	for at := end; ; {
		if strings.HasSuffix(strings.TrimSpace(text[:at]), "$") {
			return at
		}
		if at == len(text) {
			return end // it has no end, and is text
		}
		next := strings.IndexByte(text[at+1:], ',')
		if next < 0 {
			at = len(text)
		} else {
			at += 1 + next
		}
	}
}
