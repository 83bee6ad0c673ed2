package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

const (
	// maxAnswer bounds a JSON answer: a list of every user of a large cluster
	// fits, a server that never stops sending does not.
	maxAnswer = 64 << 20
	// requestTimeout is longer than a replica waits for a leader (5 s) and a
	// password hash takes under load.
	requestTimeout = 60 * time.Second
	recoverTimeout = 15 * time.Minute // writes the whole state to disk first
	dialTimeout    = 10 * time.Second
)

// Client calls one server. It is safe for concurrent use.
type Client struct {
	http    *http.Client
	base    string // https://host:port, without a slash
	agent   string
	timeout time.Duration
	explain func(error) error // turns a failure to connect into what the user can do
	// OnUnsettled hears of servers that had not confirmed a change within a
	// second (api.HeaderUnsettled). Set it before the first call; nil: nobody hears.
	OnUnsettled func(servers []string)
	// OnWarning hears, as a sentence, what is wrong with an answer that came all
	// the same, or what a change may bring that was not meant. May be nil.
	OnWarning func(text string)
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// NewUnix calls a replica on its unix socket. agent is the User-Agent.
func NewUnix(path, agent string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "unix", path)
	}
	return &Client{
		http: &http.Client{Transport: &http.Transport{DialContext: dial}, CheckRedirect: noRedirect},
		base: "http://sallyport", agent: agent, timeout: requestTimeout,
		explain: func(err error) error { return explainSocket(path, err) },
	}
}

// noRedirect: no path of the interface redirects, so one is somebody else's page
// (a captive portal, say), to which no password must be sent.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Ping asks who the server is.
func (c *Client) Ping(ctx context.Context) (*api.Ping, error) {
	return get[api.Ping](ctx, c, api.PathPing)
}

// PingConnector is Ping about a login by the connector of that name; without one it
// is a CodeNotFound error.
func (c *Client) PingConnector(ctx context.Context, name string) (*api.Ping, error) {
	return get[api.Ping](ctx, c, api.PathPing+"/"+url.PathEscape(name))
}

// Login asks for a session.
func (c *Client) Login(ctx context.Context, req *api.LoginRequest) (*api.LoginResponse, error) {
	return send[api.LoginResponse](ctx, c, http.MethodPost, api.PathLogin, req)
}

// Session is the session of the client's certificate.
func (c *Client) Session(ctx context.Context) (*api.Session, error) {
	return get[api.Session](ctx, c, api.PathSession)
}

// Logout ends the session of the client's certificate.
func (c *Client) Logout(ctx context.Context) error {
	return c.call(ctx, http.MethodDelete, api.PathSession, nil, nil)
}

// KubeClusters are the Kubernetes clusters that the user may reach.
func (c *Client) KubeClusters(ctx context.Context) ([]api.KubeCluster, error) {
	list, err := get[api.KubeClusters](ctx, c, api.PathKube)
	if err != nil {
		return nil, err
	}
	return list.Clusters, nil
}

// Status is what the replica knows of the cluster.
func (c *Client) Status(ctx context.Context) (*api.Status, error) {
	return get[api.Status](ctx, c, api.PathStatus)
}

// AddUser creates a user and gives the link by which the user sets a password.
func (c *Client) AddUser(ctx context.Context, req *api.AddUserRequest) (*api.AddUserResponse, error) {
	return send[api.AddUserResponse](ctx, c, http.MethodPost, api.PathUsers, req)
}

// Put creates the document, or with force replaces one of the same name.
func (c *Client) Put(ctx context.Context, document json.RawMessage, force bool) (*api.PutResponse, error) {
	resp, err := send[api.PutResponse](ctx, c, http.MethodPut, forced(api.PathResources, force), document)
	if err == nil && c.OnWarning != nil {
		for _, text := range resp.Warnings {
			c.OnWarning(text)
		}
	}
	return resp, err
}

// List gives the documents of a kind, or the one of that name if name isn't empty.
func (c *Client) List(ctx context.Context, kind, name string) ([]json.RawMessage, error) {
	return c.list(ctx, resourcePath(kind, name))
}

func (c *Client) list(ctx context.Context, path string) ([]json.RawMessage, error) {
	list, err := get[api.ListResponse](ctx, c, path)
	if err != nil {
		return nil, err
	}
	if list.Items == nil {
		return []json.RawMessage{}, nil // "[]" rather than "null" when printed: scripts iterate
	}
	return list.Items, nil
}

// Delete removes a document. A cluster auth preference that passkeys depend on
// needs force.
func (c *Client) Delete(ctx context.Context, kind, name string, force bool) error {
	return c.call(ctx, http.MethodDelete, forced(resourcePath(kind, name), force), nil, nil)
}

func forced(path string, force bool) string {
	if force {
		path += "?force=true"
	}
	return path
}

// Authorities asks for the certificates of the cluster's CAs.
func (c *Client) Authorities(ctx context.Context) (*api.Authorities, error) {
	return send[api.Authorities](ctx, c, http.MethodGet, api.PathCAs, nil)
}

// Recover makes the replica the sole voter of a new cluster.
func (c *Client) Recover(ctx context.Context, clusterID string) (*api.RecoverResponse, error) {
	patient := *c
	patient.timeout = recoverTimeout
	return send[api.RecoverResponse](ctx, &patient, http.MethodPost, api.PathRecover, &api.RecoverRequest{ClusterID: clusterID})
}

// Backup writes a snapshot of the whole state to w and returns its size in
// bytes. An answer cut short is an error.
func (c *Client) Backup(ctx context.Context, w io.Writer) (int64, error) {
	resp, err := c.do(ctx, http.MethodGet, api.PathBackup, nil)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	if text := resp.Header.Get(api.HeaderBackupWarning); text != "" && c.OnWarning != nil {
		c.OnWarning(text)
	}
	n, err := io.Copy(w, resp.Body)
	if err != nil {
		return n, fmt.Errorf("after %d bytes of the backup: %w", n, err)
	}
	return n, nil
}

func resourcePath(kind, name string) string {
	path := api.PathResources + "/" + url.PathEscape(kind)
	if name != "" {
		path += "/" + url.PathEscape(name)
	}
	return path
}

func get[T any](ctx context.Context, c *Client, path string) (*T, error) {
	return send[T](ctx, c, http.MethodGet, path, nil)
}

func send[T any](ctx context.Context, c *Client, method, path string, body any) (*T, error) {
	out := new(T)
	if err := c.call(ctx, method, path, body, out); err != nil {
		return nil, err
	}
	return out, nil
}

// call sends body as JSON and decodes the answer into out; both may be nil.
func (c *Client) call(ctx context.Context, method, path string, body, out any) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var sent []byte
	if body != nil {
		var err error
		if sent, err = json.Marshal(body); err != nil {
			return fmt.Errorf("encode the request: %w", err)
		}
		if len(sent) > api.MaxRequestBody {
			return api.Errorf(api.CodeTooLarge, "the request is %d bytes long, at most %d are allowed", len(sent), api.MaxRequestBody)
		}
	}
	resp, err := c.do(ctx, method, path, sent)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if out == nil {
		return nil
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return api.Errorf(api.CodeAmbiguous, "the connection broke before the answer to %s %s was complete: %w", method, path, err)
	case len(answer) > maxAnswer:
		return api.Errorf(api.CodeInternal, "the answer to %s %s is longer than %d bytes", method, path, maxAnswer)
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return api.Errorf(api.CodeInternal, "the answer to %s %s is not Sallyport's: is this the right address?", method, path)
	}
	return nil
}

// do returns an answer with a 2xx status, whose body the caller closes, or an error.
func (c *Client) do(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, reader)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", c.agent)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	sent := false
	trace := &httptrace.ClientTrace{WroteHeaders: func() { sent = true }}
	resp, err := c.http.Do(req.WithContext(httptrace.WithClientTrace(ctx, trace)))
	if err != nil {
		if errors.Is(ctx.Err(), context.Canceled) {
			return nil, ctx.Err()
		}
		err = c.explain(err)
		if sent && method != http.MethodGet && api.IsCode(err, api.CodeUnavailable) {
			return nil, api.Errorf(api.CodeAmbiguous, "it may or may not have been done, look before you try again: %w", err)
		}
		return nil, err
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		if servers := resp.Header.Get(api.HeaderUnsettled); servers != "" && c.OnUnsettled != nil {
			c.OnUnsettled(strings.Split(servers, ","))
		}
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }()
	return nil, api.ReadError(resp)
}

// SplitProxy reads the address of a proxy as people type it: host, host:port or
// https://host:port; the port is 443 unless given.
func SplitProxy(addr string) (host, port string, err error) {
	invalid := api.Errorf(api.CodeInvalid, "proxy address %q: give host or host:port, such as tele.example.com:443", addr)
	s := strings.TrimSuffix(strings.TrimPrefix(addr, "https://"), "/")
	host, port, err = net.SplitHostPort(s)
	if err != nil {
		host, port = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"), "443"
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", "", invalid
	}
	if net.ParseIP(host) == nil && !isHostname(host) {
		return "", "", invalid
	}
	return strings.ToLower(host), strconv.FormatUint(n, 10), nil
}

// isHostname is strict because the name becomes part of a path.
func isHostname(s string) bool {
	if s == "" || len(s) > 253 || s[0] == '.' || s[0] == '-' || strings.Contains(s, "..") {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_') {
			return false
		}
	}
	return true
}
