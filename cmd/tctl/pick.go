package main

import (
	"errors"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// minPrefix keeps a slip of the finger from ending or removing something else.
const minPrefix = 4

// picked is what pick calls its items in errors.
type picked struct{ noun, lister, those string }

// pick finds items by the beginnings of their ids, each of which must mean one
// item. Those that are not there are an error apart: the others can be done.
func pick[T any](items []T, idOf func(T) string, what picked, ids []string) (out []T, missing, err error) {
	var taken []string
	for _, id := range ids {
		var found []T
		for _, item := range items {
			if idOf(item) == id {
				found = []T{item}
				break
			}
			if len(id) >= minPrefix && strings.HasPrefix(idOf(item), id) {
				found = append(found, item)
			}
		}
		switch {
		case len(found) == 0 && len(id) < minPrefix:
			return nil, nil, api.Errorf(api.CodeInvalid, "%s %q: give at least %d characters of the ID ('%s' lists them)", what.noun, id, minPrefix, what.lister)
		case len(found) == 0:
			missing = errors.Join(missing, api.Errorf(api.CodeNotFound, "there is no %s %q: '%s' lists those that %s", what.noun, id, what.lister, what.those))
			continue
		case len(found) > 1:
			return nil, nil, api.Errorf(api.CodeInvalid, "%d %ss begin with %q: give more of the ID", len(found), what.noun, id)
		}
		if whole := idOf(found[0]); !slices.Contains(taken, whole) {
			taken = append(taken, whole)
			out = append(out, found[0])
		}
	}
	return out, missing, nil
}
