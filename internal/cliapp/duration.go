package cliapp

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
	errTooLong    = fmt.Errorf("is too long: at most %dd", longest/day)
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
		return 0, errTooLong
	case err != nil || len(text)-len(unsigned) > 1 || strings.HasPrefix(rest, "-") || strings.HasPrefix(rest, "+"):
		return 0, errNoDuration
	case n > uint64(longest/day):
		return 0, errTooLong
	}
	d := time.Duration(n) * day // at most longest
	if rest != "" {
		more, err := parseHours(rest)
		if err != nil {
			return 0, err
		}
		if more > longest-d {
			return 0, errTooLong
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
		return 0, errTooLong
	}
	return 0, errNoDuration
}
