package testbed

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
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
	// Validity of the certificates; 0: 90 days.
	Validity time.Duration
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

// The paths of Pebble's endpoints, for Fault and Requests.
const (
	PebbleDirectory  = "/dir"
	PebbleNewAccount = "/sign-me-up"
	PebbleNewOrder   = "/order-plz"
	PebbleAuthz      = "/authZ/"
	PebbleChallenge  = "/chalZ/"
	PebbleFinalize   = "/finalize-order/"
	PebbleRenewal    = "/draft-ietf-acme-ari-03/renewalInfo/"
)

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

	record pebbleRecord
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
	p := &Pebble{o: o}
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
	if p.front, err = newFront(frontOptions{
		addr: addr, cert: cert, backend: "https://" + own.Addr(1), via: p.client.Transport,
		edit: p.edit, around: p.record.keep, refuse: refuseACME,
	}); err != nil {
		return nil, err
	}
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
		"tlsPort": p.TLSPort, "httpPort": p.HTTPPort, "keyAlgorithm": "ecdsa",
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
	env := append(os.Environ(), "PEBBLE_WFE_NONCEREJECT="+strconv.Itoa(p.o.BadNonces), "PEBBLE_AUTHZREUSE=0", "PEBBLE_VA_NOSLEEP=1")
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

// SetRenewal tells ARI for a certificate (PEM) that it should be renewed between two times.
func (p *Pebble) SetRenewal(certificate []byte, from, to time.Time) error {
	info, err := json.Marshal(map[string]any{"suggestedWindow": map[string]string{
		"start": from.UTC().Format(time.RFC3339), "end": to.UTC().Format(time.RFC3339)}})
	if err != nil {
		return err
	}
	return p.post(p.management+"/set-renewal-info/", map[string]any{"certificate": string(certificate), "ariResponse": string(info)})
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

// SetFault replaces all faults; without any it is well, and whoever hangs is answered.
func (p *Pebble) SetFault(faults ...Fault) error { return p.front.setFault(faults...) }

// Hanging is how many requests a fault lets hang now.
func (p *Pebble) Hanging() int { return p.front.hung() }

// refuseACME answers as RFC 8555, section 6.7 has it.
func refuseACME(w http.ResponseWriter, f FaultKind) {
	status, kind, detail := http.StatusInternalServerError, "serverInternal", "it is out of order"
	if f == FaultRateLimited {
		status, kind, detail = http.StatusTooManyRequests, "rateLimited", "too many orders of late, retry later"
		w.Header().Set("Retry-After", anHour)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"type": "urn:ietf:params:acme:error:%s", "detail": %q, "status": %d}`, kind, detail, status)
}

// edit changes what it says of ARI, as the options have it.
func (p *Pebble) edit(resp *http.Response) error {
	path := resp.Request.URL.Path
	if p.o.RenewalEvery > 0 && strings.HasPrefix(path, PebbleRenewal) {
		resp.Header.Set("Retry-After", strconv.Itoa(int(p.o.RenewalEvery.Seconds())))
	}
	if !p.o.NoRenewalInfo || path != PebbleDirectory {
		return nil
	}
	entries := map[string]any{}
	err := json.NewDecoder(resp.Body).Decode(&entries)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	delete(entries, "renewalInfo")
	b, err := json.Marshal(entries)
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
	resp.Header.Set("Content-Length", strconv.Itoa(len(b)))
	return err
}

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
