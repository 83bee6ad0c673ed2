package sso

import (
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// Bounds of what an identity provider says of one person.
const (
	maxAttributes      = 100
	maxAttributeValues = 1000 // of one attribute
	maxAttributeBytes  = 64 << 10
	maxAttributeText   = 256 // of one name or value
)

// Clean makes attributes that roles may read of what an identity provider sent.
// Names and values that no rule could name are left out: empty ones, ones with
// control characters or such as turn a line round, broken UTF-8, more than 256
// bytes. Too many of them are refused: a session carries them all. Values come
// sorted, each once.
func Clean(raw map[string][]string) (map[string][]string, error) {
	out := map[string][]string{}
	size := 0
	for _, name := range slices.Sorted(maps.Keys(raw)) { // so that the same input gives the same error
		if !Readable(name) {
			continue
		}
		var kept []string
		for _, v := range raw[name] {
			if Readable(v) {
				kept = append(kept, v)
			}
		}
		slices.Sort(kept)
		kept = slices.Compact(kept)
		switch {
		case len(kept) == 0:
			continue
		case len(kept) > maxAttributeValues:
			return nil, tooMuch("%q has %d values, at most %d are allowed", name, len(kept), maxAttributeValues)
		}
		size += len(name)
		for _, v := range kept {
			size += len(v)
		}
		out[name] = slices.Clip(kept)
	}
	switch {
	case len(out) > maxAttributes:
		return nil, tooMuch("%d of them, at most %d are allowed", len(out), maxAttributes)
	case size > maxAttributeBytes:
		return nil, tooMuch("%d bytes, at most %d are allowed", size, maxAttributeBytes)
	}
	return out, nil
}

func tooMuch(format string, args ...any) error {
	return api.Errorf(api.CodeForbidden, "the identity provider sends too many attributes of this user: "+format+
		"; let it send to Sallyport what roles need alone", args...)
}

// Readable says whether a name or value of an identity provider may be kept.
func Readable(s string) bool {
	return s != "" && len(s) <= maxAttributeText && utf8.ValidString(s) && !strings.ContainsFunc(s, unreadable)
}

// unreadable are characters that forge lines of logs or show text as other text.
// U+FFFD stands where a decoder met broken UTF-8, and would make different values one.
func unreadable(r rune) bool {
	return r == utf8.RuneError || unicode.In(r, unicode.Cc, unicode.Zl, unicode.Zp, unicode.Bidi_Control)
}
