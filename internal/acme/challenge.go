package acme

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// challengePrefix is where an authority looks for the answer to HTTP-01 (RFC 8555
// section 8.3).
const challengePrefix = "/.well-known/acme-challenge/"

// challengeTimeout bounds the reading of a challenge.
const challengeTimeout = 5 * time.Second

// solver presents a challenge by putting it into the store: whichever replica the
// authority asks answers from there.
type solver struct{ storage certmagic.Storage }

// Present implements acmez.Solver.
func (s solver) Present(ctx context.Context, challenge acme.Challenge) error {
	value, err := json.Marshal(challenge)
	if err != nil {
		return fmt.Errorf("encode the challenge: %w", err)
	}
	if err := s.storage.Store(ctx, challengePath(challenge.Identifier.Value), value); err != nil {
		return err //nolint:wrapcheck // says all
	}
	attemptFrom(ctx).challenged = true
	return nil
}

// CleanUp implements acmez.Solver. It is called also when the order's context has ended.
func (s solver) CleanUp(ctx context.Context, challenge acme.Challenge) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), challengeTimeout)
	defer cancel()
	return s.storage.Delete(ctx, challengePath(challenge.Identifier.Value)) //nolint:wrapcheck // says all
}

const challengesDir = "challenges"

// challengePath names no authority: while replicas are given another one, those that know
// only the old answer for the new. Storage.Load reads it as of now, not as of here: the
// challenge before this one may still be on a replica that is behind.
func challengePath(name string) string {
	return path.Join(challengesDir, certmagic.StorageKeys.Safe(name)+".json")
}

// errNoChallenge is for those who knock without an order of ours.
var errNoChallenge = errors.New("there is no ACME challenge for this name")

// Challenges answer an authority that asks this replica for the proof that a name is
// the cluster's, whichever replica ordered: also one that is told to order nothing, or
// from another authority, since a change of that comes to replicas one by one.
type Challenges struct {
	storage certmagic.Storage
	names   map[string]*reads // by name in lower case
}

// NewChallenges answers for the names alone. It starts nothing.
func NewChallenges(storage *Storage, names []string) *Challenges {
	c := &Challenges{storage: storage, names: map[string]*reads{}}
	for _, name := range names {
		c.names[api.Hostname(name)] = newReads()
	}
	return c
}

// reads of a challenge cost all replicas something, and anybody can ask for them. So who
// comes meanwhile shares the next one, which begins after that.
type reads struct {
	running chan struct{} // holds something for each

	mu   sync.Mutex
	next *read // has yet to begin; nil: none
	last time.Time
}

func newReads() *reads { return &reads{running: make(chan struct{}, readsAtATime)} }

type read struct {
	done  chan struct{}
	value []byte // after done
	err   error
}

// readEvery is the least time between two reads of a challenge.
const readEvery = 50 * time.Millisecond

// readsAtATime bounds how many wait for an answer: without a leader each of them does for
// as long as it may.
const readsAtATime = 4

func (r *reads) load(ctx context.Context, storage certmagic.Storage, file string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, challengeTimeout)
	defer cancel()
	r.mu.Lock()
	next := r.next
	if next != nil {
		r.mu.Unlock()
		select {
		case <-next.done:
			return next.value, next.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	next = &read{done: make(chan struct{})}
	r.next = next
	pause := readEvery - time.Since(r.last)
	r.mu.Unlock()

	// It is done for others too, whatever becomes of this caller.
	shared, end := context.WithTimeout(context.WithoutCancel(ctx), challengeTimeout)
	defer end()
	if pause > 0 {
		_ = await(shared, nil, pause)
	}
	select {
	case r.running <- struct{}{}:
		defer func() { <-r.running }()
	case <-shared.Done():
		next.err = shared.Err()
	}
	r.mu.Lock()
	r.next, r.last = nil, time.Now()
	r.mu.Unlock()
	if next.err == nil {
		next.value, next.err = storage.Load(shared, file)
	}
	close(next.done)
	return next.value, next.err
}

// challenge reads the live challenge of a name.
func (s *Challenges) challenge(ctx context.Context, name string) (acme.Challenge, error) {
	var c acme.Challenge
	name = api.Hostname(name)
	reads := s.names[name]
	if reads == nil {
		return c, &NotConfiguredError{name}
	}
	value, err := reads.load(ctx, s.storage, challengePath(name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return c, errNoChallenge
	case err != nil:
		return c, fmt.Errorf("read the ACME challenge: %w", err)
	}
	if err := json.Unmarshal(value, &c); err != nil {
		return c, fmt.Errorf("decode the ACME challenge: %w", err)
	}
	return c, nil
}

// Challenge answers the handshake of an authority that offers acme-tls/1 alone
// (RFC 8737).
func (s *Challenges) Challenge(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	ctx := hello.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	c, err := s.challenge(ctx, hello.ServerName)
	if err != nil {
		return nil, err
	}
	if c.Type != acme.ChallengeTypeTLSALPN01 {
		return nil, errNoChallenge
	}
	cert, err := acmez.TLSALPN01ChallengeCert(c)
	if err != nil {
		return nil, fmt.Errorf("make the certificate for the ACME challenge: %w", err)
	}
	return cert, nil
}

// HTTPHandler answers HTTP-01 challenges and hands everything else to next. Where
// challenges are looked for, nothing else is ever served.
func (s *Challenges) HTTPHandler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, ok := strings.CutPrefix(r.URL.Path, challengePrefix)
		if !ok {
			next.ServeHTTP(w, r)
			return
		}
		if r.Method != http.MethodGet || !isToken(token) {
			http.NotFound(w, r)
			return
		}
		c, err := s.challenge(r.Context(), r.Host)
		if err != nil || c.Type != acme.ChallengeTypeHTTP01 || token != c.Token {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_, _ = w.Write([]byte(c.KeyAuthorization))
	})
}

// isToken says whether it may be a challenge's (RFC 8555 section 8.3).
func isToken(s string) bool {
	return s != "" && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}
