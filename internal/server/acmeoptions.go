package server

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"net/mail"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// checkACME looks at each option about the ACME authority by itself.
func (o *Options) checkACME() error {
	if o.ACMEEmail != "" && !isEmail(o.ACMEEmail) {
		return optionErrorf("acme-email", "%q is no e-mail address: write one such as ops@example.com", o.ACMEEmail)
	}
	if o.ACMEURI != "" {
		// No exemption for loopback: RFC 8555 section 6.1 knows none.
		if _, err := api.HTTPSURL(o.ACMEURI, true); err != nil {
			return optionErrorf("acme-uri", "want the https address of an ACME authority's directory, such as https://ca.example.com/acme/directory, without user, password and #")
		}
	}
	if addr := o.acmeHTTPAddr(); addr != "" {
		if _, _, err := splitHostPort(addr); err != nil {
			return &OptionError{"acme-http-addr", err}
		}
	}
	switch o.ACMEPreflight {
	case "", acmePreflightOn, ACMEPreflightOff:
	default:
		return optionErrorf("acme-preflight", "%q is none of on, off", o.ACMEPreflight)
	}
	if o.ShutdownDelay < 0 {
		return optionErrorf("shutdown-delay", "%s is less than nothing: write 0, or a duration such as 5s", o.ShutdownDelay)
	}
	if o.DrainTimeout < 0 {
		return optionErrorf("drain-timeout", "%s is less than nothing: write a duration such as 20s", o.DrainTimeout)
	}
	return nil
}

// ACMEPreflightOff orders whatever answers at a name: a proxy in front of the cluster
// that ends TLS itself, or that lets through no name but the configured.
const (
	acmePreflightOn  = "on"
	ACMEPreflightOff = "off"
)

// ACMEHTTPOff is the same as no address. An empty environment variable counts as
// none, so a word is needed to say it there.
const ACMEHTTPOff = "off"

// acmeHTTPAddr is where HTTP-01 is answered; "": nowhere.
func (o *Options) acmeHTTPAddr() string {
	if o.ACMEHTTPAddr == ACMEHTTPOff {
		return ""
	}
	return o.ACMEHTTPAddr
}

// checkACMENames refuses what no authority would certify, before a user finds out by
// the first handshake. An authority of one's own knows names that the public does not.
func (o *Options) checkACMENames() error {
	if !o.ACME {
		return nil
	}
	public := o.ACMEURI == ""
	if why := uncertifiable(o.ClusterName, public); why != "" {
		return optionErrorf("acme", "no ACME authority signs a certificate for the cluster name %q, which is %s: give a --cluster-name that the public DNS knows, such as tele.example.com, or leave --acme out", o.ClusterName, why)
	}
	host := api.Hostname(o.PublicAddr)
	if _, err := netip.ParseAddr(host); err == nil {
		return nil // not ordered; the cluster's name is
	}
	if why := uncertifiable(host, public); why != "" {
		return optionErrorf("acme", "no ACME authority signs a certificate for the host of --public-addr, %q, which is %s: give a name that the public DNS knows, or leave --acme out", host, why)
	}
	return nil
}

// uncertifiable says why an authority signs nothing for a name; "": it may.
func uncertifiable(name string, public bool) string {
	_, ip := netip.ParseAddr(name)
	switch last := name[strings.LastIndexByte(name, '.')+1:]; {
	case ip == nil:
		return "an address"
	case last == "localhost":
		return "this machine's own"
	case !api.IsDNSName(name):
		return "no lower-case DNS name"
	case !public:
		return ""
	case last == name:
		return "a single word"
	// Special-use names that never lead anywhere in the public DNS (RFC 6761, 6762,
	// 7686, 8375, 9476, and ICANN's internal).
	case slices.Contains([]string{"local", "internal", "test", "invalid", "example", "onion", "alt"}, last), strings.HasSuffix(name, ".home.arpa"):
		return "not in the public DNS"
	}
	return ""
}

// acmeNames are the names that are ordered: the cluster's, and the host that users
// type if it is another.
func (o *Options) acmeNames() []string {
	names := []string{o.ClusterName}
	if host := api.Hostname(o.PublicAddr); host != o.ClusterName && api.IsDNSName(host) {
		if _, err := netip.ParseAddr(host); err != nil {
			names = append(names, host)
		}
	}
	return names
}

func isEmail(s string) bool {
	a, err := mail.ParseAddress(s)
	if err != nil || a.Address != s || strings.ContainsAny(s, " ,<>\"?&") { // it becomes a mailto: URL
		return false
	}
	_, domain, _ := strings.Cut(s, "@")
	return api.IsDNSName(strings.ToLower(domain))
}

// acmeRoots are whom the ACME server is trusted by: the machine's roots and those
// of --acme-ca-file, and what tells them from those of another file. Nil: the machine's.
func (o *Options) acmeRoots() (roots *x509.CertPool, id string, err error) {
	if !o.ACME || o.ACMECAFile == "" {
		return nil, "", nil
	}
	b, err := os.ReadFile(o.ACMECAFile)
	if err != nil {
		return nil, "", optionErrorf("acme-ca-file", "%w", err)
	}
	if roots, err = x509.SystemCertPool(); err != nil {
		roots = x509.NewCertPool() // there are none: the file's are all
	}
	all := sha256.New()
	for rest := b; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, "", optionErrorf("acme-ca-file", "%s: a certificate in it does not parse: %w", o.ACMECAFile, err)
		}
		roots.AddCert(cert)
		_, _ = all.Write(cert.Raw)
		id = hex.EncodeToString(all.Sum(nil))
	}
	if id == "" {
		return nil, "", optionErrorf("acme-ca-file", "there is no PEM certificate in %s", o.ACMECAFile)
	}
	return roots, id, nil
}
