package auth

import (
	"encoding/json"
	"maps"
	"slices"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// addAttributes tells in an event what the identity provider said: of GitHub the
// teams of each organization, of others all attributes. What is more than an event
// should carry is cut, and attributes_cut says so.
func addAttributes(fields map[string]any, kind string, id *api.SSOIdentity) {
	said := id.Attributes
	if kind == api.KindGithub {
		said = map[string][]string{}
		for _, t := range id.Teams {
			said[t.Organization] = append(said[t.Organization], t.Slug)
		}
	}
	told, cut := cutAttributes(said, maxAttributes)
	fields["attributes"] = told
	if cut {
		fields["attributes_cut"] = true
	}
}

// cutAttributes gives what of the attributes fits into so many bytes of JSON, by
// name.
func cutAttributes(all map[string][]string, most int) (told map[string][]string, cut bool) {
	told = map[string][]string{}
	left := most - len("{}")
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if left -= jsonLen(name) + len(":[],"); left < 0 {
			return told, true
		}
		told[name] = []string{}
		for _, value := range all[name] {
			if left -= jsonLen(value) + len(","); left < 0 {
				return told, true
			}
			told[name] = append(told[name], value)
		}
	}
	return told, false
}

func jsonLen(s string) int {
	b, _ := json.Marshal(s) // a string has no way to fail
	return len(b)
}
