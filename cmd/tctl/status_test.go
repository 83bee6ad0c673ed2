package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

func TestStatusSaysWhatIsWithTheClock(t *testing.T) {
	for _, c := range []struct {
		off, split time.Duration
		want       string
	}{
		{400 * time.Millisecond, 0, ""},
		{24*time.Hour - 508*time.Microsecond, 0, "Clock       24h0m0s off the other replicas\n"},
		{12 * time.Hour, 24*time.Hour + 3*time.Microsecond, "Clock       the clocks of this replica and of others differ by 24h0m0s, and nobody can tell which are wrong: set them\n"},
	} {
		var out bytes.Buffer
		printStatus(&cliapp.Call{Stdout: &out}, &api.Status{ClockOffset: api.Duration(c.off), ClockSplit: api.Duration(c.split)}, nil)
		if !strings.Contains(out.String(), c.want) || c.want == "" && strings.Contains(out.String(), "Clock") {
			t.Errorf("%v, %v: no %q in\n%s", c.off, c.split, c.want, &out)
		}
	}
}
