package api

import "strings"

// ShellQuote makes a word that a shell reads as it stands, for the command lines
// that people are to paste. What is not known to be harmless is quoted.
func ShellQuote(s string) string {
	special := strings.ContainsFunc(s, func(r rune) bool {
		return !(r < 0x80 && isAlnum(byte(r)) || strings.ContainsRune("-_.@+:/", r))
	})
	if s != "" && !special {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
