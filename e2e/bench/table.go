package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"time"
)

// row is one line of docs/benchmarks.md. Number is the metric's in the list of goals.
type row struct {
	number    int
	metric    string
	ours      string
	reference string
	ratio     float64 // ours / reference; NaN where there is none
	goal      string
	verdict   string // met, missed, or nothing
}

func writeTable(w io.Writer, rows []row) error {
	slices.SortStableFunc(rows, func(a, b row) int { return a.number - b.number })
	_, err := fmt.Fprint(w, "| # | metric | ours | reference | ours / reference | goal | |\n|---|---|---|---|---|---|---|\n")
	for _, r := range rows {
		if err != nil {
			return err
		}
		ratio := "–"
		if !math.IsNaN(r.ratio) {
			ratio = strconv.FormatFloat(r.ratio, 'f', 2, 64)
		}
		_, err = fmt.Fprintf(w, "| %d | %s | %s | %s | %s | %s | %s |\n", r.number, r.metric, r.ours, r.reference, ratio, r.goal, r.verdict)
	}
	return err
}

// plain is a row without a goal.
func plain(number int, metric, ours, reference string, ratio float64) row {
	return row{number, metric, ours, reference, ratio, "–", ""}
}

// atMost and atLeast make rows whose ratio has a goal.
func atMost(number int, metric, ours, reference string, ratio, limit float64) row {
	return row{number, metric, ours, reference, ratio, fmt.Sprintf("≤ %g", limit), verdict(ratio <= limit, ratio)}
}

func atLeast(number int, metric, ours, reference string, ratio, limit float64) row {
	return row{number, metric, ours, reference, ratio, fmt.Sprintf("≥ %g", limit), verdict(ratio >= limit, ratio)}
}

func verdict(met bool, ratio float64) string {
	switch {
	case math.IsNaN(ratio):
		return ""
	case met:
		return "met"
	default:
		return "missed"
	}
}

// ratio is of two costs; there is none to a cost that vanished in the noise.
func ratio(ours, reference float64) float64 {
	if reference <= 0 {
		return math.NaN()
	}
	return ours / reference
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
