package client

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// Credentials are what a login gave, beside the answer itself.
type Credentials struct {
	KeyPEM   []byte // PKCS#8; made here, and never sent
	CertPEM  []byte
	HostCAs  []byte    // PEM, those of the cluster itself
	NotAfter time.Time // of the certificate
}

// keyPair is the key of a session to come.
type keyPair struct {
	public  []byte // PKIX
	private []byte // PEM, PKCS#8
}

func newKeyPair() (*keyPair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return &keyPair{public, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})}, nil
}

// LoginWithPassword makes a key, logs in, and checks what came back against
// what was asked for. otp is the code of an authenticator app, or empty; an
// api.CodeSecondFactor error says that it takes one, or a passkey.
func (c *Client) LoginWithPassword(ctx context.Context, user, password, otp string, ttl time.Duration) (*api.LoginResponse, *Credentials, error) {
	pair, err := newKeyPair()
	if err != nil {
		return nil, nil, err
	}
	resp, err := c.Login(ctx, &api.LoginRequest{User: user, Password: password, OTPToken: otp, TLSPubKey: pair.public, TTL: ttl})
	if err != nil {
		return nil, nil, err
	}
	creds, err := checkLogin(resp, user, pair)
	if err != nil {
		return nil, nil, err
	}
	return resp, creds, nil
}

// checkLogin compares an answer with what was asked for. user may be empty: any.
func checkLogin(resp *api.LoginResponse, user string, pair *keyPair) (*Credentials, error) {
	if user == "" {
		if err := api.ValidateName("user", resp.Username); err != nil {
			return nil, api.Errorf(api.CodeInternal, "the server's answer is wrong: %w", err)
		}
		user = resp.Username
	}
	if resp.Connector != "" {
		if err := api.ValidateName("connector", resp.Connector); err != nil {
			return nil, api.Errorf(api.CodeInternal, "the server's answer is wrong: %w", err)
		}
	}
	creds := &Credentials{KeyPEM: pair.private, CertPEM: resp.TLSCert}
	if err := creds.check(resp, user, pair.public); err != nil {
		return nil, err
	}
	return creds, nil
}

func (creds *Credentials) check(resp *api.LoginResponse, user string, public []byte) error {
	wrong := func(what string) error {
		return api.Errorf(api.CodeInternal, "the server logged %s in but its answer is wrong: %s", user, what)
	}
	block, _ := pem.Decode(resp.TLSCert)
	if block == nil || block.Type != "CERTIFICATE" {
		return wrong("the certificate is not PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return wrong("the certificate does not parse")
	}
	if !bytes.Equal(cert.RawSubjectPublicKeyInfo, public) {
		return wrong("the certificate is for another key")
	}
	if resp.Username != user {
		return wrong("it is for another user")
	}
	if err := api.ValidateClusterName(resp.ClusterName); err != nil {
		return wrong(err.Error())
	}
	for _, signer := range resp.HostSigners {
		if signer.DomainName != resp.ClusterName {
			continue
		}
		for _, ca := range signer.TLSCerts {
			clean, err := Certificates(ca)
			if err != nil {
				return wrong(err.Error())
			}
			creds.HostCAs = append(creds.HostCAs, clean...)
		}
	}
	if len(creds.HostCAs) == 0 {
		return wrong("it names no host CA for " + resp.ClusterName)
	}
	creds.NotAfter = cert.NotAfter
	return nil
}

// Certificates keeps the certificates of a PEM bundle and drops all else (text,
// a private key that stands beside them): they will be copied into other files.
func Certificates(bundle []byte) ([]byte, error) {
	var out []byte
	for {
		var block *pem.Block
		if block, bundle = pem.Decode(bundle); block == nil {
			if len(out) == 0 {
				return nil, api.Errorf(api.CodeInvalid, "there is no PEM certificate in it")
			}
			return out, nil
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return nil, api.Errorf(api.CodeInvalid, "a certificate in it does not parse: %w", err)
		}
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes})...)
	}
}
