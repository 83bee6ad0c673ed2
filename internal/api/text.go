package api

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// How much is kept of what agents say, in bytes.
const (
	MaxAgentText     = 128 // of its name and version
	MaxStatusReason  = 512
	MaxStatusVersion = 64 // of an API server
)

// CleanText makes of what a stranger says something that can be shown: one line of
// printable characters, of most bytes at most. Characters that are not seen, or
// turn the line round, go; others that can't be printed become spaces.
func CleanText(s string, most int) string {
	if len(s) > most {
		for most > 0 && !utf8.RuneStart(s[most]) {
			most--
		}
		s = s[:most]
	}
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case unicode.Is(unicode.Cf, r):
			return -1
		case r == utf8.RuneError || !unicode.IsGraphic(r):
			return ' '
		}
		return r
	}, s))
}
