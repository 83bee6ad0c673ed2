package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/cluster/peer"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/client"
	"github.com/sallyport-dev/sallyport/internal/testport"
)

// kubeClient speaks to a replica as kubectl does.
func (r *replicas) kubeClient(creds *client.Credentials) *http.Client {
	r.t.Helper()
	pair, err := tls.X509KeyPair(creds.CertPEM, creds.KeyPEM)
	if err != nil {
		r.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(creds.HostCAs)
	tr := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{
		ServerName: api.KubeServerName(testCluster, testCluster), RootCAs: roots,
		Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12,
	}}
	r.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func (r *replicas) get(c *http.Client, i int, path string) (int, string) {
	r.t.Helper()
	req, _ := http.NewRequestWithContext(r.t.Context(), http.MethodGet, "https://"+r.opts[i].PublicAddr+path, nil)
	resp, err := c.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(b)
}

func TestRemovalEndsStreamsOnEveryReplicaBeforeItAnswers(t *testing.T) {
	t.Parallel()
	r := startReplicas(t, 3, nil)
	r.addUser(1, "alice", "devs")
	creds := r.login(2, "alice")
	var ended []<-chan time.Time
	for i := range 3 {
		ended = append(ended, r.watch(creds, i))
	}
	if err := r.admin(0).Delete(t.Context(), api.KindUser, "alice", false); err != nil {
		t.Fatal(err)
	}
	// The answer is the promise: from here on no replica lets her in.
	for i := range 3 {
		if status, body := r.get(r.kubeClient(creds), i, "/api"); status != http.StatusUnauthorized || !strings.Contains(body, "has ended") {
			t.Errorf("replica %d after the removal: %d %s", i, status, body)
		}
	}
	for _, stream := range ended {
		wasCut(t, stream)
	}
}

func TestRemovalNamesReplicasThatHaveNotConfirmed(t *testing.T) {
	t.Parallel()
	r := startReplicas(t, 3, nil)
	lead := r.leader()
	down := (lead + 1) % 3
	id := r.run[down].srv.node.ID()
	r.stop(down, r.run[down])
	// On a busy machine the one that is up may be late too, now and then.
	eventually(t, patience, "the one that is down, and none but it, is named", func() error {
		var missing []string
		admin := r.admin(lead)
		admin.OnUnsettled = func(ids []string) { missing = ids }
		if _, err := admin.AddUser(t.Context(), &api.AddUserRequest{User: api.User{
			Header: api.Header{Kind: api.KindUser, Version: api.UserVersion, Metadata: api.Metadata{Name: "alice"}},
		}}); err != nil {
			t.Fatal(err)
		}
		missing = nil
		if err := admin.Delete(t.Context(), api.KindUser, "alice", false); err != nil {
			t.Fatal(err)
		}
		if len(missing) != 1 || missing[0] != id {
			return fmt.Errorf("unsettled: %v, want %s", missing, id)
		}
		return nil
	})
	named := func(resp *http.Response) bool { return strings.Contains(resp.Header.Get(api.HeaderUnsettled), id) }

	// Strangers' requests that change nothing ask nobody.
	r.addUser(lead, "bob")
	b := r.browser()
	post := func(path, contentType, body string) *http.Response {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+r.opts[lead].PublicAddr+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", contentType)
		resp, err := b.c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp
	}
	const formType = "application/x-www-form-urlencoded"
	if resp := post("//x", formType, ""); resp.StatusCode >= http.StatusBadRequest || resp.Header.Get(api.HeaderUnsettled) != "" {
		t.Errorf("a stranger's POST that is redirected: %s, unsettled %q", resp.Status, resp.Header.Get(api.HeaderUnsettled))
	}
	form := b.open(lead, "/web/login", nil).fill(url.Values{"username": {"bob"}, "password": {testPassword}})
	if resp := post("/web/login", formType, form.Encode()); resp.StatusCode != http.StatusSeeOther || !named(resp) {
		t.Errorf("a login: %s, unsettled %q", resp.Status, resp.Header.Get(api.HeaderUnsettled))
	}

	// A user's that finds nothing to change: the try before it may be under way.
	r.login(lead, "bob") // the page offers to end it
	form = b.open(lead, "/web/account", nil).endSession(t, strings.Repeat("0", 32))
	if resp := post("/web/account/sessions/end", formType, form.Encode()); resp.StatusCode != http.StatusSeeOther || !named(resp) {
		t.Errorf("the end of a session that has ended: %s, unsettled %q", resp.Status, resp.Header.Get(api.HeaderUnsettled))
	}
}

func TestRestartedReplicaLetsNobodyInBeforeItHasCaughtUp(t *testing.T) {
	t.Parallel()
	r := startReplicas(t, 3, nil)
	r.addUser(0, "alice", "devs")
	creds := r.login(0, "alice")
	lead := r.leader()
	back := (lead + 1) % 3
	r.stop(back, r.run[back])
	if err := r.admin(lead).Delete(t.Context(), api.KindUser, "alice", false); err != nil {
		t.Fatal(err)
	}
	// It remembers alice. Alone it must serve nobody, nor answer from that memory.
	for i := range 3 {
		if i != back {
			r.stop(i, r.run[i])
		}
	}
	r.start(back)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := r.admin(back).List(ctx, api.KindUser, "")
	if !api.IsCode(err, api.CodeUnavailable) {
		t.Errorf("users from memory: %v", err)
	}
	if status, body := r.get(r.kubeClient(creds), back, "/api"); status != 0 {
		t.Errorf("served from memory: %d %s", status, body)
	}
	if s, err := r.admin(back).Status(ctx); err != nil || s.Ready {
		t.Errorf("status must answer, and say that it isn't ready: %+v %v", s, err)
	}
	r.start(lead)
	r.awaitReady(back)
	if status, body := r.get(r.kubeClient(creds), back, "/api"); status != http.StatusUnauthorized {
		t.Errorf("after catching up: %d %s", status, body)
	}
}

// A clock that is a day off must not age the cluster: no record expires by it,
// state time stays, and only who comes through that replica may be refused, told why.
func TestLeaderWhoseClockIsADayOff(t *testing.T) {
	t.Parallel()
	for name, off := range map[string]time.Duration{"ahead": 24 * time.Hour, "behind": -24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var offsets [3]atomic.Int64
			r := startReplicas(t, 3, func(i int, o *Options) {
				o.Clock = func() time.Time { return time.Now().Add(time.Duration(offsets[i].Load())) }
			})
			r.addUser(0, "alice", "devs")
			creds := r.login(0, "alice")
			bad := r.leader()
			good := (bad + 1) % 3
			offsets[bad].Store(int64(off))

			eventually(t, patience, "writes go on", func() error {
				ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
				defer cancel()
				_, err := r.admin(good).AddUser(ctx, &api.AddUserRequest{User: api.User{
					Header: api.Header{Kind: api.KindUser, Version: api.UserVersion, Metadata: api.Metadata{Name: fmt.Sprint("u", time.Now().UnixNano())}},
					Spec:   api.UserSpec{Roles: []string{"access"}},
				}})
				return err
			})
			eventually(t, patience, "the replica with the wrong clock no longer leads", func() error {
				if lead := r.leader(); lead == bad {
					return errors.New("it does")
				}
				return nil
			})
			for i := range 3 {
				if d := time.Until(r.run[i].srv.state.Time()).Abs(); d > time.Minute {
					t.Errorf("replica %d: state time is %s off", i, d)
				}
			}
			for i := range 3 {
				status, body := r.get(r.kubeClient(creds), i, "/api")
				switch {
				case status == http.StatusOK:
				case i == bad && status == http.StatusServiceUnavailable && strings.Contains(body, "clock"):
				default:
					t.Errorf("replica %d: %d %s", i, status, body)
				}
			}
			b := r.browser()
			eventually(t, patience, "pages say why", func() error {
				for _, form := range []url.Values{nil, {"username": {"alice"}}} {
					if p := b.open(bad, "/web/login", form); p.status != http.StatusServiceUnavailable || !strings.Contains(p.body, "<h1") || !strings.Contains(p.body, "clock of this replica") {
						return fmt.Errorf("%d %s", p.status, p.body)
					}
				}
				return nil
			})
			offsets[bad].Store(0)
			eventually(t, patience, "the replica serves again once its clock is right", func() error {
				if status, body := r.get(r.kubeClient(creds), bad, "/api"); status != http.StatusOK {
					return fmt.Errorf("%d %s", status, body)
				}
				return nil
			})
		})
	}
}

// A follower hears of what is committed with the leader's next heartbeat. Whoever
// is logged in by the leader and led to a follower meanwhile is logged in there.
func TestALoginCountsOnReplicasThatHaveNotHeardOfItYet(t *testing.T) {
	t.Parallel()
	r := startReplicas(t, 3, nil)
	r.addUser(0, "alice", "devs")
	lead := r.leader()
	login := r.run[lead].srv.auth.Login
	for i := range 12 {
		c, err := login.Begin(t.Context(), "alice", testPassword, loopback)
		if err != nil {
			t.Fatal(err)
		}
		session, err := login.Web(t.Context(), c.State, auth.FactorAnswer{}, loopback)
		if err != nil {
			t.Fatal(err)
		}
		a := r.run[(lead+1+i%2)%3].srv.webAccounts() // at once: no handshake in between
		if _, err := a.Session(t.Context(), session.Cookie, loopback); err != nil {
			t.Fatalf("login %d: %v", i, err)
		}
	}
}

func TestReplicaThatJoinsNeverFoundsItsOwn(t *testing.T) {
	t.Parallel()
	r := startReplicas(t, 1, nil)
	ports := testport.Reserve(t, 5)
	addr := func(k int) string { return fmt.Sprintf("127.0.0.1:%d", ports[k]) }
	second := r.opts[0]
	second.DataDir, second.SocketPath = filepath.Join(t.TempDir(), "second"), ""
	second.PublicAddr, second.ListenAddr, second.KubeListenAddr = addr(0), addr(0), addr(1)
	second.PeerAddr, second.PeerAdvertise, second.GossipAddr, second.DiagAddr = addr(2), "", addr(3), addr(4)
	second.BootstrapExpect, second.Join = 0, []string{r.opts[0].GossipAddr}
	r.opts, r.run = append(r.opts, second), append(r.run, nil)
	r.start(1)
	r.awaitReady(1)
	if a, b := r.run[0].srv.node.ClusterID(), r.run[1].srv.node.ClusterID(); a != b {
		t.Errorf("two clusters: %s and %s", a, b)
	}
}

// One that stops would wait until its time is over for agents that find no other.
func TestWithoutALeaderAReplicaIsNobodyToGoTo(t *testing.T) {
	t.Parallel()
	r := startReplicas(t, 2, nil)
	says := func(want bool) {
		t.Helper()
		eventually(t, patience, fmt.Sprintf("serving: %v", want), func() error {
			if got, err := r.run[0].srv.serveServing(t.Context(), peer.Peer{}, struct{}{}); err != nil || got.Serving != want {
				return fmt.Errorf("%v, %w", got, err)
			}
			return nil
		})
	}
	says(true)
	r.stop(1, r.run[1])
	says(false)
}

func TestStrictReplicasServeWhileTheyHearALeader(t *testing.T) {
	t.Parallel()
	r := startReplicas(t, 3, func(_ int, o *Options) { o.MaxStale = -1 })
	r.addUser(0, "alice", "devs")
	creds := r.login(0, "alice")
	for i := range 3 {
		c := r.kubeClient(creds)
		eventually(t, patience, fmt.Sprintf("replica %d knows alice", i), func() error {
			if status, body := r.get(c, i, "/api"); status != http.StatusOK {
				return fmt.Errorf("%d %s", status, body)
			}
			return nil
		})
		for range 10 {
			if status, body := r.get(c, i, "/api"); status != http.StatusOK {
				t.Fatalf("replica %d: %d %s", i, status, body)
			}
		}
	}
}

func TestSecretThatDoesNotOpenTheStateIsRefused(t *testing.T) {
	t.Parallel()
	r := startReplicas(t, 1, nil)
	r.stop(0, r.run[0])
	other := GenerateSecret()
	o := r.opts[0]
	o.Secret = other
	srv, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	id, _, _ := strings.Cut(string(r.secret), ":")
	if err := srv.Run(ctx); err == nil || !strings.Contains(err.Error(), id) {
		t.Fatalf("want a refusal that names the line %q, got %v", id, err)
	}
}

func TestRestoreTakesNothingButAWholeBackupAndItsSecret(t *testing.T) {
	t.Parallel()
	r := startReplicas(t, 1, nil)
	r.addUser(0, "alice", "devs")
	path := filepath.Join(t.TempDir(), "backup")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.admin(0).Backup(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	if page, err := r.admin(0).Audit(t.Context(), api.AuditQuery{Types: []string{api.EventCodeClusterBackup}}); err != nil || len(page.Events) != 1 {
		t.Errorf("the log tells of the backup: %+v, %v", page, err)
	}
	backup, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other := GenerateSecret()
	flipped := append([]byte(nil), backup...)
	flipped[len(flipped)/2] ^= 1
	for name, c := range map[string]struct {
		backup, secret []byte
	}{
		"cut short": {backup[:len(backup)-1], r.secret}, "a flipped bit": {flipped, r.secret}, "nothing": {nil, r.secret},
		"something else": {[]byte("SQLite format 3\x00"), r.secret}, "another secret": {backup, other},
	} {
		dir := filepath.Join(t.TempDir(), "d")
		_, err := Restore(t.Context(), RestoreOptions{DataDir: dir, Secret: c.secret, Backup: strings.NewReader(string(c.backup))})
		if err == nil {
			t.Errorf("%s: restored", name)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: left a directory behind", name)
		}
	}
	o := r.opts[0]
	o.DataDir = filepath.Join(t.TempDir(), "restored")
	o.SocketPath = ""
	done, err := Restore(t.Context(), RestoreOptions{DataDir: o.DataDir, PeerAdvertise: o.PeerAddr, Secret: r.secret, Backup: strings.NewReader(string(backup))})
	if err != nil {
		t.Fatal(err)
	}
	r.stop(0, r.run[0])
	r.opts[0] = o
	r.start(0)
	r.awaitReady(0)
	if id := r.run[0].srv.node.ClusterID(); id != done.ClusterID {
		t.Errorf("cluster id %s, want %s", id, done.ClusterID)
	}
	r.login(0, "alice")
}
