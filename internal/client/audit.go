package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// Audit searches the audit log. Events of the page are lines as they were logged;
// who wants those that follow asks again, as api.AuditPage says.
func (c *Client) Audit(ctx context.Context, q api.AuditQuery) (*api.AuditPage, error) {
	path := api.PathAudit
	if values := q.Values(); len(values) > 0 {
		path += "?" + values.Encode()
	}
	return get[api.AuditPage](ctx, c, path)
}

// AuditVerify has replicas check their audit logs: the one asked if server is "",
// all for api.AllServers. Progress hears how far each has come; it may be nil. What is
// returned is what became of each, in the order in which they were done.
func (c *Client) AuditVerify(ctx context.Context, server string, progress func(api.AuditVerified)) ([]api.AuditVerified, error) {
	path := api.PathAuditVerify
	if server != "" {
		path += "?" + url.Values{"server": {server}}.Encode()
	}
	resp, err := c.do(ctx, http.MethodPost, path, nil)
	if api.IsCode(err, api.CodeAmbiguous) { // whether or not it was begun: nothing has changed
		return nil, api.Errorf(api.CodeUnavailable, "%w", errors.Unwrap(err))
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	var done []api.AuditVerified
	open := map[string]bool{} // begun, and not done
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, api.MaxVerifiedLine)
	for lines.Scan() {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		var v api.AuditVerified
		if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
			return done, api.Errorf(api.CodeInternal, "the answer to POST %s is not Sallyport's: is this the right address?", api.PathAuditVerify)
		}
		open[v.ServerID] = true
		if v.Done {
			delete(open, v.ServerID)
			done = append(done, v)
		} else if progress != nil {
			progress(v)
		}
	}
	switch err := lines.Err(); {
	case ctx.Err() != nil:
		return done, ctx.Err()
	case err != nil:
		return done, api.Errorf(api.CodeUnavailable, "the connection broke before the log was checked, try again: %w", rootCause(err))
	case len(open) > 0 || len(done) == 0:
		return done, api.Errorf(api.CodeUnavailable, "the answer ended before the log was checked, try again")
	}
	return done, nil
}

// AuditExport writes the lines of the audit log from number from to number to, both
// inclusive and 0 for its beginning and end, as they are. It returns how many bytes
// came. An answer cut short is an error.
func (c *Client) AuditExport(ctx context.Context, from, to uint64, w io.Writer) (int64, error) {
	values := url.Values{}
	for name, number := range map[string]uint64{"from": from, "to": to} {
		if number > 0 {
			values.Set(name, strconv.FormatUint(number, 10))
		}
	}
	path := api.PathAuditExport
	if len(values) > 0 {
		path += "?" + values.Encode()
	}
	resp, err := c.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	body := &readErrors{Reader: resp.Body}
	n, err := io.Copy(w, body)
	switch {
	case ctx.Err() != nil:
		return n, ctx.Err()
	case body.err != nil:
		return n, api.Errorf(api.CodeUnavailable, "the connection broke after %d bytes of the audit log, try again: %w", n, rootCause(body.err))
	case err != nil:
		return n, fmt.Errorf("after %d bytes of the audit log: %w", n, err)
	}
	return n, nil
}

// readErrors tells errors of the source from those of where a copy goes to.
type readErrors struct {
	io.Reader
	err error
}

func (r *readErrors) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}
