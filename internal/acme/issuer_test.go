package acme

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/google/go-cmp/cmp"
	"github.com/mholt/acmez/v3/acme"
)

// acmeServer speaks as much of RFC 8555 as acmez wants to hear, and believes every
// signature. Pebble, in the end-to-end tests, doesn't.
type acmeServer struct {
	*httptest.Server
	ca *fakeAuthority

	mu       sync.Mutex
	requests []string
	orders   []string          // status of each
	authz    []string          // of the authorization of each
	certs    map[string][]byte // PEM by order
	refuse   func(http.ResponseWriter, string) bool
}

func newACMEServer(t *testing.T) *acmeServer {
	t.Helper()
	s := &acmeServer{ca: newFakeAuthority(t), certs: map[string][]byte{}}
	s.Server = httptest.NewTLSServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *acmeServer) set(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fn()
}

// took returns the requests since the last call.
func (s *acmeServer) took() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.requests
	s.requests = nil
	return r
}

func (s *acmeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var jws struct{ Payload string }
	_ = json.NewDecoder(r.Body).Decode(&jws)
	payload, _ := base64.RawURLEncoding.DecodeString(jws.Payload)
	w.Header().Set("Replay-Nonce", "n")
	if r.URL.Path == "/nonce" {
		return
	}
	what := strings.TrimSpace(r.URL.Path + " " + strings.TrimPrefix(string(payload), "{}"))
	if strings.HasPrefix(what, "/finalize") || r.URL.Path == "/order" {
		what = r.URL.Path
	}
	if r.URL.Path != "/dir" {
		s.requests = append(s.requests, what)
	}
	if s.refuse != nil && s.refuse(w, r.URL.Path) {
		return
	}
	part := strings.Split(r.URL.Path, "/")
	n := 0
	if len(part) == 3 {
		_, _ = fmt.Sscan(part[2], &n)
	}
	var body any
	status := http.StatusOK
	switch part[1] {
	case "dir":
		body = map[string]string{"newNonce": s.URL + "/nonce", "newAccount": s.URL + "/account", "newOrder": s.URL + "/order"}
	case "account":
		w.Header().Set("Location", s.URL+"/acct/1")
		body, status = map[string]any{"status": "valid"}, http.StatusCreated
	case "order":
		if len(part) == 2 {
			s.orders, s.authz, n, status = append(s.orders, "pending"), append(s.authz, "pending"), len(s.orders), http.StatusCreated
			w.Header().Set("Location", fmt.Sprint(s.URL, "/order/", n))
		}
		body = s.order(n)
	case "authz":
		if strings.Contains(string(payload), "deactivated") {
			s.authz[n], s.orders[n] = "deactivated", "invalid"
		}
		body = map[string]any{
			"status": s.authz[n], "identifier": acme.Identifier{Type: "dns", Value: webName},
			"challenges": []map[string]string{{"type": "tls-alpn-01", "url": fmt.Sprint(s.URL, "/chall/", n), "token": "t", "status": "pending"}},
		}
	case "chall":
		s.authz[n], s.orders[n] = "valid", "ready"
		body = map[string]string{"type": "tls-alpn-01", "url": fmt.Sprint(s.URL, "/chall/", n), "token": "t", "status": "valid"}
	case "finalize":
		var req struct{ CSR string }
		_ = json.Unmarshal(payload, &req)
		der, _ := base64.RawURLEncoding.DecodeString(req.CSR)
		csr, err := x509.ParseCertificateRequest(der)
		if err == nil {
			var cert *x509.Certificate
			cert, err = s.ca.sign(csr)
			if err == nil {
				s.certs[part[2]] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
			}
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		s.orders[n] = "valid"
		body = s.order(n)
	case "cert":
		w.Header().Set("Content-Type", "application/pem-certificate-chain")
		_, _ = w.Write(s.certs[part[2]])
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

func (s *acmeServer) order(n int) any {
	return map[string]any{
		"status": s.orders[n], "identifiers": []acme.Identifier{{Type: "dns", Value: webName}},
		"authorizations": []string{fmt.Sprint(s.URL, "/authz/", n)},
		"finalize":       fmt.Sprint(s.URL, "/finalize/", n), "certificate": fmt.Sprint(s.URL, "/cert/", n),
	}
}

// issuers are those of replicas that share a store.
func (s *acmeServer) issuers(t *testing.T, n int) []*acmeIssuer {
	t.Helper()
	log, sealer := &testLog{}, newTestSealer(t)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	all := make([]*acmeIssuer, n)
	for i := range all {
		db := log.replica(t)
		storage := NewStorage(StorageOptions{DB: db, Sealer: sealer, Owner: fmt.Sprint(i)})
		m, err := New(Options{Names: []string{webName}, Email: "ops@example.com", Directory: s.URL + "/dir", Roots: roots, Storage: storage, DB: db, ServerID: fmt.Sprint(i)})
		if err != nil {
			t.Fatal(err)
		}
		all[i] = m.issuer.(*acmeIssuer) //nolint:forcetypeassert // New made it
	}
	return all
}

func issue(t *testing.T, a *acmeIssuer, at *attempt) error {
	t.Helper()
	key, err := keyGenerator.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{webName}}, key)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	_, err = a.Issue(context.WithValue(t.Context(), attemptKey{}, at), csr)
	return err
}

var (
	registered = []string{`/account {"contact":["mailto:ops@example.com"],"termsOfServiceAgreed":true}`}
	newOrder   = []string{"/order"}
)

func TestReplicasShareTheAccountAndLeaveNothingBehind(t *testing.T) {
	s := newACMEServer(t)
	for i, a := range s.issuers(t, 3) {
		if err := issue(t, a, &attempt{}); err != nil {
			t.Fatal(err)
		}
		var want []string
		if i == 0 {
			want = append(want, registered...)
		}
		n := fmt.Sprint(i)
		want = append(append(want, newOrder...), "/authz/"+n, "/chall/"+n, "/authz/"+n, "/finalize/"+n, "/cert/"+n)
		if diff := cmp.Diff(want, s.took()); diff != "" {
			t.Errorf("replica %d: %s", i, diff)
		}
		files, err := a.storage.List(t.Context(), "", true)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if strings.HasSuffix(f, ".json") && !strings.HasSuffix(f, "/account.json") || strings.HasSuffix(f, "/order") {
				t.Errorf("%s is left behind", f)
			}
		}
	}
}

// Row 22 of reliability.md: one order is open at the authority, however many began one.
func TestOrderOfADeadReplicaIsTakenUp(t *testing.T) {
	for _, tc := range []struct {
		name, order string
		want        []string
	}{
		{"validated: it is finished", "ready", []string{"/order/0", "/finalize/0", "/cert/0"}},
		{"waiting: it ends", "pending", append([]string{"/order/0", "/authz/0", `/authz/0 {"status":"deactivated"}`}, newOrder...)},
		{"being signed, for the dead one's key: it is waited for", "processing", append([]string{"/order/0", "/order/0"}, newOrder...)},
		{"over", "invalid", append([]string{"/order/0"}, newOrder...)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newACMEServer(t)
			a := s.issuers(t, 2)
			if err := issue(t, a[0], &attempt{}); err != nil {
				t.Fatal(err)
			}
			s.took()
			s.set(func() {
				s.orders[0], s.authz[0] = tc.order, "pending"
				if tc.order == "ready" {
					s.authz[0] = "valid"
				}
			})
			if err := a[0].storage.Store(t.Context(), a[0].orderPath(webName), []byte(s.URL+"/order/0")); err != nil {
				t.Fatal(err)
			}
			asked := 0
			s.set(func() {
				s.refuse = func(_ http.ResponseWriter, path string) bool {
					if path == "/order/0" && tc.order == "processing" {
						if asked++; asked > 1 {
							s.orders[0] = "valid"
						}
					}
					return false
				}
			})
			if err := issue(t, a[1], &attempt{}); err != nil {
				t.Fatal(err)
			}
			took := s.took()
			if diff := cmp.Diff(tc.want, took[:min(len(took), len(tc.want))]); diff != "" {
				t.Error(diff)
			}
			s.set(func() {
				for i, status := range s.orders {
					if status == "pending" || status == "ready" {
						t.Errorf("order %d is still %s", i, status)
					}
				}
			})
		})
	}
}

func TestAuthorityThatWasSetUpAnewGetsANewAccount(t *testing.T) {
	s := newACMEServer(t)
	a := s.issuers(t, 1)[0]
	if err := issue(t, a, &attempt{}); err != nil {
		t.Fatal(err)
	}
	s.took()
	forgotten := true
	refuse := func(w http.ResponseWriter, path string) bool {
		forgotten = forgotten && path != "/account"
		if !forgotten || path == "/dir" {
			return false
		}
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"type":"` + acme.ProblemTypeAccountDoesNotExist + `","status":400,"detail":"who?"}`))
		return true
	}
	s.set(func() { s.refuse = refuse })
	if err := issue(t, a, &attempt{}); err != nil {
		t.Error(err)
	}
	if took := s.took(); len(took) < 2 || took[1] != registered[0] {
		t.Errorf("requests %q", took)
	}
}

// Two orders find out at a time that nobody knows the account; the second keeps what the
// first has registered.
func TestAccountThatIsNewMeanwhileIsNotForgotten(t *testing.T) {
	s := newACMEServer(t)
	a := s.issuers(t, 2)
	if err := issue(t, a[0], &attempt{}); err != nil {
		t.Fatal(err)
	}
	s.took()
	refused := false
	s.set(func() {
		s.refuse = func(w http.ResponseWriter, path string) bool {
			if refused || path != "/order" {
				return false
			}
			refused = true
			if err := a[1].storage.Delete(t.Context(), a[1].accountPath()); err != nil {
				t.Error(err)
			}
			store(t, a[1].storage.Storage, a[1].accountPath(), accountOf(t, "valid"))
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write([]byte(`{"type":"` + acme.ProblemTypeAccountDoesNotExist + `","status":400,"detail":"who?"}`))
			return true
		}
	})
	if err := issue(t, a[0], &attempt{}); err != nil || !refused {
		t.Error(err)
	}
	for _, r := range s.took() {
		if strings.HasPrefix(r, "/account") {
			t.Errorf("request %s", r)
		}
	}
}

// accountOf is the file of an account with a key of its own.
func accountOf(t *testing.T, status string) string {
	t.Helper()
	key, err := keyGenerator.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	pem, err := certmagic.PEMEncodePrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	value, err := json.Marshal(storedAccount{acme.Account{Status: status, Location: "https://acme.test/acct/2"}, string(pem)})
	if err != nil {
		t.Fatal(err)
	}
	return string(value)
}

// Unauthorized is also what an authority says of a proof that it doesn't find.
func TestDeactivatedAccountIsReplacedAndNoOther(t *testing.T) {
	only := `/account {"onlyReturnExisting":true}`
	for status, want := range map[string][]string{
		"deactivated": append(append([]string{"/order", only}, registered...), "/order"),
		"valid":       {"/order", only},
	} {
		t.Run(status, func(t *testing.T) {
			s := newACMEServer(t)
			a := s.issuers(t, 1)[0]
			if err := issue(t, a, &attempt{}); err != nil {
				t.Fatal(err)
			}
			s.took()
			asked := 0
			s.set(func() {
				s.refuse = func(w http.ResponseWriter, path string) bool {
					switch {
					case path == "/order" && asked < 2:
						w.Header().Set("Content-Type", "application/problem+json")
						w.WriteHeader(http.StatusForbidden)
						_, _ = w.Write([]byte(`{"type":"` + acme.ProblemTypeUnauthorized + `","status":403,"detail":"no"}`))
					case path == "/account":
						if asked++; asked > 1 {
							return false
						}
						w.Header().Set("Content-Type", "application/json")
						_, _ = w.Write([]byte(`{"status":"` + status + `"}`))
					default:
						return false
					}
					return true
				}
			})
			err := issue(t, a, &attempt{})
			if (err == nil) != (status != "valid") {
				t.Errorf("got %v", err)
			}
			took := s.took()
			for i, r := range took {
				if strings.Contains(r, "onlyReturnExisting") {
					took[i] = only
				}
			}
			if diff := cmp.Diff(want, took[:min(len(took), len(want))]); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestRefusalSaysWhenToComeBack(t *testing.T) {
	s := newACMEServer(t)
	a := s.issuers(t, 1)[0]
	refuse := func(w http.ResponseWriter, path string) bool {
		if path != "/order" {
			return false
		}
		w.Header().Set("Retry-After", "7200")
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusTooManyRequests)
		_, _ = w.Write([]byte(`{"type":"` + acme.ProblemTypeRateLimited + `","status":429,"detail":"too many certificates"}`))
		return true
	}
	s.set(func() { s.refuse = refuse })
	at := &attempt{}
	err := issue(t, a, at)
	var problem acme.Problem
	if !errors.As(err, &problem) || problem.Status != http.StatusTooManyRequests {
		t.Errorf("error %v", err)
	}
	if left := time.Until(at.notBefore); left < 119*time.Minute || left > 2*time.Hour {
		t.Errorf("come back in %v", left)
	}
	if n := len(s.took()); n > 2 {
		t.Errorf("%d requests", n)
	}
}

func TestWhatIsNoDirectoryIsSaidToBeNone(t *testing.T) {
	for name, c := range map[string]struct{ kind, body string }{
		"JSON of something else": {"application/json", `{"newNonce":"https://example.com/"}`},
		"another's JSON":         {"application/json", `["a"]`},
		"a page":                 {"text/html", "<html></html>"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newACMEServer(t)
			a := s.issuers(t, 1)[0]
			s.set(func() {
				s.refuse = func(w http.ResponseWriter, _ string) bool {
					w.Header().Set("Content-Type", c.kind)
					_, _ = w.Write([]byte(c.body))
					return true
				}
			})
			err := issue(t, a, &attempt{})
			if want := "read the ACME directory " + a.directory + ": what answers there is no ACME directory"; err == nil || err.Error() != want {
				t.Errorf("error %v, want %s", err, want)
			}
		})
	}
}

func TestOneChallengeAnAttempt(t *testing.T) {
	for failures, want := range []string{acme.ChallengeTypeTLSALPN01, acme.ChallengeTypeHTTP01, acme.ChallengeTypeTLSALPN01} {
		a := &acmeIssuer{http01: true, directory: testDirectory}
		if got := a.solvers(failures); len(got) != 1 || got[want] == nil {
			t.Errorf("after %d failures: %v", failures, got)
		}
		a.http01 = false
		if got := a.solvers(failures); len(got) != 1 || got[acme.ChallengeTypeTLSALPN01] == nil {
			t.Errorf("without HTTP-01: %v", got)
		}
	}
}
