package auth_test

import (
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
)

// Ctrl-C in the terminal ends a login, whatever has become of it: nobody can approve
// or redeem it any more, and the page says why.
func TestConsoleCancel(t *testing.T) {
	for name, approved := range map[string]bool{"waits": false, "approved": true} {
		t.Run(name, func(t *testing.T) {
			f := authtest.New(t)
			f.AddUser(t, "alice", groups("dev"))
			tool := newTool(t).start(t, f)
			_, web := f.WebSession(t, "alice")
			code := ""
			if approved {
				code = tool.approve(t, f, web)
			}
			stranger := api.ConsoleWaitRequest{ID: tool.id, CodeVerifier: strings.Repeat("x", 43)}
			if err := f.Consoles.Cancel(t.Context(), stranger, home); !api.IsCode(err, api.CodeUnauthenticated) {
				t.Errorf("by another verifier: %v", err)
			}
			lines := len(f.DB.Events())
			for range 2 { // an answer may get lost
				must(t, f.Consoles.Cancel(t.Context(), api.ConsoleWaitRequest{ID: tool.id, CodeVerifier: tool.verifier}, home))
			}
			if n := len(f.DB.Events()); n != lines {
				t.Errorf("%d lines of the log, had %d", n, lines)
			}
			if code, text := tool.failed(t, f); code != api.CodeForbidden || text != "it was ended in the terminal" {
				t.Error(code, text)
			}
			if _, err := f.Consoles.Approve(t.Context(), web, tool.id, "", auth.Actor{User: "alice"}); !api.IsCode(err, api.CodeConflict) || !strings.Contains(err.Error(), "ended in the terminal") {
				t.Error(err)
			}
			if _, err := tool.redeem(t, f, code); err == nil {
				t.Error("redeemed")
			}
		})
	}
	f := authtest.New(t)
	none := api.ConsoleWaitRequest{ID: strings.Repeat("0", 32), CodeVerifier: strings.Repeat("x", 43)}
	if err := f.Consoles.Cancel(t.Context(), none, home); !api.IsCode(err, api.CodeNotFound) {
		t.Error(err)
	}
}
