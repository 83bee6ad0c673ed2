package auth

import (
	"context"
	"reflect"
	"time"

	"github.com/sallyport-dev/sallyport/fsm"
)

// pollFor is how long a call waits that asks what has become of something: less than
// what proxies between cut off.
const pollFor = 20 * time.Second

// glance is what one look at the store has found.
type glance[T any] struct {
	answer  *T              // for who asks; until final, the one to give when the time is over
	final   bool            // nothing is left to wait for
	changed <-chan struct{} // closed when another look may find more
	expires time.Time       // of what is looked at: another look finds it gone
}

// longPoll looks each time something changed, until a look is final or fails. After
// pollFor, or as soon as the context ends, it gives what there is: who asks, asks again,
// another replica if this one stops.
func longPoll[T any](ctx context.Context, db DB, look func(fsm.View) (glance[T], error)) (*T, error) {
	deadline := db.View().Now().Add(pollFor)
	for {
		v := db.View()
		g, err := look(v)
		if err != nil {
			return nil, err
		}
		if g.final || ctx.Err() != nil || !v.Now().Before(deadline) {
			return g.answer, nil //nolint:nilerr // who asks, asks again
		}
		until := deadline
		if g.expires.Before(until) {
			until = g.expires
		}
		// What it returns for is what the next look finds.
		_, _ = waitAny(ctx, []<-chan struct{}{g.changed}, until.Sub(v.Now()))
	}
}

// waitAny returns when one of the channels is closed, or with over when the time is,
// or with the context's error.
func waitAny(ctx context.Context, changed []<-chan struct{}, left time.Duration) (over bool, err error) {
	timer := time.NewTimer(max(left, 0))
	defer timer.Stop()
	cases := make([]reflect.SelectCase, 0, len(changed)+2)
	cases = append(cases,
		reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(ctx.Done())},
		reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(timer.C)})
	for _, ch := range changed {
		cases = append(cases, reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(ch)})
	}
	switch chosen, _, _ := reflect.Select(cases); chosen {
	case 0:
		return false, context.Cause(ctx)
	case 1:
		return true, nil
	default:
		return false, nil
	}
}
