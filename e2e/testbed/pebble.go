package testbed

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// PebbleOptions are an ACME authority's. The zero value is one on loopback that
// validates at free ports of its own (TLSPort, HTTPPort), refuses no nonce and makes
// nobody wait.
type PebbleOptions struct {
	// Bind is the address that it listens on, and so who can reach it: the host's address on
	// the LAN for pods (Nodes.HostIP); "": 127.0.0.1.
	Bind string
	// It validates at these ports of the addresses that SetDNS has told; 0: free ones of its
	// own, which nothing listens on yet. Authorities in the world use 443 and 80.
	TLSPort, HTTPPort int
	// BadNonces is how many percent of good nonces are refused, which clients must survive.
	BadNonces int
	// ReuseAuthorizations is in how many percent of orders a validation of before counts. With 0
	// each order is validated.
	ReuseAuthorizations int
	// Slow is the most that it sleeps before a validation, in seconds.
	Slow int
	// Validity of the certificates; 0: 90 days.
	Validity time.Duration
	// AlwaysValid: validations are not made, all succeed.
	AlwaysValid bool
	// Blocked are names that are refused when they are ordered.
	Blocked []string
	// Port53: its DNS answers also at Nameserver, for who asks by an /etc/resolv.conf, which
	// knows no other port. Needs root.
	Port53 bool
	// Impatient: it doesn't tell clients to wait a second before they look at an order again.
	Impatient bool
	// RenewalEvery is after how long it wants to be asked again when to renew (ARI); 0: six hours.
	RenewalEvery time.Duration
	// NoRenewalInfo: it knows no ARI, as its directory says.
	NoRenewalInfo bool
}

// The paths of Pebble's endpoints, for PebbleFault and Requests.
const (
	PebbleDirectory  = "/dir"
	PebbleNewNonce   = "/nonce-plz"
	PebbleNewAccount = "/sign-me-up"
	PebbleNewOrder   = "/order-plz"
	PebbleAuthz      = "/authZ/"
	PebbleChallenge  = "/chalZ/"
	PebbleFinalize   = "/finalize-order/"
	PebbleCert       = "/certZ/"
	PebbleRenewal    = "/draft-ietf-acme-ari-03/renewalInfo/"
)

// PebbleFaultKind is a way in which an authority fails.
type PebbleFaultKind string

// The ways to fail.
const (
	PebbleWell        PebbleFaultKind = ""
	PebbleHang        PebbleFaultKind = "hang"       // takes requests, answers none until another fault is set
	PebbleError       PebbleFaultKind = "500"        // an ACME problem serverInternal
	PebbleRateLimited PebbleFaultKind = "rate limit" // an ACME problem rateLimited with Retry-After
	PebbleDown        PebbleFaultKind = "down"       // connection refused; Path means nothing
)

// PebbleFault is what fails, and how.
type PebbleFault struct {
	Kind PebbleFaultKind
	Path string // how the path of what fails begins; "": everything
	// RetryAfter is told with RateLimited; 0: an hour.
	RetryAfter time.Duration
}

// PebbleOrder is an order that somebody asked for.
type PebbleOrder struct {
	At       time.Time
	Names    []string
	Replaces string // ARI: which certificate it renews
	Status   int    // 201: taken

	authorizations []string // URLs
}

// Pebble is an ACME authority with a DNS of its own, in which names resolve to what
// SetDNS says and nothing else. Its roots are new at every start.
type Pebble struct {
	URL               string // of the directory
	CAFile            string // whoever asks it trusts its TLS certificate by this (PEM)
	TLSPort, HTTPPort int    // where it validates
	Nameserver        string // address of its DNS, with Port53
	Dir               string

	o          PebbleOptions
	ports      []*Ports
	management string // https://127.0.0.1:PORT, shown to nobody but us
	dns        string // http://127.0.0.1:PORT
	front      *front
	client     *http.Client
	pebble     *Process
	server     *Process // challtestsrv

	mu       sync.Mutex
	faults   []PebbleFault
	changed  chan struct{} // closed when faults change
	hanging  int
	orders   []PebbleOrder
	accounts []string          // thumbprints of their keys
	authz    map[string]string // status by path, as told last
}

// StartPebble runs an ACME authority until the test ends.
func StartPebble(tb TB, o PebbleOptions) *Pebble {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute) // an empty cache is filled first
	defer cancel()
	if err := Build(ctx, logWriter{tb}, PebbleACME); err != nil {
		tb.Fatalf("%v", err)
	}
	p, err := OpenPebble(ctx, o)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("%s", p.Logs(30))
		}
		p.Close()
	})
	return p
}

// OpenPebble runs an ACME authority from what Build(PebbleACME) has made, until Close.
// After a failure nothing of it is left.
func OpenPebble(ctx context.Context, o PebbleOptions) (_ *Pebble, err error) {
	p := &Pebble{o: o, changed: make(chan struct{}), authz: map[string]string{}}
	defer func() {
		if err != nil {
			err = fmt.Errorf("pebble: %w\n%s", err, p.Logs(15))
			p.Close()
		}
	}()
	for range 2 { // one block for what listens, one for where it validates
		ports, err := ReservePorts()
		if err != nil {
			return nil, err
		}
		p.ports = append(p.ports, ports)
	}
	own := p.ports[0]
	p.TLSPort, p.HTTPPort = cmp.Or(o.TLSPort, p.ports[1].Port(0)), cmp.Or(o.HTTPPort, p.ports[1].Port(1))
	if p.Dir, err = os.MkdirTemp("", "pebble-"); err != nil {
		return nil, err
	}
	bind := cmp.Or(o.Bind, "127.0.0.1")
	ca, err := NewAuthority(p.Dir)
	if err != nil {
		return nil, err
	}
	p.CAFile = ca.File
	cert, err := ca.Certificate(bind, "127.0.0.1", "localhost", "pebble")
	if err != nil {
		return nil, err
	}
	if err := p.configure(cert); err != nil {
		return nil, err
	}
	if err := p.start(); err != nil {
		return nil, err
	}
	p.client = ca.Client()
	p.client.Timeout = 10 * time.Second
	addr := bind + ":" + strconv.Itoa(own.Port(0))
	p.URL = "https://" + addr + PebbleDirectory
	p.management, p.dns = "https://"+own.Addr(2), "http://"+own.Addr(4)
	// A front, not Pebble itself: it counts what is asked, and fails as told.
	if p.front, err = newFront(addr, cert, "https://"+own.Addr(1), nil, p.client.Transport); err != nil {
		return nil, err
	}
	p.front.next = p.judge(p.front.next)
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	return p, Until(ctx, "it answers", func() error {
		for _, process := range []*Process{p.pebble, p.server} {
			if !process.Running() {
				cancel()
				return fmt.Errorf("%s has ended: %w", process.Name, process.Err())
			}
		}
		if _, err := p.get(ctx, p.URL); err != nil {
			return err
		}
		if err := p.SetDNS("pebble.invalid"); err != nil { // the DNS is there too
			return err
		}
		_, err := p.Root()
		return err
	})
}

// configure writes Pebble's file of settings, and the certificate that it shows.
func (p *Pebble) configure(cert tls.Certificate) error {
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return err
	}
	validity, wait := cmp.Or(p.o.Validity, 90*24*time.Hour), 1
	if p.o.Impatient {
		wait = 0
	}
	config, err := json.MarshalIndent(map[string]any{"pebble": map[string]any{
		"listenAddress": p.ports[0].Addr(1), "managementListenAddress": p.ports[0].Addr(2),
		"certificate": filepath.Join(p.Dir, "tls.crt"), "privateKey": filepath.Join(p.Dir, "tls.key"),
		"tlsPort": p.TLSPort, "httpPort": p.HTTPPort, "keyAlgorithm": "ecdsa", "domainBlocklist": p.o.Blocked,
		"profiles": map[string]any{"default": map[string]any{"description": validity.String(), "validityPeriod": int64(validity.Seconds())}},
		// Seconds between two looks at an order or an authorization: its default, 3, is for a busy authority.
		"retryAfter": map[string]int{"authz": wait, "order": wait},
	}}, "", "  ")
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(p.Dir, "pebble.json"), config, 0o600),
		os.WriteFile(filepath.Join(p.Dir, "tls.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}), 0o600),
		os.WriteFile(filepath.Join(p.Dir, "tls.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600),
	)
}

func (p *Pebble) start() (err error) {
	resolver := p.ports[0].Addr(3)
	serves := resolver
	if p.o.Port53 {
		// All of 127.0.0.0/8 is loopback, and nobody else has this block's number.
		first := p.ports[0].Port(0)
		p.Nameserver = fmt.Sprintf("127.53.%d.%d", first>>8, first&0xff)
		serves += "," + p.Nameserver + ":53"
	}
	p.server, err = StartProcess(Command{Name: "challtestsrv", Log: p.log("challtestsrv"), Args: []string{
		Bin("pebble-challtestsrv"), "-defaultIPv4", "", "-defaultIPv6", "", "-dnsserver", serves, "-management", p.ports[0].Addr(4),
		// It would answer challenges too; here whoever asks for the certificate does.
		"-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "",
	}})
	if err != nil {
		return err
	}
	env := append(os.Environ(), "PEBBLE_WFE_NONCEREJECT="+strconv.Itoa(p.o.BadNonces), "PEBBLE_AUTHZREUSE="+strconv.Itoa(p.o.ReuseAuthorizations))
	if p.o.Slow > 0 {
		env = append(env, "PEBBLE_VA_SLEEPTIME="+strconv.Itoa(p.o.Slow))
	} else {
		env = append(env, "PEBBLE_VA_NOSLEEP=1")
	}
	if p.o.AlwaysValid {
		env = append(env, "PEBBLE_VA_ALWAYS_VALID=1")
	}
	p.pebble, err = StartProcess(Command{Name: "pebble", Log: p.log("pebble"), Env: env, Args: []string{
		Bin("pebble"), "-config", filepath.Join(p.Dir, "pebble.json"), "-dnsserver", resolver,
	}})
	return err
}

// Close ends the authority and removes its directory.
func (p *Pebble) Close() {
	if p.front != nil {
		_ = p.front.close() // a listener that is gone is what is wanted
	}
	for _, process := range []*Process{p.pebble, p.server} {
		if process != nil {
			process.Kill()
		}
	}
	if p.client != nil {
		p.client.CloseIdleConnections()
	}
	for _, ports := range p.ports {
		ports.Release()
	}
	if p.Dir != "" {
		os.RemoveAll(p.Dir)
	}
}

// SetDNS makes host resolve to addresses alone, and to nothing without any.
func (p *Pebble) SetDNS(host string, addresses ...string) error {
	host = strings.TrimSuffix(host, ".") + "."
	for _, path := range []string{"/clear-servfail", "/clear-a", "/clear-aaaa"} {
		if err := p.tell(path, map[string]any{"host": host}); err != nil {
			return err
		}
	}
	v4, v6 := []string{}, []string{}
	for _, a := range addresses {
		if strings.Contains(a, ":") {
			v6 = append(v6, a)
		} else {
			v4 = append(v4, a)
		}
	}
	if len(v4) > 0 {
		if err := p.tell("/add-a", map[string]any{"host": host, "addresses": v4}); err != nil {
			return err
		}
	}
	if len(v6) == 0 {
		return nil
	}
	return p.tell("/add-aaaa", map[string]any{"host": host, "addresses": v6})
}

// FailDNS lets all questions for host fail (SERVFAIL), and so its validations, until SetDNS.
func (p *Pebble) FailDNS(host string) error {
	return p.tell("/set-servfail", map[string]any{"host": strings.TrimSuffix(host, ".") + "."})
}

// Root is the root certificate of what it issues (PEM).
func (p *Pebble) Root() ([]byte, error) { return p.get(context.Background(), p.management+"/roots/0") }

// RootFile writes Root to a file of its directory and returns the path.
func (p *Pebble) RootFile() (string, error) {
	b, err := p.Root()
	if err != nil {
		return "", err
	}
	file := filepath.Join(p.Dir, "root.pem")
	return file, os.WriteFile(file, b, 0o600)
}

// SetRenewal tells ARI for a certificate (PEM) that it should be renewed between two times.
func (p *Pebble) SetRenewal(certificate []byte, from, to time.Time) error {
	info, err := json.Marshal(map[string]any{"suggestedWindow": map[string]string{
		"start": from.UTC().Format(time.RFC3339), "end": to.UTC().Format(time.RFC3339)}})
	if err != nil {
		return err
	}
	return p.post(p.management+"/set-renewal-info/", map[string]any{"certificate": string(certificate), "ariResponse": string(info)})
}

// Orders are all that were asked for so far, taken or not.
func (p *Pebble) Orders() []PebbleOrder {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]PebbleOrder(nil), p.orders...)
}

// Requests are the methods and paths of all that was asked of it, as in "POST /order-plz".
func (p *Pebble) Requests() []string { return p.front.seen() }

// Issued is how many certificates it has issued.
func (p *Pebble) Issued() int { return p.logged("Issued certificate serial") }

// Validations is how many challenges it has tried, and how they ended.
func (p *Pebble) Validations() (valid, invalid int) {
	return p.logged(" set VALID by completed challenge"), p.logged(" set INVALID by completed challenge")
}

// Logs returns the last lines of its logs.
func (p *Pebble) Logs(lines int) string {
	if p.Dir == "" {
		return ""
	}
	return fmt.Sprintf("--- pebble\n%s\n--- challtestsrv\n%s", tail(p.log("pebble"), lines), tail(p.log("challtestsrv"), lines))
}

func (p *Pebble) log(name string) string { return filepath.Join(p.Dir, "log", name+".log") }

func (p *Pebble) logged(text string) int {
	b, err := os.ReadFile(p.log("pebble"))
	if err != nil {
		return 0
	}
	return bytes.Count(b, []byte(text))
}

// SetFault replaces all faults; whoever hangs is answered, unless it still would.
func (p *Pebble) SetFault(faults ...PebbleFault) error {
	p.mu.Lock()
	p.faults = faults
	close(p.changed)
	p.changed = make(chan struct{})
	p.mu.Unlock()
	for _, f := range faults {
		if f.Kind == PebbleDown {
			return p.front.setFault(IDPDown)
		}
	}
	return p.front.setFault(IDPWell)
}

// Hanging is how many requests a fault lets hang now.
func (p *Pebble) Hanging() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hanging
}

// Accounts are the thumbprints (RFC 7638) of the keys that asked for an account: what
// follows the dot in every key authorization.
func (p *Pebble) Accounts() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.accounts)
}

// Live are the orders that were taken and haven't come to nothing, as far as it has told
// whoever ordered.
func (p *Pebble) Live() (live []PebbleOrder) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, o := range p.orders {
		dead := o.Status != http.StatusCreated
		for _, url := range o.authorizations {
			status := p.authz[url[strings.Index(url, PebbleAuthz):]]
			dead = dead || status == "deactivated" || status == "invalid"
		}
		if !dead {
			live = append(live, o)
		}
	}
	return live
}

// judge lets requests fail as told, and keeps what was ordered.
func (p *Pebble) judge(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen := &answerWriter{ResponseWriter: w, status: http.StatusOK}
		path := r.URL.Path
		if path == PebbleDirectory && p.o.NoRenewalInfo {
			seen.edit = withoutRenewalInfo
		}
		if strings.HasPrefix(path, PebbleRenewal) && p.o.RenewalEvery > 0 {
			seen.retryAfter = strconv.Itoa(int(p.o.RenewalEvery.Seconds()))
		}
		if r.Method != http.MethodPost || path != PebbleNewOrder && path != PebbleNewAccount && !strings.HasPrefix(path, PebbleAuthz) {
			p.answer(seen, r, next)
			return
		}
		body, err := io.ReadAll(r.Body) // whole already: front has read it
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		seen.copy = new(bytes.Buffer)
		p.answer(seen, r, next)
		p.mu.Lock()
		defer p.mu.Unlock()
		switch path {
		case PebbleNewOrder:
			if order := ordered(body); order != nil {
				order.Status, order.authorizations = seen.status, authorizations(seen.copy.Bytes())
				p.orders = append(p.orders, *order)
			}
		case PebbleNewAccount:
			if key := thumbprint(body); key != "" && !slices.Contains(p.accounts, key) {
				p.accounts = append(p.accounts, key)
			}
		default:
			var authz struct{ Status string }
			if json.Unmarshal(seen.copy.Bytes(), &authz) == nil && seen.status == http.StatusOK {
				p.authz[path] = authz.Status
			}
		}
	})
}

// faultOf is the first fault that a path has, and when to look again.
func (p *Pebble) faultOf(path string) (PebbleFault, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.faults {
		if strings.HasPrefix(path, f.Path) {
			return f, p.changed
		}
	}
	return PebbleFault{}, p.changed
}

func (p *Pebble) hangs(by int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hanging += by
}

func (p *Pebble) answer(w http.ResponseWriter, r *http.Request, next http.Handler) {
	for {
		fault, changed := p.faultOf(r.URL.Path)
		switch fault.Kind {
		case PebbleHang:
			p.hangs(1)
			select {
			case <-changed:
				p.hangs(-1)
				continue
			case <-r.Context().Done():
				p.hangs(-1)
				panic(http.ErrAbortHandler)
			}
		case PebbleError, PebbleDown:
			problem(w, http.StatusInternalServerError, "serverInternal", "it is out of order")
		case PebbleRateLimited:
			wait := cmp.Or(fault.RetryAfter, time.Hour)
			w.Header().Set("Retry-After", strconv.Itoa(int(wait.Seconds())))
			problem(w, http.StatusTooManyRequests, "rateLimited", "too many orders of late, retry later")
		default:
			next.ServeHTTP(w, r)
		}
		return
	}
}

// problem answers as RFC 8555, section 6.7 has it.
func problem(w http.ResponseWriter, status int, kind, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"type": "urn:ietf:params:acme:error:%s", "detail": %q, "status": %d}`, kind, detail, status)
}

// ordered is what the JWS of a new order asks for; nil: it can't be read.
func ordered(body []byte) *PebbleOrder {
	var jws struct{ Payload string }
	var order struct {
		Identifiers []struct{ Value string }
		Replaces    string
	}
	if json.Unmarshal(body, &jws) != nil {
		return nil
	}
	payload, err := base64.RawURLEncoding.DecodeString(jws.Payload)
	if err != nil || json.Unmarshal(payload, &order) != nil {
		return nil
	}
	o := &PebbleOrder{At: time.Now(), Replaces: order.Replaces}
	for _, id := range order.Identifiers {
		o.Names = append(o.Names, id.Value)
	}
	return o
}

// authorizations are those that an order has, as the authority answered it.
func authorizations(body []byte) []string {
	var order struct{ Authorizations []string }
	if json.Unmarshal(body, &order) != nil {
		return nil
	}
	return order.Authorizations
}

// withoutRenewalInfo takes ARI out of a directory.
func withoutRenewalInfo(directory []byte) []byte {
	entries := map[string]any{}
	if json.Unmarshal(directory, &entries) != nil {
		return directory
	}
	delete(entries, "renewalInfo")
	b, err := json.Marshal(entries)
	if err != nil {
		return directory
	}
	return b
}

// thumbprint is the one of the key that a JWS holds (RFC 7638); "": it holds no EC key.
func thumbprint(body []byte) string {
	var jws struct{ Protected string }
	var header struct {
		JWK struct {
			Crv string `json:"crv"` // in the order of RFC 7638
			Kty string `json:"kty"`
			X   string `json:"x"`
			Y   string `json:"y"`
		}
	}
	if json.Unmarshal(body, &jws) != nil {
		return ""
	}
	protected, err := base64.RawURLEncoding.DecodeString(jws.Protected)
	if err != nil || json.Unmarshal(protected, &header) != nil || header.JWK.Kty != "EC" {
		return ""
	}
	key, err := json.Marshal(header.JWK)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(key)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// answerWriter remembers how a request was answered.
type answerWriter struct {
	http.ResponseWriter
	status     int
	copy       *bytes.Buffer       // of the body; nil: not wanted
	retryAfter string              // said in place of the header; "": nothing
	edit       func([]byte) []byte // of a body that comes in one piece; nil: none
}

func (w *answerWriter) WriteHeader(status int) {
	w.status = status
	if w.retryAfter != "" {
		w.Header().Set("Retry-After", w.retryAfter)
	}
	if w.edit != nil {
		w.Header().Del("Content-Length")
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *answerWriter) Write(b []byte) (int, error) {
	if w.copy != nil {
		w.copy.Write(b)
	}
	if w.edit == nil {
		return w.ResponseWriter.Write(b)
	}
	_, err := w.ResponseWriter.Write(w.edit(b))
	return len(b), err
}

// Unwrap is for http.ResponseController.
func (w *answerWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (p *Pebble) tell(path string, in any) error { return p.post(p.dns+path, in) }

func (p *Pebble) post(url string, in any) error {
	b, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, url, bytes.NewReader(b))
	if err != nil {
		return err
	}
	_, err = p.do(req)
	return err
}

func (p *Pebble) get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	return p.do(req)
}

func (p *Pebble) do(req *http.Request) ([]byte, error) {
	resp, err := p.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s: %.300s", req.Method, req.URL, resp.Status, b)
	}
	return b, err
}
