// Package rogue is an agent that keeps none of the promises that ours makes: it
// uses identities that it has copied, renews them behind their owner's back and
// shows certificates that have been replaced. It speaks the product's own
// protocol (internal/wire), so that what stops it is the replicas and not a
// mistake of ours.
package rogue

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/sallyport-dev/sallyport/agent"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/wire"
)

// Identity is a certificate with its key, stolen or got by Renew.
type Identity struct{ agent.Identity }

// Steal copies the identity out of an agent's data directory.
func Steal(dataDir string) (*Identity, error) {
	b, err := os.ReadFile(filepath.Join(dataDir, "identity.json"))
	if err != nil {
		return nil, err
	}
	var state agent.State
	if err := json.Unmarshal(b, &state); err != nil {
		return nil, fmt.Errorf("the identity in %s: %w", dataDir, err)
	}
	if state.Current == nil {
		return nil, fmt.Errorf("there is no identity in %s", dataDir)
	}
	return &Identity{*state.Current}, nil
}

// Tunnel is one that a replica has welcomed.
type Tunnel struct {
	Welcome wire.Welcome

	id      *Identity
	session *wire.Session
	talk    net.Conn // the first stream
}

// Refusal is a replica's no.
type Refusal struct{ wire.Refused }

func (r *Refusal) Error() string { return fmt.Sprintf("%s: %s", r.Code, r.Message) }

// Connect opens a tunnel at a replica's public port, to serve the clusters.
func (id *Identity) Connect(ctx context.Context, addr string, clusters ...string) (_ *Tunnel, err error) {
	pair, err := tls.X509KeyPair(id.Cert, id.Key)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	for _, signer := range id.HostSigners {
		for _, ca := range signer.TLSCerts {
			roots.AppendCertsFromPEM(ca)
		}
	}
	dialer := tls.Dialer{Config: &tls.Config{
		RootCAs: roots, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13,
		ServerName: api.TunnelServerName("", id.ClusterName), NextProtos: []string{wire.Protocol},
	}}
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	session, err := wire.Client(conn, wire.Options{})
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, session.Close())
		}
	}()
	t := &Tunnel{id: id, session: session}
	if t.talk, err = session.Open(ctx); err != nil {
		return nil, err
	}
	hello := &wire.Hello{Version: "rogue", Name: "rogue"}
	for _, name := range clusters {
		hello.Clusters = append(hello.Clusters, wire.Cluster{Name: name, Health: api.HealthHealthy})
	}
	if err := wire.WriteMessage(t.talk, wire.Message{Hello: hello}); err != nil {
		return nil, err
	}
	m, err := t.read(func(m wire.Message) bool { return m.Welcome != nil })
	if err != nil {
		return nil, err
	}
	t.Welcome = *m.Welcome
	return t, nil
}

// read waits for a message, and passes others over.
func (t *Tunnel) read(match func(wire.Message) bool) (wire.Message, error) {
	for {
		_ = t.talk.SetReadDeadline(time.Now().Add(20 * time.Second))
		m, err := wire.ReadMessage(t.talk)
		switch {
		case err != nil:
			return m, err
		case m.Refused != nil:
			return m, &Refusal{*m.Refused}
		case match(m):
			return m, nil
		}
	}
}

// Renew asks for the next certificate, for a key of its own.
func (t *Tunnel) Renew() (*Identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	if err := wire.WriteMessage(t.talk, wire.Message{Renew: &wire.Renew{PublicKey: public}}); err != nil {
		return nil, err
	}
	m, err := t.read(func(m wire.Message) bool { return m.Renewed != nil })
	if err != nil {
		return nil, err
	}
	if r := m.Renewed.Refused; r != nil {
		return nil, &Refusal{*r}
	}
	next := *t.id
	next.Key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	next.Cert, next.Generation = m.Renewed.Cert, m.Renewed.Generation
	return &next, nil
}

// Done is closed when the tunnel is.
func (t *Tunnel) Done() <-chan struct{} { return t.session.Done() }

// Reach opens a stream of its own, which no agent may.
func (t *Tunnel) Reach(ctx context.Context) (net.Conn, error) { return t.session.Open(ctx) }

// Close ends the tunnel.
func (t *Tunnel) Close() error { return t.session.Close() }
