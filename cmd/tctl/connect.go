package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/client"
	"github.com/sallyport-dev/sallyport/internal/client/profile"
)

// way says what the user wants to reach a replica by: flags win over the
// environment, and a socket over a login.
type way struct {
	socket, proxy string
	from          string // what named it: "--proxy", "SALLYPORT_SOCKET"; "": nothing did
	typed         bool   // it was on the command line
}

func wayOf(c *cliapp.Call) (way, error) {
	socket, proxy := c.String("socket"), c.String("proxy")
	switch {
	case socket != "" && proxy != "" && c.Typed("socket") && c.Typed("proxy"):
		return way{}, api.Errorf(api.CodeInvalid, "--socket and --proxy are two ways to reach a replica: give one")
	case socket != "" && (proxy == "" || !c.Typed("proxy")):
		return way{socket: socket, from: c.Source("socket"), typed: c.Typed("socket")}, nil
	case proxy != "":
		return way{proxy: proxy, from: c.Source("proxy"), typed: c.Typed("proxy")}, nil
	}
	return way{}, nil
}

// replica is one that answers to tctl.
type replica struct {
	*client.Client
	asked   string // for errors: "tctl asked tele.example.com:443 as alice (--proxy)"; "" on a socket, which errors name themselves
	session string // the id of the login's own session; "" on a socket
	again   string // the command to log in again; "" on a socket
	hint    string // for errors: what named the socket, or another way that is there
}

// withReplica runs fn with the replica that the flags, the environment or what is
// on this machine lead to. Errors that depend on the way say which was taken.
func withReplica(c *cliapp.Call, fn func(r *replica) error) error {
	w, err := wayOf(c)
	if err != nil {
		return err
	}
	return withReplicaBy(c, w, scripted(c), fn)
}

// withReplicaBy is withReplica by a way that is known. quiet: nothing is written beside
// the answer.
func withReplicaBy(c *cliapp.Call, w way, quiet bool, fn func(r *replica) error) error {
	r, err := w.open(os.Getenv, time.Now())
	if err != nil {
		return err
	}
	defer r.Close()
	if !quiet {
		r.OnUnsettled = func(servers []string) {
			c.Warnf("done, but not confirmed within a second by %s: what was before may hold there until it hears of it, or until --max-stale has passed", strings.Join(servers, ", "))
		}
		r.OnWarning = func(text string) { c.Warnf("%s", text) }
	}
	return r.explain(fn(r))
}

// explain adds to an error which way was taken, once.
func (r *replica) explain(err error) error {
	code := api.CodeOf(err)
	if code == api.CodeUnauthenticated && r.again != "" {
		err = api.Errorf(code, "%s; log in again: %s", profile.Reason(err), r.again)
		r.again = ""
	}
	text := cmp.Or(r.asked, r.hint)
	about := code == api.CodeForbidden || code == api.CodeUnauthenticated || code == api.CodeUnavailable // rather than about what was asked for
	if text == "" || !about {
		return err
	}
	r.asked, r.hint = "", ""
	return api.Errorf(code, "%w; %s", err, text)
}

func (w way) open(getenv func(string) string, now time.Time) (*replica, error) {
	if w.socket != "" {
		r := openSocket(w.socket)
		if w.from != "" && !w.typed {
			r.hint = w.from + " names this socket"
		}
		return r, nil
	}
	store, notLoggedIn := openLogins(getenv)
	current := ""
	switch {
	case w.proxy != "" && notLoggedIn != nil:
		return nil, notLoggedIn
	case w.proxy != "":
		return openLogin(store, w.proxy, w.from, now)
	case notLoggedIn == nil: // a socket needs no home, as a service's tctl has none
		current, notLoggedIn = store.Current()
	}
	home, _ := os.UserHomeDir() // "": none, and then no socket in it
	var without []string        // why there is none
	for _, path := range client.Sockets(getenv, home) {
		switch _, err := os.Stat(path); {
		case errors.Is(err, fs.ErrPermission):
			without = append(without, path+" is for root and the replica's own user")
			continue
		case err != nil:
			without = append(without, "there is no "+path)
			continue
		}
		r := openSocket(path)
		if notLoggedIn == nil {
			r.hint = "to go by your login of tsh instead, give --proxy=" + current
		}
		return r, nil
	}
	if notLoggedIn == nil {
		return openLogin(store, current, "the last login of tsh, as there is no replica's socket here", now)
	}
	return nil, api.Errorf(api.CodeUnavailable, "no way to a replica: run tctl where one runs (%s), name its socket with --socket (SALLYPORT_SOCKET), "+
		"or log in with 'tsh login --proxy=HOST' and then give --proxy (SALLYPORT_PROXY) or nothing", strings.Join(without, ", "))
}

func openLogins(getenv func(string) string) (*profile.Store, error) {
	dir, err := profile.DefaultDir(getenv)
	if err != nil {
		return nil, err
	}
	return profile.Open(dir), nil
}

func openSocket(path string) *replica {
	return &replica{Client: client.NewUnix(path, agent())}
}

func openLogin(store *profile.Store, proxy, from string, now time.Time) (*replica, error) {
	p, err := store.Load(proxy)
	if err != nil {
		return nil, api.Errorf(api.CodeOf(err), "%w (%s)", err, from)
	}
	if !p.Valid(now) {
		return nil, api.Errorf(api.CodeUnauthenticated, "the login of %s at %s has expired: run '%s' (%s)", p.User, p.Proxy, p.LoginLine(), from)
	}
	cl, err := profile.APIClient(p, agent())
	if err != nil {
		return nil, err
	}
	return &replica{Client: cl, asked: fmt.Sprintf("tctl asked %s as %s (%s)", p.Proxy, p.User, from), session: p.SessionID, again: p.LoginLine()}, nil
}

func agent() string { return "tctl/" + version }
