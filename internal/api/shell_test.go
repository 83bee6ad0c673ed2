package api

import "testing"

func TestShellQuote(t *testing.T) {
	for word, want := range map[string]string{
		"tele.example.com:443": "tele.example.com:443", "alice+ops@example.com": "alice+ops@example.com", "/var/lib/x_y-1": "/var/lib/x_y-1",
		"": "''", "a b": "'a b'", "it's": `'it'\''s'`, "$HOME": "'$HOME'", "[::1]:443": "'[::1]:443'", "ä": "'ä'", "~": "'~'", "a\nb": "'a\nb'",
	} {
		if got := ShellQuote(word); got != want {
			t.Errorf("%q became %s, want %s", word, got, want)
		}
	}
}
