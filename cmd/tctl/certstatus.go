package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// certificateStates are the lines of status about certificates: all about that of the
// name that users type, and one line for each other name.
func certificateStates(s *api.Status, now time.Time) [][2]string {
	lines := certificateState(s.Certificate, now)
	for i, is := range s.Certificates {
		if i == 0 {
			continue // that is s.Certificate
		}
		text := certifiedNames(&is) + ": " + certificateState(&is, now)[0][1]
		if is.LastError != "" {
			text += "; " + oneLine(is.LastError, mostWhat)
		}
		lines = append(lines, [2]string{"  beside it", text})
	}
	return lines
}

// certificateState are the lines of status about what the web name shows.
func certificateState(is *api.WebCertificate, now time.Time) (lines [][2]string) {
	if is == nil {
		return nil // an older replica, or one that has no authority yet
	}
	add := func(name, format string, args ...any) {
		lines = append(lines, [2]string{name, fmt.Sprintf(format, args...)})
	}
	issuer := ""
	if is.Issuer != "" {
		issuer = ", signed by " + oneLine(is.Issuer, mostName)
	}
	until := is.NotAfter.UTC().Format(time.DateOnly)
	switch {
	case is.Source == api.CertificateHostCA:
		add("Certificate", "the cluster's own host CA signs it: browsers don't know that, tsh asks once for the CA pin")
	case is.State == api.CertificateExpired && is.NotAfter.IsZero():
		add("Certificate", "none")
	case is.State == api.CertificateExpired:
		add("Certificate", "EXPIRED on %s%s", until, issuer)
	case is.State == api.CertificateNone:
		add("Certificate", "none yet: the first TLS connection for %s orders it%s", certifiedNames(is), orderedAt(is))
	case is.State == api.CertificateOrdering && is.NotAfter.IsZero():
		add("Certificate", "being ordered for %s%s", certifiedNames(is), orderedAt(is))
	case is.NotAfter.IsZero():
		add("Certificate", "none: it could not be had for %s%s", certifiedNames(is), orderedAt(is))
	default:
		text := fmt.Sprintf("valid until %s%s", until, issuer)
		switch {
		case is.Source == api.CertificateFile:
			text += ", from a file"
		case !is.RenewAfter.IsZero():
			text += ", renewed from " + is.RenewAfter.UTC().Format(time.DateOnly) + " on"
		}
		add("Certificate", "%s", text)
	}
	if is.LastError != "" {
		lines = append(lines, certificateFault(is, now)...)
	}
	return lines
}

// certificateFault says what is wrong, when it is tried again and what to do.
func certificateFault(is *api.WebCertificate, now time.Time) [][2]string {
	text := oneLine(is.LastError, 2*mostWhat)
	if !is.LastErrorAt.IsZero() {
		text += fmt.Sprintf(" (%s ago)", howLong(now.Sub(is.LastErrorAt)))
	}
	if is.Failures > 1 {
		text += fmt.Sprintf("; %d failures in a row", is.Failures)
	}
	lines := [][2]string{{"Cert fault", text}}
	if is.Source == api.CertificateFile {
		return append(lines, [2]string{"What to do", "write a certificate and the key that goes with it: both are read again within 10 s"})
	}
	next := "the next TLS connection for " + certifiedNames(is) + " tries again"
	if wait := is.NextTry.Sub(now); wait > 0 {
		next = fmt.Sprintf("in %s, or sooner if the name's addresses change", howLong(wait))
	}
	meanwhile := "; until then the host CA's certificate is shown"
	if is.State != api.CertificateExpired && is.NotAfter.After(now) {
		meanwhile = "; until then the one there is stays in use"
	}
	return append(lines, [2]string{"Next try", next + meanwhile}, [2]string{"What to do", certificateRemedy(is)})
}

// certificateRemedy says what to do about what certificateFault says, and nothing that
// the fault says itself.
func certificateRemedy(is *api.WebCertificate) string {
	said := func(types ...string) bool { // by the authority (RFC 8555 section 6.7)
		return !is.Refused && slices.ContainsFunc(types, func(t string) bool {
			return strings.Contains(is.LastError, "urn:ietf:params:acme:error:"+t)
		})
	}
	switch {
	case strings.HasPrefix(is.LastError, "read the ACME directory "): // the authority wasn't asked yet
		return "see that the replicas reach that address, that --acme-uri is right, and that --acme-ca-file has the CA that signs for it if the machine doesn't know it; then run 'tctl acme retry'"
	case said("connection", "timeout", "unauthorized", "tls"):
		return "let everybody reach the replicas at port 443 of " + certifiedNames(is) + " (or 80), then run 'tctl acme retry'"
	case said("dns"):
		return "see that the public DNS leads " + certifiedNames(is) + " to the replicas, then run 'tctl acme retry'"
	case said("rateLimited"):
		return "wait: the authority has had too many orders, and says no to more of them"
	}
	return "mend that, then run 'tctl acme retry'"
}

func certifiedNames(is *api.WebCertificate) string {
	var names []string
	for _, n := range is.Names {
		names = append(names, oneLine(n, mostName))
	}
	if len(names) == 0 {
		return "the cluster's name"
	}
	return strings.Join(names, " and ")
}

func orderedAt(is *api.WebCertificate) string {
	if is.Directory == "" {
		return ""
	}
	return ", from " + oneLine(is.Directory, mostWhat)
}
