package tests

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const foreignConfig = `# mine, by hand
apiVersion: v1
kind: Config
clusters:
  - name: prod   # the big one
    cluster: {server: "https://prod.invalid:6443"}
contexts:
  - {name: prod, context: {cluster: prod, user: me}}
users:
  - {name: me, user: {token: abc}}
current-context: prod # stay here
`

func TestForeignKubeconfigStaysAsItIs(t *testing.T) {
	c, _ := shared(t)
	ctx := within(t, time.Minute)
	r := c.Replicas[0]
	fay, err := c.AddUser(ctx, r, "fay", "--k8s-groups=system:masters")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(fay.Kubeconfig(), []byte(foreignConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	got := ok(t, fay.Login(ctx, r))
	if want := `kubectl still uses the context "prod". To switch: tsh kube login tele.example.com`; !strings.Contains(got.Stderr, want) {
		t.Errorf("no hint %q in %q", want, got.Stderr)
	}
	b, err := os.ReadFile(fay.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"current-context: prod # stay here", "name: prod   # the big one", "tls-server-name: " + kubeSNI} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%q is not in\n%s", want, b)
		}
	}
	ok(t, fay.Kubectl(ctx, "--context="+clusterName+"-"+clusterName, "get", "ns"))
	if out := ok(t, fay.Tsh(ctx, "kube", "ls")).Stdout; out != "Kube Cluster Name Selected\n----------------- --------\ntele.example.com\n" {
		t.Errorf("kube ls: %q", out)
	}
	if out := ok(t, fay.Tsh(ctx, "kube", "login", clusterName)).Stdout; out != "Logged into kubernetes cluster \"tele.example.com\"\n" {
		t.Errorf("kube login: %q", out)
	}
	ok(t, fay.Kubectl(ctx, "get", "ns"))
	if out := ok(t, fay.Tsh(ctx, "kube", "ls")).Stdout; !strings.Contains(out, "tele.example.com  *") {
		t.Errorf("kube ls: %q", out)
	}
	ok(t, fay.Kubectl(ctx, "config", "use-context", "prod")) // rewrites the file in its own way
	before, err := os.ReadFile(fay.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	ok(t, fay.Tsh(ctx, "logout"))
	after, err := os.ReadFile(fay.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(after, []byte("tele.example.com")) || !bytes.Contains(after, []byte("current-context: prod")) || bytes.Equal(before, after) {
		t.Errorf("after logout:\n%s", after)
	}

	// Login and logout alone leave every byte.
	if err := os.WriteFile(fay.Kubeconfig(), []byte(foreignConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	ok(t, fay.Login(ctx, r))
	ok(t, fay.Tsh(ctx, "logout"))
	if after, err = os.ReadFile(fay.Kubeconfig()); err != nil || string(after) != foreignConfig {
		t.Errorf("the file changed: %v\n%s", err, after)
	}
}

// Keys are for the user alone.
func TestClientFilesArePrivate(t *testing.T) {
	_, alice := shared(t)
	err := filepath.WalkDir(alice.SallyportHome(), func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(alice.Kubeconfig())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("kubeconfig: %v, %v", info.Mode(), err)
	}
	b, err := os.ReadFile(alice.Kubeconfig())
	if err != nil || bytes.Contains(b, []byte("client-key-data")) {
		t.Errorf("a key in the kubeconfig: %v", err)
	}
}
