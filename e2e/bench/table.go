package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"
)

// row is one line of docs/benchmarks.md. Number is the metric's in the list of
// goals; goal is what the ratio must reach.
type row struct {
	number     int
	metric     string
	ours       string
	reference  string
	ratio      float64 // ours / reference
	goal       string
	comparison int // -1: the ratio should be at most limit, +1: at least
	limit      float64
}

func writeTable(w io.Writer, rows []row) error {
	slices.SortStableFunc(rows, func(a, b row) int { return a.number - b.number })
	_, err := fmt.Fprint(w, "| # | metric | ours | reference | ours / reference | goal | |\n|---|---|---|---|---|---|---|\n")
	for _, r := range rows {
		if err != nil {
			return err
		}
		verdict := ""
		if r.comparison != 0 {
			verdict = "missed"
			if float64(r.comparison)*(r.ratio-r.limit) >= 0 {
				verdict = "met"
			}
		}
		ratio := strconv.FormatFloat(r.ratio, 'f', 2, 64)
		if r.ratio < 0 {
			ratio = "–"
		}
		_, err = fmt.Fprintf(w, "| %d | %s | %s | %s | %s | %s | %s |\n", r.number, r.metric, r.ours, r.reference, ratio, r.goal, verdict)
	}
	return err
}

// atMost and atLeast make rows whose ratio has a goal.
func atMost(number int, metric, ours, reference string, ratio, limit float64) row {
	return row{number, metric, ours, reference, ratio, fmt.Sprintf("≤ %g", limit), -1, limit}
}

func atLeast(number int, metric, ours, reference string, ratio, limit float64) row {
	return row{number, metric, ours, reference, ratio, fmt.Sprintf("≥ %g", limit), 1, limit}
}

// percentile of samples, which it sorts.
func percentile(samples []time.Duration, p float64) time.Duration {
	if len(samples) == 0 {
		return 0
	}
	slices.Sort(samples)
	return samples[min(len(samples)-1, int(p*float64(len(samples))))]
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[len(values)/2]
}

func micros(d time.Duration) string { return fmt.Sprintf("%d µs", d.Microseconds()) }
func millis(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}
func perSecond(v float64) string { return fmt.Sprintf("%.0f/s", v) }
