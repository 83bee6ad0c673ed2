package auth

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/pki"
	"github.com/sallyport-dev/sallyport/internal/seal"
)

// Authorities signs with the cluster's CAs and says who a certificate is.
type Authorities struct {
	base  *base
	keys  *keys
	user  atomic.Pointer[openedAuthority]
	host  atomic.Pointer[openedAuthority]
	agent atomic.Pointer[openedAuthority]
	hosts *pki.HostCertificates
}

// openedAuthority is a CA, unsealed once per record. The record's identity is the
// key, not its revision: a restored backup may have another CA at the same one.
type openedAuthority struct {
	record    *fsm.Record
	authority *pki.Authority
	trusted   []*x509.Certificate // the active one first
	rotation  string
}

func newAuthorities(b *base, secret *seal.Secret, publicHost string) *Authorities {
	a := &Authorities{base: b, keys: &keys{rand: b.rand, secret: secret}}
	a.hosts = pki.NewHostCertificates(pki.HostOptions{
		Authority: func() (*pki.Authority, error) { return a.authority(a.base.db.View(), pki.HostCA) },
		Clock:     func() time.Time { return b.db.View().Now() },
		// Any label below .kube. gets a certificate, known or not: only after
		// the handshake can we answer with a Status that says what is wrong.
		Allowed: func(name string) bool {
			to, label := api.ParseServerName(name, b.clusterName)
			switch to {
			case api.AudienceAPI, api.AudienceJoin, api.AudienceTunnel:
				return true
			case api.AudienceKube:
				if label != "" {
					return true
				}
			case api.AudienceWeb:
			}
			return name == publicHost || name == b.clusterName
		},
	})
	return a
}

// UserCAs are the certificates that user certificates are verified with, for
// ClientCAs of a TLS config.
func (a *Authorities) UserCAs() ([]*x509.Certificate, error) {
	opened, err := a.open(a.base.db.View(), pki.UserCA)
	if err != nil {
		return nil, err
	}
	return opened.trusted, nil
}

// VerifyUser says who shows the certificates of a TLS connection.
func (a *Authorities) VerifyUser(peer []*x509.Certificate) (pki.UserIdentity, error) {
	v := a.base.db.View()
	opened, err := a.open(v, pki.UserCA)
	if err != nil {
		return pki.UserIdentity{}, err
	}
	id, err := pki.VerifyUser(peer, opened.trusted, a.base.clusterName, v.Now())
	if err != nil {
		if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired && len(peer) == 1 && v.Now().After(peer[0].NotAfter) {
			// Nobody vouches for what it says of itself, so what there is of its user is not told.
			if id, perr := pki.ParseUser(peer[0], a.base.clusterName); perr == nil && pki.SignedSessionID(id.SessionID) {
				return pki.UserIdentity{}, errSigned(id.User, "expired on "+second(peer[0].NotAfter), "")
			}
		}
		return pki.UserIdentity{}, api.Errorf(api.CodeUnauthenticated, "%w; log in again: %s", err, a.base.loginLine(""))
	}
	return id, nil
}

// AgentCAs are the certificates that agents' certificates are verified with.
func (a *Authorities) AgentCAs() ([]*x509.Certificate, error) {
	opened, err := a.open(a.base.db.View(), pki.AgentCA)
	if err != nil {
		return nil, err
	}
	return opened.trusted, nil
}

// VerifyAgent says which agent shows the certificates of a TLS connection. What
// that is worth, Agents.Admit says.
func (a *Authorities) VerifyAgent(peer []*x509.Certificate) (pki.AgentIdentity, error) {
	v := a.base.db.View()
	opened, err := a.open(v, pki.AgentCA)
	if err != nil {
		return pki.AgentIdentity{}, err
	}
	id, err := pki.VerifyAgent(peer, opened.trusted, a.base.clusterName, v.Now())
	if err == nil {
		return id, nil
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired && len(peer) == 1 {
		now := v.Now()
		if now.Before(peer[0].NotBefore) {
			return pki.AgentIdentity{}, api.Errorf(api.CodeUnavailable, "the agent's certificate is valid from %s, and here it is %s: set the clocks right", second(peer[0].NotBefore), second(now))
		}
		return pki.AgentIdentity{}, api.Errorf(api.CodeUnauthenticated, "the agent's certificate expired on %s, and here it is %s: set the clocks right, or let the agent join anew with a new token (tctl nodes add)", second(peer[0].NotAfter), second(now))
	}
	return pki.AgentIdentity{}, api.Errorf(api.CodeUnauthenticated, "not an agent of cluster %q: %w", a.base.clusterName, err)
}

func second(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// HostCertificate is the certificate for an SNI name: <label>.kube.<cluster>,
// api.<cluster>, join.<cluster>, [<replica>.]tunnel.<cluster>, the cluster's or the public name. A client that sends no name
// dials an address: give the local one.
func (a *Authorities) HostCertificate(serverName string) (*tls.Certificate, error) {
	return a.hosts.Certificate(serverName)
}

// HostSigners are the host CAs that clients should trust.
func (a *Authorities) HostSigners() ([]api.HostSigner, error) {
	opened, err := a.open(a.base.db.View(), pki.HostCA)
	if err != nil {
		return nil, err
	}
	signer := api.HostSigner{DomainName: a.base.clusterName}
	for _, cert := range opened.trusted {
		signer.TLSCerts = append(signer.TLSCerts, pki.EncodeCert(cert.Raw))
	}
	return []api.HostSigner{signer}, nil
}

// States describes the CAs for tctl status. A cluster that an older version
// leads has no agent CA yet, and goes on without: a replica that is being upgraded
// must not wait for those that come after it.
func (a *Authorities) States() ([]api.CAState, error) {
	v := a.base.db.View()
	var states []api.CAState
	for _, typ := range []pki.CAType{pki.UserCA, pki.HostCA, pki.AgentCA} {
		opened, err := a.open(v, typ)
		if typ == pki.AgentCA && api.IsCode(err, api.CodeUnavailable) {
			continue
		}
		if err != nil {
			return nil, err
		}
		cert := opened.authority.Cert
		states = append(states, api.CAState{Type: string(typ), Pin: api.Pin(cert), Rotation: opened.rotation, Expires: cert.NotAfter})
	}
	return states, nil
}

// Watch gives a channel that closes when the CAs may have changed.
func (a *Authorities) Watch() <-chan struct{} {
	_, changed := a.base.db.View().WatchPrefix("cas/")
	return changed
}

func (a *Authorities) signUser(v fsm.View, pub crypto.PublicKey, id pki.UserIdentity, expires time.Time) ([]byte, error) {
	ca, err := a.authority(v, pki.UserCA)
	if err != nil {
		return nil, err
	}
	return ca.SignUser(pub, id, v.Now().Add(-pki.ClockSkew), expires)
}

func (a *Authorities) authority(v fsm.View, typ pki.CAType) (*pki.Authority, error) {
	opened, err := a.open(v, typ)
	if err != nil {
		return nil, err
	}
	return opened.authority, nil
}

func (a *Authorities) open(v fsm.View, typ pki.CAType) (*openedAuthority, error) {
	cache := &a.user
	switch typ {
	case pki.HostCA:
		cache = &a.host
	case pki.AgentCA:
		cache = &a.agent
	case pki.UserCA:
	}
	rec, stored, err := authorityOf(v, typ)
	if err != nil {
		return nil, err
	}
	if opened := cache.Load(); opened != nil && opened.record == stored {
		return opened, nil
	}
	opened, err := a.unseal(v, typ, rec, stored)
	if err != nil {
		return nil, api.Errorf(api.CodeInternal, "%w", err)
	}
	cache.Store(opened)
	return opened, nil
}

func authorityOf(v fsm.View, typ pki.CAType) (*authorityRecord, *fsm.Record, error) {
	rec, stored, err := authorities.Get(v, string(typ))
	if errors.Is(err, fsm.ErrNotFound) {
		return nil, nil, api.Errorf(api.CodeUnavailable, "the cluster has no %s CA yet: it is still starting, try again", typ)
	}
	if err != nil {
		return nil, nil, readError("certificate authority", string(typ), err)
	}
	return rec, stored, nil
}

func (a *Authorities) unseal(v fsm.View, typ pki.CAType, rec *authorityRecord, stored *fsm.Record) (*openedAuthority, error) {
	ring, err := a.keys.ring(v)
	if err != nil {
		return nil, err
	}
	key, err := ring.Open(stored.Key, rec.SealedKey)
	if err != nil {
		return nil, api.Errorf(api.CodeInternal, "the %s CA's key: %w", typ, err)
	}
	ca, err := pki.ParseAuthority(typ, a.base.clusterName, []byte(rec.Cert), key)
	if err != nil {
		return nil, err
	}
	opened := &openedAuthority{record: stored, authority: ca, trusted: []*x509.Certificate{ca.Cert}, rotation: rec.Rotation}
	for _, text := range rec.Trusted {
		cert, err := pki.ParseAuthorityCert(typ, a.base.clusterName, []byte(text))
		if err != nil {
			return nil, err
		}
		opened.trusted = append(opened.trusted, cert)
	}
	return opened, nil
}

// keys opens the keyring that seals the store's secrets, once per record.
type keys struct {
	rand   io.Reader
	secret *seal.Secret
	opened atomic.Pointer[openedKeyring]
}

type openedKeyring struct {
	record *fsm.Record
	ring   *seal.Keyring
}

func (k *keys) ring(v fsm.View) (*seal.Keyring, error) {
	rec, ok := v.Get(keyDataKey)
	if !ok {
		return nil, api.Errorf(api.CodeUnavailable, "the cluster has no data key yet: it is still starting, try again")
	}
	if opened := k.opened.Load(); opened != nil && opened.record == rec {
		return opened.ring, nil
	}
	ring, err := seal.Unwrap(k.secret, rec.Value, k.rand)
	if err != nil {
		return nil, err
	}
	k.opened.Store(&openedKeyring{record: rec, ring: ring})
	return ring, nil
}

// NetworkOf is the network that failures and limits are counted by: a /24 of
// IPv4 or a /64 of IPv6, the least that one customer of a provider gets.
func NetworkOf(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := 64
	if addr.Is4() {
		bits = 24
	}
	p, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
