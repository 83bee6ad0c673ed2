package client

import (
	"strings"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// Nearest is the name that was likely meant by a word, also where the case differs;
// "": none.
func Nearest(word string, names []string) string {
	if near := api.Nearest(word, names); near != "" {
		return near
	}
	folded := make([]string, len(names))
	for i, name := range names {
		folded[i] = strings.ToLower(name)
	}
	near := api.Nearest(strings.ToLower(word), folded)
	for i := range folded {
		if near != "" && folded[i] == near {
			return names[i]
		}
	}
	return ""
}
