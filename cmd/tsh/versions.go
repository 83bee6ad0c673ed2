package main

import (
	"slices"
	"strconv"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

// checkVersions stops a tsh that is too old for the cluster, and mentions a
// cluster of a later generation.
func checkVersions(c *cliapp.Call, proxy string, ping *api.Ping) error {
	ours, ok := parseVersion(version)
	if !ok {
		return nil
	}
	if oldest, ok := parseVersion(ping.MinClientVersion); ok && slices.Compare(ours, oldest) < 0 {
		return api.Errorf(api.CodeInvalid, "this tsh is version %s, and %s wants %s or newer: install the tsh of Sallyport %s, then log in again",
			version, proxy, ping.MinClientVersion, ping.ServerVersion)
	}
	if server, ok := parseVersion(ping.ServerVersion); ok && server[0] > ours[0] {
		c.Notef("%s runs Sallyport %s and this tsh is version %s. It goes on; a tsh of the same version knows more.", proxy, ping.ServerVersion, version)
	}
	return nil
}

// parseVersion reads MAJOR.MINOR.PATCH of a semantic version. What follows
// (-dev, +build) doesn't count: a build on the way to a version counts as it.
func parseVersion(s string) ([]int, bool) {
	s = strings.TrimPrefix(s, "v")
	if i := strings.IndexAny(s, "-+"); i >= 0 {
		s = s[:i]
	}
	parts := strings.Split(s, ".")
	if len(parts) != 3 {
		return nil, false
	}
	var out []int
	for _, part := range parts {
		n, err := strconv.ParseUint(part, 10, 31)
		if err != nil {
			return nil, false
		}
		out = append(out, int(n))
	}
	return out, true
}
