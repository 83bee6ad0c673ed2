package acme

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"path"
	"strconv"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
)

// maxAnswer bounds an answer of the authority, in bytes: acmez reads all of one.
const maxAnswer = 1 << 20

// maxRetryAfter bounds how long an authority can tell us to stay away.
const maxRetryAfter = 24 * time.Hour

// How long and how often to look after an order that is being signed for a replica that died.
const (
	signingPatience = 20 * time.Second
	signingPoll     = time.Second
)

// acmeIssuer orders certificates from an ACME server. It is a certmagic.Issuer and a
// certmagic.RenewalInfoGetter by acmez, and not certmagic.ACMEIssuer, because that one
// opens listeners of its own on the challenge ports, keeps challenges in a global map
// (so that replicas in one process would never try the store), asks people at a
// terminal for an address of electronic mail, and turns to a second authority for trials.
type acmeIssuer struct {
	directory string
	email     string
	http01    bool
	storage   retryingStorage
	transport *http.Transport
	clock     func() time.Time
	log       *slog.Logger
}

func newACMEIssuer(opts Options) *acmeIssuer {
	return &acmeIssuer{
		directory: opts.Directory, email: opts.Email, http01: opts.HTTP01, storage: retryingStorage{opts.Storage},
		transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: 15 * time.Second}).DialContext,
			TLSClientConfig:       &tls.Config{RootCAs: opts.Roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:   15 * time.Second,
			ResponseHeaderTimeout: 30 * time.Second,
			IdleConnTimeout:       30 * time.Second,
			ForceAttemptHTTP2:     true,
		},
		clock: opts.Clock, log: opts.Logger,
	}
}

// IssuerKey implements certmagic.Issuer; it is the one that CertMagic's own issuer has.
func (a *acmeIssuer) IssuerKey() string {
	return (&certmagic.ACMEIssuer{CA: a.directory}).IssuerKey()
}

// Issue implements certmagic.Issuer.
func (a *acmeIssuer) Issue(ctx context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	defer a.transport.CloseIdleConnections()
	at := attemptFrom(ctx)
	name := csr.DNSNames[0]
	observer := &observer{base: a.transport, clock: a.clock}
	defer func() { at.ordered, at.notBefore = observer.asked, observer.notBefore }()
	client := a.client(observer)
	client.ChallengeSolvers = a.solvers(at.failures)
	dir, err := client.GetDirectory(ctx)
	if err != nil && observer.succeeded { // acmez's words are of Go's types then
		a.log.Debug("what answers is no ACME directory", "directory", a.directory, "error", err)
		err = errors.New("what answers there is no ACME directory")
	}
	if err != nil {
		return nil, fmt.Errorf("read the ACME directory %s: %w", a.directory, err)
	}
	observer.newOrder = dir.NewOrder
	observer.ordered = func(location string) {
		if err := a.storage.Store(ctx, a.orderPath(name), []byte(location)); err != nil {
			a.log.Debug("an ACME order isn't remembered", "order", location, "error", err)
		}
	}

	var chains []acme.Certificate
	for range 2 {
		var account acme.Account
		if account, err = a.account(ctx, client); err != nil {
			break
		}
		chains, err = a.obtain(ctx, client, account, csr, at)
		if !a.disowned(ctx, client, account, err) {
			break
		}
		if err := a.forget(ctx, account); err != nil {
			return nil, fmt.Errorf("forget the ACME account that %s doesn't know: %w", a.directory, err)
		}
	}
	if err == nil || ctx.Err() == nil {
		// There is nothing left of the order that could be taken up: acmez deactivates
		// what has failed.
		if err := a.storage.Delete(ctx, a.orderPath(name)); err != nil {
			a.log.Debug("an ACME order stays remembered", "error", err)
		}
	}
	if err != nil {
		return nil, err
	}
	if len(chains) == 0 {
		return nil, errors.New("the ACME server offers no certificate for the order")
	}
	return &certmagic.IssuedCertificate{Certificate: chains[0].ChainPEM, Metadata: chains[0]}, nil
}

func (a *acmeIssuer) obtain(ctx context.Context, client *acmez.Client, account acme.Account, csr *x509.CertificateRequest, at *attempt) ([]acme.Certificate, error) {
	if chains := a.takeUp(ctx, client, account, csr); len(chains) > 0 {
		return chains, nil
	}
	params, err := acmez.OrderParametersFromCSR(account, csr)
	if err != nil {
		return nil, fmt.Errorf("describe the ACME order: %w", err)
	}
	if at.failures%2 == 0 {
		// Every other try goes without, should it be what the authority objects to.
		params.Replaces = at.replaces
	}
	chains, err := client.ObtainCertificate(ctx, params)
	if err != nil {
		return nil, fmt.Errorf("order at %s: %w", a.directory, err)
	}
	return chains, nil
}

// disowned says whether an order failed because the account is of no use any more: the
// authority has been set up anew and knows nobody, or the account was deactivated there.
func (a *acmeIssuer) disowned(ctx context.Context, client *acmez.Client, account acme.Account, err error) bool {
	var problem acme.Problem
	if !errors.As(err, &problem) {
		return false
	}
	if problem.Type != acme.ProblemTypeUnauthorized { // which it also says of a proof that it doesn't find
		return problem.Type == acme.ProblemTypeAccountDoesNotExist
	}
	account, err = client.GetAccount(ctx, account)
	return errors.As(err, &problem) && (problem.Type == acme.ProblemTypeUnauthorized || problem.Type == acme.ProblemTypeAccountDoesNotExist) ||
		err == nil && account.Status != acme.StatusValid
}

// GetRenewalInfo implements certmagic.RenewalInfoGetter (ARI, RFC 9773).
func (a *acmeIssuer) GetRenewalInfo(ctx context.Context, cert certmagic.Certificate) (acme.RenewalInfo, error) {
	defer a.transport.CloseIdleConnections()
	info, err := a.client(&observer{base: a.transport, clock: a.clock}).GetRenewalInfo(ctx, cert.Leaf)
	if err != nil {
		return info, fmt.Errorf("ask %s when to renew: %w", a.directory, err)
	}
	return info, nil
}

func (a *acmeIssuer) client(observer *observer) *acmez.Client {
	return &acmez.Client{Client: &acme.Client{
		Directory:  a.directory,
		UserAgent:  "sallyport",
		HTTPClient: &http.Client{Transport: observer, Timeout: 30 * time.Second},
		Logger:     slog.New(debugHandler{a.log.Handler()}),
	}}
}

// solvers are for one challenge only: acmez would go on to the other when the first
// fails, and of validations that fail the authority takes five an hour.
func (a *acmeIssuer) solvers(failures int) map[string]acmez.Solver {
	s := solver{a.storage}
	if a.http01 && failures%2 == 1 {
		return map[string]acmez.Solver{acme.ChallengeTypeHTTP01: s}
	}
	return map[string]acmez.Solver{acme.ChallengeTypeTLSALPN01: s}
}

// storedAccount is the file of accountPath.
type storedAccount struct {
	Account acme.Account `json:"account"`
	Key     string       `json:"key"` // PEM
}

// account reads the cluster's account, or registers one.
func (a *acmeIssuer) account(ctx context.Context, client *acmez.Client) (acme.Account, error) {
	account, err := a.loadAccount(ctx)
	if !errors.Is(err, fs.ErrNotExist) {
		return account, err
	}
	unlock, err := a.lockAccount(ctx)
	if err != nil {
		return account, err
	}
	defer unlock()
	if account, err = a.loadAccount(ctx); !errors.Is(err, fs.ErrNotExist) {
		return account, err
	}

	key, err := keyGenerator.GenerateKey()
	if err != nil {
		return account, fmt.Errorf("make a key for the ACME account: %w", err)
	}
	account = acme.Account{PrivateKey: key.(crypto.Signer), TermsOfServiceAgreed: true}
	if a.email != "" {
		account.Contact = []string{"mailto:" + a.email}
	}
	if account, err = client.NewAccount(ctx, account); err != nil {
		return account, fmt.Errorf("register an ACME account at %s: %w", a.directory, err)
	}
	keyPEM, err := certmagic.PEMEncodePrivateKey(key)
	if err != nil {
		return account, fmt.Errorf("encode the ACME account's key: %w", err)
	}
	value, err := json.Marshal(storedAccount{account, string(keyPEM)})
	if err != nil {
		return account, fmt.Errorf("encode the ACME account: %w", err)
	}
	if err := a.storage.Store(ctx, a.accountPath(), value); err != nil {
		return account, fmt.Errorf("store the ACME account: %w", err)
	}
	return account, nil
}

// lockAccount is for who registers or forgets one: orders for two names have two locks.
func (a *acmeIssuer) lockAccount(ctx context.Context) (unlock func(), err error) {
	lock := a.accountLock()
	if err := a.storage.Lock(ctx, lock); err != nil {
		return nil, fmt.Errorf("lock the ACME account: %w", err)
	}
	return func() {
		if err := a.storage.Unlock(context.WithoutCancel(ctx), lock); err != nil {
			a.log.Debug("the ACME account stays locked until its lease ends", "error", err)
		}
	}, nil
}

// forget deletes the cluster's account, unless it is another meanwhile.
func (a *acmeIssuer) forget(ctx context.Context, account acme.Account) error {
	unlock, err := a.lockAccount(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	stored, err := a.loadAccount(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if was, ok := account.PrivateKey.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !was.Equal(stored.PrivateKey.Public()) {
		return nil
	}
	return a.storage.Delete(ctx, a.accountPath()) //nolint:wrapcheck // the caller does
}

func (a *acmeIssuer) loadAccount(ctx context.Context) (acme.Account, error) {
	value, err := a.storage.Load(ctx, a.accountPath())
	if err != nil {
		return acme.Account{}, fmt.Errorf("read the ACME account: %w", err)
	}
	var stored storedAccount
	if err := json.Unmarshal(value, &stored); err != nil {
		return acme.Account{}, fmt.Errorf("decode the ACME account: %w", err)
	}
	key, err := certmagic.PEMDecodePrivateKey([]byte(stored.Key))
	if err != nil {
		return acme.Account{}, fmt.Errorf("decode the ACME account's key: %w", err)
	}
	stored.Account.PrivateKey = key
	return stored.Account, nil
}

// takeUp sees to the order of a replica that died at it. One that lacks only the request
// is finished with ours. Of one that waits for a challenge the authorizations are
// given back, which ends it (RFC 8555 section 7.1.6): acmez can't go on with an order
// that it didn't begin. One that is being signed has that replica's key and ends by itself;
// it is waited for, so that there is never more than one alive. What goes wrong here is no
// failure: the authority forgets an order by itself.
func (a *acmeIssuer) takeUp(ctx context.Context, client *acmez.Client, account acme.Account, csr *x509.CertificateRequest) []acme.Certificate {
	location, err := a.storage.Load(ctx, a.orderPath(csr.DNSNames[0]))
	if err != nil {
		return nil
	}
	order, err := client.GetOrder(ctx, account, acme.Order{Location: string(location)})
	for began := a.clock(); err == nil && order.Status == acme.StatusProcessing && a.clock().Sub(began) < signingPatience; {
		if err = await(ctx, nil, signingPoll); err == nil {
			order, err = client.GetOrder(ctx, account, order)
		}
	}
	var chains []acme.Certificate
	switch {
	case err != nil: // it has forgotten the order
		return nil
	case order.Status == acme.StatusReady:
		if order, err = client.FinalizeOrder(ctx, account, order, csr.Raw); err == nil {
			chains, err = client.GetCertificateChain(ctx, account, order.Certificate)
		}
	case order.Status == acme.StatusPending:
		for _, url := range order.Authorizations {
			authorization, e := client.GetAuthorization(ctx, account, url)
			if e == nil && authorization.Status == acme.StatusPending {
				_, e = client.DeactivateAuthorization(ctx, account, url)
			}
			err = errors.Join(err, e)
		}
	default: // over
		return nil
	}
	a.log.Info("an ACME order that was left behind was taken up", "order", string(location), "status", order.Status, "finished", len(chains) > 0, "error", err)
	return chains
}

// accountPath and accountLock are in the places where CertMagic has them, which is what
// tells Storage that they belong together. Another address of electronic mail means another account.
func (a *acmeIssuer) accountPath() string {
	return path.Join("acme", a.IssuerKey(), "users", a.contact(), "account.json")
}

func (a *acmeIssuer) accountLock() string {
	if c := a.contact(); c != "default" {
		return "register_acme_account_" + c
	}
	return "register_acme_account"
}

func (a *acmeIssuer) contact() string {
	if a.email == "" {
		return "default"
	}
	return certmagic.StorageKeys.Safe(a.email)
}

// orderPath is below the certificate's, for its lock to protect it.
func (a *acmeIssuer) orderPath(name string) string {
	return path.Join(certmagic.StorageKeys.CertsSitePrefix(a.IssuerKey(), name), "order")
}

// observer is the way to the authority's server, where it overhears what acmez keeps to itself.
type observer struct {
	base      http.RoundTripper
	clock     func() time.Time
	newOrder  string                // URL
	asked     bool                  // for an order
	succeeded bool                  // a request did
	ordered   func(location string) // called when the server has made an order
	notBefore time.Time             // by the Retry-After of a refusal
}

// RoundTrip implements http.RoundTripper.
func (t *observer) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.base.RoundTrip(req)
	if err != nil {
		return nil, err //nolint:wrapcheck // http.Client does
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	t.succeeded = t.succeeded || resp.StatusCode/100 == 2
	t.asked = t.asked || req.URL.String() == t.newOrder
	switch location := resp.Header.Get("Location"); {
	case resp.StatusCode == http.StatusCreated && location != "" && t.ordered != nil && req.URL.String() == t.newOrder:
		t.ordered(location)
	case resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable:
		t.notBefore = latest(t.notBefore, retryAfter(resp.Header.Get("Retry-After"), t.clock()))
	}
	return resp, nil
}

// retryAfter reads a header (RFC 9110 section 10.2.3); zero if it says nothing.
func retryAfter(header string, now time.Time) time.Time {
	var at time.Time
	if seconds, err := strconv.ParseUint(header, 10, 31); err == nil {
		at = now.Add(time.Duration(seconds) * time.Second)
	} else if at, err = http.ParseTime(header); err != nil {
		return time.Time{}
	}
	if limit := now.Add(maxRetryAfter); at.After(limit) {
		return limit
	}
	return at
}
