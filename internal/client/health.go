package client

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// HealthText is how a Kubernetes cluster does, for one cell of a table:
// "healthy", or "offline: no agent is connected".
func HealthText(s *api.KubeStatus) string {
	if s == nil {
		return string(api.HealthUnknown)
	}
	text := string(cmp.Or(s.Health, api.HealthUnknown))
	switch {
	case s.Reason == "":
	case s.Health == api.HealthHealthy:
		text += ", but " + Cell(s.Reason)
	default:
		text += ": " + Cell(s.Reason)
	}
	return text
}

// maxCell bounds what agents can fill a screen with.
const maxCell = 200 // characters

// Cell is a text for one cell of a table, "-" if there is none. Names, versions and
// reasons come from agents, which nobody trusts to keep to one line: a break could
// fake a row. (Control characters are spelled out by who prints it.)
func Cell(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if runes := []rune(text); len(runes) > maxCell {
		text = string(runes[:maxCell-1]) + "…"
	}
	return cmp.Or(text, "-")
}

// Usable says whether requests to a cluster can be hoped to succeed; of one that
// nobody has asked yet they can.
func Usable(s *api.KubeStatus) bool {
	return s == nil || s.Health != api.HealthUnhealthy && s.Health != api.HealthOffline
}

// Minute is a time as tables show it, in UTC; "-" if there is none.
func Minute(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04")
}

// LabelsText is labels for one cell, by key, as people type them: "env=prod,region=eu".
func LabelsText(labels map[string]string) string {
	out := make([]string, 0, len(labels))
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		out = append(out, key+"="+labels[key])
	}
	return Cell(strings.Join(out, ","))
}
