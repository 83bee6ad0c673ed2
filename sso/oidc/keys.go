package oidc

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/sync/semaphore"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/sso"
)

// keySet are the keys at jwks_uri, as go-oidc's verifier wants them (oidc.KeySet).
// They are fetched when first needed, and again when a token is signed with none of
// those that are known (OpenID Connect Core 1.0, section 10.1.1). Each renewal of the
// discovery document begins a new set, so that a key which was withdrawn goes too.
//
// go-oidc's own RemoteKeySet does the same in a goroutine that nobody waits for and
// that no context ends, and its errors hold what the provider answered.
type keySet struct {
	address string
	client  *http.Client
	algs    []jose.SignatureAlgorithm
	asking  *semaphore.Weighted // held by who asks

	mu      sync.Mutex
	keys    []jose.JSONWebKey
	fetched int // how often
}

func newKeySet(address string, client *http.Client, algs []string) *keySet {
	k := &keySet{address: address, client: client, asking: semaphore.NewWeighted(1)}
	for _, alg := range algs {
		k.algs = append(k.algs, jose.SignatureAlgorithm(alg))
	}
	return k
}

// errSignature is a token that no key of the provider signed.
var errSignature = errors.New("signed by none of the keys")

// VerifySignature implements oidc.KeySet. Where keys can't be had, the error is an
// *api.Error.
func (k *keySet) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	jws, err := jose.ParseSignedCompact(jwt, k.algs)
	if err != nil {
		return nil, err
	}
	keys, seen := k.known()
	if payload, ok := try(jws, keys); ok {
		return payload, nil
	}
	if err := k.asking.Acquire(ctx, 1); err != nil {
		return nil, sso.Unavailable(k.address, err)
	}
	defer k.asking.Release(1)
	keys, now := k.known()
	if now == seen { // nobody asked meanwhile
		if keys, err = k.fetch(ctx); err != nil {
			return nil, err
		}
	}
	if payload, ok := try(jws, keys); ok {
		return payload, nil
	}
	return nil, errSignature
}

func try(jws *jose.JSONWebSignature, keys []jose.JSONWebKey) ([]byte, bool) {
	if len(jws.Signatures) != 1 {
		return nil, false
	}
	head := jws.Signatures[0].Protected
	for _, key := range keys {
		if head.KeyID != "" && head.KeyID != key.KeyID || key.Algorithm != "" && key.Algorithm != head.Algorithm {
			continue
		}
		if payload, err := jws.Verify(key); err == nil {
			return payload, true
		}
	}
	return nil, false
}

func (k *keySet) known() ([]jose.JSONWebKey, int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.keys, k.fetched
}

func (k *keySet) fetch(ctx context.Context) ([]jose.JSONWebKey, error) {
	body, err := sso.Get(ctx, k.client, k.address, "application/json")
	if err != nil {
		return nil, sso.Unavailable(k.address, err)
	}
	keys, err := readKeys(body)
	if err != nil {
		return nil, api.Errorf(api.CodeUnavailable, "%s: %s", sso.Host(k.address), err.Error())
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys = keys
	k.fetched++
	return keys, nil
}

// readKeys reads a JWK set (RFC 7517). Keys that we can't read are left out, as it
// wants, for a provider may have some for others; so are such as are secret, where
// whoever reads the set could sign, and such as are for encryption.
func readKeys(body []byte) ([]jose.JSONWebKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if json.Unmarshal(body, &set) != nil || set.Keys == nil {
		return nil, errors.New("its answer is no set of keys")
	}
	var keys []jose.JSONWebKey
	for _, raw := range set.Keys {
		var key jose.JSONWebKey
		if key.UnmarshalJSON(raw) == nil && key.Valid() && key.IsPublic() && (key.Use == "" || key.Use == "sig") {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// asked is a key set that remembers its error: go-oidc's verifier keeps the text
// alone, and a provider that is down is not a forged token.
type asked struct {
	*keySet
	err error
}

func (a *asked) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	payload, err := a.keySet.VerifySignature(ctx, jwt)
	a.err = err
	return payload, err
}
