package cliapp

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

func TestADurationHasItsOwnLimit(t *testing.T) {
	for value, want := range map[string]string{
		"3650d": "87600h0m0s", "87601h": "at most 3650d", "10000000h": "at most 3650d", "99999d": "at most 3650d", "x": "is not a duration",
	} {
		var out bytes.Buffer
		app := &App{Name: "demo", Stdout: &out, Stderr: &out, Commands: []Command{{
			Name: "add", Flags: []Flag{{Name: "ttl", Kind: Duration, Max: 3650 * day}},
			Run: func(_ context.Context, c *Call) error {
				c.Printf("%s\n", c.Duration("ttl"))
				return nil
			},
		}}}
		app.Main(t.Context(), []string{"demo", "add", "--ttl=" + value})
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s: %s, want %s", value, &out, want)
		}
	}
}

func TestValuesThatAShellLeftEmptyAreSeen(t *testing.T) {
	for value, want := range map[string]bool{"": true, "a": false, "a,b": false, "a,,b": true, "a,": true, " ": true} {
		var blank bool
		var raw []string
		app := &App{Name: "demo", Commands: []Command{{
			Name: "add", Flags: []Flag{{Name: "names", Kind: Strings, Default: "x"}},
			Run: func(_ context.Context, c *Call) error {
				blank, raw = c.HasBlank("names"), c.Raw("names")
				return nil
			},
		}}}
		app.Main(t.Context(), []string{"demo", "add", "--names=y", "--names=" + value})
		if blank != want || len(raw) != 2 || raw[0] != "y" || raw[1] != value {
			t.Errorf("%q: %v, %q", value, blank, raw)
		}
		app.Main(t.Context(), []string{"demo", "add"})
		if blank || raw != nil {
			t.Errorf("not given: %v, %q", blank, raw)
		}
	}
}
