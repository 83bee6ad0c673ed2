package authtest

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

// AddToken makes a token by which any number of agents join.
func (f *Fixture) AddToken(t testing.TB, edit ...func(*api.AddTokenRequest)) api.AddTokenResponse {
	t.Helper()
	req := api.AddTokenRequest{Roles: []string{api.TokenRoleKube}}
	for _, fn := range edit {
		fn(&req)
	}
	resp, err := f.Tokens.Add(t.Context(), Admin(), req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// Agent is one that has joined.
type Agent struct {
	Identity pki.AgentIdentity
	KeySum   string // pki.KeySum of the certificate's key
	Token    string // that it joined by
	TLS      tls.Certificate
	Clusters []string
}

// JoinAgent makes an agent of clusters, by a token ("": one of its own).
func (f *Fixture) JoinAgent(t testing.TB, token string, clusters ...string) *Agent {
	t.Helper()
	if token == "" {
		token = f.AddToken(t).Token
	}
	key, pub := NewKey(t)
	resp, err := f.Agents.Join(t.Context(), api.JoinRequest{Token: token, PublicKey: pub, KubeClusters: clusters, Name: "pod-0"}, Client)
	if err != nil {
		t.Fatal(err)
	}
	a := f.agent(t, resp, tls.Certificate{PrivateKey: key})
	a.Token, a.Clusters = token, clusters
	return a
}

// RenewAgent asks for an agent's next certificate, which is not used yet.
func (f *Fixture) RenewAgent(t testing.TB, a *Agent) *Agent {
	t.Helper()
	key, pub := NewKey(t)
	resp, err := f.Agents.Renew(t.Context(), a.Identity, a.KeySum, pub, Client)
	if err != nil {
		t.Fatal(err)
	}
	next := f.agent(t, resp, tls.Certificate{PrivateKey: key})
	next.Token, next.Clusters = a.Token, a.Clusters
	return next
}

// Admit is what a hello of the agent, for all its clusters, does.
func (f *Fixture) Admit(t testing.TB, a *Agent) (*auth.AgentGrant, error) {
	t.Helper()
	return f.Agents.Admit(t.Context(), a.Identity, a.KeySum, a.Clusters, Client)
}

// agent verifies the answer as a replica would verify the certificate.
func (f *Fixture) agent(t testing.TB, resp *api.JoinResponse, cert tls.Certificate) *Agent {
	t.Helper()
	block, _ := pem.Decode(resp.Cert)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	id, err := f.Authorities.VerifyAgent([]*x509.Certificate{leaf})
	if err != nil {
		t.Fatal(err)
	}
	cert.Certificate, cert.Leaf = [][]byte{block.Bytes}, leaf
	return &Agent{Identity: id, KeySum: pki.KeySum(leaf.RawSubjectPublicKeyInfo), TLS: cert}
}
