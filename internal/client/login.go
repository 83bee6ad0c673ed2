package client

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
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

// ConsoleLogin is a login that waits for a person's yes in a browser.
type ConsoleLogin struct {
	ID        string
	URL       string // the page to open
	MatchCode string // which that page must show
	Expires   time.Time
	user      string
	pair      *keyPair
	verifier  string
}

// StartConsoleLogin begins a login in a browser. callback is where the browser
// brings the code, on this machine: http://127.0.0.1:PORT/callback. user may be
// empty: whoever logs in there.
func (c *Client) StartConsoleLogin(ctx context.Context, callback, user string, ttl time.Duration) (*ConsoleLogin, error) {
	pair, err := newKeyPair()
	if err != nil {
		return nil, err
	}
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return nil, fmt.Errorf("make a verifier: %w", err)
	}
	verifier := base64.RawURLEncoding.EncodeToString(secret)
	challenge := sha256.Sum256([]byte(verifier))
	resp, err := send[api.ConsoleLoginResponse](ctx, c, http.MethodPost, api.PathConsoleLogin, &api.ConsoleLoginRequest{
		RedirectURL: callback, TLSPubKey: pair.public, CertTTL: ttl, User: user,
		CodeChallenge: base64.RawURLEncoding.EncodeToString(challenge[:]),
	})
	if err != nil {
		return nil, err
	}
	page, err := url.Parse(resp.RedirectURL)
	if err != nil || page.Scheme != "https" || page.Host == "" || page.User != nil || resp.ID == "" {
		// It goes to a program that opens other things than pages, too.
		return nil, api.Errorf(api.CodeInternal, "the server names %q as the page to log in at, which is none", resp.RedirectURL)
	}
	return &ConsoleLogin{
		ID: resp.ID, URL: page.String(), MatchCode: api.MatchCode(pair.public), Expires: resp.Expires,
		user: user, pair: pair, verifier: verifier,
	}, nil
}

// RedeemConsoleLogin fetches the certificate with the code that the browser
// brought, and checks it as LoginWithPassword does.
func (c *Client) RedeemConsoleLogin(ctx context.Context, login *ConsoleLogin, code string) (*api.LoginResponse, *Credentials, error) {
	resp, err := send[api.LoginResponse](ctx, c, http.MethodPost, api.PathConsoleRedeem, &api.ConsoleRedeemRequest{
		ID: login.ID, Code: code, CodeVerifier: login.verifier,
	})
	if err != nil {
		return nil, nil, err
	}
	creds, err := checkLogin(resp, login.user, login.pair)
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
