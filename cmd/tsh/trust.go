package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/client"
	"github.com/sallyport-dev/sallyport/internal/client/profile"
)

// connect asks the web name who it is, and finds out whether to trust it: by the
// flags, by what was trusted there before, by the system's roots, or by asking
// the person. No secret is sent before that. What was decided is kept at once,
// whatever becomes of the login.
func connect(ctx context.Context, c *cliapp.Call, store *profile.Store, p *profile.Profile) (*client.Client, *api.Ping, error) {
	known, err := store.Authority(p.Proxy)
	if err != nil && (c.Bool("insecure") || !c.Typed("ca-pin") && !c.Typed("ca-file")) {
		return nil, nil, err // a login would take the place of what can't be read, and say nobody
	}
	opts, err := trust(c, p, known)
	if err != nil {
		return nil, nil, err
	}
	web, ping, err := dial(ctx, c, p.Proxy, opts)
	unknown, ok := errors.AsType[*client.AuthorityError](err)
	if ok {
		if unknown.Pinned != "" {
			return nil, nil, explainChange(c, p.Proxy, known, unknown)
		}
		if err := askTrust(ctx, c, unknown); err != nil {
			return nil, nil, err
		}
		p.CAPin = unknown.Presented.Pin
		opts.Pin = p.CAPin
		web, ping, err = dial(ctx, c, p.Proxy, opts)
	}
	if err != nil {
		return nil, nil, err
	}
	now := profile.Authority{Version: known.Version, CAPin: p.CAPin, WebCAs: p.WebCAs}
	if now.Nobody() || now == known && store.Noted(p.Proxy) {
		return web, ping, nil
	}
	if err := change(ctx, c, store, func() error { return store.Trust(p.Proxy, now) }); err != nil {
		web.Close()
		return nil, nil, err
	}
	return web, ping, nil
}

// dial makes a client that stays open if the cluster answers.
func dial(ctx context.Context, c *cliapp.Call, proxy string, opts client.WebOptions) (*client.Client, *api.Ping, error) {
	web, err := client.NewWeb(proxy, opts)
	if err != nil {
		return nil, nil, err
	}
	defer waitingFor(c, proxy)()
	answer, err := web.Ping(ctx)
	if err != nil {
		web.Close()
		return nil, nil, err
	}
	return web, answer, nil
}

// pins are those of the authorities that are trusted.
func pins(known profile.Authority) []string {
	if known.CAPin != "" {
		return []string{known.CAPin}
	}
	var out []string
	for rest := []byte(known.WebCAs); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return out
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			out = append(out, api.Pin(cert))
		}
	}
}

// trust turns flags and what was trusted before into options, and notes in p what
// the next login should trust. --insecure is never noted. A pin that was accepted
// once gives way to what is typed, but not to the environment or a file of
// settings: they may be somebody else's, and are soon forgotten.
func trust(c *cliapp.Call, p *profile.Profile, known profile.Authority) (client.WebOptions, error) {
	opts := client.WebOptions{Insecure: c.Bool("insecure"), Agent: agent()}
	pin, file := c.String("ca-pin"), c.String("ca-file")
	if c.Typed("ca-file") && c.Typed("ca-pin") {
		return opts, api.Errorf(api.CodeInvalid, "give --ca-pin or --ca-file, not both")
	}
	if c.Typed("ca-file") {
		pin = "" // the line typed says more than the environment
	}
	if pin != "" {
		var err error
		if pin, err = api.ParsePin(pin); err != nil {
			return opts, api.Errorf(api.CodeInvalid, "%s: %w", c.Source("ca-pin"), err)
		}
		if trusted := pins(known); !known.Nobody() && !slices.Contains(trusted, pin) && !c.Typed("ca-pin") && !opts.Insecure {
			return opts, api.Errorf(api.CodeForbidden, "%s names ANOTHER AUTHORITY for %s than the one you trusted: nothing was sent to it\n"+
				"  %-*s %s\n  %s: %s\n%s", c.Source("ca-pin"), p.Proxy, len(c.Source("ca-pin"))+1, "trusted:", strings.Join(trusted, ", "), c.Source("ca-pin"), pin, decideAnew(p.Proxy))
		}
	}
	switch {
	case opts.Insecure:
		p.WebCAs, p.CAPin = known.WebCAs, known.CAPin
	case pin != "" && (known.WebCAs == "" || c.Typed("ca-pin")):
		p.CAPin = pin
	case pin != "": // of an authority in the file trusted: narrower, as long as the environment says so
		p.WebCAs, p.CAPin, opts.Pin = known.WebCAs, known.CAPin, pin
		return opts, nil
	// A file gives way to another of the environment or of settings, as a pin does
	// not: that is how administrators replace one for all their people, and what is
	// noted does not say who named it.
	case file != "" && (known.CAPin == "" || c.Typed("ca-file")):
		content, err := os.ReadFile(file) //nolint:gosec // the user's own file, named by the user
		if err != nil {
			return opts, api.Errorf(api.CodeInvalid, "--ca-file: %w", err)
		}
		certs, err := client.Certificates(content)
		if err != nil {
			return opts, api.Errorf(api.CodeInvalid, "--ca-file %s: %w", file, err)
		}
		p.WebCAs = string(certs)
	default:
		p.WebCAs, p.CAPin = known.WebCAs, known.CAPin
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
		return api.Errorf(api.CodeForbidden, "%w, and it does not show that authority's certificate; if it is your own, pass it with --ca-file (SALLYPORT_CA_FILE)", unknown)
	}
	if !c.Interactive() {
		return api.Errorf(api.CodeForbidden, "%w; if its pin is the \"CA pin\" that 'tctl status' prints, add --ca-pin=%s (SALLYPORT_CA_PIN), or pass its certificate with --ca-file=FILE; if the cluster is to have a public certificate by ACME, 'tctl status' says why it has none yet", unknown, shown.Pin)
	}
	c.Notef("The certificate of %s is signed by an authority that this machine does not know.\n", unknown.Addr)
	c.Notef("  Host:       %s", unknown.Addr)
	c.Notef("  Authority:  %s", shown.Subject)
	c.Notef("  CA pin:     %s\n", shown.Pin)
	c.Notef("Compare the pin with the \"CA pin\" that 'tctl status' prints on a replica, or with the one your\n" +
		"administrator gave you. If they differ, somebody may be between you and the cluster: answer no.\n" +
		"If the cluster is to have a public certificate by ACME, it has none yet: answer no, and see\n" +
		"'tctl status' there for why.")
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
func explainChange(c *cliapp.Call, proxy string, known profile.Authority, e *client.AuthorityError) error {
	now := "none; its certificate may be a public one now, which 'tsh login' verifies by itself"
	if e.Presented != nil {
		now = e.Presented.Pin
	}
	if source := c.Source("ca-pin"); c.Typed("ca-pin") || known.CAPin == "" {
		width := max(len(source+":"), len("presented:"))
		return api.Errorf(api.CodeForbidden, "the authority of %s is NOT the one that %s names: nothing was sent to it\n"+
			"  %-*s %s\n  %-*s %s\n"+
			"The right pin is the \"CA pin\" that 'tctl status' prints on a replica. If %s is right, somebody may be between you and the cluster.",
			e.Addr, source, width, source+":", e.Pinned, width, "presented:", now, source)
	}
	return api.Errorf(api.CodeForbidden, "THE AUTHORITY OF %s HAS CHANGED since you trusted it: nothing was sent to it\n"+
		"  trusted:   %s\n  presented: %s\n%s", e.Addr, e.Pinned, now, decideAnew(proxy))
}

// decideAnew says how to trust another authority than before.
func decideAnew(proxy string) string {
	return "Either the cluster got another authority, or somebody is between you and it. Compare the new pin with the\n" +
		"\"CA pin\" that 'tctl status' prints on a replica. Only if they are the same, forget the old one and log in again:\n" +
		"  tsh logout --forget --proxy=" + proxy + "\n  tsh login --proxy=" + proxy
}
