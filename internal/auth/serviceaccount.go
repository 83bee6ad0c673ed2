package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/sallyport-dev/sallyport/internal/api"
)

const (
	maxJWT     = 16 << 10 // bytes; those of Kubernetes have about one KiB
	maxJWKS    = 64 << 10
	maxJWKKeys = 32
	// maxJWTLife is what the kubelet asks for if nobody says otherwise (an hour), and
	// the seven seconds that Kubernetes adds. A token that was stolen is of no use for
	// longer.
	maxJWTLife = time.Hour + 10*time.Second
	// jwtLeeway is how far the clock of the other cluster may be off.
	jwtLeeway = 5 * time.Minute

	reviewTime = 10 * time.Second
	maxCause   = 256 // bytes of what an API server says
	maxReviews = 16  // at a time
	// maxVerifications bounds signatures that are verified at a time, in microseconds
	// each: the others wait.
	maxVerifications = 2

	serviceAccountPrefix = "system:serviceaccount:"
)

// serviceAccounts says whose a service account's token is.
type serviceAccounts struct {
	base    *base
	review  func(ctx context.Context, jwt string, audiences []string) (username string, err error) // nil: can't
	reviews chan struct{}                                                                          // holds one for each that is under way

	verifications chan struct{} // the same, of signatures
}

// jwtAlgorithms are asymmetric, all of them: with a symmetric one, whoever may read
// the token's document could sign.
func jwtAlgorithms() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{
		jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
	}
}

// parseJWKS reads public keys for signatures (RFC 7517). The private or symmetric
// ones that people paste by mistake are refused, as they would stand in the store.
func parseJWKS(text string) ([]jose.JSONWebKey, error) {
	if len(text) > maxJWKS {
		return nil, fmt.Errorf("%d bytes, at most %d are allowed", len(text), maxJWKS)
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal([]byte(text), &set); err != nil {
		return nil, errors.New("is no JSON Web Key Set")
	}
	if len(set.Keys) == 0 || len(set.Keys) > maxJWKKeys {
		return nil, fmt.Errorf("holds %d keys, want 1 to %d", len(set.Keys), maxJWKKeys)
	}
	keys := make([]jose.JSONWebKey, 0, len(set.Keys))
	for i, raw := range set.Keys {
		key, err := parseJWK(raw)
		if err == nil && slices.ContainsFunc(keys, func(k jose.JSONWebKey) bool { return k.KeyID == key.KeyID }) {
			err = fmt.Errorf("kid %q is there twice", clip(key.KeyID))
		}
		if err != nil {
			return nil, fmt.Errorf("keys[%d]: %w", i, err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// parseJWK never repeats what stands in a key: it may be a private one.
func parseJWK(raw []byte) (key jose.JSONWebKey, err error) {
	var members map[string]json.RawMessage
	if json.Unmarshal(raw, &members) != nil {
		return key, errors.New("is no JSON object")
	}
	for name := range members {
		switch strings.ToLower(name) {
		case "d", "p", "q", "dp", "dq", "qi", "oth", "k":
			return key, fmt.Errorf("is a private or symmetric key (member %q): only public keys belong here, and this one should be replaced", name)
		}
	}
	if json.Unmarshal(raw, &key) != nil || !key.Valid() || !key.IsPublic() {
		return key, errors.New("is no public key of a known kind (RSA, EC, OKP)")
	}
	if key.Use != "" && key.Use != "sig" {
		return key, fmt.Errorf("is for use %q, want sig", clip(key.Use))
	}
	if key.Algorithm != "" && !slices.Contains(jwtAlgorithms(), jose.SignatureAlgorithm(key.Algorithm)) {
		return key, fmt.Errorf("is for the algorithm %q, which is not accepted", clip(key.Algorithm))
	}
	switch k := key.Key.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < 2048 || n > 8192 || k.E < 3 || k.E&1 == 0 {
			return key, errors.New("is an RSA key of a size that is not accepted, want 2048 to 8192 bits")
		}
	case *ecdsa.PublicKey, ed25519.PublicKey:
	default:
		return key, fmt.Errorf("is a %T, want RSA, EC or Ed25519", k)
	}
	return key, nil
}

// serviceAccountClaims are what Kubernetes adds to RFC 7519.
type serviceAccountClaims struct {
	Kubernetes *struct {
		Namespace      string `json:"namespace"`
		ServiceAccount *struct {
			Name string `json:"name"`
		} `json:"serviceaccount"`
	} `json:"kubernetes.io"`
}

func errBadJWT(format string, args ...any) error {
	return api.Errorf(api.CodeUnauthenticated, "the service account's token "+format, args...)
}

func checkJWTShape(text string) error {
	if len(text) == 0 || len(text) > maxJWT || strings.Count(text, ".") != 2 || strings.ContainsAny(text, " \t\r\n{") {
		return errBadJWT("is no JWT of at most %d bytes: mount a projected one with the audience of this cluster", maxJWT)
	}
	return nil
}

// verifyJWT reads a service account's token that one of the keys has signed, and
// gives the account as system:serviceaccount:NAMESPACE:NAME. It wants the tokens
// that Kubernetes projects into pods, for our audience alone worth something.
func verifyJWT(keys []jose.JSONWebKey, text, audience string, now time.Time) (username string, err error) {
	if err := checkJWTShape(text); err != nil {
		return "", err
	}
	token, err := jwt.ParseSigned(text, jwtAlgorithms())
	if err != nil || len(token.Headers) != 1 {
		return "", errBadJWT("can't be read, or is signed in a way that is not accepted (want RS256, ES256 or another asymmetric one)")
	}
	key, err := signingKey(keys, token.Headers[0])
	if err != nil {
		return "", err
	}
	var std jwt.Claims
	var own serviceAccountClaims
	if err := token.Claims(key.Key, &std, &own); err != nil {
		return "", errBadJWT("has no valid signature of the keys in spec.kubernetes.static_jwks, or claims that can't be read")
	}
	if !std.Audience.Contains(audience) {
		return "", errBadJWT("is not for the audience %q: set audience: %s in the projected volume", audience, audience)
	}
	if err := checkJWTTimes(std, now); err != nil {
		return "", err
	}
	namespace, name, ok := parseServiceAccount(std.Subject)
	if !ok {
		return "", errBadJWT("is not that of a service account: its subject is %q", clip(std.Subject))
	}
	if k := own.Kubernetes; k != nil && (k.Namespace != namespace || k.ServiceAccount == nil || k.ServiceAccount.Name != name) {
		return "", errBadJWT("names two service accounts")
	}
	return std.Subject, nil
}

// signingKey is the one that the header names. A header that names none will do
// where there is only one.
func signingKey(keys []jose.JSONWebKey, header jose.Header) (jose.JSONWebKey, error) {
	found := keys
	if header.KeyID != "" {
		found = nil
		for _, k := range keys {
			if k.KeyID == header.KeyID {
				found = append(found, k)
			}
		}
	}
	if len(found) != 1 {
		return jose.JSONWebKey{}, errBadJWT("is signed by the key %q, which spec.kubernetes.static_jwks does not hold: put there what 'kubectl get --raw /openid/v1/jwks' prints now", clip(header.KeyID))
	}
	if alg := found[0].Algorithm; alg != "" && alg != header.Algorithm {
		return jose.JSONWebKey{}, errBadJWT("is signed by %s with a key that is for %s", clip(header.Algorithm), alg)
	}
	return found[0], nil
}

func checkJWTTimes(c jwt.Claims, now time.Time) error {
	if c.Expiry == nil || c.IssuedAt == nil {
		return errBadJWT("has no exp or no iat: it must be a projected one, which ends by itself")
	}
	begin, end := c.IssuedAt.Time(), c.Expiry.Time()
	if c.NotBefore != nil && c.NotBefore.Time().After(begin) {
		begin = c.NotBefore.Time()
	}
	switch life := end.Sub(c.IssuedAt.Time()); {
	case life <= 0 || life > maxJWTLife:
		return errBadJWT("is valid for %s: ask for at most an hour (expirationSeconds: 3600)", life)
	case now.Add(jwtLeeway).Before(begin):
		return errBadJWT("is valid from %s, and here it is %s: set the clocks right, they are %s apart", second(begin), second(now), begin.Sub(now).Round(time.Minute))
	case !now.Add(-jwtLeeway).Before(end):
		return errBadJWT("expired at %s, and here it is %s: show a fresh one, or set the clocks right", second(end), second(now))
	}
	return nil
}

// parseServiceAccount reads system:serviceaccount:NAMESPACE:NAME. A namespace is a
// DNS label and a name a DNS name: neither holds a colon.
func parseServiceAccount(username string) (namespace, name string, ok bool) {
	rest, ok := strings.CutPrefix(username, serviceAccountPrefix)
	if !ok {
		return "", "", false
	}
	namespace, name, ok = strings.Cut(rest, ":")
	return namespace, name, ok && api.IsDNSName(namespace) && !strings.Contains(namespace, ".") && api.IsDNSName(name)
}

// check says whether a service account that the token allows shows its own token.
func (s *serviceAccounts) check(ctx context.Context, token *api.Token, text string) error {
	username, err := s.username(ctx, token.Spec.Kubernetes, text)
	if err != nil {
		return err
	}
	namespace, name, ok := parseServiceAccount(username)
	if !ok {
		return api.Errorf(api.CodeForbidden, "%q is no service account: only those join by token %q", clip(username), token.Metadata.Name)
	}
	allowed := slices.ContainsFunc(token.Spec.Kubernetes.Allow, func(a api.TokenKubernetesAllow) bool {
		return a.ServiceAccount == namespace+":"+name
	})
	if !allowed {
		return api.Errorf(api.CodeForbidden, "the service account %s:%s may not join by token %q: list it under spec.kubernetes.allow", namespace, name, token.Metadata.Name)
	}
	return nil
}

func (s *serviceAccounts) username(ctx context.Context, k *api.TokenKubernetes, text string) (string, error) {
	audience := s.base.clusterName
	if k.Type == api.TokenKubernetesStaticJWKS {
		if err := checkJWTShape(text); err != nil {
			return "", err
		}
		select {
		case s.verifications <- struct{}{}:
			defer func() { <-s.verifications }()
		case <-ctx.Done():
			return "", api.Errorf(api.CodeUnavailable, "checking a service account: %w", context.Cause(ctx))
		}
		keys, err := parseJWKS(k.StaticJWKS.JWKS)
		if err != nil {
			return "", api.Errorf(api.CodeInternal, "spec.kubernetes.static_jwks.jwks: %w", err)
		}
		return verifyJWT(keys, text, audience, s.base.db.View().Now())
	}
	if s.review == nil {
		return "", api.Errorf(api.CodeUnavailable, "the replicas do not run in a Kubernetes cluster that could vouch for service accounts: use a token of type static_jwks, or a secret one")
	}
	if err := checkJWTShape(text); err != nil {
		return "", err
	}
	select {
	case s.reviews <- struct{}{}:
		defer func() { <-s.reviews }()
	default:
		return "", api.Errorf(api.CodeRateLimited, "too many service accounts are being checked at this moment: try again in a few seconds")
	}
	ctx, cancel := context.WithTimeout(ctx, reviewTime)
	defer cancel()
	username, err := s.review(ctx, text, []string{audience})
	switch {
	case err == nil:
		return username, nil
	case api.IsCode(err, api.CodeUnauthenticated), api.IsCode(err, api.CodeUnavailable):
		return "", err
	default:
		s.base.log.WarnContext(ctx, "can't check a service account", "error", err)
		return "", api.Errorf(api.CodeUnavailable, "the API server of the replicas can't be asked about service accounts at this moment: try again")
	}
}
