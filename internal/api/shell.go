package api

import "strings"

// ShellQuote makes a word that a shell reads as it stands, for the command lines
// that people are to paste. What is not known to be harmless is quoted.
func ShellQuote(s string) string {
	const harmless = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.@+:/"
	if s != "" && strings.Trim(s, harmless) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
