package auth

import (
	"context"
	"encoding/json"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// Tokens let agents join.
type Tokens struct{ base *base }

// Add makes a token of api.JoinMethodToken.
func (t *Tokens) Add(ctx context.Context, by Actor, req api.AddTokenRequest) (api.AddTokenResponse, error) {
	return api.AddTokenResponse{}, errSoon()
}

// Put writes a token's document.
func (t *Tokens) Put(ctx context.Context, by Actor, doc *api.Token, force bool) (api.PutResponse, error) {
	return api.PutResponse{}, errSoon()
}

// Get returns a token as a document, by its id or name.
func (t *Tokens) Get(name string) (json.RawMessage, error) { return nil, errSoon() }

// List returns all tokens as documents.
func (t *Tokens) List() ([]json.RawMessage, error) { return nil, errSoon() }

// Delete removes a token by its id, its name or the secret.
func (t *Tokens) Delete(ctx context.Context, by Actor, nameOrSecret string) error { return errSoon() }

func errSoon() error { return api.Errorf(api.CodeUnavailable, "not yet") }
