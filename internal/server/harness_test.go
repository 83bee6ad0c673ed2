package server

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/client"
	"github.com/sallyport-dev/sallyport/internal/testport"
)

const (
	testCluster  = "tele.example.com"
	testPassword = "correct horse battery staple"

	// patience is for machines that are busy; who waits so long waits for something
	// that does not come.
	patience = time.Minute
)

// replicas are whole servers in this process, on loopback, with clocks of their own.
type replicas struct {
	t      *testing.T
	secret []byte
	kube   string // kubeconfig
	opts   []Options
	run    []*running
}

type running struct {
	srv    *Server
	cancel context.CancelFunc
	told   <-chan struct{} // to stop
	done   chan error
}

// startReplicas starts n replicas and waits until all are ready. edit may change
// the options of each.
func startReplicas(t *testing.T, n int, edit func(i int, o *Options)) *replicas {
	t.Helper()
	secret := GenerateSecret()
	r := &replicas{t: t, secret: secret, kube: fakeKube(t)}
	ports := testport.Reserve(t, 6*n)
	addr := func(i, k int) string { return fmt.Sprintf("127.0.0.1:%d", ports[6*i+k]) }
	var join []string
	for i := range n {
		if n > 1 {
			join = append(join, addr(i, 3))
		}
	}
	for i := range n {
		o := Options{
			ClusterName: testCluster, DataDir: filepath.Join(t.TempDir(), fmt.Sprint(i)), Secret: secret,
			PublicAddr: addr(i, 0), ListenAddr: addr(i, 0), KubeListenAddr: addr(i, 1), PeerAddr: addr(i, 2),
			GossipAddr: addr(i, 3), DiagAddr: addr(i, 4), BootstrapExpect: n, Join: join, Kubeconfig: r.kube,
			Logger: testLogger(t, i),
		}
		if edit != nil {
			edit(i, &o)
		}
		r.opts = append(r.opts, o)
		r.run = append(r.run, nil)
		r.start(i)
	}
	t.Cleanup(func() { // all at once: each waits for its clients to go
		for _, run := range r.run {
			run.cancel()
		}
	})
	for i := range n {
		r.awaitReady(i)
	}
	return r
}

func (r *replicas) start(i int) {
	r.t.Helper()
	srv, err := New(r.opts[i])
	if err != nil {
		r.t.Fatalf("replica %d: %v", i, err)
	}
	srv.node.SlowDown(3)
	ctx, cancel := context.WithCancel(context.Background())
	run := &running{srv: srv, cancel: cancel, told: ctx.Done(), done: make(chan error, 1)}
	r.run[i] = run
	go func() { run.done <- srv.Run(ctx) }()
	r.t.Cleanup(func() { r.stop(i, run) })
}

// stop is idempotent; it fails the test when the replica did not end well.
func (r *replicas) stop(i int, run *running) {
	run.cancel()
	select {
	case err := <-run.done:
		run.done <- nil
		if err != nil {
			r.t.Errorf("replica %d: %v", i, err)
		}
	case <-time.After(patience):
		r.t.Errorf("replica %d does not stop", i)
	}
}

func (r *replicas) awaitReady(i int) {
	r.t.Helper()
	eventually(r.t, patience, fmt.Sprintf("replica %d ready", i), func() error {
		resp, err := http.Get("http://" + r.opts[i].DiagAddr + "/readyz") //nolint:noctx // bounded by eventually
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			b, _ := io.ReadAll(resp.Body)
			return fmt.Errorf("%s: %s", resp.Status, b)
		}
		conn, err := net.Dial("tcp", r.opts[i].ListenAddr) //nolint:noctx // likewise
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

func (r *replicas) leader() int {
	r.t.Helper()
	lead := -1
	eventually(r.t, patience, "a leader", func() error {
		for i, run := range r.run {
			if run.srv.node.Status().State == "leader" {
				lead = i
				return nil
			}
		}
		return fmt.Errorf("nobody leads")
	})
	return lead
}

func (r *replicas) admin(i int) *client.Client {
	c := client.NewUnix(r.run[i].srv.opts.SocketPath, "test")
	c.OnUnsettled = r.catchUp
	return c
}

// catchUp waits for replicas that an answer named as those that have not
// confirmed a change within settleFor, as they do not on a busy machine. Whom it does not
// name knows of the change already.
func (r *replicas) catchUp(ids []string) {
	r.t.Helper()
	for i, run := range r.run {
		if !slices.Contains(ids, run.srv.node.ID()) {
			continue
		}
		select {
		case <-run.told:
			continue
		default:
		}
		eventually(r.t, patience, fmt.Sprintf("replica %d knows what was changed", i), func() error {
			ctx, cancel := context.WithTimeout(r.t.Context(), patience)
			defer cancel()
			return run.srv.node.Linearize(ctx)
		})
	}
}

// change does what may be done twice, and does it again when leadership was lost meanwhile, as it
// is now and then on a busy machine. Replicas then know of what was done the first time.
func (r *replicas) change(what string, do func() error) {
	r.t.Helper()
	lost := false
	eventually(r.t, patience, what, func() error {
		err := do()
		switch {
		case api.IsCode(err, api.CodeAmbiguous), api.IsCode(err, api.CodeUnavailable):
			lost = true
			return err
		case lost && api.IsCode(err, api.CodeNotFound): // it was removed the first time
			var all []string
			for _, run := range r.run {
				all = append(all, run.srv.node.ID())
			}
			r.catchUp(all)
			return nil
		case err != nil:
			r.t.Fatalf("%s: %v", what, err)
		}
		return nil
	})
}

// addUser makes a user with a password, by replica i.
func (r *replicas) addUser(i int, name string, groups ...string) {
	r.t.Helper()
	begun := false
	r.change("add "+name, func() error {
		if begun { // it may be there, and nobody has its link
			if err := r.admin(i).Delete(r.t.Context(), api.KindUser, name, false); err != nil && !api.IsCode(err, api.CodeNotFound) {
				return err
			}
		}
		begun = true
		resp, err := r.admin(i).AddUser(r.t.Context(), &api.AddUserRequest{User: api.User{
			Header: api.Header{Kind: api.KindUser, Version: api.UserVersion, Metadata: api.Metadata{Name: name}},
			Spec:   api.UserSpec{Roles: []string{auth.RoleAccess}, Traits: map[string][]string{api.TraitKubeGroups: groups}},
		}})
		if err != nil {
			return err
		}
		token := resp.InviteURL[strings.LastIndex(resp.InviteURL, "/")+1:]
		_, err = r.run[i].srv.auth.Invites.Redeem(r.t.Context(), token, testPassword, nil, auth.Actor{})
		return err
	})
}

func (r *replicas) hostCAs() []byte {
	r.t.Helper()
	signers, err := r.run[0].srv.auth.Authorities.HostSigners()
	if err != nil {
		r.t.Fatal(err)
	}
	return signers[0].TLSCerts[0]
}

func (r *replicas) login(i int, name string) *client.Credentials {
	r.t.Helper()
	_, creds, err := r.web(i).LoginWithPassword(r.t.Context(), name, testPassword, "", 0)
	if err != nil {
		r.t.Fatalf("login on replica %d: %v", i, err)
	}
	return creds
}

// fakeKube is an API server that says whom it was told to impersonate, and its
// kubeconfig. A path that ends in /slow answers in pieces until the client goes.
func fakeKube(t *testing.T) string {
	t.Helper()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch req.URL.Path { // a replica's probe
		case "/version":
			_, _ = io.WriteString(w, `{"gitVersion":"v1.34.1"}`)
			return
		case "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews":
			_, _ = io.WriteString(w, `{"status":{"allowed":true}}`)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{
			"user": req.Header.Values("Impersonate-User"), "groups": req.Header.Values("Impersonate-Group"),
		})
		if req.URL.Query().Get("watch") != "" {
			_ = http.NewResponseController(w).Flush()
			<-req.Context().Done()
		}
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	ca := base64.StdEncoding.EncodeToString(pemOf(srv.Certificate().Raw))
	path := filepath.Join(t.TempDir(), "kubeconfig")
	doc := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c",
"clusters":[{"name":"c","cluster":{"server":%q,"certificate-authority-data":%q}}],
"users":[{"name":"u","user":{"token":"proxy"}}],"contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}]}`, srv.URL, ca)
	if err := os.WriteFile(path, []byte(doc), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func eventually(t *testing.T, within time.Duration, what string, ok func() error) {
	t.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			t.Fatalf("%s: not within %s: %v", what, within, err)
		case <-tick.C:
		}
	}
}

// testLogger shows what a replica logged if its test fails.
func testLogger(t *testing.T, i int) *slog.Logger {
	w := &testWriter{}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of replica %d:\n%s", i, w.text())
		}
	})
	return slog.New(slog.NewTextHandler(w, nil))
}

type testWriter struct {
	mu sync.Mutex
	b  strings.Builder
}

func (w *testWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func (w *testWriter) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}
