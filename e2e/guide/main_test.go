package guide

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/browser"
	"github.com/sallyport-dev/sallyport/e2e/githubd"
	"github.com/sallyport-dev/sallyport/e2e/page"
	"github.com/sallyport-dev/sallyport/e2e/release"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// The one piece of state of this package: clusters on which the guide has been run.
var fixture world

func TestMain(m *testing.M) {
	code := m.Run()
	if err := fixture.stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

const (
	clusterName = "tele.example.com"
	githubName  = "github.example.com"
	namespace   = "sallyport-cluster"
	agents      = "sallyport-agent"
	password    = "four words in a row"
)

// world is two clusters, what stands beside them, and a person who has typed the guide.
type world struct {
	once  sync.Once
	err   error
	clock clock

	dir          string
	lan          *testbed.LAN
	tele, cookie *testbed.NodeCluster
	release      *release.Release
	files        *http.Server // serves dist
	filesURL     string
	served       chan error
	pebble       *testbed.Pebble
	ca           *testbed.Authority // of identity providers
	github       *githubd.Server
	saml         *testbed.IDP
	chromium     *browser.Chromium

	home   string // of who types
	caFile string // what there is to trust: Pebble's root, and ca
	runner *page.Runner
	ip     string // of the load balancer
}

// guided is the world after the guide, which the first test that asks for it runs. Tests may
// harm it, and mend it again: others come after them.
func guided(t *testing.T) *world {
	t.Helper()
	if err := testbed.RealClusters(); err != nil {
		t.Skip(err)
	}
	w := &fixture
	w.once.Do(func() {
		if w.err = w.start(t); w.err != nil {
			return
		}
		w.err = w.run(t)
	})
	if w.err != nil {
		t.Fatal(w.err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s", w.logs(20))
		}
	})
	return w
}

func (w *world) logs(lines int) string {
	text := ""
	if w.lan != nil {
		text = w.lan.Logs(lines)
	}
	if w.pebble != nil {
		text += w.pebble.Logs(lines)
	}
	return text
}

func (w *world) stop() error {
	var errs []error
	if w.runner != nil {
		errs = append(errs, w.runner.Session.Close())
	}
	if w.chromium != nil {
		w.chromium.Close()
	}
	if w.files != nil {
		errs = append(errs, w.files.Close())
		if err := <-w.served; !errors.Is(err, http.ErrServerClosed) {
			errs = append(errs, err)
		}
	}
	if w.pebble != nil {
		w.pebble.Close()
	}
	if w.saml != nil {
		w.saml.Close()
	}
	if w.github != nil {
		errs = append(errs, w.github.Close())
	}
	if w.lan != nil {
		errs = append(errs, w.lan.Close())
	}
	if w.dir != "" {
		errs = append(errs, os.RemoveAll(w.dir))
	}
	errs = append(errs, w.clock.close())
	return errors.Join(errs...)
}

// took tells how long a step took.
func (w *world) took(what string, since time.Time) {
	w.clock.logf("%6.1f s  %s", time.Since(since).Seconds(), what)
}

// start builds, and starts the clusters and all that stands beside them.
func (w *world) start(t *testing.T) error {
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Minute) // empty caches are filled first
	defer cancel()
	begin := time.Now()
	if err := testbed.BuildLAN(ctx, os.Stderr); err != nil {
		return err
	}
	var err error
	if w.dir, err = os.MkdirTemp("", "guide-"); err != nil {
		return err
	}
	if w.lan, err = testbed.OpenLAN(ctx, os.Stderr); err != nil {
		return err
	}
	w.took("build the test bed", begin)

	begin = time.Now()
	start, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	errs := make([]error, 3)
	wg.Go(func() { errs[0] = w.makeRelease(start); w.took("release", begin) })
	wg.Go(func() { w.tele, errs[1] = w.lan.Up(start, "tele", 3) })
	wg.Go(func() { w.cookie, errs[2] = w.lan.Up(start, "cookie", 1); w.took("clusters tele and cookie", begin) })
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	begin = time.Now()
	image := filepath.Join(w.release.Out, w.release.ImageTar(false))
	wg.Go(func() { errs[0] = w.tele.LoadImage(start, image) })
	wg.Go(func() { errs[1] = w.cookie.LoadImage(start, image) })
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	w.took("image on four nodes", begin)

	begin = time.Now()
	defer w.took("what stands beside them", begin)
	if err := w.startBeside(start); err != nil {
		return err
	}
	return w.startPerson(start, t)
}

// makeRelease makes what people install from. Its version is none of a development, which
// Helm takes only from who asks for it by --devel.
func (w *world) makeRelease(ctx context.Context) (err error) {
	o := release.Options{Out: filepath.Join(w.dir, "dist"), Version: "0.1.0", Arches: []string{runtime.GOARCH}, Systems: []string{"linux"}}
	if w.release, err = release.New(ctx, o); err != nil {
		return err
	}
	return w.release.All(ctx)
}

// startBeside starts the ACME authority, the identity providers, and who serves dist.
func (w *world) startBeside(ctx context.Context) error {
	var err error
	host := w.lan.HostIP()
	if w.pebble, err = testbed.OpenPebble(ctx, testbed.PebbleOptions{Bind: host, TLSPort: 443, HTTPPort: 80, BadNonces: 5}); err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", host+":0")
	if err != nil {
		return err
	}
	w.filesURL = "http://" + l.Addr().String()
	w.files = &http.Server{Handler: http.FileServer(http.Dir(w.release.Out)), ReadHeaderTimeout: 10 * time.Second}
	w.served = make(chan error, 1)
	go func() { w.served <- w.files.Serve(l) }()

	if w.ca, err = testbed.NewAuthority(w.dir); err != nil {
		return err
	}
	cert, err := w.ca.Certificate(githubName)
	if err != nil {
		return err
	}
	if w.github, err = githubd.Start(githubd.Options{
		Addr: host + ":0", Host: githubName, Certificate: cert, ClientID: "client-id", ClientSecret: "client-secret",
		Callbacks: []string{"https://" + clusterName + ":443/v1/webapi/github/callback"},
	}); err != nil {
		return err
	}
	for _, login := range []string{"grace", "alice"} {
		w.github.AddUser(login)
	}
	if err := errors.Join(w.github.Join("octocats/admin", "grace"), w.github.Join("octocats/devs", "alice"),
		w.lan.SetDNS(ctx, githubName, host)); err != nil {
		return err
	}
	acs := "https://" + clusterName + "/v1/webapi/saml/acs"
	w.saml, err = testbed.OpenIDP(ctx, testbed.SimpleSAMLphpIDP, testbed.IDPOptions{
		Authority: w.ca, SP: testbed.ServiceProvider{EntityID: acs, ACS: acs},
		People: []testbed.Person{{Name: "sam", Email: "sam@example.com", Password: password, Groups: []string{"okta-admin"}}},
	})
	return err
}

// startPerson gives who types the guide a home, a kubeconfig with both clusters, and a
// machine whose /usr/local/bin is their own.
func (w *world) startPerson(ctx context.Context, t *testing.T) error {
	w.home = filepath.Join(w.dir, "home")
	if err := os.MkdirAll(filepath.Join(w.home, ".kube"), 0o700); err != nil {
		return err
	}
	root, err := w.pebble.Root()
	if err != nil {
		return err
	}
	idp, err := os.ReadFile(w.ca.File)
	if err != nil {
		return err
	}
	w.caFile = filepath.Join(w.dir, "trusted.pem")
	if err := os.WriteFile(w.caFile, append(append(root, '\n'), idp...), 0o600); err != nil {
		return err
	}
	config := filepath.Join(w.home, ".kube", "config")
	for _, c := range []*testbed.NodeCluster{w.cookie, w.tele} { // the last one is current
		if err := addContext(ctx, config, c); err != nil {
			return err
		}
	}
	tools, err := w.tools()
	if err != nil {
		return err
	}
	// A mount namespace of its own, whose /usr/local/bin is empty but for the tools: what the
	// guide moves there is nobody else's.
	around := w.lan.Host("bash", "-c", `mount -t tmpfs tmpfs /usr/local/bin && cp -P "$0"/* /usr/local/bin/ && exec "$@"`, tools)
	env := []string{
		"HOME=" + w.home, "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "TERM=xterm", "LANG=C.UTF-8",
		"TESTBED_HOME=" + testbed.Home(), "TESTBED_NAME=" + w.lan.Name, "TESTBED_NET=" + w.lan.Net,
		"CURL_CA_BUNDLE=" + w.caFile, "SSL_CERT_FILE=" + w.caFile, "SALLYPORT_BROWSER=none", "RECORD=" + w.record(),
		// What the page says the reader sets.
		"CHARTS_URL=" + w.filesURL + "/" + release.ChartsDir, "DOWNLOADS_URL=" + w.filesURL, "VERSION=" + w.release.Version,
		"CLUSTER_NAME=" + clusterName, "EMAIL=ops@example.com",
	}
	session, err := page.NewSession(ctx, around, w.home, env)
	if err != nil {
		return err
	}
	w.runner = page.NewRunner(session, w.home, page.Options{Do: w.calls(t), Vars: map[string]string{"PASSWORD": password}, Log: w.clock.logf})
	return nil
}

func (w *world) record() string { return filepath.Join(w.dir, "record") }

// addContext puts a cluster's admin into a kubeconfig.
func addContext(ctx context.Context, config string, c *testbed.NodeCluster) error {
	pki := filepath.Dir(c.Kubeconfig)
	server := c.Kubectl(ctx, "config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}")
	if server.Err != nil {
		return server.Err
	}
	for _, args := range [][]string{
		{"set-cluster", c.Name, "--server=" + server.Stdout, "--certificate-authority=" + filepath.Join(pki, "ca.crt"), "--embed-certs"},
		{"set-credentials", c.Name, "--client-certificate=" + filepath.Join(pki, "admin.crt"), "--client-key=" + filepath.Join(pki, "admin.key"), "--embed-certs"},
		{"set-context", c.Name, "--cluster=" + c.Name, "--user=" + c.Name},
		{"use-context", c.Name},
	} {
		if r := testbed.Run(ctx, testbed.Command{Args: append([]string{testbed.Bin("kubectl"), "--kubeconfig=" + config, "config"}, args...)}); r.Err != nil {
			return r.Err
		}
	}
	return os.Chmod(config, 0o600)
}

// Programs that the guide names and that are of clouds, or of machines with other users.
// What clouds are told is recorded.
const (
	sudo   = "#!/bin/bash\nexec \"$@\"\n"
	gcloud = "#!/bin/bash\necho \"$*\" >>\"$RECORD.gcloud\"\n"
	aws    = `#!/bin/bash
echo "$*" >>"$RECORD.aws"
case $2 in
list-hosted-zones-by-name) echo '{"HostedZones": [{"Id": "/hostedzone/Z0123456789"}]}' ;;
change-resource-record-sets) f=${*: -1:1}; cat "${f#file://}" >"$RECORD.changes" && echo '{"ChangeInfo": {"Id": "/change/C1", "Status": "PENDING"}}' ;;
get-change) echo '{"ChangeInfo": {"Id": "/change/C1", "Status": "INSYNC"}}' ;;
*) exit 1 ;;
esac
`
)

func (w *world) tools() (string, error) {
	dir := filepath.Join(w.dir, "tools")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	for name, script := range map[string]string{"sudo": sudo, "gcloud": gcloud, "aws": aws} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil { //nolint:gosec // a program
			return "", err
		}
	}
	return dir, errors.Join(os.Symlink(testbed.Bin("kubectl"), filepath.Join(dir, "kubectl")), os.Symlink(testbed.Bin("helm"), filepath.Join(dir, "helm")))
}
