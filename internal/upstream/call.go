package upstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// maxAnswer bounds what Call reads of an answer: a Secret of the largest size, as
// base64 in JSON, and its metadata.
const maxAnswer = 4 << 20

// ErrNoJSON is what Call gives for an answer that can't be read.
var ErrNoJSON = errors.New("the answer is no JSON")

// Call asks the API server something with our own credentials and identity, in JSON;
// in and out may be nil. The status is 0 if there was no answer, which Why puts in
// words that name no address. One other than 2xx is an error, too, with the words
// of the API server.
func (u Upstream) Call(ctx context.Context, method, path string, in, out any) (status int, err error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return 0, fmt.Errorf("write the request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, u.URL.String()+path, body)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "sallyport")
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := u.Plain.RoundTrip(req)
	if err != nil {
		return 0, fmt.Errorf("ask the API server at %s: %w", u.URL.Host, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return 0, fmt.Errorf("ask the API server at %s: %w", u.URL.Host, err)
	}
	if res.StatusCode < http.StatusOK || res.StatusCode >= http.StatusMultipleChoices {
		var said struct {
			Message string `json:"message"`
		}
		_ = json.Unmarshal(b, &said) // its status says enough
		return res.StatusCode, fmt.Errorf("the API server answers %s: %.300s", res.Status, said.Message)
	}
	if out != nil && json.Unmarshal(b, out) != nil {
		return res.StatusCode, fmt.Errorf("the API server at %s: %w", u.URL.Host, ErrNoJSON)
	}
	return res.StatusCode, nil
}
