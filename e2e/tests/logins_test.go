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
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/sallyport"
)

// 200 people try to log in at once, from networks of their own; those who have
// a certificate notice nothing.
func TestFloodOfLogins(t *testing.T) {
	c := ownCluster(t, sallyport.Options{})
	r := c.Replicas[0]
	alice := newUser(t, c, r, "alice", "--k8s-groups=system:masters")
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: kubeTLS(t, alice, "h2"), ForceAttemptHTTP2: true}, Timeout: 10 * time.Second}
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

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
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
			status, err := tryLogin(t.Context(), alice, r, i, name, password, pub)
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
	if slowest > 5*time.Second {
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
}

// tryLogin logs in from an address in a network of its own.
func tryLogin(ctx context.Context, u *sallyport.User, r *sallyport.Replica, i int, name, password string, pub []byte) (int, error) {
	client, err := u.Client()
	if err != nil {
		return 0, err
	}
	transport := client.Transport.(*http.Transport)
	transport.DialContext = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1, byte(i), 1)}}).DialContext
	defer client.CloseIdleConnections()
	body, err := json.Marshal(map[string]any{"user": name, "password": password, "tls_pub_key": pub})
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.URL()+"/webapi/ssh/certs", bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}
