package agent

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// maxChain bounds how much of a server's chain is looked at.
const maxChain = 8

// trustError says that who answers at the proxy's address is not known to be
// Sallyport. No secret was sent to it.
type trustError struct{ message string }

func (e *trustError) Error() string { return e.message }

// trust says whom to believe before there is an identity.
type trust struct {
	addr, web string // what people typed, and the host in it
	// name is asked for, and must be the certificate's: web, or with pins and a public
	// certificate there the one that the host CA signs for on every cluster
	// (api.JoinServerName).
	name     string
	pins     []string
	roots    *x509.CertPool // nil: the machine's
	insecure bool
	// asking is for the question who is there, beside pins: it goes to whom the machine
	// trusts for the name, or the pinned authority has signed for, whatever the name.
	asking bool
	now    func() time.Time
}

// config makes the handshake fail before anything is sent.
func (t trust) config() *tls.Config {
	return &tls.Config{
		ServerName: t.name, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, Time: t.now,
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection does it, by pin or by roots
		VerifyConnection:   t.verify,
	}
}

func (t trust) verify(cs tls.ConnectionState) error {
	if t.insecure {
		return nil
	}
	chain := cs.PeerCertificates
	if len(chain) == 0 {
		return &trustError{t.addr + " shows no certificate: no token was sent to it"}
	}
	chain = chain[:min(len(chain), maxChain)]
	if len(t.pins) == 0 {
		return t.byRoots(chain)
	}
	if t.asking && (t.oneOf(chain) || t.verifyRoots(chain, t.web) == nil) {
		return nil
	}
	return t.byPins(chain)
}

// pinned says whether a pinned authority signed the certificate for the name.
func (t trust) pinned(chain []*x509.Certificate) bool {
	return len(chain) > 0 && t.byPins(chain[:min(len(chain), maxChain)]) == nil
}

func (t trust) byPins(chain []*x509.Certificate) error {
	var reason error
	for _, ca := range chain[1:] {
		if !slices.Contains(t.pins, api.Pin(ca)) {
			continue
		}
		// Anyone can show a pinned certificate beside one that it did not sign.
		err := t.chainTo(chain, ca, t.name)
		if err == nil {
			return nil
		}
		reason = err
	}
	if reason != nil {
		if _, unknown := errors.AsType[x509.UnknownAuthorityError](reason); unknown {
			reason = errors.New("the pinned authority did not sign it")
		} else if _, other := errors.AsType[x509.HostnameError](reason); other && t.oneOf(chain) {
			return &trustError{fmt.Sprintf("%s is of the authority that --ca-pin names, but has no certificate for %s: no token was sent to it. "+
				"Its version is older than this agent's: upgrade it", t.addr, t.name)}
		}
		return &trustError{fmt.Sprintf("%s shows a certificate that is not good for %s%s: no token was sent to it (%v)", t.addr, t.name, t.clock(chain[0]), reason)}
	}
	if t.verifyRoots(chain, t.web) == nil {
		return &trustError{fmt.Sprintf("%s shows no certificate of the authority that --ca-pin names, but one that this machine trusts: no token was sent to it. "+
			"Something on the way ends TLS (have it pass TCP through), or Sallyport is older than this agent (upgrade it, or leave --ca-pin out)", t.addr)}
	}
	own := ""
	if t.asking {
		own = "if the certificate is of an authority of your own, as by a private ACME server, have this machine trust it (SSL_CERT_FILE) beside the pin, " +
			"in the chart by tls.existingCASecretName beside caPin; "
	}
	return &trustError{fmt.Sprintf("%s is not who --ca-pin names: no token was sent to it; pinned: %v, seen: %s. "+
		"Compare with 'tctl status': if the CA was replaced, give the new pin; %sif not, somebody is between you and Sallyport", t.addr, t.pins, t.seen(chain), own)}
}

// oneOf says whether a pinned authority signed the certificate, for whatever name.
func (t trust) oneOf(chain []*x509.Certificate) bool {
	return slices.ContainsFunc(chain[1:], func(ca *x509.Certificate) bool {
		return slices.Contains(t.pins, api.Pin(ca)) && t.chainTo(chain, ca, "") == nil
	})
}

// verifyRoots verifies the chain by what the machine trusts.
func (t trust) verifyRoots(chain []*x509.Certificate, name string) error {
	opts := x509.VerifyOptions{Roots: t.roots, Intermediates: x509.NewCertPool(), DNSName: name, CurrentTime: t.now()}
	for _, cert := range chain[1:] {
		opts.Intermediates.AddCert(cert)
	}
	_, err := chain[0].Verify(opts)
	return err
}

func (t trust) byRoots(chain []*x509.Certificate) error {
	err := t.verifyRoots(chain, t.name)
	if err == nil {
		return nil
	}
	if _, unknown := errors.AsType[x509.UnknownAuthorityError](err); unknown {
		return &trustError{fmt.Sprintf("the certificate of %s is signed by an authority this machine does not know: no token was sent to it. "+
			"If it is your Sallyport, name its CA: --ca-pin=PIN, as 'tctl status' prints it (caPin in the chart); if its certificate is of an authority of your own, "+
			"as by a private ACME server, have this machine trust that, too (SSL_CERT_FILE; tls.existingCASecretName in the chart); seen: %s", t.addr, t.seen(chain))}
	}
	return &trustError{fmt.Sprintf("the certificate of %s is not good for it%s: no token was sent to it (%v)", t.addr, t.clock(chain[0]), err)}
}

// chainTo verifies the chain as if root were the only authority; without a name,
// for any.
func (t trust) chainTo(chain []*x509.Certificate, root *x509.Certificate, name string) error {
	opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), DNSName: name, CurrentTime: t.now()}
	opts.Roots.AddCert(root)
	for _, cert := range chain[1:] {
		opts.Intermediates.AddCert(cert)
	}
	_, err := chain[0].Verify(opts)
	return err
}

// seen is the pin of the authority that the server shows and that signed its
// certificate.
func (t trust) seen(chain []*x509.Certificate) string {
	for _, ca := range chain[1:] {
		if ca.IsCA && t.chainTo(chain, ca, "") == nil {
			return api.Pin(ca)
		}
	}
	return "no authority at all"
}

// clock blames this machine's clock where that may be what is wrong.
func (t trust) clock(leaf *x509.Certificate) string {
	if now := t.now(); now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		return fmt.Sprintf(" by this machine's clock, which says %s (is it right?)", now.UTC().Format(time.RFC3339))
	}
	return ""
}

// parsePins gives the one spelling of each pin.
func parsePins(pins []string) ([]string, error) {
	var out []string
	for _, pin := range pins {
		p, err := api.ParsePin(pin)
		if err != nil {
			return nil, &OptionError{"ca-pin", err}
		}
		out = append(out, p)
	}
	return out, nil
}
