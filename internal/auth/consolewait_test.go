package auth_test

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
)

func (c *consoleTool) wait(ctx context.Context, f *authtest.Fixture) (*api.ConsoleWaitResponse, error) {
	return f.Consoles.Wait(ctx, api.ConsoleWaitRequest{ID: c.id, CodeVerifier: c.verifier}, home)
}

// failed says why a login is over, as the tool is told.
func (c *consoleTool) failed(t *testing.T, f *authtest.Fixture) (api.Code, string) {
	t.Helper()
	resp, err := c.wait(t.Context(), f)
	must(t, err)
	if resp.State != api.ConsoleFailed {
		t.Errorf("%+v", resp)
	}
	return resp.Code, resp.Message
}

// What becomes of a login reaches the tool that waits, the moment it happens.
func TestConsoleWaitTellsWhatBecame(t *testing.T) {
	for name, tc := range map[string]struct {
		by      string // the connector that the login names
		happens func(t *testing.T, f *authtest.Fixture, tool *consoleTool)
		after   time.Duration
		want    api.ConsoleWaitResponse
		gone    bool // the call fails: nothing is known of the login
	}{
		"approved": {
			happens: func(t *testing.T, f *authtest.Fixture, tool *consoleTool) {
				_, web := f.WebSession(t, "alice")
				tool.approve(t, f, web)
			},
			want: api.ConsoleWaitResponse{State: api.ConsoleApproved},
		},
		"denied": {
			happens: func(t *testing.T, f *authtest.Fixture, tool *consoleTool) {
				_, err := f.Consoles.Deny(t.Context(), tool.id, auth.Actor{User: "alice"})
				must(t, err)
			},
			want: api.ConsoleWaitResponse{State: api.ConsoleFailed, Code: api.CodeForbidden, Message: "the login was refused in the browser"},
		},
		"failed": {
			by: "github",
			happens: func(t *testing.T, f *authtest.Fixture, tool *consoleTool) {
				st := f.SSOState(t, "github", func(st *auth.SSOState) { st.Console = tool.id })
				f.SSO.Fail(t.Context(), st, nil, api.Errorf(api.CodeUnauthenticated, "the provider\r\n\x1b[31msays no"), home)
			},
			want: api.ConsoleWaitResponse{State: api.ConsoleFailed, Code: api.CodeUnauthenticated, Message: "the provider   [31msays no"},
		},
		"failed in one of several ways to approve it": {
			happens: func(t *testing.T, f *authtest.Fixture, tool *consoleTool) {
				st := f.SSOState(t, "github", func(st *auth.SSOState) { st.Console = tool.id })
				f.SSO.Fail(t.Context(), st, nil, api.Errorf(api.CodeForbidden, "you are in no team"), home)
				_, web := f.WebSession(t, "alice") // with a password
				tool.approve(t, f, web)
			},
			want: api.ConsoleWaitResponse{State: api.ConsoleApproved},
		},
		"nothing": {
			happens: func(*testing.T, *authtest.Fixture, *consoleTool) {},
			after:   20 * time.Second, want: api.ConsoleWaitResponse{State: api.ConsolePending},
		},
		"another replica's approval": {
			happens: func(t *testing.T, f *authtest.Fixture, tool *consoleTool) {
				other := authtest.NewOn(t, f.DB)
				_, web := other.WebSession(t, "alice")
				tool.approve(t, other, web)
			},
			want: api.ConsoleWaitResponse{State: api.ConsoleApproved},
		},
		"wrong codes until it is dead": {
			happens: func(t *testing.T, f *authtest.Fixture, tool *consoleTool) {
				for range 5 {
					_, _ = tool.redeem(t, f, strings.Repeat("0", 32))
				}
			},
			gone: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := authtest.New(t)
				f.AddUser(t, "alice", nil)
				f.PutConnector(t, authtest.GithubConnector("github"))
				tool := newTool(t).by(tc.by).start(t, f)
				begun := time.Now()
				var resp *api.ConsoleWaitResponse
				var err error
				var wg sync.WaitGroup
				wg.Go(func() { resp, err = tool.wait(t.Context(), f) })
				synctest.Wait()
				tc.happens(t, f, tool)
				wg.Wait()
				if took := time.Since(begun); took != tc.after {
					t.Errorf("it took %s, want %s", took, tc.after)
				}
				if tc.gone {
					if !api.IsCode(err, api.CodeNotFound) || err.Error() != errOver {
						t.Error(err)
					}
					return
				}
				must(t, err)
				if d := cmp.Diff(&tc.want, resp); d != "" {
					t.Error(d)
				}
				if tc.want.State != api.ConsoleFailed {
					return
				}
				// Who comes a little later is told the same; after two minutes it is forgotten.
				if code, message := tool.failed(t, f); code != tc.want.Code || message != tc.want.Message {
					t.Error("asked again:", code, message)
				}
				time.Sleep(2 * time.Minute) // in the bubble
				if _, err := tool.wait(t.Context(), f); !api.IsCode(err, api.CodeNotFound) {
					t.Error("after two minutes:", err)
				}
			})
		})
	}
}

const errOver = "this login is not known (any more): it expired, was refused, or was finished already; run tsh login again"

func TestConsoleWaitEndsWithTheLoginAndWithTheReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		tool := newTool(t).start(t, f)
		ctx, stop := context.WithCancel(t.Context())
		time.AfterFunc(3*time.Second, stop)
		begun := time.Now()
		resp, err := tool.wait(ctx, f)
		if err != nil || resp.State != api.ConsolePending || time.Since(begun) != 3*time.Second {
			t.Errorf("a replica that stops: %+v, %v after %s", resp, err, time.Since(begun))
		}
		time.Sleep(10*time.Minute - 10*time.Second) // in the bubble
		begun = time.Now()
		if _, err := tool.wait(t.Context(), f); !api.IsCode(err, api.CodeNotFound) || time.Since(begun) > 10*time.Second {
			t.Errorf("%v after %s", err, time.Since(begun))
		}
	})
}

func TestConsoleWaitIsForWhoBeganTheLogin(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", nil)
	tool := newTool(t).start(t, f)
	wrong := api.ConsoleWaitRequest{ID: tool.id, CodeVerifier: strings.Repeat("w", 43)}
	for i := range 5 {
		if _, err := f.Consoles.Wait(t.Context(), wrong, office); !api.IsCode(err, api.CodeUnauthenticated) {
			t.Fatalf("try %d: %v", i+1, err)
		}
	}
	if _, err := tool.wait(t.Context(), f); !api.IsCode(err, api.CodeNotFound) {
		t.Error("after five wrong verifiers:", err)
	}
	for _, verifier := range []string{"", strings.Repeat("v", 42), strings.Repeat("v", 129)} {
		if _, err := f.Consoles.Wait(t.Context(), api.ConsoleWaitRequest{ID: tool.id, CodeVerifier: verifier}, office); !api.IsCode(err, api.CodeInvalid) {
			t.Errorf("a verifier of %d: %v", len(verifier), err)
		}
	}
	commits := f.DB.Commits()
	unknown := api.ConsoleWaitRequest{ID: strings.Repeat("0", 32), CodeVerifier: tool.verifier}
	limited := 0
	for range 60 {
		_, err := f.Consoles.Wait(t.Context(), unknown, netip.MustParseAddr("203.0.113.1"))
		if api.IsCode(err, api.CodeRateLimited) {
			limited++
		} else if !api.IsCode(err, api.CodeNotFound) {
			t.Fatal(err)
		}
	}
	if limited < 15 || f.DB.Commits() != commits {
		t.Errorf("%d of 60 were limited, %d writes", limited, f.DB.Commits()-commits)
	}
}

// A terminal does not wait for somebody who can't log in any more.
func TestConsoleLoginByAConnectorThatIsGoneIsOverOnceItIsLookedAt(t *testing.T) {
	f := authtest.New(t)
	other := authtest.NewOn(t, f.DB)
	f.PutConnector(t, authtest.GithubConnector("github"))
	tool, local := newTool(t).by("github").start(t, f), newTool(t).by(api.AuthLocal).start(t, f)
	_, err := f.Consoles.Get(t.Context(), tool.id, auth.Actor{Addr: office})
	must(t, err)
	must(t, f.Connectors.Delete(t.Context(), authtest.Admin(), api.KindGithub, "github"))
	const want = `connector "github" was removed meanwhile: run tsh login again, without --auth or with another`
	for range 2 {
		if _, err := other.Consoles.Get(t.Context(), tool.id, auth.Actor{Addr: office}); !api.IsCode(err, api.CodeConflict) || err.Error() != "this login has failed: "+want {
			t.Error("the page:", err)
		}
	}
	if code, message := tool.failed(t, f); code != api.CodeForbidden || message != want {
		t.Error("the terminal is told:", code, message)
	}
	if _, err := f.Consoles.Get(t.Context(), local.id, auth.Actor{Addr: office}); err != nil {
		t.Error("one with a password:", err)
	}
	// One that comes back at that moment logs people in.
	f.PutConnector(t, authtest.GithubConnector("github"))
	tool = newTool(t).by("github").start(t, f)
	must(t, f.Connectors.Delete(t.Context(), authtest.Admin(), api.KindGithub, "github"))
	f.DB.BeforeCommit(func() { f.PutConnector(t, authtest.GithubConnector("github")) })
	if _, err := f.Consoles.Get(t.Context(), tool.id, auth.Actor{Addr: office}); err != nil {
		t.Error("a connector that is back:", err)
	}
}

// What a login failed of is for the tool that began it.
func TestConsoleLoginThatFailedIsOverForAll(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", nil)
	f.PutConnector(t, authtest.GithubConnector("github"))
	_, web := f.WebSession(t, "alice")
	tool := newTool(t).by("github").start(t, f)
	st := f.SSOState(t, "github", func(st *auth.SSOState) { st.Console = tool.id })
	f.SSO.Fail(t.Context(), st, nil, api.Errorf(api.CodeForbidden, "you said no"), home)
	f.SSO.Fail(t.Context(), st, nil, api.Errorf(api.CodeForbidden, "another reason"), home)
	if _, err := tool.redeem(t, f, strings.Repeat("0", 32)); !api.IsCode(err, api.CodeForbidden) || err.Error() != "you said no" {
		t.Error("redeemed:", err)
	}
	_, err := f.Consoles.Redeem(t.Context(), api.ConsoleRedeemRequest{ID: tool.id, CodeVerifier: strings.Repeat("w", 43)}, home)
	if !api.IsCode(err, api.CodeNotFound) {
		t.Error("redeemed by another:", err)
	}
	if _, err := f.Consoles.Wait(t.Context(), api.ConsoleWaitRequest{ID: tool.id, CodeVerifier: strings.Repeat("w", 43)}, home); !api.IsCode(err, api.CodeNotFound) {
		t.Error("waited for by another:", err)
	}
	if _, err := f.Consoles.Approve(t.Context(), web, tool.id, "", auth.Actor{}); !api.IsCode(err, api.CodeConflict) {
		t.Error("approved:", err)
	}
	if _, err := f.Consoles.Deny(t.Context(), tool.id, auth.Actor{}); !api.IsCode(err, api.CodeConflict) {
		t.Error("denied:", err)
	}
	done := newTool(t).start(t, f)
	code := done.approve(t, f, web)
	f.SSO.Fail(t.Context(), f.SSOState(t, "github", func(st *auth.SSOState) { st.Console = done.id }), nil, api.Errorf(api.CodeForbidden, "too late"), home)
	if _, err := done.redeem(t, f, code); err != nil {
		t.Error("one that was approved is ended by a failure:", err)
	}
}

func TestConsoleWaitersAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		tool, other := newTool(t).start(t, f), newTool(t).start(t, f)
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				if resp, err := tool.wait(t.Context(), f); err != nil || resp.State != api.ConsolePending {
					t.Errorf("%+v, %v", resp, err)
				}
			})
		}
		synctest.Wait()
		for range 100 {
			if _, err := tool.wait(t.Context(), f); !api.IsCode(err, api.CodeRateLimited) {
				t.Fatal("a third waits:", err)
			}
		}
		wg.Go(func() {
			if _, err := other.wait(t.Context(), f); err != nil {
				t.Error("another login:", err)
			}
		})
		wg.Wait()
		if resp, err := tool.wait(t.Context(), f); err != nil || resp.State != api.ConsolePending {
			t.Errorf("after the others: %+v, %v", resp, err)
		}
	})
}
