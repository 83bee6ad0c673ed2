package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCommandsOfLabelsAreSplitWithoutAShell(t *testing.T) {
	for text, want := range map[string][]string{
		"":                          nil,
		"  date  +%F\t":             {"date", "+%F"},
		`sh -c 'echo $HOME; date'`:  {"sh", "-c", "echo $HOME; date"},
		`x "a 'b' c"'d' ''`:         {"x", "a 'b' cd", ""},
		`echo a\ b; rm -rf $(true)`: {"echo", `a\`, "b;", "rm", "-rf", "$(true)"},
	} {
		got, err := splitWords(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: %s", text, diff)
		}
	}
	if _, err := splitWords(`x 'y`); err == nil {
		t.Error("an open quotation")
	}
}
