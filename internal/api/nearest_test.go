package api

import "testing"

func TestNearest(t *testing.T) {
	for word, want := range map[string]string{
		"tele.exmaple.com": "tele.example.com", "coookie": "cookie", "prd": "prod", "prod-ue": "prod-eu",
		"x": "", "": "", "peanut": "", "zzzzzz": "",
	} {
		if got := Nearest(word, []string{"cookie", "tele.example.com", "prod", "prod-eu"}); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", word, got, want)
		}
	}
}
