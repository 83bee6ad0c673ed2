package cliapp

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"
)

func TestDurationsAreInDaysToo(t *testing.T) {
	const none, long = "is not a duration such as 30m, 12h or 7d", "is too long: at most 106751d"
	for text, want := range map[string]time.Duration{
		"0": 0, "90s": 90 * time.Second, "10000h": 10000 * time.Hour, "7d": 168 * time.Hour, "1d12h": 36 * time.Hour, "0d1ms": time.Millisecond,
		"-1d12h": -36 * time.Hour, "+1d": day, "106751d": longest, "1.5h": 90 * time.Minute,
	} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("%q is %s, %v", text, got, err)
		}
	}
	for text, want := range map[string]string{
		"": none, "d": none, "1y": none, "7": none, "7d7d": none, "1d-1h": none, "1d+1h": none, "--1d": none, "1.5d": none, "1h1d": none, "7 d": none, "7d ": none, "1d12": none,
		"10000000h": long, "-10000000h": long, "106752d": long, "106751d25h": long, "1d10000000h": long, "99999999999999999999d": long, "99999999999999999999ns": long,
	} {
		if got, err := ParseDuration(text); err == nil || err.Error() != want {
			t.Errorf("%q is %s, %v; want %s", text, got, err, want)
		}
	}
}

// FuzzParseDuration: what the library takes means the same here, and nothing else
// but days is taken.
func FuzzParseDuration(f *testing.F) {
	for _, seed := range []string{"7d", "1d12h", "-1d", "1.5h", "106751d23h", "9999999999h", "d", "1d-1h", "1d1d"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := ParseDuration(text)
		want, lib := time.ParseDuration(text)
		switch {
		case lib == nil && (err != nil || got != want):
			t.Errorf("%q is %s, %v; want %s", text, got, err, want)
		case lib != nil && err == nil && strings.Count(text, "d") != 1:
			t.Errorf("%q is %s", text, got)
		}
	})
}

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
