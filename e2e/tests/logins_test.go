package tests

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// 200 people try to log in at once, from networks of their own; those who have
// a certificate notice nothing.
func TestFloodOfLogins(t *testing.T) {
	c := ownCluster(t, sallyport.Options{})
	r := c.Replicas[0]
	alice := newUser(t, c, r, "alice", "--k8s-groups=system:masters")
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: kubeTLS(t, alice, "h2"), ForceAttemptHTTP2: true}, Timeout: testbed.Patience}
	defer client.CloseIdleConnections()
	var slowest time.Duration
	var took []time.Duration
	requests := startLoop(t, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.URL()+"/api/v1/namespaces", nil)
		if err != nil {
			return err
		}
		start := time.Now()
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s, %w", resp.Status, err)
		}
		took = append(took, time.Since(start))
		slowest = max(slowest, time.Since(start))
		return nil
	})
	requests.more(t, 20)
	before := memory(t, r)

	pub := publicKey(t)
	var mu sync.Mutex
	answers := map[int]int{}
	var wg sync.WaitGroup
	start := time.Now()
	for i := range 200 {
		wg.Go(func() {
			name, password := fmt.Sprintf("nobody%d", i), "a wrong password"
			if i%4 == 0 {
				name, password = "alice", alice.Password
			}
			status, _, err := tryLogin(t.Context(), alice, r, i, name, password, pub)
			if err != nil {
				t.Errorf("login %d: %v", i, err)
			}
			mu.Lock()
			defer mu.Unlock()
			answers[status]++
		})
	}
	wg.Wait()
	t.Logf("200 logins in %v: %v", time.Since(start), answers)
	requests.more(t, 20)
	n, errs := requests.stop()
	slices.Sort(took)
	t.Logf("%d requests meanwhile, median %v, p99 %v, slowest %v", n, took[len(took)/2], took[len(took)*99/100], slowest)
	if len(errs) > 0 {
		t.Errorf("%d of %d requests failed: %v", len(errs), n, errors.Join(errs...))
	}
	if slowest > testbed.Patience/2 {
		t.Errorf("a request took %v", slowest)
	}
	for status := range answers {
		if !slices.Contains([]int{200, 401, 429}, status) {
			t.Errorf("%d logins were answered %d", answers[status], status)
		}
	}
	if answers[200] == 0 {
		t.Error("nobody got in")
	}
	// Each password costs 19 MiB while it is checked: all at once would be 3.7 GiB.
	if grown := memory(t, r) - before; grown > 256<<20 {
		t.Errorf("the replica took %d MiB more at its height", grown>>20)
	}
}

// memory is the most that a replica has had in memory.
func memory(t *testing.T, r *sallyport.Replica) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.Process().PID()))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	var kib int64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

// Whether a name is anybody's can be told neither by the words nor by the time
// that a wrong password takes; whether its owner has a second factor neither.
func TestNamesCannotBeGuessed(t *testing.T) {
	c, alice := shared(t)
	w := window(t)
	enrolApp(t, w, invite(t, c, "gustav"))
	pub := publicKey(t)
	names := []string{"alice", "gustav", "nobody-has-this-name"}
	took, said := map[string][]time.Duration{}, map[string]string{}
	for i := range 5 {
		for j, name := range names {
			start := time.Now()
			status, body, err := tryLogin(t.Context(), alice, c.Replicas[1], 210+3*i+j, name, "a wrong password", pub)
			took[name] = append(took[name], time.Since(start))
			if err != nil || status != http.StatusUnauthorized {
				t.Fatalf("%s: %d %s, %v", name, status, body, err)
			}
			said[name] = body
		}
	}
	for _, name := range names {
		slices.Sort(took[name])
		t.Logf("%s: %v, %s", name, took[name], said[name])
		if said[name] != said[names[0]] {
			t.Errorf("%s: %s, and %s: %s", names[0], said[names[0]], name, said[name])
		}
		if least, first := took[name][0], took[names[0]][0]; least > 4*first || first > 4*least { // a hash not made would be fifteen times
			t.Errorf("%s: %v, and %s: %v", names[0], first, name, least)
		}
	}
}

func publicKey(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return pub
}

// tryLogin logs in from an address in a network of its own.
func tryLogin(ctx context.Context, u *sallyport.User, r *sallyport.Replica, i int, name, password string, pub []byte) (status int, answer string, err error) {
	return tryLoginFrom(ctx, u, r.URL(), net.IPv4(127, 1, byte(i), 1), name, password, pub)
}

// tryLoginFrom logs in from an address of loopback.
func tryLoginFrom(ctx context.Context, u *sallyport.User, url string, from net.IP, name, password string, pub []byte) (status int, answer string, err error) {
	client, err := u.Client()
	if err != nil {
		return 0, "", err
	}
	transport := client.Transport.(*http.Transport)
	transport.DialContext = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: from}}).DialContext
	defer client.CloseIdleConnections()
	body, err := json.Marshal(map[string]any{"user": name, "password": password, "tls_pub_key": pub})
	if err != nil {
		return 0, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/webapi/ssh/certs", bytes.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}
