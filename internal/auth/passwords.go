package auth

import (
	"context"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// What a password may be. Characters are what people count; bytes bound work.
const (
	MinPasswordChars = 12
	MaxPasswordChars = 128
	maxPasswordBytes = 512
)

// PasswordOptions say what a guess costs, and how much of it at once.
type PasswordOptions struct {
	MemoryKiB   uint32 // 19456 (19 MiB, OWASP's figure for t=2, p=1)
	Iterations  uint32 // 2
	Concurrency int    // derivations at once: 2
	Queue       int    // derivations that may wait: 64
}

// passwords derives, seals and compares. All derivations go through one
// semaphore, so that a flood of logins takes Concurrency × MemoryKiB and no more.
type passwords struct {
	base        *base
	authorities *Authorities
	params      argonParams
	slots       chan struct{}
	waiting     atomic.Int64
	queue       int64
	dummy       phc // what unknown users are compared with
	derivations atomic.Int64
	running     atomic.Int64
	peak        atomic.Int64
}

type argonParams struct {
	memory, time uint32
	threads      uint8
}

const (
	saltBytes = 16
	hashBytes = 32
)

func newPasswords(b *base, a *Authorities, o PasswordOptions) (*passwords, error) {
	if o.MemoryKiB == 0 {
		o.MemoryKiB = 19 << 10
	}
	if o.Iterations == 0 {
		o.Iterations = 2
	}
	if o.Concurrency <= 0 {
		o.Concurrency = 2
	}
	if o.Queue <= 0 {
		o.Queue = 64
	}
	p := &passwords{
		base: b, authorities: a, params: argonParams{memory: o.MemoryKiB, time: o.Iterations, threads: 1},
		slots: make(chan struct{}, o.Concurrency), queue: int64(o.Queue),
	}
	p.dummy = phc{argonParams: p.params, salt: make([]byte, saltBytes), hash: make([]byte, hashBytes)}
	for _, b := range [][]byte{p.dummy.salt, p.dummy.hash} { // random: no password gives this hash
		if _, err := io.ReadFull(p.base.rand, b); err != nil {
			return nil, fmt.Errorf("no randomness: %w", err)
		}
	}
	return p, nil
}

// checkNewPassword holds for passwords that are set, not for those presented.
func checkNewPassword(password string) error {
	n := utf8.RuneCountInString(password)
	switch {
	case len(password) > maxPasswordBytes || n > MaxPasswordChars:
		return api.Errorf(api.CodeInvalid, "the password is too long: at most %d characters", MaxPasswordChars)
	case !utf8.ValidString(password):
		return api.Errorf(api.CodeInvalid, "the password is not valid UTF-8")
	case n < MinPasswordChars:
		return api.Errorf(api.CodeInvalid, "the password is too short: at least %d characters", MinPasswordChars)
	}
	return nil
}

// derive runs argon2id under the semaphore. ready, if there is one, is asked last:
// what was true before the wait may not be any more.
func (p *passwords) derive(ctx context.Context, password string, params argonParams, salt []byte, size int, ready func() error) ([]byte, error) {
	if p.waiting.Add(1) > p.queue+int64(cap(p.slots)) {
		p.waiting.Add(-1)
		return nil, api.Errorf(api.CodeRateLimited, "too many logins at this moment: try again in a few seconds")
	}
	defer p.waiting.Add(-1)
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, errGivenUp(ctx)
	}
	defer func() { <-p.slots }()
	if ready != nil {
		if err := ready(); err != nil {
			return nil, err
		}
	}
	p.derivations.Add(1)
	if n := p.running.Add(1); n > p.peak.Load() {
		p.peak.Store(n)
	}
	defer p.running.Add(-1)
	return argon2.IDKey([]byte(password), salt, params.time, params.memory, params.threads, uint32(size)), nil //nolint:gosec // 16 to 64: see parsePHC
}

// hash makes the PHC string of a new password.
func (p *passwords) hash(ctx context.Context, password string) (string, error) {
	h := phc{argonParams: p.params, salt: make([]byte, saltBytes)}
	if _, err := io.ReadFull(p.base.rand, h.salt); err != nil {
		return "", fmt.Errorf("no randomness: %w", err)
	}
	var err error
	if h.hash, err = p.derive(ctx, password, h.argonParams, h.salt, hashBytes, nil); err != nil {
		return "", err
	}
	return h.String(), nil
}

// verify compares a password with the user's. A user without one, known or not,
// costs the same derivation. The record, nil if there is none, is for a check.
// ready is derive's.
func (p *passwords) verify(ctx context.Context, v fsm.View, user, password string, ready func() error) (ok bool, rec *fsm.Record, err error) {
	want := p.dummy
	stored, rec, err := passwordRecs.Get(v, user)
	switch {
	case err == nil:
		if want, err = p.open(v, user, stored); err != nil {
			return false, nil, err
		}
	case !errors.Is(err, fsm.ErrNotFound):
		return false, nil, readError("password of user", user, err)
	}
	got, err := p.derive(ctx, password, want.argonParams, want.salt, len(want.hash), ready)
	if err != nil {
		return false, nil, err
	}
	return subtle.ConstantTimeCompare(got, want.hash) == 1 && rec != nil, rec, nil
}

func (p *passwords) open(v fsm.View, user string, stored *passwordRecord) (phc, error) {
	ring, err := p.authorities.keys.ring(v)
	if err != nil {
		return phc{}, err
	}
	plain, err := ring.Open(passwordRecs.Key(user), stored.Sealed)
	if err != nil {
		return phc{}, err
	}
	return parsePHC(string(plain))
}

func (p *passwords) put(v fsm.View, user, hashed string) (fsm.Op, error) {
	ring, err := p.authorities.keys.ring(v)
	if err != nil {
		return fsm.Op{}, err
	}
	sealed, err := ring.Seal(passwordRecs.Key(user), []byte(hashed))
	if err != nil {
		return fsm.Op{}, err
	}
	return passwordRecs.Put(user, &passwordRecord{Sealed: sealed, Changed: v.Now()}, 0)
}

// phc is a password hash in the PHC string format:
// $argon2id$v=19$m=19456,t=2,p=1$<salt>$<hash>, base64 without padding.
type phc struct {
	argonParams
	salt, hash []byte
}

func (h phc) String() string {
	b64 := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, h.memory, h.time, h.threads, b64(h.salt), b64(h.hash))
}

// parsePHC is strict, and bounds what a hash may ask for: the store is ours, but
// a restored or migrated one may hold anything.
func parsePHC(s string) (h phc, err error) {
	malformed := errors.New("malformed password hash")
	parts := strings.Split(s, "$")
	if len(s) > 512 || len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != "v="+strconv.Itoa(argon2.Version) {
		return h, malformed
	}
	params := strings.Split(parts[3], ",")
	if len(params) != 3 {
		return h, malformed
	}
	var n [3]uint64
	for i, bound := range []struct {
		name     string
		min, max uint64
	}{{"m=", 8, 1 << 20}, {"t=", 1, 16}, {"p=", 1, 16}} {
		digits, ok := strings.CutPrefix(params[i], bound.name)
		n[i], err = strconv.ParseUint(digits, 10, 32)
		if !ok || err != nil || n[i] < bound.min || n[i] > bound.max || strconv.FormatUint(n[i], 10) != digits {
			return h, malformed
		}
	}
	h.argonParams = argonParams{memory: uint32(n[0]), time: uint32(n[1]), threads: uint8(n[2])} //nolint:gosec // within the bounds above
	b64 := base64.RawStdEncoding.Strict()
	if h.salt, err = b64.DecodeString(parts[4]); err != nil || len(h.salt) < 8 || len(h.salt) > 64 {
		return h, malformed
	}
	if h.hash, err = b64.DecodeString(parts[5]); err != nil || len(h.hash) < 16 || len(h.hash) > 64 {
		return h, malformed
	}
	if h.String() != s { // line breaks, which base64 passes over
		return h, malformed
	}
	return h, nil
}
