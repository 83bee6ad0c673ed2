package main

import (
	"context"
	"time"

	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/client/profile"
)

// quiet is how long a wait goes without a word.
const quiet = 2 * time.Second

// waitingFor tells a person what is waited for, should it take long. The caller
// stops it when the wait is over.
func waitingFor(c *cliapp.Call, what string) (stop func()) {
	if !c.Interactive() && !c.StderrIsTerminal() || scripted(c) {
		return func() {} // a script's log needs no such lines
	}
	return afterQuiet(func() { c.Notef("Waiting for %s ...", what) })
}

func afterQuiet(note func()) (stop func()) {
	timer := time.AfterFunc(quiet, note)
	return func() { timer.Stop() }
}

// otherPrograms is what a change of logins and of the kubeconfig waits for.
const otherPrograms = "another program that is changing the logins or the kubeconfig"

// change runs fn alone among all tsh that change the store.
func change(ctx context.Context, c *cliapp.Call, store *profile.Store, fn func() error) error {
	defer waitingFor(c, otherPrograms)()
	return store.Change(ctx, fn)
}

// update changes a login as it stands on disk, unless it was ended or replaced.
func update(ctx context.Context, c *cliapp.Call, store *profile.Store, p *profile.Profile, fn func(now *profile.Profile) error) error {
	defer waitingFor(c, otherPrograms)()
	return store.Update(ctx, p, fn)
}
