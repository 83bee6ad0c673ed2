package pki

import (
	"container/list"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// HostOptions are the options of NewHostCertificates.
type HostOptions struct {
	// Authority gives the host CA that signs at present. Required.
	Authority func() (*Authority, error)
	// Allowed says whether a certificate for the name (lower-case, no final
	// dot; or an IP address) may be made. Strangers choose SNI names freely, so
	// nil allows none.
	Allowed    func(name string) bool
	Clock      func() time.Time // time.Now
	TTL        time.Duration    // 7 days; minted anew after half of it
	MaxEntries int              // 256
}

// HostCertificates mints host certificates for SNI names on demand and keeps
// the most recently used. All share one key that never leaves the process.
type HostCertificates struct {
	opts HostOptions

	mu      sync.Mutex
	key     *ecdsa.PrivateKey
	entries map[string]*list.Element // of *hostEntry
	recent  *list.List
}

type hostEntry struct {
	name   string
	cert   *tls.Certificate
	issuer *x509.Certificate
	renew  time.Time
}

// NewHostCertificates makes an empty cache.
func NewHostCertificates(o HostOptions) *HostCertificates {
	if o.Allowed == nil {
		o.Allowed = func(string) bool { return false }
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.TTL <= 0 {
		o.TTL = 7 * 24 * time.Hour
	}
	if o.MaxEntries <= 0 {
		o.MaxEntries = 256
	}
	return &HostCertificates{opts: o, entries: map[string]*list.Element{}, recent: list.New()}
}

// Certificate gives the certificate for a name that a client asks for.
func (h *HostCertificates) Certificate(serverName string) (*tls.Certificate, error) {
	name := strings.TrimSuffix(strings.ToLower(serverName), ".")
	ip, ipErr := netip.ParseAddr(name)
	if ipErr != nil && !api.IsDNSName(name) || !h.opts.Allowed(name) {
		return nil, api.Errorf(api.CodeNotFound, "no certificate for server name %q", serverName)
	}
	ca, err := h.opts.Authority()
	if err != nil {
		return nil, err
	}
	now := h.opts.Clock()
	h.mu.Lock()
	defer h.mu.Unlock()
	if el, ok := h.entries[name]; ok {
		e := el.Value.(*hostEntry)
		if e.issuer.Equal(ca.Cert) && now.Before(e.renew) {
			h.recent.MoveToFront(el)
			return e.cert, nil
		}
		h.drop(el)
	}
	var dns []string
	var ips []net.IP
	if ipErr == nil {
		ips = []net.IP{ip.Unmap().AsSlice()}
	} else {
		dns = []string{name}
	}
	cert, err := h.mint(ca, dns, ips, now)
	if err != nil {
		return nil, err
	}
	h.entries[name] = h.recent.PushFront(&hostEntry{name: name, cert: cert, issuer: ca.Cert, renew: now.Add(h.opts.TTL / 2)})
	if h.recent.Len() > h.opts.MaxEntries {
		h.drop(h.recent.Back())
	}
	return cert, nil
}

func (h *HostCertificates) drop(el *list.Element) {
	h.recent.Remove(el)
	delete(h.entries, el.Value.(*hostEntry).name)
}

func (h *HostCertificates) mint(ca *Authority, dns []string, ips []net.IP, now time.Time) (*tls.Certificate, error) {
	if h.key == nil {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("make the host key: %w", err)
		}
		h.key = key
	}
	// Valid since the CA is, not since now: a replica whose clock is ahead would
	// otherwise show what nobody accepts yet, and go on showing it once set right.
	der, err := ca.SignHost(h.key.Public(), dns, ips, ca.Cert.NotBefore, now.Add(h.opts.TTL))
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse a host certificate of our own: %w", err)
	}
	// The CA goes along although whoever verifies has it: at a first login tsh has
	// nothing yet but the CA's pin, and must see what it pins.
	return &tls.Certificate{Certificate: [][]byte{der, ca.Cert.Raw}, PrivateKey: h.key, Leaf: leaf}, nil
}
