package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
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
	over := waitingFor(a.c, a.proxy)
	login, err := a.web.StartConsoleLogin(ctx, l.URL(), name, a.ttl)
	over()
	if err != nil {
		return nil, nil, err
	}
	wait := min(max(time.Until(login.Expires), minWait), maxWait)
	a.c.Notef("Log in at this page, which must show the code %s:\n\n  %s\n", login.MatchCode, login.URL)
	failed := a.open(login.URL, l.Addr())
	select {
	case err := <-failed:
		a.notOpened(err, l.Addr()) // before what follows, where it is known at once
	default:
	}
	a.c.Notef("Waiting for the browser until %s (Ctrl-C ends it) ...", time.Now().Add(wait).Format(time.TimeOnly))
	waitCtx, cancel := context.WithTimeout(ctx, wait)
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case err := <-failed:
			a.notOpened(err, l.Addr())
		case <-waitCtx.Done():
		}
	})
	code, err := l.Wait(waitCtx, login.ID)
	cancel()
	wg.Wait()
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return nil, nil, api.Errorf(api.CodeUnauthenticated, "the login was not approved in the browser in time")
	}
	if err != nil {
		return nil, nil, err
	}
	defer waitingFor(a.c, a.proxy)()
	return a.web.RedeemConsoleLogin(ctx, login, code)
}

// open shows the page in the browser, if there is one. What it gives says later
// that this failed: openers look for a browser, and end with an error without one.
func (a *attempt) open(page, addr string) <-chan error {
	if a.c.String("browser") == browserNone {
		a.mentionForwarding(addr)
		return nil
	}
	return startBrowser(runtime.GOOS, page)
}

// startBrowser gives what goes wrong, if anything does.
func startBrowser(goos, page string) <-chan error {
	failed := make(chan error, 1)
	name, args := opener(goos)
	cmd := exec.Command(name, append(args, page)...) //nolint:noctx // the page is an https URL; the browser outlives us
	detach(cmd)
	if err := cmd.Start(); err != nil {
		failed <- err
		return failed
	}
	go func() { // until the opener or tsh ends: it may run on as long as the browser does
		if err := cmd.Wait(); err != nil {
			failed <- err
		}
	}()
	return failed
}

// notOpened says what helps where no browser opens.
func (a *attempt) notOpened(err error, addr string) {
	a.c.Notef("No browser could be opened from here (%s): open the link yourself, on this machine.", strings.TrimPrefix(err.Error(), "exec: "))
	a.mentionForwarding(addr)
}

// mentionForwarding is for those whose browser runs on another machine than tsh.
func (a *attempt) mentionForwarding(addr string) {
	if os.Getenv("SSH_CONNECTION") != "" {
		a.c.Notef("The browser must reach this machine. From another one, forward the port first:\n\n  ssh -L %s:%s HOST\n", addr, addr)
	}
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
