package auth_test

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

// handshake connects a client with the certificate to a server as a replica
// configures it, and says whom the server sees.
func handshake(t *testing.T, f *authtest.Fixture, serverName string, client tls.Certificate) (pki.UserIdentity, error) {
	t.Helper()
	cas, err := f.Authorities.UserCAs()
	must(t, err)
	clientCAs := x509.NewCertPool()
	for _, ca := range cas {
		clientCAs.AddCert(ca)
	}
	signers, err := f.Authorities.HostSigners()
	must(t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(signers[0].TLSCerts[0])

	serverConn, clientConn := net.Pipe()
	defer serverConn.Close()
	defer clientConn.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c := tls.Client(clientConn, &tls.Config{RootCAs: roots, ServerName: serverName, Certificates: []tls.Certificate{client}})
		_ = c.HandshakeContext(t.Context())
		_, _ = c.Read(make([]byte, 1)) // take the alert, if any
	}()
	server := tls.Server(serverConn, &tls.Config{
		SessionTicketsDisabled: true,
		ClientAuth:             tls.RequireAndVerifyClientCert,
		ClientCAs:              clientCAs,
		GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return f.Authorities.HostCertificate(h.ServerName)
		},
	})
	err = server.HandshakeContext(t.Context())
	peer := server.ConnectionState().PeerCertificates
	_ = serverConn.Close()
	<-done
	if err != nil {
		return pki.UserIdentity{}, err
	}
	return f.Authorities.VerifyUser(peer)
}

func TestCertificatesWorkOverTLSAndOnlyInTheirRole(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", groups("a"))
	want, cert := f.Login(t, "alice")
	for _, name := range []string{"cookie.kube.tele.example.com", "api.tele.example.com"} {
		got, err := handshake(t, f, name, cert)
		if err != nil {
			t.Fatal(name, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	}
	host, err := f.Authorities.HostCertificate("api.tele.example.com")
	must(t, err)
	if id, err := handshake(t, f, "api.tele.example.com", *host); err == nil {
		t.Errorf("a host certificate came in as %+v", id)
	}
	stranger := authtest.New(t) // another cluster of the same name
	stranger.AddUser(t, "alice", groups("a"))
	_, foreign := stranger.Login(t, "alice")
	if id, err := handshake(t, f, "api.tele.example.com", foreign); err == nil {
		t.Errorf("another cluster's certificate came in as %+v", id)
	}
}
