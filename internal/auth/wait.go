package auth

import (
	"context"
	"reflect"
	"time"
)

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
