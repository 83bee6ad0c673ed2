package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/client"
	"github.com/sallyport-dev/sallyport/internal/client/callback"
)

// Bounds of the wait for the browser, for clocks that are off.
const (
	minWait = time.Minute
	maxWait = 15 * time.Minute
)

// browser logs in through the browser, where any factor can be used.
func (a *attempt) browser(ctx context.Context) (*api.LoginResponse, *client.Credentials, error) {
	l, err := callback.Listen(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	name := ""
	if a.chosen {
		name = a.user
	}
	login, err := a.web.StartConsoleLogin(ctx, l.URL(), name, a.ttl)
	if err != nil {
		return nil, nil, err
	}
	wait := min(max(time.Until(login.Expires), minWait), maxWait)
	a.c.Notef("Log in at this page, which must show the code %s:\n\n  %s\n", login.MatchCode, login.URL)
	a.open(login.URL, l.Addr())
	a.c.Notef("Waiting for the browser until %s (Ctrl-C ends it) ...", time.Now().Add(wait).Format(time.TimeOnly))
	waitCtx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	code, err := l.Wait(waitCtx, login.ID)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return nil, nil, api.Errorf(api.CodeUnauthenticated, "the login was not approved in the browser in time")
	}
	if err != nil {
		return nil, nil, err
	}
	return a.web.RedeemConsoleLogin(ctx, login, code)
}

// open shows the page in the browser, if there is one, and says what else helps.
func (a *attempt) open(page, addr string) {
	if a.c.String("browser") == browserNone {
		if os.Getenv("SSH_CONNECTION") != "" {
			a.c.Notef("The browser must reach this machine. From another one, forward the port first:\n\n  ssh -L %s:%s HOST\n", addr, addr)
		}
		return
	}
	name, args := opener(runtime.GOOS)
	cmd := exec.Command(name, append(args, page)...) //nolint:noctx // the page is an https URL; the browser outlives us
	detach(cmd)
	if err := cmd.Start(); err != nil {
		a.c.Notef("No browser could be opened from here (%s): open the link yourself, on this machine.", strings.TrimPrefix(err.Error(), "exec: "))
		return
	}
	_ = cmd.Process.Release() // it may run on as long as the browser does
}

// opener is the program that opens a page in the user's browser.
func opener(goos string) (name string, args []string) {
	switch goos {
	case "darwin":
		return "open", nil
	case "windows":
		return "rundll32", []string{"url.dll,FileProtocolHandler"}
	default:
		return "xdg-open", nil
	}
}
