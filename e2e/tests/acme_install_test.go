package tests

import (
	"bytes"
	"context"
	"crypto/tls"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// A new cluster whose name leads nowhere yet, as after every helm install; then there is
// DNS. Also rows 24 and 26 of reliability: strangers' names order nothing, and whoever
// is asked has the answer.
func TestACMEFromTheInstallOn(t *testing.T) {
	t.Parallel()
	a := startACME(t, testbed.PebbleOptions{}, false)
	a.isWithoutDNS(t)
	// A wildcard record, as the guide makes one.
	others := []string{"x." + clusterName, "api." + clusterName, "kube." + clusterName, "join." + clusterName, "random.example"}
	a.resolve(t, here, append(others, clusterName)...)
	a.refusesOthers(t, others)
	serial := a.firstHandshakes(t)
	for _, r := range a.Replicas {
		before := len(a.pebble.Requests())
		if err := r.Stop(within(t, 30*time.Second)); err != nil {
			t.Error(err)
		}
		if err := r.Start(); err != nil {
			t.Fatal(err)
		}
		if err := r.WaitReady(within(t, 30*time.Second)); err != nil {
			t.Fatal(err)
		}
		s := a.shows(t, r.ListenAddr(), clusterName)
		if !s.public || s.serial() != serial {
			t.Errorf("%s after a restart shows %v by %v, the cluster's is %v", r.Name, s.serial(), s.leaf.Issuer, serial)
		}
		t.Logf("restarted %s: the first handshake took %v, and the authority was asked %d times", r.Name, s.took, len(a.pebble.Requests())-before)
	}
	if got := a.orders(""); len(got) != 1 || a.pebble.Issued() != 1 {
		t.Errorf("%d orders and %d certificates for three replicas that were restarted: %+v", len(got), a.pebble.Issued(), got)
	}
	a.nothingAtRest(t)
}

// isWithoutDNS lets users and strangers try for a while.
func (a *acmeCluster) isWithoutDNS(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), *acmeWithoutDNS)
	defer cancel()
	var mu sync.Mutex
	n, slowest := 0, time.Duration(0)
	atOnce(6, func(i int) {
		for tries := 0; tries == 0 || ctx.Err() == nil; tries++ {
			s, err := a.handshake(t.Context(), a.Replicas[i%3].ListenAddr(), clusterName)
			if err != nil || s.public {
				t.Errorf("without DNS: %+v, %v", s, err)
				return
			}
			mu.Lock()
			n, slowest = n+1, max(slowest, s.took)
			mu.Unlock()
		}
	})
	if asked := a.pebble.Requests()[a.ready:]; len(asked) != 0 {
		t.Errorf("the authority was asked though the name does not resolve: %v", asked)
	}
	t.Logf("without DNS for %v: %d handshakes got the host CA's certificate, the slowest after %v; nothing was ordered", *acmeWithoutDNS, n, slowest)
	if slowest > 10*time.Second {
		t.Errorf("a handshake waited %v for what can't be", slowest)
	}
	st := a.status(t, func(c api.WebCertificate) bool { return c.LastError != "" })
	if st.Source != api.CertificateACME || st.State != api.CertificateFailing || st.Failures != 0 || !st.NextTry.IsZero() {
		t.Errorf("status: %+v", st)
	}
	for _, r := range a.Replicas {
		said := ok(t, r.Tctl(within(t, 10*time.Second), "status")).Stdout
		for _, want := range []string{clusterName + " does not resolve", "create a DNS record", "the next TLS connection for " + clusterName} {
			if !strings.Contains(said, want) {
				t.Errorf("%s: %q is not in the status: %s", r.Name, want, said)
			}
		}
	}
}

// refusesOthers asks for names that are not ordered, as whoever points a name here can.
func (a *acmeCluster) refusesOthers(t *testing.T, names []string) {
	t.Helper()
	for _, name := range names {
		for _, r := range a.Replicas {
			d := tls.Dialer{Config: &tls.Config{ServerName: name, InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}} //nolint:gosec // whatever it shows: nobody trusts it for this name
			if conn, err := d.DialContext(within(t, 20*time.Second), "tcp", r.ListenAddr()); err == nil {
				conn.Close()
			}
		}
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}, //nolint:gosec // as above
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", a.users[0].Addr())
		}}
	defer tr.CloseIdleConnections()
	for _, path := range []string{"/", "/web/login", "/webapi/ping", "/.well-known/acme-challenge/x"} {
		req, err := http.NewRequestWithContext(within(t, 20*time.Second), http.MethodGet, "https://x."+net.JoinHostPort(clusterName, a.port)+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if kind := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusNotFound || !strings.HasPrefix(kind, "text/plain") {
			t.Errorf("%s at another name: %s, %s", path, resp.Status, kind)
		}
	}
	if got := a.pebble.Orders(); len(got) != 0 {
		t.Errorf("names of strangers ordered %+v", got)
	}
}

// firstHandshakes are thirty at all replicas and a curl, at once.
func (a *acmeCluster) firstHandshakes(t *testing.T) (serial string) {
	t.Helper()
	const n = 30
	var got [n]shown
	var errs [n + 1]error
	start := time.Now()
	var curled time.Duration
	atOnce(n+1, func(i int) {
		if i == n {
			_, errs[i] = a.curl(t.Context(), clusterName, "/webapi/ping")
			curled = time.Since(start)
			return
		}
		got[i], errs[i] = a.handshake(t.Context(), a.Replicas[i%3].ListenAddr(), clusterName)
	})
	slowest := time.Duration(0)
	for i, s := range got {
		if errs[i] != nil || !s.public || s.serial() != got[0].serial() {
			t.Fatalf("handshake %d: %+v, %v", i, s, errs[i])
		}
		slowest = max(slowest, s.took)
	}
	valid, invalid := a.pebble.Validations()
	t.Logf("then DNS: the first curl succeeded after %v, %d first handshakes within %v; %d order, %d challenge answered, %d not",
		curled, n, slowest, len(a.orders("")), valid, invalid)
	if errs[n] != nil || curled > 30*time.Second {
		t.Errorf("the first curl after %v: %v", curled, errs[n])
	}
	if len(a.orders("")) != 1 || valid != 1 || invalid != 0 {
		t.Errorf("orders: %+v", a.pebble.Orders())
	}
	st := a.status(t, func(c api.WebCertificate) bool { return c.State == api.CertificateValid })
	if st.LastError != "" || st.Failures != 0 {
		t.Errorf("status: %+v", st)
	}
	return got[0].serial()
}

// nothingAtRest looks for what ACME keeps, as in TestNoSecretAtRest.
func (a *acmeCluster) nothingAtRest(t *testing.T) {
	t.Helper()
	leaf := a.shows(t, a.Replicas[0].ListenAddr(), clusterName).leaf
	backup := filepath.Join(a.Dir, "stolen.backup")
	ok(t, a.Replicas[0].Tctl(within(t, 20*time.Second), "backup", backup))
	needles := map[string][]byte{
		"a PEM private key": []byte("PRIVATE KEY"), "the account's URL": []byte("/my-account/"), "the order's URL": []byte("/my-order/"),
		"a certificate by ACME": leaf.Raw, "its key's numbers": leaf.RawSubjectPublicKeyInfo[len(leaf.RawSubjectPublicKeyInfo)-64:],
		"an EC key (SEC 1)":  {0x30, 0x77, 0x02, 0x01, 0x01, 0x04, 0x20},
		"an EC key (PKCS 8)": {0x30, 0x81, 0x87, 0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01},
	}
	for _, key := range a.pebble.Accounts() {
		needles["the end of a key authorization"] = []byte("." + key)
	}
	if len(a.pebble.Accounts()) != 1 {
		t.Errorf("%d accounts for one cluster", len(a.pebble.Accounts()))
	}
	files, seen := 0, map[string]bool{}
	look := func(path string) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files++
		for _, text := range append([][]byte{b}, unpacked(t, b)...) {
			for what, needle := range needles {
				for form, bytesOf := range spellings(needle) {
					if bytes.Contains(text, bytesOf) {
						t.Errorf("%s: %s (%s)", path, what, form)
					}
				}
			}
			for _, known := range []string{"acme/files/acme/", "acme/files/certificates/", "acme/files/challenges/", "acme/status"} { // what must be there: the search sees
				if bytes.Contains(text, []byte(known)) {
					seen[filepath.Base(path)+" "+known] = true
				}
			}
		}
	}
	for _, r := range a.Replicas {
		err := filepath.WalkDir(r.DataDir(), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || d.Type()&fs.ModeSocket != 0 {
				return err
			}
			look(path)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	look(backup)
	t.Logf("%d files, seen %v", files, seen)
	for _, want := range []string{"raft.db acme/files/acme/", "raft.db acme/files/certificates/", "raft.db acme/files/challenges/", "stolen.backup acme/status"} {
		if !seen[want] {
			t.Errorf("the search did not see %s, so it sees nothing", want)
		}
	}
}
