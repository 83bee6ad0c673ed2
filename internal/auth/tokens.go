package auth

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

const (
	tokenBytes      = 16 // of a secret of ours, which is written in hex
	defaultTokenTTL = 30 * time.Minute
	minTokenTTL     = time.Minute
	maxTokenTTL     = 10 * 365 * 24 * time.Hour
)

// Tokens let agents join: whoever knows a secret, or has a service account that
// somebody vouches for. Of a secret the store has the SHA-256 alone, and people see
// its first 16 hex digits, which are the token's id.
type Tokens struct {
	base        *base
	authorities *Authorities
}

// tokenRecord is a token. Its document has the record's name: the id, or with
// api.JoinMethodKubernetes what its writer called it.
type tokenRecord struct {
	Document api.Token `json:"document"`
	Hash     []byte    `json:"hash,omitempty"` // SHA-256 of the secret
	// Recent are the last uses of a token whose uses are counted.
	Recent []tokenUse `json:"recent,omitempty"`

	unknown error // see enforceable
}

// tokenUse is a join by a token.
type tokenUse struct {
	Key   string `json:"key"` // pki.KeySum
	Agent string `json:"agent"`
}

// maxRecentUses is how many joins by a token may be repeated.
const maxRecentUses = 16

// Add makes a token of api.JoinMethodToken, and is the only one to give it away.
func (t *Tokens) Add(ctx context.Context, by Actor, req api.AddTokenRequest) (api.AddTokenResponse, error) {
	secret := req.Value
	if secret == "" {
		made, err := t.base.random(tokenBytes)
		if err != nil {
			return api.AddTokenResponse{}, err
		}
		secret = made
	}
	ttl, err := tokenTTL(time.Duration(req.TTL))
	if err != nil {
		return api.AddTokenResponse{}, err
	}
	doc := api.Token{
		Header: api.Header{Kind: api.KindToken, Version: api.TokenVersion, Metadata: api.Metadata{Name: secret, Labels: req.Labels}},
		Spec:   api.TokenSpec{Roles: req.Roles, JoinMethod: api.JoinMethodToken, MaxUses: req.MaxUses, KubeClusters: req.KubeClusters},
	}
	if err := doc.Validate(); err != nil {
		return api.AddTokenResponse{}, err
	}
	if api.IsTokenID(secret) {
		return api.AddTokenResponse{}, errTokenIsID()
	}
	pins, err := t.pins()
	if err != nil {
		return api.AddTokenResponse{}, err
	}
	doc.Metadata.Expires = t.base.db.View().Now().Add(ttl)
	put, err := t.put(ctx, by, doc, secret, false)
	if err != nil {
		return api.AddTokenResponse{}, err
	}
	return api.AddTokenResponse{
		Token: secret, ID: put.Name, Roles: req.Roles, Expires: wholeSeconds(doc.Metadata.Expires), TTL: api.Duration(ttl),
		Proxy: t.base.publicAddr, CAPins: pins,
	}, nil
}

// pins name the host CAs: an agent checks one before it shows the token.
func (t *Tokens) pins() ([]string, error) {
	opened, err := t.authorities.open(t.base.db.View(), pki.HostCA)
	if err != nil {
		return nil, err
	}
	var pins []string
	for _, cert := range opened.trusted {
		pins = append(pins, api.Pin(cert))
	}
	return pins, nil
}

func tokenTTL(ttl time.Duration) (time.Duration, error) {
	switch {
	case ttl == 0:
		return defaultTokenTTL, nil
	case ttl < minTokenTTL || ttl > maxTokenTTL:
		return 0, api.Errorf(api.CodeInvalid, "a token is valid for %s to %s, not %s", minTokenTTL, maxTokenTTL, ttl)
	default:
		return ttl, nil
	}
}

// Put writes a token's document: a new token, or over an old one with force. How
// often it was used stays. A document of api.JoinMethodToken that was read from a
// cluster has the id where the secret was: it can only be written back as it is.
func (t *Tokens) Put(ctx context.Context, by Actor, doc *api.Token, force bool) (api.PutResponse, error) {
	if err := doc.Validate(); err != nil {
		return api.PutResponse{}, err
	}
	next, name := *doc, doc.Metadata.Name
	if next.Spec.JoinMethod == api.JoinMethodKubernetes {
		if api.IsTokenID(name) {
			return api.PutResponse{}, api.Errorf(api.CodeInvalid, "token %q: 16 hex digits are what the ids of secret tokens look like: choose another name", name)
		}
		if k := next.Spec.Kubernetes; k.StaticJWKS != nil {
			if _, err := parseJWKS(k.StaticJWKS.JWKS); err != nil {
				return api.PutResponse{}, api.Errorf(api.CodeInvalid, "token %q: %w", name, &api.FieldError{Path: "spec.kubernetes.static_jwks.jwks", Reason: err.Error()})
			}
		}
		return t.put(ctx, by, next, "", force)
	}
	if api.IsTokenID(name) {
		return t.putBack(next, force)
	}
	var warnings []string
	if next.Metadata.Expires.IsZero() {
		next.Metadata.Expires = t.base.db.View().Now().Add(defaultTokenTTL)
		warnings = append(warnings, "the token has no metadata.expires: it is valid for "+defaultTokenTTL.String())
	}
	resp, err := t.put(ctx, by, next, name, force)
	resp.Warnings = warnings
	return resp, err
}

// put writes a token; secret is "" where there is none.
func (t *Tokens) put(ctx context.Context, by Actor, doc api.Token, secret string, force bool) (api.PutResponse, error) {
	next := tokenRecord{Document: doc}
	if secret != "" {
		next.Hash = hash(secret)
		next.Document.Metadata.Name = api.TokenID(secret)
	}
	meta := &next.Document.Metadata
	name := meta.Name
	meta.Expires = wholeSeconds(meta.Expires)
	resp := api.PutResponse{Kind: api.KindToken, Name: name}
	rev, err := t.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		old, rec, err := tokens.Get(v, name)
		if err != nil && rec != nil {
			return fsm.Txn{}, readError(api.KindToken, name, err)
		}
		if err := putAllowed(api.KindToken, api.Metadata{Name: name, Revision: doc.Metadata.Revision}, rec, force); err != nil {
			return fsm.Txn{}, err
		}
		resp.Created, resp.Unchanged = rec == nil, false
		meta.Revision, next.Document.Spec.Uses = 0, 0
		if rec != nil {
			if !bytes.Equal(old.Hash, next.Hash) { // the ids alone are equal
				return fsm.Txn{}, api.Errorf(api.CodeExists, "another token has the id %s already: choose another one", name)
			}
			next.Document.Spec.Uses, next.Recent = old.Document.Spec.Uses, old.Recent
			if sameDocument(&old.Document, &next.Document) {
				resp.Unchanged, resp.Revision = true, rec.Revision
				return fsm.Txn{}, nil
			}
		}
		ttl, err := tokenLeft(v, meta.Expires)
		if err != nil {
			return fsm.Txn{}, err
		}
		op, err := tokens.Put(name, &next, ttl)
		if err != nil {
			return fsm.Txn{}, err
		}
		line, err := t.base.event(ctx, v, api.EventTokenCreate, api.EventCodeTokenCreate, by, t.fields(&next.Document))
		return fsm.Txn{Checks: []fsm.Check{{Key: op.Key, Revision: revision(rec)}}, Ops: []fsm.Op{op}, Events: [][]byte{line}}, err
	})
	if !resp.Unchanged {
		resp.Revision = rev
	}
	return resp, err
}

// tokenLeft is what the store needs of the time that a token ends; 0: never.
func tokenLeft(v fsm.View, expires time.Time) (time.Duration, error) {
	if expires.IsZero() {
		return 0, nil
	}
	left := expires.Sub(v.Now())
	switch {
	case left <= 0:
		return 0, api.Errorf(api.CodeInvalid, "%w", &api.FieldError{Path: "metadata.expires", Reason: "is over: the token would end before it begins"})
	case left > maxTokenTTL:
		return 0, api.Errorf(api.CodeInvalid, "%w", &api.FieldError{Path: "metadata.expires", Reason: "is more than 10 years away"})
	}
	return left, nil
}

func (t *Tokens) fields(doc *api.Token) map[string]any {
	fields := map[string]any{"name": doc.Metadata.Name, "roles": doc.Spec.Roles, "join_method": doc.Spec.JoinMethod}
	if !doc.Metadata.Expires.IsZero() {
		fields["expires"] = doc.Metadata.Expires
	}
	if doc.Spec.MaxUses > 0 {
		fields["max_uses"] = doc.Spec.MaxUses
	}
	if len(doc.Spec.KubeClusters) > 0 {
		fields["kubernetes_clusters"] = doc.Spec.KubeClusters
	}
	return fields
}

// putBack takes the document of a secret token as it was read, and no other: who
// wrote it may have the secret, but the document has not.
func (t *Tokens) putBack(doc api.Token, force bool) (api.PutResponse, error) {
	name := doc.Metadata.Name
	old, rec, err := findToken(t.base.db.View(), name)
	if api.IsCode(err, api.CodeNotFound) {
		return api.PutResponse{}, errTokenIsID()
	}
	if err != nil {
		return api.PutResponse{}, err
	}
	if err := putAllowed(api.KindToken, doc.Metadata, rec, force); err != nil {
		return api.PutResponse{}, err
	}
	doc.Metadata.Revision, doc.Spec.Uses = 0, old.Document.Spec.Uses
	doc.Metadata.Expires = wholeSeconds(doc.Metadata.Expires)
	if !sameDocument(&old.Document, &doc) {
		return api.PutResponse{}, api.Errorf(api.CodeForbidden, "token %s can't be changed, as its document lacks the secret: remove it (tctl tokens rm %s) and make another", name, name)
	}
	return api.PutResponse{Kind: api.KindToken, Name: name, Revision: rec.Revision, Unchanged: true}, nil
}

func errTokenIsID() error {
	return api.Errorf(api.CodeInvalid, "%w", &api.FieldError{Path: "metadata.name", Reason: "looks like the id of a token, not like a token: use at least 17 characters, or let 'tctl tokens add' make one"})
}

func sameDocument(a, b *api.Token) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

func wholeSeconds(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC().Truncate(time.Second)
}

// Get returns a token as a document, by its id or name.
func (t *Tokens) Get(name string) (json.RawMessage, error) {
	stored, rec, err := findToken(t.base.db.View(), name)
	if err != nil {
		return nil, err
	}
	return tokenDocument(rec, stored)
}

// List returns all tokens as documents, by name.
func (t *Tokens) List() ([]json.RawMessage, error) {
	var out []json.RawMessage
	v := t.base.db.View()
	for rec := range tokens.List(v) {
		name := tokens.Name(rec)
		stored, rec, err := findToken(v, name)
		if rec == nil { // its time is over, though the store keeps it yet
			continue
		}
		if err != nil { // of a newer version: its record may hold what must not be shown
			stored = &tokenRecord{Document: api.Token{Header: api.Header{Kind: api.KindToken, Version: api.TokenVersion, Metadata: api.Metadata{Name: name, Description: "this version can't read it"}}}}
		}
		doc, err := tokenDocument(rec, stored)
		if err != nil {
			return nil, err
		}
		out = append(out, doc)
	}
	return out, nil
}

// tokenDocument shows no hash: it would help whoever guesses.
func tokenDocument(rec *fsm.Record, stored *tokenRecord) (json.RawMessage, error) {
	doc := stored.Document
	doc.Metadata.Revision = rec.Revision
	return json.Marshal(&doc)
}

// Delete removes a token by its id, or its name. Agents that joined by it stay.
func (t *Tokens) Delete(ctx context.Context, by Actor, name string) error {
	missed := false
	_, err := t.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		_, rec, err := findToken(v, name)
		if api.IsCode(err, api.CodeNotFound) && !missed { // it may have been made on another replica a moment ago
			missed = true
			if err := t.base.db.Linearize(ctx); err != nil {
				return fsm.Txn{}, err
			}
			_, rec, err = findToken(t.base.db.View(), name)
		}
		if err != nil && rec == nil {
			return fsm.Txn{}, err
		}
		line, err := t.base.event(ctx, v, api.EventTokenDelete, api.EventCodeTokenDelete, by, map[string]any{"name": tokens.Name(rec)})
		return fsm.Txn{Checks: []fsm.Check{tokens.Unchanged(rec)}, Ops: []fsm.Op{fsm.Delete(rec.Key)}, Events: [][]byte{line}}, err
	})
	return err
}

func errNoToken() error {
	return api.Errorf(api.CodeNotFound, "there is no such token: 'tctl tokens ls' shows those that are")
}

// findToken reads a token by its record's name. One that can't be read comes with
// its record and an error.
func findToken(v fsm.View, name string) (*tokenRecord, *fsm.Record, error) {
	if api.ValidateName(api.KindToken, name) != nil {
		return nil, nil, errNoToken()
	}
	stored, rec, err := tokens.Get(v, name)
	switch {
	case errors.Is(err, fsm.ErrNotFound):
		return nil, nil, errNoToken()
	case err != nil:
		return nil, rec, readError(api.KindToken, tokens.Name(rec), err)
	}
	if end := stored.Document.Metadata.Expires; !end.IsZero() && !v.Now().Before(end) {
		return nil, nil, errNoToken()
	}
	return stored, rec, nil
}

// findSecret reads the token that a secret is.
func findSecret(v fsm.View, secret string) (*tokenRecord, *fsm.Record, error) {
	stored, rec, err := findToken(v, api.TokenID(secret))
	if err != nil {
		return nil, nil, err
	}
	if subtle.ConstantTimeCompare(stored.Hash, hash(secret)) != 1 {
		return nil, nil, errNoToken()
	}
	return stored, rec, nil
}

// findJoin reads the token that somebody joins by: the one that the text is the
// secret of, or the name of with a method that asks for more than knowing it. So
// the id of a secret token, which many may see, opens nothing.
func findJoin(v fsm.View, text string) (*tokenRecord, *fsm.Record, error) {
	stored, rec, err := findSecret(v, text)
	if !api.IsCode(err, api.CodeNotFound) {
		return stored, rec, err
	}
	stored, rec, err = findToken(v, text)
	if err == nil && stored.Document.Spec.JoinMethod != api.JoinMethodKubernetes {
		return nil, nil, errNoToken()
	}
	return stored, rec, err
}

// use gives what counts one more use of a token, or only checks that it is still
// there if any number of agents may join by it: those need not queue for its record.
func (t *tokenRecord) use(v fsm.View, rec *fsm.Record, by tokenUse) (fsm.Txn, error) {
	txn := fsm.Txn{Checks: []fsm.Check{tokens.Unchanged(rec)}}
	if t.Document.Spec.MaxUses == 0 {
		return txn, nil
	}
	next := *t
	next.Document.Spec.Uses++
	next.Recent = append(slices.Clone(t.Recent[max(0, len(t.Recent)-maxRecentUses+1):]), by)
	ttl, err := tokenLeft(v, next.Document.Metadata.Expires)
	if err != nil {
		return fsm.Txn{}, err
	}
	op, err := tokens.Update(rec, &next, ttl)
	txn.Ops = []fsm.Op{op}
	return txn, err
}

func (t *tokenRecord) usedUp() bool {
	return t.Document.Spec.MaxUses > 0 && t.Document.Spec.Uses >= t.Document.Spec.MaxUses
}

// mayServe says whether a token's agents may ask for a cluster's name at all.
func (t *tokenRecord) mayServe(name string) bool {
	return len(t.Document.Spec.KubeClusters) == 0 || slices.Contains(t.Document.Spec.KubeClusters, name)
}

// enforceable refuses a token with a field that this version does not know: it may
// be one that lets fewer in.
func (t *tokenRecord) enforceable() error {
	if t.unknown != nil {
		return api.Errorf(api.CodeForbidden, "token %s holds what this version can't enforce: %w", t.Document.Metadata.Name, t.unknown)
	}
	return nil
}

// UnmarshalJSON reads a stored token, and notes a field that this version does
// not know.
func (t *tokenRecord) UnmarshalJSON(b []byte) error {
	type plain tokenRecord
	if err := json.Unmarshal(b, (*plain)(t)); err != nil {
		return err
	}
	t.unknown = api.CheckFields(b, (*plain)(t))
	return nil
}
