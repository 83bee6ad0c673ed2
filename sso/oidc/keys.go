package oidc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/sallyport-dev/sallyport/sso"
)

// newKeys are the keys at jwks_uri: go-oidc fetches them when they are first needed,
// and again when a token names one that it does not know. A new set begins with each
// renewal of the discovery document, so that a key which was withdrawn goes too.
func newKeys(address string, client *http.Client) oidc.KeySet {
	keyed := *client
	keyed.Transport = &keysTransport{client.Transport}
	return oidc.NewRemoteKeySet(oidc.ClientContext(context.Background(), &keyed), address)
}

// errKeys is an answer of jwks_uri that is no key set.
var errKeys = errors.New("no key set")

// keysTransport gives go-oidc key sets alone. What else a provider may answer would
// become text of go-oidc's errors, from which one could not tell a provider that is
// down from a forged token.
type keysTransport struct{ base http.RoundTripper }

func (t *keysTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.base.RoundTrip(req)
	if err != nil || resp.StatusCode/100 == 3 { // http.Client's to follow
		return resp, err
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, sso.StatusError(resp.StatusCode)
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if json.Unmarshal(body, &set) != nil || set.Keys == nil {
		return nil, errKeys
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// asked is a key set that remembers why keys could not be had: go-oidc's verifier
// keeps the text of that error alone.
type asked struct {
	oidc.KeySet
	err error
}

func (a *asked) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	payload, err := a.KeySet.VerifySignature(ctx, jwt)
	a.err = err
	return payload, err
}
