package main

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
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
	login, err := a.begin(ctx, l.URL())
	if err != nil {
		return nil, nil, err
	}
	a.c.Notef("Log in at this page, which must show the code %s:\n\n  %s\n", login.MatchCode, login.URL)
	failed := a.open(login.URL, l.Addr())
	select {
	case err := <-failed:
		a.notOpened(err, l.Addr()) // before what follows, where it is known at once
	default:
	}
	wait := patience(login)
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
	waiting := awaiting{
		callback: func(ctx context.Context) (string, error) { return l.Wait(ctx, login.ID) },
		outcome:  func(ctx context.Context) error { return a.web.AwaitConsoleLogin(ctx, login) },
		late:     func() { a.notBack(l.Addr()) },
	}
	code, err := waiting.run(waitCtx)
	cancel()
	wg.Wait()
	if err != nil {
		a.cancel(ctx, login)
		return nil, nil, a.refused(overdue(ctx, err))
	}
	return a.redeem(ctx, login, code)
}

// headless logs in from a machine without a browser: the person approves it on
// another one, by typing the code shown here. Nothing listens, and nothing comes back.
func (a *attempt) headless(ctx context.Context) (*api.LoginResponse, *client.Credentials, error) {
	login, err := a.begin(ctx, "")
	if err != nil {
		return nil, nil, err
	}
	wait := patience(login)
	a.c.Notef("Open this page on any machine that has a browser, and log in there:\n\n  %s\n", login.URL)
	a.c.Notef("It asks for this code, which nobody else needs to know: %s\n", login.MatchCode)
	a.c.Notef("Waiting for %s, until %s (Ctrl-C ends it) ...", cliapp.ShortDuration(wait.Round(time.Second)), time.Now().Add(wait).Format(time.TimeOnly))
	waitCtx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	waiting := awaiting{outcome: func(ctx context.Context) error { return a.web.AwaitConsoleLogin(ctx, login) }}
	if _, err := waiting.run(waitCtx); err != nil {
		a.cancel(ctx, login)
		return nil, nil, a.refused(overdue(ctx, err))
	}
	return a.redeem(ctx, login, "")
}

// begin starts a login that a person approves. Without a callback it is headless.
func (a *attempt) begin(ctx context.Context, callback string) (*client.ConsoleLogin, error) {
	o := client.ConsoleOptions{Callback: callback, TTL: a.ttl, Device: device("tsh login")}
	if callback == "" {
		o.Device = device("tsh login --headless")
	}
	if a.chosen {
		o.User = a.user
	}
	if a.method.sso() || a.method.asked {
		o.Connector, o.Kind = a.method.name, a.method.kind
	}
	over := waitingFor(a.c, a.proxy)
	login, err := a.web.StartConsoleLogin(ctx, o)
	over()
	if err != nil {
		return nil, err
	}
	if login.Warning != "" {
		a.c.Warnf("%s", login.Warning)
	}
	return login, nil
}

// goodbye is how long tsh stays to say that nobody waits any more.
const goodbye = time.Second

// cancel says so after Ctrl-C, if it can: the link says it then to who follows it.
func (a *attempt) cancel(ctx context.Context, login *client.ConsoleLogin) {
	if ctx.Err() == nil {
		return
	}
	bounded, stop := context.WithTimeout(context.WithoutCancel(ctx), goodbye)
	defer stop()
	_ = a.web.CancelConsoleLogin(bounded, login) // else it expires
}

func patience(login *client.ConsoleLogin) time.Duration {
	return min(max(time.Until(login.Expires), minWait), maxWait)
}

func (a *attempt) redeem(ctx context.Context, login *client.ConsoleLogin, code string) (*api.LoginResponse, *client.Credentials, error) {
	defer waitingFor(a.c, a.proxy)()
	return a.web.RedeemConsoleLogin(ctx, login, code)
}

// refused adds what to do to the reason why a login came to nothing in the browser.
func (a *attempt) refused(err error) error {
	if api.IsCode(err, api.CodeForbidden) {
		return api.Errorf(api.CodeForbidden, "%w\nTo try again: %s", err, a.line())
	}
	return err
}

// notBack is for those whose browser runs on another machine than tsh, and can't
// bring the code.
func (a *attempt) notBack(addr string) {
	a.c.Notef("The login is approved, but the browser has not come back to this machine, at http://%s.", addr)
	a.c.Notef("If it runs on another one: press Ctrl-C and add --headless.")
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
		a.c.Notef("The browser must reach this machine. From another one, forward the port first,\n"+
			"or run tsh login --headless:\n\n  ssh -L %s:%s HOST\n", addr, addr)
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
