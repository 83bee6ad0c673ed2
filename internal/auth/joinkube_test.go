package auth_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
)

// joinAs joins by a token that wants a service account.
func joinAs(t testing.TB, f *authtest.Fixture, token, text string) error {
	t.Helper()
	_, pub := authtest.NewKey(t)
	_, err := f.Agents.Join(t.Context(), api.JoinRequest{Token: token, JWT: text, PublicKey: pub, KubeClusters: []string{"cd"}}, authtest.Client)
	return err
}

func TestJoinByTheReplicasOwnCluster(t *testing.T) {
	var asked []string
	username, down := "system:serviceaccount:sallyport:agent", error(nil)
	f := authtest.New(t, func(o *auth.Options) {
		o.TokenReview = func(_ context.Context, text string, audiences []string) (string, error) {
			asked = append(audiences, text)
			return username, down
		}
	})
	_, err := f.Tokens.Put(t.Context(), authtest.Admin(), tokenDoc("cd", byServiceAccount("sallyport:agent", "other:cd")), false)
	must(t, err)
	must(t, joinAs(t, f, "cd", "a.b.c"))
	if d := cmp.Diff([]string{authtest.ClusterName, "a.b.c"}, asked); d != "" {
		t.Error(d)
	}
	if e := lastEvent(f); e.Event != api.EventAgentJoin || e.Fields["method"] != "kubernetes" || e.Fields["token_name"] != "cd" {
		t.Errorf("%+v", e)
	}
	for _, tc := range []struct {
		name, username string
		down           error
		text           string
		code           api.Code
		want           string
	}{
		{"another account", "system:serviceaccount:sallyport:default", nil, "a.b.c", api.CodeForbidden, "sallyport:default may not join"},
		{"the account of another namespace", "system:serviceaccount:default:agent", nil, "a.b.c", api.CodeForbidden, "default:agent may not join"},
		{"a user of that name", "sallyport:agent", nil, "a.b.c", api.CodeForbidden, "no service account"},
		{"a user", "alice", nil, "a.b.c", api.CodeForbidden, "no service account"},
		{"nobody", "", api.Errorf(api.CodeUnauthenticated, "not accepted"), "a.b.c", api.CodeUnauthenticated, "not accepted"},
		{"a reviewer that is down", "", errors.New("connection refused"), "a.b.c", api.CodeUnavailable, "try again"},
		{"a reviewer that says what is wrong", "", api.Errorf(api.CodeUnavailable, "bind system:auth-delegator"), "a.b.c", api.CodeUnavailable, "auth-delegator"},
		{"no service account's token", "x", nil, "", api.CodeUnauthenticated, "no JWT"},
		{"what is none", "x", nil, strings.Repeat("a", 17<<10), api.CodeUnauthenticated, "no JWT"},
	} {
		username, down = tc.username, tc.down
		wantCode(t, tc.name, joinAs(t, f, "cd", tc.text), tc.code, tc.want)
	}
	wantCode(t, "a service account for a secret token", joinAs(t, f, f.AddToken(t).Token, "a.b.c"), api.CodeInvalid, "secret one")
	none := authtest.New(t)
	_, err = none.Tokens.Put(t.Context(), authtest.Admin(), tokenDoc("cd", byServiceAccount("sallyport:agent")), false)
	must(t, err)
	wantCode(t, "replicas outside Kubernetes", joinAs(t, none, "cd", "a.b.c"), api.CodeUnavailable, "static_jwks")
}

// putStatic makes a token by the keys of another cluster, and what lets in by it.
func putStatic(t testing.TB, f *authtest.Fixture, name string) (good string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k1"}}})
	must(t, err)
	doc := tokenDoc(name, byServiceAccount("sallyport:agent"))
	doc.Spec.Kubernetes.Type, doc.Spec.Kubernetes.StaticJWKS = api.TokenKubernetesStaticJWKS, &api.TokenStaticJWKS{JWKS: string(set)}
	_, err = f.Tokens.Put(t.Context(), authtest.Admin(), doc, false)
	must(t, err)
	return signAccount(t, key, "sallyport:agent")
}

// signAccount makes a service account's token.
func signAccount(t testing.TB, key *ecdsa.PrivateKey, account string) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", "k1"))
	must(t, err)
	now := time.Now()
	text, err := jwt.Signed(signer).Claims(jwt.Claims{
		Subject: "system:serviceaccount:" + account, Audience: jwt.Audience{authtest.ClusterName},
		IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(10 * time.Minute)),
	}).Serialize()
	must(t, err)
	return text
}

func TestJoinByAnotherClustersKeys(t *testing.T) {
	f := authtest.New(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k1"}}})
	must(t, err)
	static := func(text string) func(*api.Token) {
		return func(d *api.Token) {
			byServiceAccount("sallyport:agent")(d)
			d.Spec.Kubernetes.Type, d.Spec.Kubernetes.StaticJWKS = api.TokenKubernetesStaticJWKS, &api.TokenStaticJWKS{JWKS: text}
		}
	}
	_, err = f.Tokens.Put(t.Context(), authtest.Admin(), tokenDoc("cd", static(string(set))), false)
	must(t, err)
	private, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key, KeyID: "k1"}}})
	must(t, err)
	_, err = f.Tokens.Put(t.Context(), authtest.Admin(), tokenDoc("private", static(string(private))), false)
	wantCode(t, "a private key in the document", err, api.CodeInvalid, "spec.kubernetes.static_jwks.jwks: keys[0]: is a private")
	sign := func(account string) string { return signAccount(t, key, account) }
	must(t, joinAs(t, f, "cd", sign("sallyport:agent")))
	wantCode(t, "another account", joinAs(t, f, "cd", sign("sallyport:other")), api.CodeForbidden, "may not join")
	wantCode(t, "no token", joinAs(t, f, "cd", ""), api.CodeUnauthenticated, "no JWT")
	// One name is one owner: who joins by it later serves the same clusters.
	raw, err := f.Tokens.Get("cd")
	must(t, err)
	must(t, f.Tokens.Delete(t.Context(), authtest.Admin(), "cd"))
	wantCode(t, "a token that is gone", joinAs(t, f, "cd", sign("sallyport:agent")), api.CodeUnauthenticated, "not known")
	doc := decodeToken(t, raw)
	doc.Metadata.Revision = 0
	_, err = f.Tokens.Put(t.Context(), authtest.Admin(), doc, false)
	must(t, err)
	must(t, joinAs(t, f, "cd", sign("sallyport:agent")))
}

// Pods of one cluster come from one address, a thousand at once after an upgrade. What
// strangers near them do, who know the token's name, keeps none of them out.
func TestGoodProofsAreNotCharged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t, func(o *auth.Options) {
			o.TokenReview = func(_ context.Context, text string, _ []string) (string, error) {
				if text == "good.good.good" {
					return "system:serviceaccount:sallyport:agent", nil
				}
				return "", api.Errorf(api.CodeUnauthenticated, "no")
			}
		})
		good := putStatic(t, f, "static")
		_, err := f.Tokens.Put(t.Context(), authtest.Admin(), tokenDoc("own", byServiceAccount("sallyport:agent")), false)
		must(t, err)
		_, pub := authtest.NewKey(t)
		joinFrom := func(addr, token, text string) error {
			_, err := f.Agents.Join(t.Context(), api.JoinRequest{Token: token, JWT: text, PublicKey: pub, KubeClusters: []string{"of-" + token}}, netip.MustParseAddr(addr))
			return err
		}
		strangers := func(addr, token, text string) {
			t.Helper()
			limited := 0
			for range 1000 {
				if api.IsCode(joinFrom(addr, token, text), api.CodeRateLimited) {
					limited++
				}
			}
			if limited < 900 {
				t.Errorf("%d failures of %s at token %s are limited", limited, addr, token)
			}
		}
		const pods, sameNetwork, near, near2 = "203.0.113.7", "203.0.113.8", "203.0.7.1", "203.0.9.1"
		for i := range 300 {
			if err := joinFrom(pods, "own", "good.good.good"); err != nil {
				t.Fatal(i, err)
			}
		}
		strangers(near, "own", "a.b.c")
		strangers(near2, "own", "a.b.c")
		must(t, joinFrom(pods, "own", "good.good.good")) // a network that has proven itself
		wantCode(t, "who is near the strangers and was never here", joinFrom("203.0.8.1", "own", "good.good.good"), api.CodeRateLimited, "")
		strangers(sameNetwork, "static", "a.b.c")
		for i := range 300 {
			if err := joinFrom(pods, "static", good); err != nil {
				t.Fatal(i, err)
			}
		}
		limited := 0 // the holder of a proof fills no store either
		for range 1000 {
			if api.IsCode(joinFrom(pods, "static", good), api.CodeRateLimited) {
				limited++
			}
		}
		if limited != 300 {
			t.Errorf("%d of 1300 at once are limited", limited)
		}
	})
}

// Who knows the name of a token, which is no secret, may ask for a proof so often and
// no more; and that takes nothing from others.
func TestProofsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		f := authtest.New(t, func(o *auth.Options) {
			o.TokenReview = func(context.Context, string, []string) (string, error) {
				asked++
				return "", api.Errorf(api.CodeUnauthenticated, "no")
			}
		})
		_, err := f.Tokens.Put(t.Context(), authtest.Admin(), tokenDoc("cd", byServiceAccount("sallyport:agent")), false)
		must(t, err)
		limited := 0
		for i := range 10_000 {
			addr := netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1})
			_, err := f.Agents.Join(t.Context(), api.JoinRequest{Token: "cd", JWT: "a.b.c"}, addr)
			if api.IsCode(err, api.CodeRateLimited) {
				limited++
			}
		}
		if asked > 100 || limited < 9_900 {
			t.Errorf("asked %d times, %d limited", asked, limited)
		}
		f.JoinAgent(t, "", "a")
	})
}
