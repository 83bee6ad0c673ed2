package main

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/client"
	"github.com/sallyport-dev/sallyport/internal/client/profile"
)

// connect asks the web name who it is, and finds out whether to trust it: by the
// flags, by what was trusted at the last login there, by the system's roots, or
// by asking the person. No secret is sent before that.
func connect(ctx context.Context, c *cliapp.Call, p, old *profile.Profile) (*client.Client, *api.Ping, error) {
	opts, err := trust(c, p, old)
	if err != nil {
		return nil, nil, err
	}
	web, ping, err := dial(ctx, p.Proxy, opts)
	unknown, ok := errors.AsType[*client.AuthorityError](err)
	switch {
	case !ok:
		return web, ping, err
	case unknown.Pinned != "":
		return nil, nil, explainChange(c, p.Proxy, unknown)
	}
	if err := askTrust(ctx, c, unknown); err != nil {
		return nil, nil, err
	}
	p.CAPin = unknown.Presented.Pin
	opts.Pin = p.CAPin
	return dial(ctx, p.Proxy, opts)
}

// dial makes a client that stays open if the cluster answers.
func dial(ctx context.Context, proxy string, opts client.WebOptions) (*client.Client, *api.Ping, error) {
	web, err := client.NewWeb(proxy, opts)
	if err != nil {
		return nil, nil, err
	}
	answer, err := web.Ping(ctx)
	if err != nil {
		web.Close()
		return nil, nil, err
	}
	return web, answer, nil
}

// trust turns flags and the last login into options, and notes in p what the
// next login should trust. --insecure is never noted.
func trust(c *cliapp.Call, p, old *profile.Profile) (client.WebOptions, error) {
	opts := client.WebOptions{Insecure: c.Bool("insecure"), Agent: agent()}
	pin, file := c.String("ca-pin"), c.String("ca-file")
	if pin != "" && file != "" && c.Typed("ca-file") && c.Typed("ca-pin") {
		return opts, api.Errorf(api.CodeInvalid, "give --ca-pin or --ca-file, not both")
	}
	if pin != "" && c.Typed("ca-file") {
		pin = "" // the line typed says more than the environment
	}
	switch {
	case pin != "":
		var err error
		if p.CAPin, err = api.ParsePin(pin); err != nil {
			return opts, api.Errorf(api.CodeInvalid, "--ca-pin: %w", err)
		}
	case file != "":
		pem, err := os.ReadFile(file) //nolint:gosec // the user's own file, named by the user
		if err != nil {
			return opts, api.Errorf(api.CodeInvalid, "--ca-file: %w", err)
		}
		certs, err := client.Certificates(pem)
		if err != nil {
			return opts, api.Errorf(api.CodeInvalid, "--ca-file %s: %w", file, err)
		}
		p.WebCAs = string(certs)
	case old != nil:
		p.WebCAs, p.CAPin = old.WebCAs, old.CAPin
	}
	if opts.Insecure {
		c.Warnf("--insecure: the certificate of %s is NOT verified. Whoever is between you and it can read your password and act as you. Use --ca-pin or --ca-file instead.", p.Proxy)
	}
	opts.CAs, opts.Pin = []byte(p.WebCAs), p.CAPin
	return opts, nil
}

// askTrust lets a person at a terminal judge an authority that nothing here
// vouches for; elsewhere it refuses and says how to go on.
func askTrust(ctx context.Context, c *cliapp.Call, unknown *client.AuthorityError) error {
	shown := unknown.Presented
	if shown == nil {
		return api.Errorf(api.CodeUnavailable, "%w, and it does not show that authority's certificate; if it is your own, pass it with --ca-file (SALLYPORT_CA_FILE)", unknown)
	}
	if !c.Interactive() {
		return api.Errorf(api.CodeUnavailable, "%w; if its pin is the \"CA pin\" that 'tctl status' prints, add --ca-pin=%s (SALLYPORT_CA_PIN), or pass its certificate with --ca-file=FILE", unknown, shown.Pin)
	}
	c.Notef("The certificate of %s is signed by an authority that this machine does not know.\n", unknown.Addr)
	c.Notef("  Host:       %s", unknown.Addr)
	c.Notef("  Authority:  %s", shown.Subject)
	c.Notef("  CA pin:     %s\n", shown.Pin)
	c.Notef("Compare the pin with the \"CA pin\" that 'tctl status' prints on a replica, or with the one your\n" +
		"administrator gave you. If they differ, somebody may be between you and the cluster: answer no.")
	for {
		line, err := c.ReadLine(ctx, "Trust this authority for "+unknown.Addr+"? Type yes, no, or the pin you were given: ")
		if err != nil {
			return err
		}
		switch answer := strings.ToLower(strings.TrimSpace(line)); answer {
		case "yes", shown.Pin:
			return nil
		case "no", "n":
			return api.Errorf(api.CodeForbidden, "not trusted: nothing was sent to %s", unknown.Addr)
		default:
			if _, err := api.ParsePin(answer); err == nil {
				return api.Errorf(api.CodeForbidden, "the pin you typed is NOT that of %s: somebody may be between you and the cluster; nothing was sent", unknown.Addr)
			}
		}
	}
}

// explainChange is the refusal of an authority that is another than the one pinned.
func explainChange(c *cliapp.Call, proxy string, e *client.AuthorityError) error {
	now := "none; its certificate may be a public one now, which 'tsh login' verifies by itself"
	if e.Presented != nil {
		now = e.Presented.Pin
	}
	if c.String("ca-pin") != "" {
		return api.Errorf(api.CodeUnavailable, "the authority of %s is NOT the one that --ca-pin names: nothing was sent to it\n"+
			"  --ca-pin:  %s\n  presented: %s\n"+
			"The right pin is the \"CA pin\" that 'tctl status' prints on a replica. If --ca-pin is right, somebody may be between you and the cluster.",
			e.Addr, e.Pinned, now)
	}
	return api.Errorf(api.CodeUnavailable, "THE AUTHORITY OF %s HAS CHANGED since you trusted it: nothing was sent to it\n"+
		"  trusted:   %s\n  presented: %s\n"+
		"Either the cluster got another authority, or somebody is between you and it. Compare the presented pin with the\n"+
		"\"CA pin\" that 'tctl status' prints on a replica. Only if they are the same, forget the old one and log in again:\n"+
		"  tsh logout --proxy=%s && tsh login --proxy=%s", e.Addr, e.Pinned, now, proxy, proxy)
}
