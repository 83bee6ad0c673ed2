package profile

import (
	"slices"
	"strings"
)

// Known are the proxies, as short as they can be typed, and the users of the logins
// on this machine. What can't be read is left out: this is for completion.
func Known(getenv func(string) string) (proxies, users []string) {
	dir, err := DefaultDir(getenv)
	if err != nil {
		return nil, nil
	}
	profiles, _, err := Open(dir).List()
	if err != nil {
		return nil, nil
	}
	for _, p := range profiles {
		proxies = append(proxies, strings.TrimSuffix(p.Proxy, ":443"))
		if !slices.Contains(users, p.User) {
			users = append(users, p.User)
		}
	}
	return proxies, users
}
