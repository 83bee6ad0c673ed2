package cliapp

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

var (
	errNoSize      = errors.New("is not a size such as 500MB or 4GiB")
	errSizeTooHigh = errors.New("is too large")
)

// sizeUnits are the factors by the letter of a unit, binary (KiB, or Ki) and decimal (kB, or k).
var sizeUnits = map[byte][2]int64{
	'k': {1 << 10, 1e3}, 'm': {1 << 20, 1e6}, 'g': {1 << 30, 1e9}, 't': {1 << 40, 1e12},
}

// ParseSize reads a number of bytes: 4GiB, 4Gi, 500MB, 1048576. Whole numbers
// alone, and letters of either case. The error is the end of a sentence that begins
// with the value.
func ParseSize(text string) (int64, error) {
	digits := len(text) - len(strings.TrimLeft(text, "0123456789"))
	unit := strings.TrimSuffix(strings.ToLower(strings.TrimPrefix(text[digits:], " ")), "b")
	factor := int64(1)
	if unit != "" {
		factors, ok := sizeUnits[unit[0]]
		switch {
		case ok && unit[1:] == "i":
			factor = factors[0]
		case ok && unit[1:] == "":
			factor = factors[1]
		default:
			return 0, errNoSize
		}
	}
	n, err := strconv.ParseInt(text[:digits], 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange), err == nil && n > math.MaxInt64/factor:
		return 0, errSizeTooHigh
	case err != nil:
		return 0, errNoSize
	}
	return n * factor, nil
}

// FormatSize is a size as people write it, exactly: 4GiB, 1500KiB, 1000B.
func FormatSize(n int64) string {
	for _, unit := range []string{"TiB", "GiB", "MiB", "KiB"} {
		if f := sizeUnits[unit[0]|0x20][0]; n != 0 && n%f == 0 {
			return fmt.Sprintf("%d%s", n/f, unit)
		}
	}
	return fmt.Sprintf("%dB", n)
}
