package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/client/profile"
)

const (
	// logoutPatience bounds the wait for a server when there is nothing to gain by waiting.
	logoutPatience = 10 * time.Second
	// quiet is how long a wait goes without a word.
	quiet = 2 * time.Second
	// atOnce is how many servers are told at a time.
	atOnce = 8
)

func logoutCommand() cliapp.Command {
	return cliapp.Command{
		Name: "logout", Usage: "end the session and remove it from this machine",
		Description: "If the server can't be reached, the login is removed from this machine all the\n" +
			"same, and you are told how long the session lives on there.",
		Examples: []string{"tsh logout", "tsh logout --proxy=tele.example.com:443", "tsh logout --all"},
		Flags:    []cliapp.Flag{{Name: "all", Kind: cliapp.Bool, Usage: "log out everywhere"}},
		Run: func(ctx context.Context, c *cliapp.Call) error {
			if c.Bool("all") {
				return logoutAll(ctx, c)
			}
			return logoutOne(ctx, c)
		},
	}
}

func logoutOne(ctx context.Context, c *cliapp.Call) error {
	store, proxy, err := openStore(c)
	if api.IsCode(err, api.CodeUnauthenticated) {
		c.Notef("Not logged in.")
		mentionOthers(c, store)
		return nil
	}
	if err != nil {
		return err
	}
	p, err := store.Load(proxy)
	if api.IsCode(err, api.CodeUnauthenticated) {
		// Nothing, or a file that can't be read: what is left of it goes all the same.
		c.Notef("Not logged in to %s.", proxy)
		return errors.Join(forgetKubeconfig(ctx, &profile.Profile{Proxy: proxy}), store.Remove(proxy))
	}
	if err != nil {
		return err
	}
	ended := endAll(ctx, []*profile.Profile{p}, endSession, waiting(c))
	if err := errors.Join(ended[0], forget(ctx, c, store, p, ended[0] == nil)); err != nil {
		return err
	}
	mentionOthers(c, store)
	return nil
}

func logoutAll(ctx context.Context, c *cliapp.Call) error {
	if c.Typed("proxy") {
		return api.Errorf(api.CodeInvalid, "give --all or --proxy, not both")
	}
	dir, err := profileDir()
	if err != nil {
		return err
	}
	store := profile.Open(dir)
	profiles, damaged, err := store.List()
	if err != nil {
		return err
	}
	if len(profiles)+len(damaged) == 0 {
		c.Notef("Not logged in.")
		return nil
	}
	ended := endAll(ctx, profiles, endSession, waiting(c))
	var failed []error
	for i, p := range profiles {
		failed = append(failed, ended[i], forget(ctx, c, store, p, ended[i] == nil))
	}
	for _, proxy := range slices.Sorted(maps.Keys(damaged)) {
		c.Notef("The login at %s could not be read; it is removed.", proxy)
		failed = append(failed, forgetKubeconfig(ctx, &profile.Profile{Proxy: proxy}), store.Remove(proxy))
	}
	return errors.Join(failed...)
}

// forget removes a login from this machine. Whatever fails, the rest is done: a
// person who logs out wants to be out. Once the user has said Ctrl-C to a slow
// server, that still holds.
func forget(ctx context.Context, c *cliapp.Call, store *profile.Store, p *profile.Profile, ended bool) error {
	err := errors.Join(forgetKubeconfig(context.WithoutCancel(ctx), p), store.Remove(p.Proxy))
	if err == nil && ended {
		c.Printf("Logged out %s from %s.\n", p.User, p.Proxy)
	}
	return err
}

func waiting(c *cliapp.Call) func([]string) {
	return func(proxies []string) {
		c.Notef("Waiting for %s, %s at most ...", strings.Join(proxies, ", "), logoutPatience)
	}
}

// endAll ends the sessions on their servers, several at a time, and says by the
// index of the profile what went wrong. If that takes long, note hears of whom it waits for.
func endAll(ctx context.Context, profiles []*profile.Profile, end func(context.Context, *profile.Profile) error, note func(proxies []string)) []error {
	ctx, cancel := context.WithTimeout(ctx, logoutPatience) // for all of them
	defer cancel()
	failed := make([]error, len(profiles))
	var mu sync.Mutex
	open := map[string]bool{}
	for _, p := range profiles {
		open[p.Proxy] = p.Valid(time.Now())
	}
	maps.DeleteFunc(open, func(_ string, live bool) bool { return !live })
	timer := time.AfterFunc(quiet, func() {
		mu.Lock()
		defer mu.Unlock()
		if len(open) > 0 {
			note(slices.Sorted(maps.Keys(open)))
		}
	})
	defer timer.Stop()
	var wg sync.WaitGroup
	places := make(chan struct{}, atOnce)
	for i, p := range profiles {
		if !p.Valid(time.Now()) {
			continue
		}
		wg.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			if err := end(ctx, p); err != nil {
				failed[i] = api.Errorf(api.CodeOf(err), "the session of %s at %s could not be ended on the server and lives there until %s: %w",
					p.User, p.Proxy, p.NotAfter.Local().Format(time.DateTime), err)
			}
			mu.Lock()
			defer mu.Unlock()
			delete(open, p.Proxy)
		})
	}
	wg.Wait()
	return failed
}

// endSession ends the session on its server. The caller bounds the wait.
func endSession(ctx context.Context, p *profile.Profile) error {
	cl, err := apiClient(p)
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, logoutPatience)
	defer cancel()
	err = cl.Logout(ctx)
	if api.IsCode(err, api.CodeUnauthenticated) {
		return nil // has ended already
	}
	return err
}

// mentionOthers says where else the user is logged in.
func mentionOthers(c *cliapp.Call, store *profile.Store) {
	profiles, _, err := store.List()
	if err != nil || len(profiles) == 0 {
		return
	}
	var others []string
	for _, p := range profiles {
		others = append(others, fmt.Sprintf("%s (%s)", p.Proxy, p.User))
	}
	c.Notef("Still logged in to %s. To use one: tsh login --proxy=%s. To end all: tsh logout --all", strings.Join(others, ", "), profiles[0].Proxy)
}
