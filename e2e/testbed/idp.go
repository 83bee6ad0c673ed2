package testbed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"
)

// IDPKind is an identity provider that others wrote.
type IDPKind string

// The identity providers.
const (
	DexIDP           IDPKind = "dex"           // OpenID Connect; built by Build(Dex)
	OIDCProviderIDP  IDPKind = "oidc-provider" // OpenID Connect, certified; built by Build(OIDCProvider)
	SimpleSAMLphpIDP IDPKind = "simplesamlphp" // SAML 2.0; installed by Build(TestPackages)
)

// Person can log in at an identity provider.
type Person struct {
	Name     string   `json:"name"`
	Email    string   `json:"email"`
	Password string   `json:"password"`
	Groups   []string `json:"groups"`
}

// People are those of an identity provider whose options name nobody.
func People() []Person {
	return []Person{
		{"alice", "alice@example.com", "password", []string{"devs", "admins"}},
		{"bob", "bob@example.com", "password", []string{"devs"}},
	}
}

// ServiceProvider is what a SAML identity provider knows of us.
type ServiceProvider struct {
	EntityID string `json:"entity_id"`
	ACS      string `json:"acs"`
	// NameID is the last part of the format of who somebody is: persistent, emailAddress,
	// transient; "": persistent.
	NameID string `json:"name_id"`
	// SignResponse signs the response around the assertion too; UnsignedAssertion leaves
	// the signature of the assertion out.
	SignResponse      bool `json:"sign_response"`
	UnsignedAssertion bool `json:"unsigned_assertion"`
	// EncryptTo is the certificate (PEM) that assertions are encrypted to; "": they are not.
	EncryptTo string `json:"encrypt_to"`
	// SignedBy is the certificate (PEM) that requests must be signed by; "": they need no signature.
	SignedBy string `json:"signed_by"`
}

// IDPOptions are an identity provider's. Authority is needed, and Redirects or SP.
type IDPOptions struct {
	Authority *Authority
	Host      string // in its addresses; "": 127.0.0.1, which to a browser is another site than localhost
	Port      int    // 0: a free one
	People    []Person

	ClientID, ClientSecret string   // OpenID Connect; "": sallyport, s3cret
	Redirects              []string // our callbacks
	// ClaimsInIDToken lets oidc-provider put e-mail and groups into the ID token; else
	// they are asked for at userinfo, as the specification has it.
	ClaimsInIDToken bool

	SP ServiceProvider
}

// IDP is an identity provider that runs on loopback, with https.
type IDP struct {
	Kind IDPKind
	URL  string // https://HOST:PORT
	Addr string // for a browser to trust
	// Issuer is issuer_url (OpenID Connect) or the entity id (SAML).
	Issuer string
	// Metadata is where a SAML identity provider's EntityDescriptor is.
	Metadata               string
	ClientID, ClientSecret string
	Dir                    string

	o       IDPOptions
	ports   *Ports
	backend int // port of the provider itself
	front   *front
	command Command
	ready   string // path that answers 200 when it is
	client  *http.Client

	mu      sync.Mutex
	process *Process

	peopleMu sync.Mutex
	people   []Person
}

// StartDex runs Dex until the test ends. On its page, "Log in with Email" takes the
// people's e-mail and password (#login, #password, #submit-login) and gives no groups;
// "Log in with alice" logs in at once, with groups.
func StartDex(tb TB, o IDPOptions) *IDP { tb.Helper(); return startIDP(tb, DexIDP, o) }

// StartOIDCProvider runs oidc-provider until the test ends. Its page: #user, #password, #login.
func StartOIDCProvider(tb TB, o IDPOptions) *IDP {
	tb.Helper()
	return startIDP(tb, OIDCProviderIDP, o)
}

// StartSimpleSAMLphp runs SimpleSAMLphp until the test ends. Its page: #username,
// #password, #submit_button.
func StartSimpleSAMLphp(tb TB, o IDPOptions) *IDP {
	tb.Helper()
	return startIDP(tb, SimpleSAMLphpIDP, o)
}

func startIDP(tb TB, kind IDPKind, o IDPOptions) *IDP {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute) // an empty cache is filled first
	defer cancel()
	if part, found := map[IDPKind]string{DexIDP: Dex, OIDCProviderIDP: OIDCProvider}[kind]; found {
		if err := Build(ctx, logWriter{tb}, part); err != nil {
			tb.Fatalf("%v", err)
		}
	}
	p, err := OpenIDP(ctx, kind, o)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("%s", p.Logs(15))
		}
		p.Close()
	})
	return p
}

// OpenIDP runs an identity provider from what Build has made, until Close. After a
// failure nothing of it is left.
func OpenIDP(ctx context.Context, kind IDPKind, o IDPOptions) (_ *IDP, err error) {
	p := &IDP{Kind: kind, o: o, people: o.People, ClientID: o.ClientID, ClientSecret: o.ClientSecret}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s: %w\n%s", kind, err, p.Logs(15))
			p.Close()
		}
	}()
	if o.Authority == nil {
		return nil, errors.New("IDPOptions.Authority is needed: our connectors accept https alone")
	}
	if p.people == nil {
		p.people = People()
	}
	if p.ClientID == "" {
		p.ClientID, p.ClientSecret = "sallyport", "s3cret"
	}
	host := o.Host
	if host == "" {
		host = "127.0.0.1"
	}
	if p.ports, err = ReservePorts(); err != nil {
		return nil, err
	}
	port := o.Port
	if port == 0 {
		port = p.ports.Port(0)
	}
	p.backend = p.ports.Port(1)
	p.Addr = "127.0.0.1:" + strconv.Itoa(port)
	p.URL = "https://" + net.JoinHostPort(host, strconv.Itoa(port))
	if p.Dir, err = os.MkdirTemp("", "idp-"); err != nil {
		return nil, err
	}
	cert, err := o.Authority.Certificate(host, "127.0.0.1", "localhost")
	if err != nil {
		return nil, err
	}
	p.client = o.Authority.Client()
	var touch func(*http.Request)
	switch kind {
	case DexIDP:
		touch = p.asProxied
		err = p.dex()
	case OIDCProviderIDP:
		err = p.oidcProvider()
	case SimpleSAMLphpIDP:
		err = p.simpleSAMLphp()
	default:
		err = errors.New("there is no such identity provider")
	}
	if err != nil {
		return nil, err
	}
	if p.front, err = newFront(frontOptions{addr: p.Addr, cert: cert, backend: "http://127.0.0.1:" + strconv.Itoa(p.backend), touch: touch}); err != nil {
		return nil, err
	}
	return p, p.Start(ctx)
}

// Start runs the provider again after Stop, with what it had stored.
func (p *IDP) Start(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.process != nil {
		return errors.New("it runs")
	}
	process, err := StartProcess(p.command)
	if err != nil {
		return err
	}
	p.process = process
	if err := p.front.setFault(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, max(20*time.Second, Patience))
	defer cancel()
	return Until(ctx, string(p.Kind)+" answers", func() error {
		if !process.Running() {
			cancel()
			return fmt.Errorf("it has ended: %w", process.Err())
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL+p.ready, http.NoBody)
		if err != nil {
			return err
		}
		resp, err := p.client.Do(req)
		if err != nil {
			return err
		}
		if err := resp.Body.Close(); err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("GET %s: %s", p.ready, resp.Status)
		}
		return nil
	})
}

// Stop ends the provider: who asks is refused the connection, until Start.
func (p *IDP) Stop() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stop()
}

func (p *IDP) stop() error {
	if p.process != nil {
		p.process.Kill()
		p.process = nil
	}
	if p.front == nil {
		return nil
	}
	return p.front.close()
}

// SetFault replaces all faults of the provider; without any it is well.
func (p *IDP) SetFault(faults ...Fault) error { return p.front.setFault(faults...) }

// Requests are the methods and paths of all that was asked of it, as in "GET /dex/keys".
func (p *IDP) Requests() []string { return p.front.seen() }

// Close ends the provider and removes its directory.
func (p *IDP) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.stop() // a listener that is gone is what is wanted
	if p.client != nil {
		p.client.CloseIdleConnections()
	}
	if p.ports != nil {
		p.ports.Release()
	}
	if p.Dir != "" {
		os.RemoveAll(p.Dir)
	}
}

// Logs returns the last lines of its log.
func (p *IDP) Logs(lines int) string {
	return fmt.Sprintf("--- %s\n%s", p.command.Log, tail(p.command.Log, lines))
}

// SetGroups moves a person to other groups; the next login shows them.
func (p *IDP) SetGroups(name string, groups ...string) error {
	p.peopleMu.Lock()
	defer p.peopleMu.Unlock()
	i := slices.IndexFunc(p.people, func(who Person) bool { return who.Name == name })
	if i < 0 {
		return fmt.Errorf("there is no %q", name)
	}
	p.people = slices.Clone(p.people) // the caller's stay as they are
	p.people[i].Groups = groups
	return p.write("people.json", p.people)
}

// SetServiceProvider replaces what a SAML identity provider knows of us.
func (p *IDP) SetServiceProvider(sp ServiceProvider) error { return p.write("sp.json", sp) }

// write puts what the providers read anew for each login, whole.
func (p *IDP) write(name string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	file := filepath.Join(p.Dir, name)
	if err := os.WriteFile(file+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// source is the directory of the files that the providers are configured by.
func (p *IDP) source(name string) (string, error) {
	root, err := Root()
	return filepath.Join(root, "e2e", "testbed", "idp", name), err
}

func (p *IDP) log() string { return filepath.Join(p.Dir, "log", string(p.Kind)+".log") }
