package server

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// Two hundred people log in at once, each from a network of their own. What that
// costs is bounded, and who has a certificate goes on. Not parallel: it looks at
// the memory of the whole process.
func TestLoginsAtOnceCostBoundedMemoryAndDisturbNobody(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("not on Linux: only there are all addresses of 127.0.0.0/8 the machine's own")
	}
	r := startReplicas(t, 1, nil)
	r.addUser(0, "alice", "devs")
	creds := r.login(0, "alice")
	kubectl := r.kubeClient(creds)
	public, err := json.Marshal(publicKeyOf(t, creds.CertPEM))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(creds.HostCAs)
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)

	var mu sync.Mutex
	answers := map[int]int{}
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			name, password := fmt.Sprintf("nobody%d", i), "a wrong password"
			if i%4 == 0 {
				name, password = "alice", testPassword
			}
			body := fmt.Sprintf(`{"user":%q,"password":%q,"tls_pub_key":%s}`, name, password, public)
			status, err := postFrom(t, net.IPv4(127, 1, byte(i), 1), roots, "https://"+r.opts[0].PublicAddr+api.PathLogin, body)
			if err != nil {
				t.Errorf("login %d: %v", i, err)
			}
			mu.Lock()
			defer mu.Unlock()
			answers[status]++
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	// How many requests there is time for is the machine's to say, which may be busy: one waits for
	// its turn among the logins under way, and not until they are over.
	meanwhile, peak, slowest := 0, uint64(0), time.Duration(0)
	for running := true; running; {
		start := time.Now()
		if status, body := r.get(kubectl, 0, "/api"); status != http.StatusOK {
			t.Fatalf("kubectl was disturbed: %d %s", status, body)
		}
		slowest = max(slowest, time.Since(start))
		select {
		case <-done:
			running = false
		default:
			meanwhile++
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		peak = max(peak, m.HeapInuse)
	}
	grown := (int64(peak) - int64(before.HeapInuse)) >> 20
	t.Logf("%v; %d requests meanwhile, the slowest %v; heap grew by %d MiB at most", answers, meanwhile, slowest, grown)
	if meanwhile < 2 {
		t.Errorf("%d requests were answered meanwhile", meanwhile)
	}
	// 200 derivations at once would take 3.8 GiB.
	if grown > 512 {
		t.Errorf("the heap grew by %d MiB", grown)
	}
	for status, n := range answers {
		if status != http.StatusOK && status != http.StatusUnauthorized && status != http.StatusTooManyRequests {
			t.Errorf("%d logins were answered %d", n, status)
		}
	}
	if answers[http.StatusOK] == 0 {
		t.Error("nobody got in")
	}
}

func publicKeyOf(t *testing.T, certPEM []byte) []byte {
	t.Helper()
	block, _ := pem.Decode(certPEM)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(cert.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return public
}

// postFrom posts JSON from an address.
func postFrom(t *testing.T, from net.IP, roots *x509.CertPool, url, body string) (int, error) {
	tr := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		DialContext:     (&net.Dialer{LocalAddr: &net.TCPAddr{IP: from}}).DialContext,
	}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}
