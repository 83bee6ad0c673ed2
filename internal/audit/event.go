package audit

import (
	"crypto/rand"
	"io"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// Source completes the events of one replica. The zero value works, with no cluster
// name, the machine's clock and crypto/rand.
type Source struct {
	ClusterName string
	Clock       func() time.Time // nil: time.Now
	Rand        io.Reader        // nil: crypto/rand; must never fail
}

// complete fills what is empty of time, uid and cluster name.
func (s Source) complete(ev api.Event) api.Event {
	if ev.Time.IsZero() {
		ev.Time = s.now()
	}
	if ev.UID == "" {
		ev.UID = s.uid()
	}
	if ev.ClusterName == "" {
		ev.ClusterName = s.ClusterName
	}
	return ev
}

func (s Source) now() time.Time {
	if s.Clock == nil {
		return time.Now().UTC()
	}
	return s.Clock().UTC()
}

func (s Source) uid() string {
	r := s.Rand
	if r == nil {
		r = rand.Reader
	}
	id, err := api.NewEventID(r)
	if err != nil {
		panic(err) // as crypto/rand does
	}
	return id
}
