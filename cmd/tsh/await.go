package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/client/callback"
)

const (
	// codeGrace is how long the browser may be on its way once the servers know no login
	// (any more), where a refusal and a redemption by nobody else look alike, or that the
	// person said no: without us it would end at an error of its own.
	codeGrace = 2 * time.Second
	// lateAfter is how long after the approval a person is told that the browser has
	// not come back, lostAfter how long it may: the code is good for no longer.
	lateAfter = 3 * time.Second
	lostAfter = 2 * time.Minute
)

// awaiting is a login that a person decides on in a browser. Two ways tell how it
// ended: the browser comes back to this machine, and the servers know. Neither is
// enough: a browser that shows an error never comes back, and servers may be older.
type awaiting struct {
	callback func(context.Context) (code string, err error) // nil: the browser doesn't come back
	outcome  func(context.Context) error                    // nil: it was approved
	late     func()                                         // it was, and the browser has not come back yet
}

// run gives the code that the browser brought, if there is a callback. Once it
// returns, neither of the two runs any more.
func (a *awaiting) run(ctx context.Context) (code string, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	type arrival struct {
		code string
		err  error
	}
	var arrived chan arrival
	if a.callback != nil {
		arrived = make(chan arrival, 1)
		wg.Go(func() {
			code, err := a.callback(ctx)
			arrived <- arrival{code, err}
		})
	}
	outcome := make(chan error, 1)
	wg.Go(func() { outcome <- a.outcome(ctx) })
	var late, lost <-chan time.Time
	for {
		select {
		case got := <-arrived:
			return got.code, got.err
		case err = <-outcome:
			outcome = nil
			switch {
			case arrived == nil:
				return "", err
			case err == nil:
				late, lost = time.After(lateAfter), time.After(lostAfter)
			case (api.IsCode(err, api.CodeNotFound) || saidNo(err)) && ctx.Err() == nil:
				lost = time.After(codeGrace)
			default:
				select {
				case got := <-arrived: // at the same moment: a code is worth a try, a refusal says more
					return got.code, got.err
				default:
					return "", err
				}
			}
		case <-late:
			a.late()
		case <-lost:
			if err == nil {
				err = errLost()
			}
			return "", err
		}
	}
}

// saidNo tells the person's own refusal, after which the browser comes back, from
// failures, after which it does not.
func saidNo(err error) bool {
	return api.IsCode(err, api.CodeForbidden) && err.Error() == callback.Refused
}

func errLost() error {
	return api.Errorf(api.CodeUnauthenticated, "the login was approved, but the browser did not come back to this machine: if it runs on another one, add --headless")
}

// overdue turns the end of the wait into words.
func overdue(ctx context.Context, err error) error {
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return api.Errorf(api.CodeUnauthenticated, "the login was not approved in the browser in time")
	}
	return err
}
