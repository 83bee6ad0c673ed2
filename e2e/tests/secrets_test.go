package tests

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/sallyport-dev/sallyport/e2e/browser"
	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// What a thief of a disk or a backup finds, without the cluster secret.
func TestNoSecretAtRest(t *testing.T) {
	t.Parallel()
	c := ownCluster(t, sallyport.Options{PublicHost: "localhost", Args: []string{"--audit-segment-size=1MiB"}})
	ctx := within(t, time.Minute)
	alice := newUser(t, c, c.Replicas[0], "alice", "--k8s-groups=system:masters")
	ok(t, alice.Kubectl(ctx, "get", "ns"))
	unused, err := c.Invite(ctx, c.Replicas[1], "carol")
	if err != nil {
		t.Fatal(err)
	}
	used, err := c.Invite(ctx, c.Replicas[2], "dave")
	if err != nil {
		t.Fatal(err)
	}
	dave, err := c.NewUser(ctx, c.Replicas[2], "dave")
	if err != nil {
		t.Fatal(err)
	}
	const passphrase = "a passphrase nobody else has"
	if err := dave.AcceptInvite(ctx, used, passphrase); err != nil {
		t.Fatal(err)
	}
	const typo = "a mistyped passphrase" // people mistype the name's field, too
	dave.Password = typo
	refused(t, dave.Login(ctx, c.Replicas[0]), "invalid user name or password")
	// A second factor, and a session of a browser.
	w := browser.Start(ctx, t, alice.CAFile, c.Replicas[0].WebAddr(), c.Replicas[1].WebAddr())
	phone := enrolApp(t, w, invite(t, c, "erin"))
	logIn(t, w, c.Replicas[0], "erin", webPassword)
	fill(t, w, "#code", phone.code(t))
	atHome(t, submit(t, w))
	_, cookie, _ := strings.Cut(sessionCookie(t, w, c.Replicas[0]).Value, ".")
	// The body of a kubectl request: a Kubernetes secret.
	const payload = "payload-that-is-nobodys-business"
	ok(t, alice.Kubectl(ctx, "create", "secret", "generic", "at-rest", "--from-literal=key="+payload))
	agent, joinTokens := safeAgent(t, c)
	backup := filepath.Join(c.Dir, "stolen.backup")
	ok(t, c.Replicas[1].Tctl(ctx, "backup", backup))
	l := startAuditLoad(t, alice, strings.Repeat("at-rest", 400), 1, c.Replicas...) // long lines, until a file of the log is full
	sealed := func() error {
		if files, err := auditFiles(c.Replicas[2]); err != nil || len(files) < 2 {
			return fmt.Errorf("%v, %w", files, err)
		}
		return nil
	}
	testbed.Wait(t, 20*time.Second, "a sealed file", sealed)
	l.stop()
	spoolAtRest(t, c, alice)
	restored := pendingAtRest(t, c, backup, alice, typo)

	secretFile, err := os.ReadFile(c.SecretFile())
	if err != nil {
		t.Fatal(err)
	}
	_, encoded, _ := strings.Cut(strings.TrimSpace(string(secretFile)), ":")
	secret, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(secret) < 32 {
		t.Fatalf("the cluster secret: %d bytes, %v", len(secret), err)
	}
	token := func(link string) []byte { return []byte(link[strings.LastIndexByte(link, '/')+1:]) }
	needles := map[string][]byte{
		"a PEM private key": []byte("PRIVATE KEY"), "a password hash": []byte("$argon2"),
		"alice's password": []byte(alice.Password), "dave's password": []byte(passphrase), "a mistyped password": []byte(typo),
		"an unused invite token": token(unused), "a used invite token": token(used),
		"the cluster secret": secret, "a request's body": []byte(payload),
		"erin's password": []byte(webPassword), "the secret of her app": phone.secret, "the same in base32": []byte(phone.text), "her cookie": []byte(cookie),
	}
	for i, token := range joinTokens {
		needles[fmt.Sprintf("join token %d", i)] = []byte(token)
		raw, err := hex.DecodeString(token)
		if err != nil {
			t.Fatal(err)
		}
		needles[fmt.Sprintf("the bytes of join token %d", i)] = raw
	}
	for what, key := range privateKeys(t, agent) {
		needles[what] = key
	}
	for _, link := range []string{unused, used} {
		raw, err := hex.DecodeString(string(token(link)))
		if err != nil {
			t.Fatal(err)
		}
		needles["an invite token's bytes "+link[len(link)-4:]] = raw
	}
	seen := map[string]bool{}
	look := func(path string) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range append([][]byte{b}, unpacked(t, b)...) {
			for what, needle := range needles {
				for form, bytesOf := range spellings(needle) {
					if bytes.Contains(text, bytesOf) {
						t.Errorf("%s: %s (%s)", path, what, form)
					}
				}
			}
			name := filepath.Base(path)
			if strings.HasPrefix(name, "events-") {
				name = "events-N.log"
			}
			for _, known := range []string{"users/alice", "user.login", `"kube.request"`, "instance.join", "agents/"} { // what must be there: the search sees
				if bytes.Contains(text, []byte(known)) {
					seen[name+" "+known] = true
				}
			}
		}
	}
	files := 0
	for _, r := range append(restored.Replicas, c.Replicas...) {
		err := filepath.WalkDir(r.DataDir(), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || d.Type()&fs.ModeSocket != 0 {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			if !private(t, r.DataDir(), path) {
				t.Errorf("%s: mode %v", path, info.Mode())
			}
			files++
			look(path)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		look(r.LogFile())
	}
	look(agent.LogFile())
	look(backup)
	t.Logf("%d files, seen %v", files, seen)
	for _, want := range []string{"stolen.backup users/alice", "raft.db users/alice", `events.log "kube.request"`, "raft.db agents/",
		"events-N.log user.login", "events-N.log instance.join", `spool "kube.request"`, `pending.log "kube.request"`, "pending.log user.login"} {
		if !seen[want] {
			t.Errorf("the search did not see %s, so it sees nothing", want)
		}
	}
}

// private says whether a file below dir, or a directory between them, is closed to others.
func private(t *testing.T, dir, path string) bool {
	t.Helper()
	for ; path != dir; path = filepath.Dir(path) {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&0o077 == 0 {
			return true
		}
	}
	return false
}

// spoolAtRest stops all replicas, the last one with events that no cluster has taken.
func spoolAtRest(t *testing.T, c *sallyport.Cluster, u *sallyport.User) {
	t.Helper()
	ctx := within(t, 20*time.Second)
	last := c.Replicas[0]
	for _, r := range c.Replicas[1:] {
		if err := r.Stop(ctx); err != nil {
			t.Error(err)
		}
	}
	ok(t, u.KubectlAt(ctx, last, "get", "ns"))
	waitSpool(ctx, t, last, 1)
	if err := last.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// pendingAtRest restores a backup and ends before the new cluster has given up on the
// events that no backup holds: what comes after them waits in a file of its own.
func pendingAtRest(t *testing.T, c *sallyport.Cluster, backup string, alice *sallyport.User, typo string) *sallyport.Cluster {
	t.Helper()
	ctx := within(t, 30*time.Second)
	fresh := newEmpty(t, sallyport.Options{Replicas: 1})
	secret, err := os.ReadFile(c.SecretFile())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(fresh.SecretFile(), secret, 0o600); err != nil {
		t.Fatal(err)
	}
	r := fresh.Replicas[0]
	ok(t, testbed.Run(ctx, testbed.Command{Args: []string{fresh.Bin.Path("sallyport"), "restore", "--data-dir=" + r.DataDir(),
		"--peer-advertise=" + r.PeerAddr(), "--cluster-secret=" + fresh.SecretFile(), backup}}))
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	if err := r.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	again, err := fresh.NewUser(ctx, r, "alice")
	if err != nil {
		t.Fatal(err)
	}
	again.Password = typo
	refused(t, again.Login(ctx, r), "invalid user name or password")
	again.Password = alice.Password
	ok(t, again.Login(ctx, r))
	ok(t, again.Kubectl(ctx, "get", "ns"))
	if err := r.Stop(ctx); err != nil {
		t.Error(err)
	}
	return fresh
}

// safeAgent joins an agent, and returns its token and one that nobody has used.
func safeAgent(t *testing.T, c *sallyport.Cluster) (a *sallyport.Agent, tokens []string) {
	t.Helper()
	ctx := within(t, 30*time.Second)
	for _, r := range c.Replicas[:2] {
		token, err := c.JoinToken(ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		tokens = append(tokens, token)
	}
	a, err := c.StartAgent(ctx, sallyport.AgentOptions{Kube: "safe", Kubeconfig: fixture.kube.Kubeconfig, Token: tokens[0], Args: []string{"--log-level=debug"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Remove)
	return a, tokens
}

// privateKeys are those in an agent's directory, as numbers and as they are written there.
func privateKeys(t *testing.T, a *sallyport.Agent) map[string][]byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(a.DataDir(), "identity.json"))
	if err != nil {
		t.Fatal(err)
	}
	var state map[string]json.RawMessage
	if err := json.Unmarshal(b, &state); err != nil {
		t.Fatal(err)
	}
	found := map[string][]byte{}
	for part, raw := range state {
		var identity struct{ Key []byte }
		if json.Unmarshal(raw, &identity) != nil || len(identity.Key) == 0 {
			continue
		}
		block, _ := pem.Decode(identity.Key)
		if block == nil {
			t.Fatalf("%s: no PEM", part)
		}
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		scalar, err := key.(*ecdsa.PrivateKey).Bytes()
		if err != nil {
			t.Fatal(err)
		}
		found["the agent's key ("+part+")"] = scalar
		found["the agent's key, as it is written ("+part+")"] = []byte(strings.Split(string(identity.Key), "\n")[1])
	}
	if len(found) == 0 {
		t.Fatal("the agent has no key in its directory")
	}
	return found
}

// spellings are the ways in which bytes may stand in a file.
func spellings(b []byte) map[string][]byte {
	return map[string][]byte{
		"as it is": b, "hex": []byte(hex.EncodeToString(b)), "HEX": []byte(strings.ToUpper(hex.EncodeToString(b))),
		"base64": []byte(base64.RawStdEncoding.EncodeToString(b)), "base64url": []byte(base64.RawURLEncoding.EncodeToString(b)),
	}
}

// unpacked are the zstd streams that begin anywhere in b: log entries and snapshots are compressed.
func unpacked(t *testing.T, b []byte) (texts [][]byte) {
	t.Helper()
	magic := []byte{0x28, 0xb5, 0x2f, 0xfd}
	for i := bytes.Index(b, magic); i >= 0; {
		d, err := zstd.NewReader(bytes.NewReader(b[i:]), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20))
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(d) // ends with an error where other bytes follow; what came before counts
		d.Close()
		if len(text) > 0 {
			texts = append(texts, text)
		}
		next := bytes.Index(b[i+1:], magic)
		if next < 0 {
			break
		}
		i += 1 + next
	}
	return texts
}
