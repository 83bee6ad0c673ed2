package kubeconfig

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/sallyport-dev/sallyport/internal/api"
)

func entry(kube string) Entry { return entryAt(kube, "tele.example.com:443") }

func entryAt(kube, proxy string) Entry {
	return Entry{
		Name: "tele-" + kube, Server: "https://" + proxy, TLSServerName: kube + ".kube.tele", CAs: []byte("CA\n"),
		Command: "/usr/bin/tsh", Args: []string{"kube", "credentials", "--kube-cluster=" + kube, "--proxy=" + proxy},
	}
}

func login(kubes ...string) Edit {
	e := Edit{Proxy: "tele.example.com:443", Select: "tele-" + kubes[0]}
	for _, k := range kubes {
		e.Set = append(e.Set, entry(k))
	}
	return e
}

var logout = Edit{Proxy: "tele.example.com:443"}

// foreign is a file with what people put into one: comments, odd indents,
// quotes, extensions, a namespace, a static token.
const foreign = `# my clusters, do not touch
apiVersion: v1
clusters:
    # production
    - cluster:
        server: "https://prod.example.com:6443"   # behind the VPN
        certificate-authority: ca.crt
      name: prod
    -
      name: staging
      cluster: {server: 'https://staging.example.com'}

    # end of clusters
contexts:
- context:
    cluster: prod
    user: admin
    namespace: web
    extensions:
    - name: minikube.sigs.k8s.io
      extension:
        last-update: Mon, 01 Jan 2024 00:00:00 UTC
  name: prod
- name: staging
  context: {cluster: staging, user: admin}
current-context: prod # careful
kind: Config
preferences: {}
users:
- name: admin
  user:
    token: |
      abc
      # not a comment
# the end
`

func apply(t *testing.T, path string, edit Edit) Result {
	t.Helper()
	result, err := Location{path}.Apply(t.Context(), edit)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func write0(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, []byte(content), 0o640); err != nil {
		t.Fatal(err)
	}
	return path
}

// onlyAdded fails unless removing whole lines from after gives before.
func onlyAdded(t *testing.T, before, after string) {
	t.Helper()
	rest := strings.Split(after, "\n")
	for _, line := range strings.Split(before, "\n") {
		i := 0
		for i < len(rest) && rest[i] != line {
			i++
		}
		if i == len(rest) {
			t.Fatalf("line %q is gone from\n%s", line, after)
		}
		rest = rest[i+1:]
	}
}

func TestForeignFileIsTheSameAfterLoginAndLogout(t *testing.T) {
	for name, content := range map[string]string{
		"people's own":   foreign,
		"windows":        strings.ReplaceAll(foreign, "\n", "\r\n"),
		"no current":     strings.Replace(foreign, "current-context: prod # careful", `current-context: "" # none`, 1),
		"empty lists":    "apiVersion: v1\nclusters: []\ncontexts: [] # none yet\ncurrent-context: \"\"\nkind: Config\nusers: []\n",
		"users first":    "users:\n- name: a\n  user: {token: x}\ncurrent-context: \"\"\ncontexts: []\nclusters: []\n",
		"document start": "---\n" + strings.Replace(foreign, "current-context: prod # careful", "current-context: staging", 1),
	} {
		t.Run(name, func(t *testing.T) {
			path := write0(t, content)
			result := apply(t, path, login("tele", "cookie"))
			after := read(t, path)
			if strings.Contains(content, "current-context: prod") || strings.Contains(content, "current-context: staging") {
				onlyAdded(t, content, after)
				if !result.Foreign {
					t.Errorf("%+v", result)
				}
			} else if result.Current != "tele-tele" || result.Foreign {
				t.Errorf("%+v", result)
			}
			if strings.Contains(content, "\r\n") && strings.Count(after, "\r\n") != strings.Count(after, "\n") {
				t.Error("mixed line ends")
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
			apply(t, path, login("tele", "cookie")) // changes nothing
			if diff := cmp.Diff(after, read(t, path)); diff != "" {
				t.Error(diff)
			}
			apply(t, path, login("tele"))
			apply(t, path, logout)
			if diff := cmp.Diff(content, read(t, path)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNewFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "down", "config")
	result := apply(t, path, login("tele"))
	want := `apiVersion: v1
kind: Config
clusters:
- name: tele-tele
  cluster:
    certificate-authority-data: Q0EK
    server: https://tele.example.com:443
    tls-server-name: tele.kube.tele
contexts:
- name: tele-tele
  context:
    cluster: tele-tele
    user: tele-tele
users:
- name: tele-tele
  user:
    exec:
      apiVersion: client.authentication.k8s.io/v1
      command: /usr/bin/tsh
      args:
        - kube
        - credentials
        - --kube-cluster=tele
        - --proxy=tele.example.com:443
      interactiveMode: IfAvailable
      provideClusterInfo: false
current-context: tele-tele
`
	if diff := cmp.Diff(want, read(t, path)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(Result{Path: path, Current: "tele-tele"}, result); diff != "" {
		t.Error(diff)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("left over: %v", entries)
	}
}

func TestOursAreRenewedAndWhatPeopleAddedStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	apply(t, path, login("tele", "cookie"))
	mine := strings.Replace(read(t, path), "    user: tele-tele\n", "    user: tele-tele\n    namespace: web # mine\n", 1)
	mine = strings.Replace(mine, "    server: https://tele.example.com:443\n", "    server: https://tele.example.com:443\n    proxy-url: http://corp:3128\n", 1)
	if err := os.WriteFile(path, []byte(mine), 0o600); err != nil {
		t.Fatal(err)
	}
	edit := login("tele", "cookie")
	edit.Set[0].CAs = []byte("CB\n")
	apply(t, path, edit)
	want := strings.Replace(mine, "Q0EK", "Q0IK", 1)
	if diff := cmp.Diff(want, read(t, path)); diff != "" {
		t.Error(diff)
	}
}

func TestClusterThatIsGoneLeavesAndOtherLoginsStay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	other := Edit{Set: []Entry{entryAt("far", "other:443")}, Proxy: "other:443", Select: "tele-far"}
	apply(t, path, other)
	alone := read(t, path)
	if r := apply(t, path, login("tele", "cookie")); r.Current != "tele-tele" {
		t.Errorf("another login's context is ours: %+v", r)
	}
	apply(t, path, login("tele"))
	if strings.Contains(read(t, path), "cookie") {
		t.Error("cookie is still there")
	}
	r := apply(t, path, logout)
	if r.Current != "" {
		t.Errorf("%+v", r)
	}
	if diff := cmp.Diff(strings.Replace(alone, "current-context: tele-far", `current-context: ""`, 1), read(t, path)); diff != "" {
		t.Error(diff)
	}
}

func TestCurrentContextManners(t *testing.T) {
	path := write0(t, foreign)
	if r := apply(t, path, login("tele")); r.Current != "prod" || !r.Foreign {
		t.Errorf("hijacked: %+v", r)
	}
	force := login("tele")
	force.Force = true
	if r := apply(t, path, force); r.Current != "tele-tele" || r.Foreign {
		t.Errorf("explicit request refused: %+v", r)
	}
	if !strings.Contains(read(t, path), "current-context: tele-tele # careful\n") {
		t.Error("the comment is gone")
	}
	cookie := login("cookie", "tele")
	if r := apply(t, path, cookie); r.Current != "tele-tele" {
		t.Errorf("a choice among ours was changed: %+v", r)
	}
	dangling := write0(t, "current-context: gone\n")
	if r := apply(t, dangling, login("tele")); r.Current != "tele-tele" {
		t.Errorf("a context that does not exist kept its place: %+v", r)
	}
	first := filepath.Join(t.TempDir(), "first")
	r, err := Location{first, write0(t, foreign)}.Apply(t.Context(), login("tele"))
	if err != nil || r.Current != "prod" || strings.Contains(read(t, first), "current-context") {
		t.Errorf("hijacked a context of a later file: %+v, %v", r, err)
	}
}

func TestForeignEntriesOfOurNameAreRefused(t *testing.T) {
	for _, content := range []string{
		"users:\n- name: tele-tele\n  user: {token: x}\n",
		"clusters:\n- name: tele-tele\n  cluster: {server: https://x}\n",
		"contexts:\n- name: tele-tele\n  context: {cluster: a, user: b}\n",
		"users:\n- name: tele-tele\n  user: {exec: {command: aws, args: [eks, get-token]}}\n",
	} {
		path := write0(t, content)
		_, err := Location{path}.Apply(t.Context(), login("tele"))
		if !api.IsCode(err, api.CodeExists) || read(t, path) != content {
			t.Errorf("%v\n%s", err, read(t, path))
		}
		apply(t, path, logout)
		if read(t, path) != content {
			t.Errorf("logout changed\n%s", content)
		}
	}
}

func TestOtherLoginsKeepTheirContexts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	apply(t, path, Edit{Set: []Entry{entryAt("far", "other:443")}, Proxy: "other:443", Select: "tele-far"})
	stay := login("tele", "cookie")
	stay.Stay = true
	if r := apply(t, path, stay); r.Current != "tele-far" || !strings.Contains(read(t, path), "name: tele-cookie") {
		t.Errorf("%+v", r)
	}
	// One of this login's that goes is no reason to stay.
	force := login("cookie", "tele")
	force.Force = true
	apply(t, path, force)
	stay = login("tele")
	stay.Stay = true
	if r := apply(t, path, stay); r.Current != "tele-tele" {
		t.Errorf("%+v", r)
	}
	before := read(t, path)
	taking := login("far")
	taking.Exclusive = true
	_, err := Location{path}.Apply(t.Context(), taking)
	if !api.IsCode(err, api.CodeExists) || !strings.Contains(err.Error(), "other:443") || read(t, path) != before {
		t.Errorf("%v\n%s", err, read(t, path))
	}
	taking.Exclusive = false // as for one cluster behind two addresses
	apply(t, path, taking)
}

func TestFilesThatCannotBeCutAreEncodedAnew(t *testing.T) {
	for name, content := range map[string]string{
		"json":        `{"apiVersion": "v1", "clusters": [{"name": "prod", "cluster": {"server": "https://prod"}}], "contexts": [], "current-context": "", "users": null}` + "\n",
		"flow lists":  "clusters: [{name: prod, cluster: {server: https://prod}}]\ncontexts: [{name: prod, context: {cluster: prod, user: x}}]\nusers: []\n",
		"quoted keys": "\"clusters\": []\n'contexts': []\nusers: []\n",
		"indented":    "  clusters: []\n  contexts: []\n",
	} {
		t.Run(name, func(t *testing.T) {
			path := write0(t, content)
			if r := apply(t, path, login("tele")); r.Current != "tele-tele" {
				t.Errorf("%+v", r)
			}
			after := read(t, path)
			if name == "json" && !strings.HasPrefix(after, `{"apiVersion": "v1", "clusters": [{"name": "prod"`) {
				t.Error(after)
			}
			if strings.Contains(content, "prod") && !strings.Contains(after, "prod") {
				t.Error(after)
			}
		})
	}
}

func TestJSONKeepsItsIndentation(t *testing.T) {
	lines := []string{
		"{", `	"apiVersion": "v1",`, `	"kind": "Config",`, `	"preferences": {},`, `	"clusters": [`, `		{`, `			"name": "prod",`, `			"cluster": {`,
		`				"server": "https://prod.example.com/?a=1&b=<2>",`, `				"insecure-skip-tls-verify": true`, `			}`, `		}`, `	],`,
		`	"contexts": [],`, `	"users": [],`, `	"current-context": ""`, "}",
	}
	for name, indent := range map[string]string{"two": "  ", "four": "    ", "tabs": "\t"} {
		for _, end := range []string{"\n", "\r\n"} {
			content := strings.ReplaceAll(strings.Join(lines, end)+end, "\t", indent)
			path := write0(t, content)
			if r := apply(t, path, login("tele")); r.Current != "tele-tele" {
				t.Errorf("%s: %+v", name, r)
			}
			after := read(t, path)
			if !json.Valid([]byte(after)) || !strings.Contains(after, end+indent+indent+indent+`"name": "tele-tele",`+end) {
				t.Errorf("%s: %s", name, after)
			}
			apply(t, path, logout)
			if got := read(t, path); got != content {
				t.Errorf("%s: %s", name, cmp.Diff(content, got))
			}
		}
	}
}

func TestFilesThatAreNoneAreLeft(t *testing.T) {
	for _, content := range []string{
		"- a\n", "clusters: x\n", "a: b\n---\nc: d\n", "clusters: []\nclusters: []\n", "\tx", "users: {a: b}\n", "a: &x [*x]\nusers: 1",
	} {
		path := write0(t, content)
		if _, err := (Location{path}).Apply(t.Context(), login("tele")); err == nil || read(t, path) != content {
			t.Errorf("%q: %v", content, err)
		}
	}
}

func TestSymbolicLinkStaysOne(t *testing.T) {
	target := write0(t, foreign)
	link := filepath.Join(t.TempDir(), "config")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	apply(t, link, login("tele"))
	if info, err := os.Lstat(link); err != nil || info.Mode().Type() != os.ModeSymlink {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	onlyAdded(t, foreign, read(t, target))
}

func TestManyAtOnceLoseNothing(t *testing.T) {
	path := write0(t, foreign)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			proxy := fmt.Sprintf("p%d:443", i)
			e := Edit{Set: []Entry{entryAt(fmt.Sprint("k", i), proxy)}, Proxy: proxy}
			if _, err := (Location{path}).Apply(context.Background(), e); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	f, err := parse(path, []byte(read(t, path)))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 8 {
		if f.item("users", fmt.Sprint("tele-k", i)) == nil {
			t.Errorf("k%d is lost", i)
		}
	}
	onlyAdded(t, foreign, read(t, path))
}

func TestLockOfAnotherProgramIsRespected(t *testing.T) {
	path := write0(t, foreign)
	if err := os.WriteFile(path+".lock", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (Location{path}).Apply(ctx, login("tele")); err == nil || read(t, path) != foreign {
		t.Error(err)
	}
	if _, err := os.Stat(path + ".lock"); err != nil {
		t.Error("removed a lock that was not ours")
	}
}

func TestKubectlReadsWhatWeWrite(t *testing.T) {
	kubectl, err := exec.LookPath("kubectl")
	if err != nil {
		t.Log("no kubectl here")
		return
	}
	path := write0(t, strings.Replace(foreign, "certificate-authority: ca.crt", "insecure-skip-tls-verify: true", 1))
	force := login("tele")
	force.Force = true
	apply(t, path, force)
	before := read(t, path)
	run := func(args ...string) string {
		cmd := exec.CommandContext(t.Context(), kubectl, append([]string{"config", "--kubeconfig=" + path}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	if got := run("view", "--minify", "-o", "jsonpath={.clusters[0].cluster.tls-server-name} {.users[0].user.exec.args[3]}"); got != "tele.kube.tele --proxy=tele.example.com:443" {
		t.Error(got)
	}
	run("set-context", "--current", "--namespace=web") // kubectl writes the file anew
	after := read(t, path)
	apply(t, path, force)
	if diff := cmp.Diff(after, read(t, path)); diff != "" {
		t.Errorf("kubectl's spelling of our entries was changed:\n%s", diff)
	}
	apply(t, path, logout)
	if got := run("get-contexts", "-o", "name"); got != "prod\nstaging\n" {
		t.Error(got)
	}
	_ = before
}

// FuzzApply: whatever the file, it is refused and left, or login adds what it
// should and keeps every foreign entry; logout then leaves what was there.
func FuzzApply(f *testing.F) {
	f.Add([]byte(foreign))
	f.Add([]byte(strings.ReplaceAll(foreign, "\n", "\r\n")))
	f.Add([]byte(`{"clusters":[],"users":null}`))
	f.Add([]byte("{\n  \"clusters\": [{\"name\": \"x\\u00e9\", \"cluster\": null}],\n  \"users\": null\n}\n"))
	f.Add([]byte("clusters:\n-\n  name: x\n- name: y\n  # c\ncurrent-context: 'x' # y\n...\n"))
	f.Add([]byte("users: &a\n- name: q\n  user: &b {token: t}\ncontexts: *a\n"))
	f.Fuzz(func(t *testing.T, src []byte) {
		before, err := parse("f", src)
		if err != nil {
			return
		}
		edit := login("tele", "cookie")
		out, err := edit.apply("f", []*file{before})
		if err != nil {
			return
		}
		after, err := parse("f", out)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for _, list := range lists() {
			for _, e := range edit.Set {
				if after.item(list, e.Name) == nil {
					t.Fatalf("%s %s is missing from\n%s", list, e.Name, out)
				}
			}
		}
		sameForeign(t, before, after)
		out, err = logout.apply("f", []*file{after})
		if err != nil {
			return // refused, and left as it is
		}
		last, err := parse("f", out)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		sameForeign(t, before, last)
		if again, err := edit.apply("f", []*file{after}); err != nil || !bytes.Equal(again, after.src) {
			t.Fatalf("not idempotent: %v\n%s\n%s", err, after.src, again)
		}
	})
}

func sameForeign(t *testing.T, a, b *file) {
	t.Helper()
	strip := func(f *file) *yaml.Node {
		root := clone(f.root)
		if root == nil {
			return mapping()
		}
		drop(root, "current-context")
		for _, list := range lists() {
			seq := value(root, list)
			if seq == nil || seq.Kind != yaml.SequenceNode {
				drop(root, list)
				continue
			}
			var keep []*yaml.Node
			for _, item := range seq.Content {
				if _, ours := f.owner(scalar(value(item, "name"))); !ours {
					keep = append(keep, item)
				}
			}
			seq.Content = keep
			if len(keep) == 0 {
				i := index(root, list)
				root.Content = append(root.Content[:i:i], root.Content[i+2:]...)
			}
		}
		return root
	}
	x, y := strip(a), strip(b)
	if a.root == nil {
		return
	}
	for i := 0; i+1 < len(x.Content); i += 2 {
		key := x.Content[i].Value
		if x.Content[i+1].ShortTag() == "!!null" && (key == "clusters" || key == "contexts" || key == "users" || key == "current-context") {
			continue
		}
		if !equal(x.Content[i+1], value(y, key)) {
			t.Fatalf("%s changed:\n%s\n---\n%s", key, a.src, b.src)
		}
	}
}
