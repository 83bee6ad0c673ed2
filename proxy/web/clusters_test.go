package web

import (
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// A cluster that was asked and does not say enough is not one that waits to be asked.
func TestWhatIsNotKnownOfACluster(t *testing.T) {
	for want, st := range map[string]*api.KubeStatus{
		"not checked yet": {Health: api.HealthUnknown},
		"unknown":         {Health: api.HealthUnknown, Reason: "it shows no right", Checked: time.Unix(1, 0)},
	} {
		if got := (&site{}).trouble(st); got == nil || got.Badge != want || got.Bad || (got.Why == "") != (st.Reason == "") {
			t.Errorf("%+v, want %q", got, want)
		}
	}
}
