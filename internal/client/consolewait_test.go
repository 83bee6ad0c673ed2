package client

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// answer is what a server says, after a while: err is why the login failed, if that
// is the state, else why the call did.
type answer struct {
	after time.Duration
	state string
	err   error
}

func (a answer) response() (*api.ConsoleWaitResponse, error) {
	if a.state == api.ConsoleFailed {
		return &api.ConsoleWaitResponse{State: a.state, Code: api.CodeOf(a.err), Message: a.err.Error()}, nil
	}
	return &api.ConsoleWaitResponse{State: a.state}, a.err
}

func TestAwaitConsole(t *testing.T) {
	errNoTeam := api.Errorf(api.CodeForbidden, "no team")
	var (
		pending  = answer{20 * time.Second, api.ConsolePending, nil}
		approved = answer{time.Second, api.ConsoleApproved, nil}
		down     = answer{0, "", api.Errorf(api.CodeUnavailable, "the server answered 502 Bad Gateway")}
		broken   = answer{0, "", api.Errorf(api.CodeAmbiguous, "the connection broke")}
		bug      = answer{0, "", api.Errorf(api.CodeInternal, "the server answered 500")}
		limited  = answer{0, "", api.Errorf(api.CodeRateLimited, "slower")}
		failed   = answer{time.Second, api.ConsoleFailed, errNoTeam}
		gone     = answer{0, "", api.Errorf(api.CodeNotFound, "this login is not known")}
		noCall   = answer{0, "", api.Errorf(api.CodeNotFound, "no such call")}
		idp      = answer{0, api.ConsoleFailed, api.Errorf(api.CodeUnavailable, "github.com answers 500: try again later")}
		fault    = answer{0, "", api.Errorf(api.CodeInvalid, "code_verifier")}
	)
	for name, test := range map[string]struct {
		answers []answer
		want    error
		took    time.Duration
	}{
		"approved":                      {[]answer{pending, pending, approved}, nil, 41 * time.Second},
		"failed":                        {[]answer{pending, failed}, errNoTeam, 21 * time.Second},
		"servers fail":                  {[]answer{down, broken, bug, down, down, failed}, errNoTeam, time.Second + 5750*time.Millisecond},
		"fails, works, fails":           {[]answer{down, pending, down, failed}, errNoTeam, 21500 * time.Millisecond},
		"the identity provider failed":  {[]answer{pending, idp}, idp.err, 20 * time.Second},
		"a server that repeats itself":  {[]answer{bug, bug, bug, bug, approved}, nil, 3750*time.Millisecond + time.Second},
		"no server behind the balancer": {[]answer{down, down, down, down, down, down, approved}, nil, 8750 * time.Millisecond},
		"slower":                        {[]answer{limited, limited, approved}, nil, 7 * time.Second},
		"answers that come fast":        {[]answer{{0, api.ConsolePending, nil}, {0, "new", nil}, approved}, nil, 3 * time.Second},
		"over":                          {[]answer{pending, gone, fault}, gone.err, 20 * time.Second},
		"an old server among new ones":  {[]answer{pending, noCall, noCall, pending, failed}, errNoTeam, 46 * time.Second},
		"an old server that is busy":    {[]answer{noCall, limited, failed}, errNoTeam, 6 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked := 0
				begin := time.Now()
				err := awaitConsole(t.Context(), api.ConsoleWaitRequest{ID: "id", CodeVerifier: "v"}, func(_ context.Context, req api.ConsoleWaitRequest) (*api.ConsoleWaitResponse, error) {
					if asked == len(test.answers) {
						t.Fatal("asked after the end")
					}
					a := test.answers[asked]
					if a == fault && req.ID != "" {
						t.Errorf("question %d is %+v", asked, req)
					}
					asked++
					<-time.After(a.after)
					return a.response()
				})
				if !same(err, test.want) || asked != len(test.answers) {
					t.Errorf("%v after %d answers, want %v", err, asked, test.want)
				}
				if took := time.Since(begin); took != test.took {
					t.Errorf("took %s, want %s", took, test.took)
				}
			})
		})
	}
}

// same says whether two errors are of one code, and say the same.
func same(a, b error) bool {
	return (a == nil) == (b == nil) && (a == nil || api.CodeOf(a) == api.CodeOf(b) && a.Error() == b.Error())
}

func TestAwaitConsoleEndsWithItsContext(t *testing.T) {
	for _, a := range []answer{
		{time.Hour, "", context.Canceled}, {0, api.ConsolePending, nil}, {0, "", api.Errorf(api.CodeUnavailable, "down")},
		{0, "", api.Errorf(api.CodeNotFound, "no such call")},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			begin := time.Now()
			err := awaitConsole(ctx, api.ConsoleWaitRequest{}, func(ctx context.Context, _ api.ConsoleWaitRequest) (*api.ConsoleWaitResponse, error) {
				select {
				case <-time.After(a.after):
				case <-ctx.Done():
				}
				return a.response()
			})
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Minute {
				t.Errorf("%v after %s", err, time.Since(begin))
			}
		})
	}
}

// TestRedemptionGoesOnWhereAReplicaFails: until the code is spent or refused.
func TestRedemptionGoesOnWhereAReplicaFails(t *testing.T) {
	down, unclear := api.Errorf(api.CodeUnavailable, "no leader"), api.Errorf(api.CodeAmbiguous, "broke")
	gone, wrong := api.Errorf(api.CodeNotFound, "not known"), api.Errorf(api.CodeUnauthenticated, "wrong")
	for name, test := range map[string]struct {
		answers []error
		want    error
	}{
		"at once":             {[]error{nil}, nil},
		"after an election":   {[]error{down, down, nil}, nil},
		"wrong":               {[]error{wrong}, wrong},
		"gone":                {[]error{down, gone}, gone},
		"done, but not heard": {[]error{unclear, gone}, unclear},
		"not done":            {[]error{unclear, down, nil}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := 0
				_, err := again(t.Context(), func() (int, error) { n++; return n, test.answers[n-1] })
				if diff := cmp.Diff(len(test.answers), n); !errors.Is(err, test.want) || diff != "" {
					t.Errorf("%v after %d", err, n)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		_, err := again(t.Context(), func() (int, error) { return 0, down })
		if took := time.Since(begin); !errors.Is(err, down) || took > redeemPatience {
			t.Errorf("%v after %s", err, took)
		}
	})
}
