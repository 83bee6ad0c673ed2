package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

const (
	joinTimeout   = 30 * time.Second
	askTimeout    = 10 * time.Second // of who it is
	maxSkew       = 10 * time.Minute // beyond which a clock is refused
	maxJWT        = 64 << 10
	maxJoinHeader = 64 << 10 // of an answer
)

// join makes this agent one with an identity of its own. The key of pending is
// saved already.
func (d *dialer) join(ctx context.Context, pending *Identity) (*Identity, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	token, err := d.token()
	if err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(d.opts.Proxy)
	if err != nil {
		return nil, err
	}
	if d.opts.Insecure {
		d.log.Warn("INSECURE: the token is about to be sent to whoever answers, unchecked: give --ca-pin instead of --insecure", "proxy", d.opts.Proxy)
	}
	web, cluster, err := d.meet(ctx, trust{
		addr: d.opts.Proxy, web: host, name: host, pins: d.pins, roots: d.opts.Roots, insecure: d.opts.Insecure, now: d.opts.Clock,
	})
	if err != nil {
		return nil, err
	}
	defer web.close()
	public, err := pending.publicKey()
	if err != nil {
		return nil, err
	}
	req := api.JoinRequest{Token: token, PublicKey: public, KubeClusters: d.names, Name: d.opts.Name, Version: d.opts.Version}
	if d.opts.JoinMethod == api.JoinMethodKubernetes {
		if req.JWT, err = d.jwt(ctx, cluster); err != nil {
			return nil, err
		}
	}
	var res api.JoinResponse
	if err := web.do(ctx, http.MethodPost, api.PathJoin, req, &res); err != nil {
		return nil, err
	}
	id := &Identity{
		AgentID: res.AgentID, ClusterName: res.ClusterName, Generation: res.Generation,
		Key: pending.Key, Cert: res.Cert, HostSigners: res.HostSigners, KubeClusters: d.names,
	}
	if _, err := id.credentials(); err != nil {
		return nil, fmt.Errorf("the answer to the join can't be used: %w", err)
	}
	return id, nil
}

// meet makes sure who is at the proxy's address and what its clock says, and gives a
// client for it. All that comes before the token is shown, because a use of it should
// not be spent on what can't work, and before a service account's token is asked for,
// because that one's audience is the cluster's name.
func (d *dialer) meet(ctx context.Context, check trust) (_ *joinClient, clusterName string, err error) {
	asking := check
	asking.asking = true
	c := d.newJoinClient(asking)
	chain, err := c.connect(ctx)
	if err != nil {
		return nil, "", err
	}
	known := len(d.pins) == 0 || check.pinned(chain) // else by what the machine trusts alone
	if known {
		c.check = check // whatever is dialled from here on is told the token
	}
	said, err := d.ask(ctx, c)
	if err == nil {
		err = d.checkClock(said.date)
	}
	if err != nil {
		c.close()
		return nil, "", err
	}
	if known {
		return c, said.clusterName, nil
	}
	// A certificate that the machine trusts, and behind it whom the pin names.
	c.close()
	check.name = api.JoinServerName(said.clusterName)
	c = d.newJoinClient(check)
	if _, err := c.connect(ctx); err != nil {
		return nil, "", err
	}
	return c, said.clusterName, nil
}

// token is what the agent joins with.
func (d *dialer) token() (string, error) {
	if d.opts.TokenFile == "" {
		return d.opts.Token, nil
	}
	b, err := readSmall(d.opts.TokenFile)
	if err != nil {
		return "", fmt.Errorf("the token: %w", err)
	}
	if token := strings.TrimSpace(string(b)); token != "" {
		return token, nil
	}
	return "", fmt.Errorf("the token: %s is empty", d.opts.TokenFile)
}

// jwt is the service account's token, for JoinMethodKubernetes.
func (d *dialer) jwt(ctx context.Context, audience string) (string, error) {
	if d.opts.JWTFile != "" {
		b, err := readSmall(d.opts.JWTFile)
		if err == nil {
			return strings.TrimSpace(string(b)), nil
		}
		if !errors.Is(err, fs.ErrNotExist) || d.opts.JWT == nil {
			return "", fmt.Errorf("the service account's token: %w", err)
		}
	}
	if d.opts.JWT == nil {
		return "", errors.New("there is no service account here to join by: give --kubernetes-token-path, or a token of another method")
	}
	return d.opts.JWT(ctx, audience)
}

func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path) //nolint:gosec // whoever runs the agent names it
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxJWT))
}

// dialTLS reaches Sallyport's address and makes sure who it is.
func (d *dialer) dialTLS(ctx context.Context, cfg *tls.Config) (*tls.Conn, error) {
	raw, err := d.dialProxied(ctx)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close() // the error says more
		return nil, err
	}
	return conn, nil
}

// introduction is what the one at the proxy's address says of itself. It may be known
// by the machine's roots alone: it says which name to verify by the pin.
type introduction struct{ clusterName, date string }

// ask gets an introduction. It tells nothing in exchange, and of the answer it takes
// nothing else: not even words for people.
func (d *dialer) ask(ctx context.Context, c *joinClient) (introduction, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+d.opts.Proxy+api.PathPing, nil)
	if err != nil {
		return introduction{}, err
	}
	res, err := c.send(req)
	if err != nil {
		return introduction{}, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		look := "is the address right?"
		if res.StatusCode >= http.StatusInternalServerError {
			look = lookBehind
		}
		return introduction{}, retryAfter(res, fmt.Errorf("%s answers %d %s and not as Sallyport does: %s", d.opts.Proxy, res.StatusCode, http.StatusText(res.StatusCode), look))
	}
	var ping struct {
		ClusterName string `json:"cluster_name"`
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, api.MaxRequestBody)).Decode(&ping); err != nil || api.ValidateClusterName(ping.ClusterName) != nil {
		return introduction{}, fmt.Errorf("%s does not answer as Sallyport does: is the address right?", d.opts.Proxy)
	}
	return introduction{ping.ClusterName, res.Header.Get("Date")}, nil
}

// joinClient speaks to whoever its trust lets pass, over one connection.
type joinClient struct {
	dialer *dialer
	check  trust
	http   *http.Client
	ready  chan net.Conn // of connect
}

func (d *dialer) newJoinClient(check trust) *joinClient {
	c := &joinClient{dialer: d, check: check, ready: make(chan net.Conn, 1)}
	c.http = &http.Client{
		Transport: &http.Transport{
			DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				select {
				case conn := <-c.ready:
					return conn, nil
				default:
					return d.dialTLS(ctx, c.check.config())
				}
			},
			// One connection that was checked is used for all requests.
			MaxConnsPerHost: 1, MaxIdleConns: 1, IdleConnTimeout: joinTimeout, MaxResponseHeaderBytes: maxJoinHeader,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // a token goes nowhere else
	}
	return c
}

// connect makes the connection for the first request beforehand, once, and gives the
// chain that the server shows.
func (c *joinClient) connect(ctx context.Context) ([]*x509.Certificate, error) {
	conn, err := c.dialer.dialTLS(ctx, c.check.config())
	if err != nil {
		return nil, c.unreached(err)
	}
	c.ready <- conn
	return conn.ConnectionState().PeerCertificates, nil
}

func (c *joinClient) close() {
	c.http.CloseIdleConnections()
	select {
	case conn := <-c.ready:
		_ = conn.Close() // nothing was sent over it
	default:
	}
}

// send says by whom a request was not answered.
func (c *joinClient) send(req *http.Request) (*http.Response, error) {
	req.Header.Set("User-Agent", "sallyport-agent")
	res, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreached(errors.Unwrap(err)) // http.Client's own words around it say nothing
	}
	return res, nil
}

func (c *joinClient) unreached(err error) error {
	if e, ok := errors.AsType[*trustError](err); ok {
		return e
	}
	if look := instead(err); look != "" {
		return fmt.Errorf("reach Sallyport at %s: %s (%w)", c.dialer.opts.Proxy, look, err)
	}
	return fmt.Errorf("reach Sallyport at %s: %w", c.dialer.opts.Proxy, err)
}

const (
	lookBehind  = "if it is a load balancer, are the replicas behind it up?"
	giveAddress = "give the address that users type in 'tsh login --proxy'"
)

// instead says what an error tells of who is at the address, and what to do; "": nothing.
// crypto/tls has no types for the other end's alerts outside of QUIC.
func instead(err error) string {
	_, noTLS := errors.AsType[tls.RecordHeaderError](err)
	switch text := err.Error(); {
	case strings.Contains(text, "remote error: tls: certificate required"), strings.Contains(text, "remote error: tls: bad certificate"):
		return "it asks for a client's certificate, as Sallyport's port for kubectl does (3026): " + giveAddress
	case strings.Contains(text, "remote error: tls: no application protocol"):
		return "it speaks TLS, but no HTTP, as the port of Sallyport's replicas does (7443): " + giveAddress
	case noTLS:
		return "it speaks no TLS: " + giveAddress
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return "it closes the connection: " + lookBehind
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return "it does not answer in time: is it Sallyport, and does no firewall hold back what is sent?"
	}
	return ""
}

func (c *joinClient) do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://"+c.dialer.opts.Proxy+path, body)
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.send(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return retryAfter(res, api.ReadError(res))
	}
	if err := c.dialer.checkClock(res.Header.Get("Date")); err != nil {
		return err
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, api.MaxRequestBody)).Decode(out); err != nil {
		return fmt.Errorf("%s does not answer as Sallyport does: is the address right?", c.dialer.opts.Proxy)
	}
	return nil
}

// checkClock compares this machine's clock with the replica's.
func (d *dialer) checkClock(date string) error {
	theirs, err := http.ParseTime(date)
	if err != nil {
		return nil //nolint:nilerr // it does not say
	}
	skew := d.opts.Clock().Sub(theirs)
	if skew.Abs() <= maxSkew {
		return nil
	}
	word := "ahead of"
	if skew < 0 {
		word = "behind"
	}
	return api.Errorf(api.CodeInvalid, "this machine's clock is %s %s Sallyport's: set it (by NTP), certificates can't be judged by it; nothing was joined", skew.Abs().Round(time.Second), word)
}

// laterError is a refusal that says when to come again.
type laterError struct {
	error
	after time.Duration
}

func (e *laterError) Unwrap() error { return e.error }

func retryAfter(res *http.Response, err error) error {
	if d, parse := time.ParseDuration(res.Header.Get("Retry-After") + "s"); parse == nil && d > 0 {
		return &laterError{err, d}
	}
	return err
}
