package acme

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
)

// proves checks what RFC 8737 section 3 says of the certificate.
func proves(leaf *x509.Certificate, c acme.Challenge) error {
	sum := sha256.Sum256([]byte(c.KeyAuthorization))
	for _, e := range leaf.Extensions {
		if e.Id.String() == "1.3.6.1.5.5.7.1.31" && e.Critical && bytes.HasSuffix(e.Value, sum[:]) {
			return leaf.VerifyHostname(c.Identifier.Value)
		}
	}
	return errors.New("the certificate proves nothing, or the challenge before")
}

// Row 24 of reliability.md.
func TestAnyReplicaAnswersTheChallengeHoweverFarBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.authority.set(func(a *fakeAuthority) { a.validate = true })
		replicas := []*member{w.start("a"), w.start("b"), w.start("c")}
		replicas[1].db.lag(true)
		replicas[2].db.lag(true)
		for i := range 100 {
			// As often as an order is due; the store says nothing of it to those behind.
			ctx := t.Context()
			csr := &x509.CertificateRequest{DNSNames: []string{webName}, PublicKey: w.authority.key.Public()}
			if _, err := (&branch{w.authority, replicas[i%3].store}).Issue(ctx, csr); err != nil {
				t.Fatalf("order %d: %v", i, err)
			}
		}
		if _, err := replicas[1].Challenge(&tls.ClientHelloInfo{ServerName: webName}); !errors.Is(err, errNoChallenge) {
			t.Errorf("without an order: %v", err)
		}
	})
}

// Row "ACME" of threats.md: the challenge path serves nothing else.
func TestHTTPHandlerServesLiveChallengesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := w.start("a")
		s := solver{r.store}
		c := acme.Challenge{Type: acme.ChallengeTypeHTTP01, Token: "tok_en-1", KeyAuthorization: "tok_en-1.print", Identifier: acme.Identifier{Type: "dns", Value: webName}}
		next := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
		get := func(method, host, path string) (int, string) {
			req := httptest.NewRequest(method, "http://x/", nil)
			req.Host, req.URL.Path = host, path
			rec := httptest.NewRecorder()
			r.HTTPHandler(next).ServeHTTP(rec, req)
			return rec.Code, rec.Body.String()
		}
		const there = challengePrefix + "tok_en-1"
		if code, _ := get("GET", webName, there); code != http.StatusNotFound {
			t.Errorf("before the order: %d", code)
		}
		if err := s.Present(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		for _, tc := range []struct {
			method, host, path string
			want               int
		}{
			{"GET", webName, there, 200},
			{"GET", webName + ":80", there, 200},
			{"POST", webName, there, 404},
			{"GET", "other.example.com", there, 404},
			{"GET", "", there, 404},
			{"GET", webName, challengePrefix, 404},
			{"GET", webName, challengePrefix + "tok_en-2", 404},
			{"GET", webName, there + "/", 404},
			{"GET", webName, there + "/../x", 404},
			{"GET", webName, challengePrefix + "../../etc/passwd", 404},
			{"GET", webName, "/.well-known/acme-challenge", http.StatusTeapot},
			{"GET", webName, "/" + there, http.StatusTeapot},
			{"GET", webName, "/", http.StatusTeapot},
		} {
			code, body := get(tc.method, tc.host, tc.path)
			if code != tc.want || (body == c.KeyAuthorization) != (tc.want == 200) {
				t.Errorf("%s %s %s: %d %q, want %d", tc.method, tc.host, tc.path, code, body, tc.want)
			}
		}
		if err := s.CleanUp(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if code, _ := get("GET", webName, there); code != http.StatusNotFound {
			t.Errorf("after the order: %d", code)
		}
		// A challenge of the other kind is none of this path's.
		c.Type = acme.ChallengeTypeTLSALPN01
		if err := s.Present(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if code, _ := get("GET", webName, there); code != http.StatusNotFound {
			t.Errorf("of TLS-ALPN-01: %d", code)
		}
	})
}

// While a cluster is given another authority, or none, replica by replica.
func TestChallengeIsAnsweredWithoutAnAuthorityOfOnesOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := w.start("a")
		c := acme.Challenge{Type: acme.ChallengeTypeTLSALPN01, Token: "t", KeyAuthorization: "k", Identifier: acme.Identifier{Type: "dns", Value: webName}}
		if err := (solver{r.store}).Present(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		storage := NewStorage(StorageOptions{DB: w.log.replica(t), Sealer: w.sealer})
		cert, err := NewChallenges(storage, []string{webName}).Challenge(&tls.ClientHelloInfo{ServerName: strings.ToUpper(webName)})
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(cert.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := proves(leaf, c); err != nil {
			t.Error(err)
		}
	})
}

// Row "ACME" of threats.md.
func TestStrangersQuestionsShareReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := w.start("a")
		before := r.db.linearized()
		get := func(method, token string) {
			req := httptest.NewRequest(method, "http://"+webName+challengePrefix+token, nil)
			r.HTTPHandler(http.NotFoundHandler()).ServeHTTP(httptest.NewRecorder(), req)
		}
		for range 100 {
			get(http.MethodPost, "token")
			get(http.MethodGet, "")
			get(http.MethodGet, "to.ken")
		}
		if n := r.db.linearized() - before; n != 0 {
			t.Errorf("%d reads for what can't be a challenge's", n)
		}
		began := time.Now()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				for time.Since(began) < time.Second {
					if _, err := r.Challenge(&tls.ClientHelloInfo{ServerName: webName}); !errors.Is(err, errNoChallenge) {
						t.Errorf("got %v", err)
					}
				}
			})
		}
		wg.Wait()
		if n := r.db.linearized() - before; n > 22 {
			t.Errorf("%d reads in a second", n)
		}
		// Nobody's departure takes the answer from others.
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := r.Challenges.challenge(ctx, webName); !errors.Is(err, errNoChallenge) {
			t.Errorf("got %v", err)
		}
	})
}

// hanging is a storage that doesn't answer.
type hanging struct {
	certmagic.Storage
	mu            sync.Mutex
	running, most int
}

func (h *hanging) Load(ctx context.Context, _ string) ([]byte, error) {
	h.mu.Lock()
	h.running++
	h.most = max(h.most, h.running)
	h.mu.Unlock()
	<-ctx.Done()
	h.mu.Lock()
	h.running--
	h.mu.Unlock()
	return nil, ctx.Err()
}

// Row "ACME" of threats.md: without a leader, strangers' questions don't pile up.
func TestReadsOfChallengesThatHangAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewChallenges(nil, []string{webName})
		h := &hanging{}
		c.storage = h
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				began := time.Now()
				if _, err := c.challenge(t.Context(), webName); err == nil || time.Since(began) > challengeTimeout {
					t.Errorf("after %v: %v", time.Since(began), err)
				}
			})
			time.Sleep(20 * time.Millisecond)
		}
		wg.Wait()
		if h.most > readsAtATime || h.running != 0 {
			t.Errorf("%d reads at a time", h.most)
		}
	})
}
