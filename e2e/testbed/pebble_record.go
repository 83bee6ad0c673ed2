package testbed

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// PebbleOrder is an order that somebody asked for.
type PebbleOrder struct {
	At       time.Time
	Names    []string
	Replaces string // ARI: which certificate it renews
	Status   int    // 201: taken

	authorizations []string // URLs
}

// pebbleRecord is what was asked of an authority, and how it answered.
type pebbleRecord struct {
	mu       sync.Mutex
	orders   []PebbleOrder
	accounts []string          // thumbprints of their keys
	authz    map[string]string // status by path, as told last
}

// Orders are all that were asked for so far, taken or not.
func (p *Pebble) Orders() []PebbleOrder {
	p.record.mu.Lock()
	defer p.record.mu.Unlock()
	return slices.Clone(p.record.orders)
}

// Accounts are the thumbprints (RFC 7638) of the keys that asked for an account: what
// follows the dot in every key authorization.
func (p *Pebble) Accounts() []string {
	p.record.mu.Lock()
	defer p.record.mu.Unlock()
	return slices.Clone(p.record.accounts)
}

// Live are the orders that were taken and haven't come to nothing, as far as it has told
// whoever ordered.
func (p *Pebble) Live() (live []PebbleOrder) {
	p.record.mu.Lock()
	defer p.record.mu.Unlock()
	for _, o := range p.record.orders {
		dead := o.Status != http.StatusCreated
		for _, url := range o.authorizations {
			status := p.record.authz[url[strings.Index(url, PebbleAuthz):]]
			dead = dead || status == "deactivated" || status == "invalid"
		}
		if !dead {
			live = append(live, o)
		}
	}
	return live
}

// keep records orders, accounts and authorizations.
func (p *pebbleRecord) keep(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.Path
		if r.Method != http.MethodPost || path != PebbleNewOrder && path != PebbleNewAccount && !strings.HasPrefix(path, PebbleAuthz) {
			next.ServeHTTP(w, r)
			return
		}
		body, err := io.ReadAll(r.Body) // whole already: front has read it
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		seen := &answerWriter{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(seen, r)
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
				if p.authz == nil {
					p.authz = map[string]string{}
				}
				p.authz[path] = authz.Status
			}
		}
	})
}

// jws is a signed request (RFC 8555, section 6.2), whose signature is the authority's to judge.
type jws struct{ Protected, Payload string }

// decode reads a part of a JWS.
func decode(part string, into any) bool {
	b, err := base64.RawURLEncoding.DecodeString(part)
	return err == nil && json.Unmarshal(b, into) == nil
}

// ordered is what the JWS of a new order asks for; nil: it can't be read.
func ordered(body []byte) *PebbleOrder {
	var signed jws
	var order struct {
		Identifiers []struct{ Value string }
		Replaces    string
	}
	if json.Unmarshal(body, &signed) != nil || !decode(signed.Payload, &order) {
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

// thumbprint is the one of the key that a JWS holds (RFC 7638); "": it holds no EC key.
func thumbprint(body []byte) string {
	var signed jws
	var header struct {
		JWK struct {
			Crv string `json:"crv"` // in the order of RFC 7638
			Kty string `json:"kty"`
			X   string `json:"x"`
			Y   string `json:"y"`
		}
	}
	if json.Unmarshal(body, &signed) != nil || !decode(signed.Protected, &header) || header.JWK.Kty != "EC" {
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
	status int
	copy   bytes.Buffer // of the body
}

func (w *answerWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *answerWriter) Write(b []byte) (int, error) {
	w.copy.Write(b)
	return w.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (w *answerWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
