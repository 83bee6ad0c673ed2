package main

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// oneLine spells out what does not print, line feeds included, and cuts the text to
// most characters of what is shown. What the log escaped was decoded since, and a
// terminal must not get it.
func oneLine(s string, most int) string {
	var b strings.Builder
	length := 0
	for i, r := range s {
		part := string(r)
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			part = spellOut(s[i:], r)
		}
		if length += utf8.RuneCountInString(part); length > most {
			b.WriteString("…")
			break
		}
		b.WriteString(part)
	}
	return b.String()
}

func spellOut(s string, r rune) string {
	switch {
	case r == '\n':
		return `\n`
	case r == '\r':
		return `\r`
	case r == '\t':
		return `\t`
	case r == utf8.RuneError && !strings.HasPrefix(s, string(utf8.RuneError)):
		return fmt.Sprintf(`\x%02x`, s[0])
	case r > 0xffff:
		return fmt.Sprintf(`\U%08x`, r)
	}
	return fmt.Sprintf(`\u%04x`, r)
}
