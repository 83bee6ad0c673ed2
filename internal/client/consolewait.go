package client

import (
	"context"
	"net/http"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// Pauses between questions what has become of a login.
const (
	// waitPatience is longer than a server holds an answer back (20 s).
	waitPatience = 35 * time.Second
	// leastBetween keeps questions apart where answers come at once.
	leastBetween = time.Second
	// A server or what is before it failed: soon again, then less often.
	firstPause, mostPause = 250 * time.Millisecond, 2 * time.Second
	// The server wants to be asked less.
	firstRest, mostRest = 2 * time.Second, 20 * time.Second
	// oldPause is for a server that can't say, while others of its cluster may.
	oldPause = 5 * time.Second
)

// AwaitConsoleLogin asks what has become of a login until somebody approved it
// (nil), it failed or was refused, or ctx is over. Calls that fail meanwhile, and
// servers too old to say, are asked again: what became of the login is known to all
// of them, and stands in the answer, whatever its code.
func (c *Client) AwaitConsoleLogin(ctx context.Context, login *ConsoleLogin) error {
	patient := *c
	patient.timeout = waitPatience
	ask := func(ctx context.Context, req api.ConsoleWaitRequest) (*api.ConsoleWaitResponse, error) {
		return send[api.ConsoleWaitResponse](ctx, &patient, http.MethodPost, api.PathConsoleWait, &req)
	}
	return awaitConsole(ctx, api.ConsoleWaitRequest{ID: login.ID, CodeVerifier: login.verifier}, ask)
}

type askConsole func(context.Context, api.ConsoleWaitRequest) (*api.ConsoleWaitResponse, error)

func awaitConsole(ctx context.Context, req api.ConsoleWaitRequest, ask askConsole) error {
	failures := 0
	for {
		begin := time.Now()
		resp, err := ask(ctx, req)
		pause := leastBetween - time.Since(begin)
		switch code := api.CodeOf(err); {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil && resp.State == api.ConsoleApproved:
			return nil
		case err == nil && resp.State == api.ConsoleFailed:
			return &api.Error{Code: resp.Code, Message: resp.Message}
		case err == nil:
			failures = 0
		case code == api.CodeNotFound: // the login, or the call?
			if takesQuestions(ctx, ask) {
				return err
			}
			pause = oldPause
		case code == api.CodeRateLimited:
			pause = min(firstRest<<min(failures, 10), mostRest)
			failures++
		case code == api.CodeUnavailable, code == api.CodeAmbiguous, code == api.CodeInternal:
			pause = min(firstPause<<min(failures, 10), mostPause)
			failures++
		default:
			return err
		}
		if !sleep(ctx, pause) {
			return ctx.Err()
		}
	}
}

// takesQuestions says whether whoever answers knows the call: then it finds fault
// with a question that names no login, before it does anything that may fail.
func takesQuestions(ctx context.Context, ask askConsole) bool {
	_, err := ask(ctx, api.ConsoleWaitRequest{})
	return api.IsCode(err, api.CodeInvalid)
}

// sleep says whether ctx still goes on after that long.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
