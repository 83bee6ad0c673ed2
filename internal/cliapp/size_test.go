package cliapp

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

func TestSizesHaveUnits(t *testing.T) {
	const none, large = "is not a size such as 500MB or 4GiB", "is too large"
	for text, want := range map[string]int64{
		"0": 0, "0B": 0, "1048576": 1 << 20, "10B": 10, "4GiB": 4 << 30, "4Gi": 4 << 30, "4gib": 4 << 30, "4 GiB": 4 << 30, "64MiB": 64 << 20,
		"500MB": 500e6, "500M": 500e6, "1k": 1000, "8TiB": 8 << 40, "8388607TiB": 8388607 << 40, "9223372036854775807": 1<<63 - 1,
	} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("%q is %d, %v", text, got, err)
		}
	}
	for text, want := range map[string]string{
		"": none, "GiB": none, "B": none, "-1": none, "+1": none, "1.5GiB": none, "4GiBB": none, "4  GiB": none, "4iB": none, "4XiB": none, "4GGiB": none, " 4": none,
		"8388608TiB": large, "9223372036854775808": large, "99999999999999999999999KiB": large,
	} {
		if got, err := ParseSize(text); err == nil || err.Error() != want {
			t.Errorf("%q is %d, %v; want %s", text, got, err, want)
		}
	}
	for n, want := range map[int64]string{0: "0B", 1000: "1000B", 1 << 10: "1KiB", 1500 << 10: "1500KiB", 64 << 20: "64MiB", 4 << 30: "4GiB", 5 << 40: "5TiB"} {
		if got := FormatSize(n); got != want {
			t.Errorf("%d is %s, want %s", n, got, want)
		}
	}
}

// FuzzParseSize: what is taken is no less than nothing, and means the same when it
// is written as we write it.
func FuzzParseSize(f *testing.F) {
	for _, seed := range []string{"4GiB", "500MB", "1048576", "0", "9223372036854775807", "-1", "1.5G", "8388608TiB", "4 gi"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, err := ParseSize(text)
		if err != nil {
			return
		}
		if again, err := ParseSize(FormatSize(n)); n < 0 || err != nil || again != n {
			t.Errorf("%q is %d, which is written %s, which is %d, %v", text, n, FormatSize(n), again, err)
		}
	})
}

func TestASizeIsAFlag(t *testing.T) {
	for args, want := range map[string]string{
		"": "1073741824 1GiB", "--max=4096": "4096 4KiB", "--max=4KiB": "4096 4KiB", "--max=many": "flag --max: \"many\" is not a size", "--max=-1": "is not a size",
	} {
		var out bytes.Buffer
		app := &App{Name: "demo", Stdout: &out, Stderr: &out, Commands: []Command{{
			Name: "keep", Flags: []Flag{{Name: "max", Kind: Size, Default: "1GiB"}},
			Run: func(_ context.Context, c *Call) error {
				c.Printf("%d %s\n", c.Size("max"), c.Text("max"))
				return nil
			},
		}}}
		app.Main(t.Context(), append([]string{"demo", "keep"}, strings.Fields(args)...))
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q: %s", args, out.String())
		}
	}
}
