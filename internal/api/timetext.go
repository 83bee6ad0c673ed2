package api

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

const day = 24 * time.Hour

// longest is the longest duration of whole days that time.Duration holds.
const longest = 106751 * day

var (
	errNoDuration = errors.New("is not a duration such as 30m, 12h or 7d")
	// ErrLongDuration is what ParseDuration says of one that no clock of ours counts to.
	ErrLongDuration = fmt.Errorf("is too long: at most %dd", longest/day)
)

// ParseDuration is time.ParseDuration with days of 24 hours before the rest: 7d, 1d12h.
// The error is the end of a sentence that begins with the value.
func ParseDuration(text string) (time.Duration, error) {
	unsigned := strings.TrimLeft(text, "+-")
	days, rest, hasDays := strings.Cut(unsigned, "d")
	if !hasDays {
		return parseHours(text)
	}
	n, err := strconv.ParseUint(days, 10, 63)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return 0, ErrLongDuration
	case err != nil || len(text)-len(unsigned) > 1 || strings.HasPrefix(rest, "-") || strings.HasPrefix(rest, "+"):
		return 0, errNoDuration
	case n > uint64(longest/day):
		return 0, ErrLongDuration
	}
	d := time.Duration(n) * day // at most longest
	if rest != "" {
		more, err := parseHours(rest)
		if err != nil {
			return 0, err
		}
		if more > longest-d {
			return 0, ErrLongDuration
		}
		d += more
	}
	if strings.HasPrefix(text, "-") {
		d = -d
	}
	return d, nil
}

// parseHours knows what is too long from what is no duration, which the library
// calls by one name.
func parseHours(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err == nil {
		return d, nil
	}
	// With fewer digits it would do: each number of the text is cut to one.
	var short strings.Builder
	digits := false
	for _, r := range text {
		isDigit := '0' <= r && r <= '9'
		if !isDigit || !digits {
			short.WriteRune(r)
		}
		digits = isDigit
	}
	if _, err := time.ParseDuration(short.String()); err == nil {
		return 0, ErrLongDuration
	}
	return 0, errNoDuration
}

var (
	errNoMoment = errors.New("is no time: give a duration before now (1h, 2d), a date (2026-11-23, \"2026-11-23 14:30\"), or RFC 3339 (2026-11-23T14:30:00Z)")
	errFuture   = errors.New("lies in the future: give a duration without a sign, it counts back from now")
)

// ParseMoment reads a time as people write it: so long before now (1h, 2d), a date,
// one with a time of day, a time of this day, RFC 3339; "" is no time. Without a zone
// it is in that of now. As an end, a day alone counts to its own end. The error is the
// end of a sentence that begins with the text.
func ParseMoment(text string, now time.Time, end bool) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t, nil
	}
	plain, zone := strings.Replace(text, "T", " ", 1), now.Location()
	for _, suffix := range []string{"Z", " UTC"} {
		if short, ok := strings.CutSuffix(text, suffix); ok {
			plain, zone = strings.Replace(short, "T", " ", 1), time.UTC
		}
	}
	for _, layout := range []string{"2006-01-02 15:04", time.DateTime} {
		if t, err := time.ParseInLocation(layout, plain, zone); err == nil {
			return t, nil
		}
	}
	if t, err := time.ParseInLocation(time.DateOnly, plain, zone); err == nil {
		if end {
			t = t.AddDate(0, 0, 1)
		}
		return t, nil
	}
	for _, layout := range []string{"15:04", time.TimeOnly} {
		if t, err := time.Parse(layout, plain); err == nil {
			today := now.In(zone)
			return time.Date(today.Year(), today.Month(), today.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), zone), nil
		}
	}
	d, err := ParseDuration(text)
	switch {
	case err != nil:
		return time.Time{}, errNoMoment
	case d < 0:
		return time.Time{}, errFuture
	}
	return now.Add(-d), nil
}
