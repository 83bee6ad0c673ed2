package guide

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// certificate is the serial number of what the load balancer's address shows.
func (w *world) certificate(ctx context.Context) (string, error) {
	b, err := os.ReadFile(w.caFile)
	if err != nil {
		return "", err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(b)
	conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: clusterName, MinVersion: tls.VersionTLS12}}).DialContext(ctx, "tcp", w.ip+":443")
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
}

// installation is what outlives the release.
type installation struct {
	statuses    []api.Status
	certificate string
	orders      int
}

func (w *world) installation(t *testing.T) (i installation) {
	t.Helper()
	i.statuses = w.whole(t)
	ctx := within(t, patience)
	var wrong *tls.CertificateVerificationError
	// The pods are Ready a moment before each node's kube-proxy knows it. What is shown then counts at once.
	testbed.Wait(t, patience, "the load balancer's address to lead to replicas", func() (err error) {
		i.certificate, err = w.certificate(ctx)
		if errors.As(err, &wrong) {
			return nil
		}
		return err
	})
	if wrong != nil {
		t.Fatal(wrong)
	}
	i.orders = len(w.pebble.Orders())
	return i
}

// same wants all of it to be there, and to be of use.
func (w *world) same(t *testing.T, p *typist, before installation) {
	t.Helper()
	ctx := within(t, patience)
	w.followAddress(t)
	after := w.installation(t)
	if !slices.Equal(ids(after.statuses), ids(before.statuses)) || after.statuses[0].ClusterID != before.statuses[0].ClusterID {
		t.Errorf("they were %v of cluster %s, and are %v of cluster %s", ids(before.statuses), before.statuses[0].ClusterID, ids(after.statuses), after.statuses[0].ClusterID)
	}
	if after.certificate != before.certificate || after.orders != before.orders {
		t.Errorf("certificate %s after %d orders, it was %s after %d", after.certificate, after.orders, before.certificate, before.orders)
	}
	if err := p.loginUntil(ctx); err != nil {
		t.Error(err)
	}
	for _, command := range []func(context.Context) error{p.teleCommand, p.cookieCommand} {
		testbed.Wait(t, patience, "kubectl", func() error { return command(ctx) })
	}
}

// followAddress makes the records anew, if the Service has another address.
func (w *world) followAddress(t *testing.T) {
	t.Helper()
	ctx := within(t, patience)
	testbed.Wait(t, patience, "the load balancer's address", func() error {
		r := w.tele.Kubectl(ctx, "get", "service", "-n", namespace, namespace, "-o", "jsonpath={.status.loadBalancer.ingress[0].ip}")
		switch {
		case r.Err != nil || r.Stdout == w.ip:
			return r.Err
		case r.Stdout == "":
			return errors.New("it has none yet")
		}
		w.ip = r.Stdout
		return errors.Join(w.lan.SetDNS(ctx, clusterName, w.ip), w.pebble.SetDNS(clusterName, w.ip))
	})
}

// gone waits until no replica is left.
func (w *world) gone(t *testing.T) {
	t.Helper()
	ctx := within(t, patience)
	testbed.Wait(t, patience, "no pods", func() error {
		r := w.tele.Kubectl(ctx, "get", "pods", "-n", namespace, "-l", "app="+namespace, "-o", "name")
		if r.Err == nil && r.Stdout != "" {
			r.Err = errors.New(r.Stdout)
		}
		return r.Err
	})
}

// The release is applied by `kubectl apply` twice over itself, uninstalled, made anew by
// `helm template | kubectl apply`, deleted, and installed again. The volumes and the
// cluster secret stay: it is the same cluster each time, its users are there, and nobody
// orders a certificate again.
func TestReleaseMadeAnewOverItsVolumes(t *testing.T) {
	w := guided(t)
	p := newTypist(t, w)
	before := w.installation(t)
	ctx := within(t, 15*time.Minute)
	values, rendered := filepath.Join(t.TempDir(), "values.yaml"), filepath.Join(t.TempDir(), "rendered.yaml")
	write(t, values, ok(t, w.helm(ctx, "get", "values", namespace, "-o", "yaml")).Stdout)
	write(t, rendered, ok(t, w.helm(ctx, "template", namespace, w.chart(), "--values", values, "--skip-tests")).Stdout)
	apply := func() (said string) {
		t.Helper()
		return ok(t, w.tele.Kubectl(ctx, "apply", "-n", namespace, "-f", rendered)).Stdout
	}
	// What an apply that changes nothing leaves as it is. kubectl says "configured" of objects
	// with defaults within lists, whatever becomes of them.
	generations := func() string {
		t.Helper()
		return ok(t, w.tele.Kubectl(ctx, "get", "statefulsets,services,poddisruptionbudgets,pods", "-n", namespace, "-l", "app.kubernetes.io/instance="+namespace,
			"-o", `jsonpath={range .items[*]}{.kind} {.metadata.name} {.metadata.uid} {.metadata.generation}{"\n"}{end}`)).Stdout
	}

	since := time.Now()
	old := generations()
	for range 2 {
		if said := apply(); strings.Contains(said, "created") {
			t.Errorf("kubectl apply makes what the release has not:\n%s", said)
		}
	}
	w.same(t, p, before)
	if now := generations(); now != old {
		t.Errorf("kubectl apply of what runs changes it, from\n%sto\n%s", old, now)
	}
	w.took("helm template | kubectl apply, twice, over the release", since)

	since = time.Now()
	ok(t, w.helm(ctx, "uninstall", namespace, "--wait"))
	w.gone(t)
	w.took("helm uninstall", since)
	since = time.Now()
	apply()
	apply()
	w.same(t, p, before)
	w.took("helm template | kubectl apply, twice, over the volumes", since)

	since = time.Now()
	ok(t, w.tele.Kubectl(ctx, "delete", "-n", namespace, "-f", rendered))
	w.gone(t)
	w.took("kubectl delete of it", since)
	since = time.Now()
	ok(t, w.helm(ctx, "install", namespace, w.chart(), "--values", values, "--wait", "--timeout=10m"))
	w.same(t, p, before)
	w.took("helm install over the volumes", since)
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A release of its own beside the agents in cookie: the image without a shell, which starts
// with one replica and grows to five. It can't be made smaller again.
func TestDistrolessReleaseGrows(t *testing.T) {
	t.Parallel() // to TestRollingUpgrade, which waits most of the time
	w := guided(t)
	ctx := within(t, 15*time.Minute)
	const name = "grow"
	if err := w.cookie.LoadImage(ctx, filepath.Join(w.release.Out, w.release.ImageTar(true))); err != nil {
		t.Fatal(err)
	}
	if err := namespaceWith(ctx, w.cookie, name, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if r := w.cookie.Kubectl(ctx, "delete", "namespace", name); r.Err != nil {
			t.Error(r.Err)
		}
	})
	helm := func(verb string, replicas int) testbed.Result {
		return testbed.Run(ctx, testbed.Command{Args: []string{
			testbed.Bin("helm"), "--kubeconfig", w.cookie.Kubeconfig, "--namespace", name, verb, name, w.chart(), "--wait", "--timeout=10m",
			"--set", "clusterName=grow.example.com,service.type=ClusterIP,resources.requests.cpu=10m,resources.requests.memory=32Mi",
			"--set", "shutdownDelaySeconds=0,terminationGracePeriodSeconds=15,startupProbe.periodSeconds=1,readinessProbe.periodSeconds=1",
			"--set", fmt.Sprintf("highAvailability.replicaCount=%d,image.tag=%s-distroless", replicas, w.release.Version),
		}})
	}
	inPod := func(args ...string) testbed.Result {
		return w.cookie.Kubectl(ctx, append([]string{"exec", "-n", name, name + "-0", "-c", "sallyport", "--"}, args...)...)
	}
	cluster := ""
	for _, replicas := range []int{1, 3, 5} {
		since := time.Now()
		verb := "upgrade"
		if replicas == 1 {
			verb = "install"
		}
		ok(t, helm(verb, replicas))
		testbed.Wait(t, patience, fmt.Sprintf("%d voters", replicas), func() error {
			r := inPod("tctl", "status", "--format=json")
			if r.Err != nil {
				return r.Err
			}
			var s api.Status
			decode(t, r.Stdout, &s)
			voters := 0
			for _, srv := range s.Servers {
				if srv.Voter && srv.Alive {
					voters++
				}
			}
			if voters != replicas || !s.Ready {
				return fmt.Errorf("%+v", s)
			}
			if cluster == "" {
				cluster = s.ClusterID
			}
			if s.ClusterID != cluster {
				t.Fatalf("cluster %s, it was %s", s.ClusterID, cluster)
			}
			return nil
		})
		w.took(fmt.Sprintf("distroless: %d replicas", replicas), since)
	}
	if r := inPod("sh", "-c", "echo"); r.Err == nil {
		t.Error("the image without a shell has one")
	}
	if r := helm("upgrade", 3); r.Err == nil || !strings.Contains(r.Err.Error(), "can't be made smaller yet") {
		t.Errorf("made smaller: %v", r.Err)
	}
}
