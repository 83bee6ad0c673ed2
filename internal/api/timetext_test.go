package api_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

func TestDurationsAreInDaysToo(t *testing.T) {
	const none, long = "is not a duration such as 30m, 12h or 7d", "is too long: at most 106751d"
	for text, want := range map[string]time.Duration{
		"0": 0, "90s": 90 * time.Second, "10000h": 10000 * time.Hour, "7d": 168 * time.Hour, "1d12h": 36 * time.Hour, "0d1ms": time.Millisecond,
		"-1d12h": -36 * time.Hour, "+1d": 24 * time.Hour, "106751d": 106751 * 24 * time.Hour, "1.5h": 90 * time.Minute,
	} {
		if got, err := api.ParseDuration(text); err != nil || got != want {
			t.Errorf("%q is %s, %v", text, got, err)
		}
	}
	for text, want := range map[string]string{
		"": none, "d": none, "1y": none, "7": none, "7d7d": none, "1d-1h": none, "1d+1h": none, "--1d": none, "1.5d": none, "1h1d": none, "7 d": none, "7d ": none, "1d12": none,
		"10000000h": long, "-10000000h": long, "106752d": long, "106751d25h": long, "1d10000000h": long, "99999999999999999999d": long, "99999999999999999999ns": long,
	} {
		if got, err := api.ParseDuration(text); err == nil || err.Error() != want {
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
		got, err := api.ParseDuration(text)
		want, lib := time.ParseDuration(text)
		switch {
		case lib == nil && (err != nil || got != want):
			t.Errorf("%q is %s, %v; want %s", text, got, err, want)
		case lib != nil && err == nil && strings.Count(text, "d") != 1:
			t.Errorf("%q is %s", text, got)
		}
	})
}

func TestTimesAreReadAsPeopleWriteThem(t *testing.T) {
	now := time.Date(2026, 11, 23, 14, 30, 15, 0, time.FixedZone("CET", 3600))
	for text, want := range map[string]string{
		"":                          "0001-01-01T00:00:00Z",
		"1h":                        "2026-11-23T12:30:15Z",
		"2d":                        "2026-11-21T13:30:15Z",
		"1d12h":                     "2026-11-22T01:30:15Z",
		"2026-11-20":                "2026-11-19T23:00:00Z",
		"2026-11-20 UTC":            "2026-11-20T00:00:00Z",
		"2026-11-20 08:15":          "2026-11-20T07:15:00Z",
		"2026-11-20T08:15":          "2026-11-20T07:15:00Z",
		"2026-11-20T08:15Z":         "2026-11-20T08:15:00Z",
		"2026-11-20 08:15 UTC":      "2026-11-20T08:15:00Z",
		"2026-11-20 08:15:30":       "2026-11-20T07:15:30Z",
		"2026-11-20T08:15:30":       "2026-11-20T07:15:30Z",
		"2026-11-20T08:15:30Z":      "2026-11-20T08:15:30Z",
		"2026-11-20T08:15:30.5Z":    "2026-11-20T08:15:30.5Z",
		"2026-11-20T08:15:30+05:30": "2026-11-20T02:45:30Z",
		"08:15":                     "2026-11-23T07:15:00Z",
		"08:15:30":                  "2026-11-23T07:15:30Z",
		"08:15Z":                    "2026-11-23T08:15:00Z",
		"yesterday":                 "is no time",
		"2026-13-01":                "is no time",
		"2026-11-31":                "is no time",
		"1793456789":                "is no time",
		"-1h":                       "lies in the future",
		"99999999d":                 "is no time",
		"Z":                         "is no time",
	} {
		for _, end := range []bool{false, true} {
			got, err := api.ParseMoment(text, now, end)
			if end && strings.HasPrefix(text, "2026-11-20") && !strings.Contains(text, ":") { // a day has an end
				got = got.AddDate(0, 0, -1)
			}
			answer := got.UTC().Format(time.RFC3339Nano)
			if err != nil {
				answer = err.Error()
			}
			if !strings.HasPrefix(answer, want) {
				t.Errorf("%q, as an end %v: %s, want %s", text, end, answer, want)
			}
		}
	}
}

func FuzzParseMoment(f *testing.F) {
	for _, seed := range []string{"1h", "2026-11-20", "2026-11-20T08:15Z", "08:15", "2026-11-20 UTC", "-1h", "Z", "T"} {
		f.Add(seed)
	}
	now := time.Date(2026, 11, 23, 14, 30, 15, 0, time.UTC)
	f.Fuzz(func(t *testing.T, text string) {
		begin, err := api.ParseMoment(text, now, false)
		end, endErr := api.ParseMoment(text, now, true)
		if (err == nil) != (endErr == nil) || end.Before(begin) {
			t.Errorf("%q: %v, %v, as an end %v, %v", text, begin, err, end, endErr)
		}
	})
}
