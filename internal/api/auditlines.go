package api

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// maxFormatted is how many ranges FormatLines names.
const maxFormatted = 5

// FormatLines are lines of the audit log for people: line 7; the lines 3 to 5 and 9. What
// overlaps or touches is one; "" is none.
func FormatLines(list []AuditRange) string {
	list = slices.SortedFunc(slices.Values(list), func(a, b AuditRange) int { return cmp.Compare(a.From, b.From) })
	var whole []AuditRange
	for _, r := range list {
		if n := len(whole); n > 0 && r.From <= whole[n-1].To+1 {
			whole[n-1].To = max(whole[n-1].To, r.To)
		} else {
			whole = append(whole, r)
		}
	}
	var parts []string
	for _, r := range whole[:min(len(whole), maxFormatted)] {
		if r.From == r.To {
			parts = append(parts, fmt.Sprint(r.From))
		} else {
			parts = append(parts, fmt.Sprintf("%d to %d", r.From, r.To))
		}
	}
	if more := len(whole) - maxFormatted; more > 0 {
		parts = append(parts, fmt.Sprintf("%d more parts", more))
	}
	switch n := len(parts); {
	case n == 0:
		return ""
	case n == 1 && whole[0].From == whole[0].To:
		return "line " + parts[0]
	case n == 1:
		return "the lines " + parts[0]
	default:
		return "the lines " + strings.Join(parts[:n-1], ", ") + " and " + parts[n-1]
	}
}
