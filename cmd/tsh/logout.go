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
	// kubeconfigPatience bounds the wait for the locks of all kubeconfigs that a logout
	// cleans: the store is locked meanwhile, and a lock may be one left behind.
	kubeconfigPatience = 10 * time.Second
	// atOnce is how many servers are told at a time.
	atOnce = 8
)

func logoutCommand() cliapp.Command {
	return cliapp.Command{
		Name: "logout", Usage: "end the session and remove it from this machine",
		Description: "If the server can't be reached, the login is removed from this machine all the\n" +
			"same, and you are told how long the session lives on there. Which authority you\n" +
			"trust for the cluster stays known, until --forget.",
		Examples: []string{"tsh logout", "tsh logout --proxy=tele.example.com:443", "tsh logout --all"},
		Flags: []cliapp.Flag{
			{Name: "all", Kind: cliapp.Bool, Usage: "log out everywhere"},
			{Name: "forget", Kind: cliapp.Bool, Usage: "forget, too, which authority was trusted for the cluster's web certificate: the next login decides anew"},
		},
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
		if c.Bool("forget") {
			return api.Errorf(api.CodeInvalid, "say which cluster's authority to forget: tsh logout --forget --proxy=HOST:PORT, or --all")
		}
		c.Notef("Not logged in.")
		mentionOthers(c, store)
		return nil
	}
	if err != nil {
		return err
	}
	gone, err := leave(ctx, c, store, func() ([]string, error) { return []string{proxy}, nil })
	if err != nil {
		return err
	}
	if gone[0].p == nil && !gone[0].damaged && gone[0].files == nil {
		c.Notef("Not logged in to %s.", proxy)
	}
	if err := end(ctx, c, gone); err != nil {
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
	gone, err := leave(ctx, c, store, func() ([]string, error) {
		profiles, damaged, err := store.List()
		proxies := slices.Sorted(maps.Keys(damaged))
		for _, p := range slices.Backward(profiles) {
			proxies = slices.Insert(proxies, 0, p.Proxy)
		}
		if c.Bool("forget") {
			trusting, failed := store.Trusting()
			proxies, err = append(proxies, trusting...), errors.Join(err, failed)
			proxies = slices.Compact(slices.Sorted(slices.Values(proxies)))
		}
		return proxies, err
	})
	if len(gone) == 0 && err == nil {
		c.Notef("Not logged in.")
	}
	return errors.Join(err, end(ctx, c, gone))
}

// left is a login that is no longer on this machine.
type left struct {
	proxy   string
	p       *profile.Profile // nil: there was none, or it could not be read
	damaged bool             // it could not be read
	unnoted bool             // whom to trust there stood in it, if anywhere
	files   error            // of removing it from this machine
	kube    error            // of removing it from kubeconfigs
}

func (l *left) err() error {
	if l.kube == nil {
		return l.files
	}
	return errors.Join(l.files, api.Errorf(api.CodeInternal, "entries of %s may be left in the kubeconfig: %w", l.proxy, l.kube))
}

// leave removes logins from this machine. Whoever removes a login is who ends its
// session: a tsh beside this one neither brings it back nor is ended by it.
// Whatever fails, the rest is done: a person who logs out wants to be out.
func leave(ctx context.Context, c *cliapp.Call, store *profile.Store, which func() ([]string, error)) ([]*left, error) {
	var gone []*left
	remove := func(files context.Context, proxy string, locked error) {
		l := &left{proxy: proxy, files: locked}
		p, err := store.Load(proxy)
		switch {
		case err == nil:
			l.p = p
		case api.IsCode(err, api.CodeUnauthenticated):
			l.damaged, l.unnoted = store.Exists(proxy), !store.Noted(proxy)
			p = &profile.Profile{Proxy: proxy} // nothing, or a file that can't be read: what is left of it goes all the same
		default:
			l.files = errors.Join(locked, err)
			p = &profile.Profile{Proxy: proxy}
		}
		l.kube = forgetKubeconfig(files, p)
		if l.files == nil {
			l.files = store.Remove(proxy)
		}
		if l.files == nil && c.Bool("forget") {
			known, err := store.Distrust(proxy)
			if l.files = err; known {
				c.Printf("Forgot the authority of %s.\n", proxy)
			}
		}
		gone = append(gone, l)
	}
	patience := func() (context.Context, context.CancelFunc) { // for all files of all logins
		return context.WithTimeout(context.WithoutCancel(ctx), kubeconfigPatience)
	}
	ran := false
	err := change(ctx, c, store, func() error {
		ran = true
		files, cancel := patience()
		defer cancel()
		proxies, err := which()
		for _, proxy := range proxies {
			remove(files, proxy, nil)
		}
		if c.Bool("all") {
			err = errors.Join(err, store.UnsetCurrent())
		}
		return err
	})
	if ran || ctx.Err() != nil {
		return gone, err
	}
	proxies, listed := which()
	if len(proxies) == 0 {
		return nil, listed
	}
	files, cancel := patience()
	defer cancel()
	for _, proxy := range proxies {
		remove(files, proxy, err) // its file stays, but its session ends
	}
	return gone, nil
}

// end ends the sessions on their servers, and says what came of it.
func end(ctx context.Context, c *cliapp.Call, gone []*left) error {
	var profiles []*profile.Profile
	for _, l := range gone {
		if l.p != nil {
			profiles = append(profiles, l.p)
		}
	}
	ended := endAll(ctx, profiles, endSession, waiting(c))
	var failed []error
	for _, l := range gone {
		if l.p != nil {
			err := ended[0]
			ended = ended[1:]
			if err == nil && l.files == nil {
				c.Printf("Logged out %s from %s.\n", l.p.User, l.proxy)
			}
			failed = append(failed, err)
		}
		if l.damaged && l.files == nil {
			c.Notef("The login at %s could not be read; it is removed.", l.proxy)
			if l.unnoted && !c.Bool("forget") {
				c.Notef("If it said which authority you trust there, that is forgotten: the next login decides anew.")
			}
		}
		failed = append(failed, l.err())
	}
	return errors.Join(failed...)
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

// endSession ends the session on its server, and gives up after logoutPatience.
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
