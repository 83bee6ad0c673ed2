package tests

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

func TestKubectlThroughEachReplica(t *testing.T) {
	c, alice := shared(t)
	ctx := within(t, time.Minute)
	for _, r := range c.Replicas {
		t.Run(r.Name, func(t *testing.T) {
			if got := ok(t, alice.KubectlAt(ctx, r, "get", "namespaces")); !strings.Contains(got.Stdout, "kube-system") {
				t.Errorf("got %s", got.Stdout)
			}
			got := ok(t, alice.KubectlAt(ctx, r, "auth", "whoami", "-o=jsonpath={.status.userInfo}"))
			if want := `{"groups":["system:masters","system:authenticated"],"username":"alice"}`; got.Stdout != want {
				t.Errorf("whoami: %s, want %s", got.Stdout, want)
			}
			// The path stays untouched: what replaces it works too.
			if got := ok(t, alice.KubectlAt(ctx, r, "get", "--raw", "/version")); !strings.Contains(got.Stdout, `"gitVersion"`) {
				t.Errorf("get --raw /version: %s", got.Stdout)
			}
		})
	}
}

func TestKubectlByPathPrefix(t *testing.T) {
	c, _ := shared(t)
	ctx := within(t, time.Minute)
	pia := newUser(t, c, c.Replicas[1], "pia", "--k8s-groups=system:masters")
	ok(t, pia.Login(ctx, c.Replicas[1], "--kube-path"))
	config, err := os.ReadFile(pia.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	if want := "server: https://" + c.Replicas[1].KubeAddr() + "/k8s/" + clusterName; !strings.Contains(string(config), want) || strings.Contains(string(config), "tls-server-name") {
		t.Fatalf("the kubeconfig should have %q and no tls-server-name:\n%s", want, config)
	}
	if got := ok(t, pia.Kubectl(ctx, "auth", "whoami", "-o=jsonpath={.status.userInfo.username}")); got.Stdout != "pia" {
		t.Errorf("whoami: %q", got.Stdout)
	}
	for _, r := range c.Replicas {
		at := "--server=https://" + r.KubeAddr() + "/k8s/" + clusterName
		if got := ok(t, pia.Kubectl(ctx, at, "get", "namespaces")); !strings.Contains(got.Stdout, "kube-system") {
			t.Errorf("%s: %s", r.Name, got.Stdout)
		}
	}
	if got := ok(t, pia.Kubectl(ctx, "exec", pod, "--", "echo", "by path")); got.Stdout != "by path\n" {
		t.Errorf("exec: %q", got.Stdout)
	}
}

// kubectl speaks WebSocket first and SPDY when told to.
var protocols = []struct {
	name, upgrade string
	env           []string
}{
	{"websocket", "websocket", []string{"KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true", "KUBECTL_PORT_FORWARD_WEBSOCKETS=true"}},
	{"spdy", "SPDY/3.1", []string{"KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false", "KUBECTL_PORT_FORWARD_WEBSOCKETS=false"}},
}

func TestWatchSeesWhatIsMadeLater(t *testing.T) {
	c, alice := shared(t)
	ctx := within(t, time.Minute)
	for i, r := range c.Replicas {
		s := startStream(t, "watch at "+r.Name, kubectl(alice, nil, at(t, alice, r), "get", "configmaps", "-w", "-o=name"))
		s.waitFor(t, "configmap/kube-root-ca.crt")
		name := fmt.Sprintf("made-later-%d", i)
		ok(t, fixture.kube.Kubectl(ctx, "create", "configmap", name))
		s.waitFor(t, "configmap/"+name)
		s.Kill()
	}
}

func TestLogsFollow(t *testing.T) {
	_, alice := shared(t)
	s := startStream(t, "logs -f", kubectl(alice, nil, "logs", "-f", pod))
	s.waitFor(t, "a line of the pod's log")
	podSays(t, "a later line")
	s.waitFor(t, "a later line")
}

// podSays appends to what kwok shows as the pod's output.
func podSays(t *testing.T, line string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(fixture.kube.Dir, "pod.log"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := fmt.Fprintf(f, "%s stdout F %s\n", time.Now().UTC().Format(time.RFC3339Nano), line); err != nil {
		t.Fatal(err)
	}
}

func TestExecAttachPortForward(t *testing.T) {
	c, alice := shared(t)
	ctx := within(t, time.Minute)
	for _, proto := range protocols {
		t.Run(proto.name, func(t *testing.T) {
			since := time.Now()
			r := testbed.Run(ctx, kubectl(alice, proto.env, "exec", pod, "--", "sh", "-c", "echo out; echo err >&2"))
			if ok(t, r); r.Stdout != "out\n" || !strings.Contains(r.Stderr, "err\n") {
				t.Errorf("exec: %q, %q", r.Stdout, r.Stderr)
			}
			s := startStream(t, "attach", kubectl(alice, proto.env, "attach", pod))
			testbed.Wait(t, 15*time.Second, "what the pod says while attached", func() error {
				podSays(t, "said to "+proto.name)
				if said := s.said(); !strings.Contains(said, "said to "+proto.name) {
					return fmt.Errorf("%q", said)
				}
				return nil
			})
			s.Kill()
			portForward(t, startStream(t, "port-forward", kubectl(alice, proto.env, "port-forward", pod, ":7")))

			for _, kind := range []string{"exec", "attach", "portforward"} {
				e := waitEvent(t, c.Replicas[0], kind+" by "+proto.upgrade, func(e event) bool {
					return e.text("upgrade") == proto.upgrade && strings.HasSuffix(e.text("request_path"), "/pods/"+pod+"/"+kind) && e.time(t).After(since)
				})
				if e.text("user") != "alice" || e["response_code"] != float64(101) {
					t.Errorf("%s: %v", kind, e)
				}
			}
		})
	}
}

var forwarding = regexp.MustCompile(`Forwarding from (127\.0\.0\.1:\d+) `)

// portForward sends a line through a forwarded port, behind which cat listens.
func portForward(t *testing.T, s *stream) {
	t.Helper()
	s.waitFor(t, "Forwarding from 127.0.0.1:")
	at := forwarding.FindStringSubmatch(s.said())
	if at == nil {
		t.Fatalf("no address in %q", s.said())
	}
	conn, err := net.DialTimeout("tcp", at[1], 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := fmt.Fprintln(conn, "there and back"); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || line != "there and back\n" {
		t.Errorf("port-forward: %q, %v: %s", line, err, s.said())
	}
	s.Kill()
}

// Behind a load balancer the next request after a login may reach any replica.
func TestLoginCountsEverywhereAtOnce(t *testing.T) {
	c, _ := shared(t)
	ctx := within(t, time.Minute)
	for i, name := range []string{"lb0", "lb1", "lb2"} {
		u := newUser(t, c, c.Replicas[i], name, "--k8s-groups=system:masters")
		for range 3 {
			ok(t, u.Tsh(ctx, "logout"))
			ok(t, u.Login(ctx, c.Replicas[i]))
			for _, r := range c.Replicas {
				if status := sendH1(t, u, r, "/api/v1/namespaces", "Accept: */*"); status != 200 {
					t.Errorf("%s logged in at %s, %s answers %d", name, c.Replicas[i].Name, r.Name, status)
				}
			}
		}
	}
}
