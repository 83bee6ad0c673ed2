package guide

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/browser"
	"github.com/sallyport-dev/sallyport/e2e/page"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// calls are what the page's comments name.
func (w *world) calls(t *testing.T) map[string]func(context.Context, *page.Runner) error {
	window := func(do func(context.Context, *browser.Browser, *page.Runner) error) func(context.Context, *page.Runner) error {
		return func(ctx context.Context, r *page.Runner) error {
			if w.chromium == nil {
				return errors.New("there is no browser before the certificate")
			}
			return do(ctx, w.chromium.Window(t), r)
		}
	}
	return map[string]func(context.Context, *page.Runner) error{
		"namespace":      w.makeNamespaces,
		"dns":            w.setDNS,
		"certificate":    w.checkCertificate,
		"invite":         window(w.acceptInvite),
		"connectors":     w.fillConnectors,
		"github-refused": window(w.refusedByGithub),
		"github":         window(w.loginByGithub("grace")),
		"okta":           window(w.loginByOkta),
		"every-log":      w.checkEveryLog,
		"alice":          w.loginAsAlice,
		"others":         w.tryOthers,
	}
}

// sh runs a command in the session, which must succeed.
func sh(ctx context.Context, r *page.Runner, command string, types ...page.Typing) (string, error) {
	out, status, err := r.Session.Run(ctx, command, types...)
	if err == nil && status != 0 {
		err = fmt.Errorf("exit status %d", status)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w, it printed:\n%s", command, err, out)
	}
	return out, err
}

// namespaceWith is a namespace in which pods must be restricted, with secrets of files.
func namespaceWith(ctx context.Context, c *testbed.NodeCluster, name string, secrets map[string]string) error {
	r := c.Apply(ctx, fmt.Sprintf("{apiVersion: v1, kind: Namespace, metadata: {name: %s, labels: {pod-security.kubernetes.io/enforce: restricted, pod-security.kubernetes.io/enforce-version: latest}}}", name))
	for secret, file := range secrets {
		if r.Err == nil {
			r = c.Kubectl(ctx, "create", "secret", "generic", secret, "-n", name, "--from-file=ca.pem="+file)
		}
	}
	return r.Err
}

// makeNamespaces comes before the first line that installs. The values that only a test
// needs are those of an authority that no machine knows.
func (w *world) makeNamespaces(ctx context.Context, r *page.Runner) error {
	if err := errors.Join(
		namespaceWith(ctx, w.tele, namespace, map[string]string{"acme-ca": w.pebble.CAFile, "idp-ca": w.ca.File}),
		namespaceWith(ctx, w.tele, namespace+"-ent", nil),
		namespaceWith(ctx, w.cookie, agents, map[string]string{"trusted": w.caFile}),
		os.WriteFile(filepath.Join(w.dir, "cluster.yaml"), fmt.Appendf(nil, "{acmeURI: %q, acmeCASecretName: acme-ca, tls: {existingCASecretName: idp-ca}}\n", w.pebble.URL), 0o600),
		os.WriteFile(filepath.Join(w.dir, "agent.yaml"), []byte("{tls: {existingCASecretName: trusted}}\n"), 0o600),
	); err != nil {
		return err
	}
	_, err := sh(ctx, r, fmt.Sprintf(`helm() {
  case "$*" in
  "install sallyport-cluster "*) command helm "$@" --values %[1]s/cluster.yaml ;;
  "install sallyport-agent "*) command helm "$@" --values %[1]s/agent.yaml ;;
  *) command helm "$@" ;;
  esac
}`, w.dir))
	return err
}

// setDNS makes the records, which clouds would have made of what they were told.
func (w *world) setDNS(ctx context.Context, r *page.Runner) error {
	if err := w.checkNodes(ctx); err != nil {
		return err
	}
	var err error
	if w.ip, err = r.Get(ctx, "MYIP"); err != nil {
		return err
	}
	told, err := os.ReadFile(w.record() + ".gcloud")
	if err != nil {
		return err
	}
	const transaction = "dns record-sets transaction "
	for _, name := range []string{clusterName, "*." + clusterName} {
		if line := fmt.Sprintf("%sadd %s --name=%s --ttl=30 --type=A --zone=myzone\n", transaction, w.ip, name); !strings.Contains(string(told), line) {
			return fmt.Errorf("gcloud was not told %q but %q", line, told)
		}
	}
	if err := checkChanges(w.record()+".changes", "A", w.ip); err != nil {
		return err
	}
	if err := checkChanges(filepath.Join(w.home, "myrecords.json"), "CNAME", ""); err != nil { // this load balancer has no name
		return err
	}
	if err := errors.Join(w.lan.SetDNS(ctx, clusterName, w.ip), w.pebble.SetDNS(clusterName, w.ip)); err != nil {
		return err
	}
	// As people do, who see the name resolve: CoreDNS remembers for 5 s that there was none.
	ctx, cancel := context.WithTimeout(ctx, testbed.Patience)
	defer cancel()
	return testbed.Until(ctx, clusterName+" resolves in pods", func() error {
		return w.tele.Kubectl(ctx, "exec", "-n", namespace, namespace+"-0", "--", "nslookup", clusterName).Err
	})
}

// checkNodes wants one replica on each node.
func (w *world) checkNodes(ctx context.Context) error {
	out := w.tele.Kubectl(ctx, "get", "pods", "-n", namespace, "-l", "app="+namespace, "-o", "jsonpath={.items[*].spec.nodeName}")
	if out.Err != nil {
		return out.Err
	}
	nodes := strings.Fields(out.Stdout)
	slices.Sort(nodes)
	if want := []string{"tele-n1", "tele-n2", "tele-n3"}; !slices.Equal(nodes, want) {
		return fmt.Errorf("replicas are on %v, want %v", nodes, want)
	}
	return nil
}

// checkChanges reads a changeset as Route 53 would.
func checkChanges(file, kind, value string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var set struct {
		Changes []struct {
			Action            string
			ResourceRecordSet struct {
				Name, Type      string
				TTL             int
				ResourceRecords []struct{ Value string }
			}
		}
	}
	if err := json.Unmarshal(b, &set); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	var names []string
	for _, c := range set.Changes {
		s := c.ResourceRecordSet
		if c.Action != "CREATE" || s.Type != kind || s.TTL != 300 || len(s.ResourceRecords) != 1 || s.ResourceRecords[0].Value != value {
			return fmt.Errorf("%s: %+v, want a record %s of %q", file, c, kind, value)
		}
		names = append(names, s.Name)
	}
	if !slices.Equal(names, []string{clusterName, "*." + clusterName}) {
		return fmt.Errorf("%s: records of %v", file, names)
	}
	return nil
}

// checkCertificate wants the authority's, by one order, and opens the browser that trusts it.
func (w *world) checkCertificate(ctx context.Context, _ *page.Runner) error {
	b, err := os.ReadFile(w.caFile)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(b)
	conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: pool, ServerName: clusterName, MinVersion: tls.VersionTLS12}}).DialContext(ctx, "tcp", w.ip+":443")
	if err != nil {
		return err
	}
	if err := conn.Close(); err != nil {
		return err
	}
	taken := 0
	for _, o := range w.pebble.Orders() {
		if o.Status == http.StatusCreated {
			taken++
		}
		if !slices.Equal(o.Names, []string{clusterName}) {
			return fmt.Errorf("an order for %v", o.Names)
		}
	}
	if taken != 1 || w.pebble.Issued() != 1 {
		return fmt.Errorf("%d orders and %d certificates for three replicas, want one", taken, w.pebble.Issued())
	}
	w.chromium, err = browser.LaunchFor(context.Background(), w.caFile, //nolint:contextcheck // it lives as long as the clusters
		browser.Server{Addr: w.ip + ":443", Name: clusterName}, browser.Server{Addr: w.github.Addr, Name: githubName}, browser.Server{Addr: w.saml.Addr})
	return err
}

var inviteLink = regexp.MustCompile(`https://\S+/web/invite/[0-9a-f]+`)

func (w *world) acceptInvite(_ context.Context, b *browser.Browser, r *page.Runner) error {
	p, err := b.Open(inviteLink.FindString(r.Printed))
	if err != nil {
		return err
	}
	if p.Status != http.StatusOK || !strings.Contains(p.Text, "invited to "+clusterName) {
		return fmt.Errorf("the invite: %+v", p)
	}
	if err := errors.Join(b.Fill("#password", password), b.Fill("#repeat", password)); err != nil {
		return err
	}
	if p, err = b.Submit("button[type=submit]"); err != nil {
		return err
	}
	if line := "tsh login --proxy=" + clusterName + ":443 --user=alice"; p.Status != http.StatusOK || !strings.Contains(p.Text, line) {
		return fmt.Errorf("the page after the password does not say %q: %+v", line, p)
	}
	return nil
}

// fillConnectors updates the fields of the page's files, as it asks people to.
func (w *world) fillConnectors(ctx context.Context, r *page.Runner) error {
	if _, err := sh(ctx, r, fmt.Sprintf("printf '  endpoint_url: %[1]s\\n  api_endpoint_url: %[1]s/api/v3\\n' >> github.yaml", w.github.URL)); err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.saml.Metadata, http.NoBody)
	if err != nil {
		return err
	}
	client := w.ca.Client()
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s, %w", w.saml.Metadata, resp.Status, err)
	}
	file := filepath.Join(w.home, "okta.yaml")
	doc, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	head, _, found := strings.Cut(string(doc), "<?xml !!!")
	if !found {
		return errors.New("okta.yaml has no place for the descriptor")
	}
	// SimpleSAMLphp calls its people by uid.
	head = strings.Replace(head, "spec:\n", "spec:\n  username_attribute: uid\n", 1)
	return os.WriteFile(file, []byte(head+strings.ReplaceAll(strings.TrimSpace(string(b)), "\n", "\n    ")+"\n"), 0o600)
}

var (
	consoleLink = regexp.MustCompile(`https://[^\s\x1b]+/web/cli/[^\s\x1b]+`)
	matchCode   = regexp.MustCompile(`\b[0-9A-F]{4}-[0-9A-F]{4}\b`)
)

// openLink opens the link that tsh shows, and returns the code beside it.
func openLink(ctx context.Context, b *browser.Browser, r *page.Runner) (code string, err error) {
	var link string
	if err := testbed.Until(ctx, "tsh's link", func() error {
		said := r.Session.Output()
		if link, code = consoleLink.FindString(said), matchCode.FindString(said); link == "" || code == "" || !strings.Contains(said, "Waiting for ") {
			return fmt.Errorf("tsh says %q", said)
		}
		return nil
	}); err != nil {
		return "", err
	}
	_, err = b.Open(link)
	return code, err
}

// arrive waits for a page that says all this.
func arrive(ctx context.Context, b *browser.Browser, prefix string, texts ...string) error {
	ctx, cancel := context.WithTimeout(ctx, testbed.Patience)
	defer cancel()
	return testbed.Until(ctx, "the page "+prefix, func() error {
		p, err := b.Here()
		if err != nil {
			return err
		}
		for _, text := range texts {
			if !strings.HasPrefix(p.URL, prefix) || !strings.Contains(p.Text, text) {
				return fmt.Errorf("%q is not there: %+v", text, p)
			}
		}
		if loaded, err := b.Loaded(); err != nil || !loaded {
			return fmt.Errorf("it is not all there, %w", cmp.Or(err, errors.New("yet")))
		}
		return nil
	})
}

func (w *world) approve(ctx context.Context, b *browser.Browser, code string) error {
	if err := arrive(ctx, b, "https://"+clusterName, "Let tsh log in?", code); err != nil {
		return err
	}
	if err := b.Press("button[value=approve]"); err != nil {
		return err
	}
	return arrive(ctx, b, "http://127.0.0.1:", "Back to the terminal")
}

func (w *world) authorize(ctx context.Context, b *browser.Browser, name string) error {
	if err := arrive(ctx, b, w.github.URL, "Authorize client-id"); err != nil {
		return err
	}
	return errors.Join(b.Fill("#user", name), b.Press("#authorize"))
}

func (w *world) loginByGithub(name string) func(context.Context, *browser.Browser, *page.Runner) error {
	return func(ctx context.Context, b *browser.Browser, r *page.Runner) error {
		code, err := openLink(ctx, b, r)
		if err != nil {
			return err
		}
		if err := w.authorize(ctx, b, name); err != nil {
			return err
		}
		return w.approve(ctx, b, code)
	}
}

func (w *world) loginByOkta(ctx context.Context, b *browser.Browser, r *page.Runner) error {
	code, err := openLink(ctx, b, r)
	if err != nil {
		return err
	}
	if err := arrive(ctx, b, w.saml.URL, "password"); err != nil {
		return err
	}
	if err := errors.Join(b.Fill("#username", "sam"), b.Fill("#password", password), b.Press("#submit_button")); err != nil {
		return err
	}
	return w.approve(ctx, b, code)
}

// refusedByGithub is a login of somebody who is in none of the teams.
func (w *world) refusedByGithub(ctx context.Context, b *browser.Browser, r *page.Runner) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	beside := make(chan error, 1)
	go func() {
		_, err := openLink(ctx, b, r)
		if err == nil {
			err = w.authorize(ctx, b, "alice")
		}
		beside <- err
	}()
	out, status, err := r.Session.Run(ctx, "KUBECONFIG=${HOME?}/sallyport.yaml tsh login --proxy=tele.example.com:443 --auth=github")
	if err != nil {
		cancel()
	}
	if err := errors.Join(err, <-beside); err != nil {
		return fmt.Errorf("%w, tsh printed:\n%s", err, out)
	}
	if status == 0 {
		return fmt.Errorf("alice, who is in no team that is named, was let in: %s", out)
	}
	return nil
}

// checkEveryLog looks for the refused login in the file of each pod.
func (w *world) checkEveryLog(ctx context.Context, _ *page.Runner) error {
	ctx, cancel := context.WithTimeout(ctx, testbed.Patience)
	defer cancel()
	for i := range 3 {
		pod := fmt.Sprintf("%s-%d", namespace, i)
		if err := testbed.Until(ctx, "the refused login in events.log of "+pod, func() error {
			out := w.tele.Kubectl(ctx, "exec", "-n", namespace, pod, "--", "tail", "-n", "200", "/var/lib/sallyport/log/events.log")
			if out.Err != nil {
				return out.Err
			}
			for line := range strings.Lines(out.Stdout) {
				var e struct {
					Method, Error string
					Success       bool
					Attributes    map[string][]string
				}
				if json.Unmarshal([]byte(line), &e) == nil && e.Error == `user "alice" does not belong to any teams configured in "github" connector` &&
					e.Method == "github" && !e.Success && slices.Equal(e.Attributes["octocats"], []string{"devs"}) {
					return nil
				}
			}
			return fmt.Errorf("not in\n%s", out.Stdout)
		}); err != nil {
			return err
		}
	}
	return nil
}

// loginAsAlice goes back from the people of identity providers.
func (w *world) loginAsAlice(ctx context.Context, r *page.Runner) error {
	_, err := sh(ctx, r, "KUBECONFIG=${HOME?}/sallyport.yaml tsh login --proxy=tele.example.com:443 --user=alice", page.Typing{Prompt: "assword", Text: password})
	return err
}

// tryOthers are the guide's lines that ours has not, since they differ in nothing: release
// sallyport-cluster-ent with a license, and an agent peanut; and its mistake of a $.
func (w *world) tryOthers(ctx context.Context, r *page.Runner) error {
	for _, c := range []struct{ command, want string }{
		{"touch license-enterprise.pem; kubectl --context=tele -n sallyport-cluster-ent create secret generic license --from-file=license-enterprise.pem", "created"},
		{`helm --kube-context=tele install sallyport-cluster-ent sallyport/sallyport-cluster --namespace=sallyport-cluster-ent \
  --set clusterName=${CLUSTER_NAME?} --set acme=true --set acmeEmail=${EMAIL?} --set enterprise=true --dry-run=server`, "enterprise=true changes nothing"},
		{`CLUSTER='peanut'; helm --kube-context=cookie install sallyport-agent-ent sallyport/sallyport-kube-agent --set kubeClusterName=${CLUSTER?}\
    --set proxyAddr=${PROXY?} --set authToken=${TOKEN?} --create-namespace --namespace=sallyport-agent-ent --dry-run=server`, "peanut"},
		{`! helm --kube-context=cookie install sallyport-agent-ent sallyport/sallyport-kube-agent --set kubeClusterName={CLUSTER?}\
    --set proxyAddr=${PROXY?} --set authToken=${TOKEN?} --create-namespace --namespace=sallyport-agent-ent`, "you typed {CLUSTER?}, write ${CLUSTER?}"},
	} {
		out, err := sh(ctx, r, c.command)
		if err != nil {
			return err
		}
		if !strings.Contains(out, c.want) {
			return fmt.Errorf("%s: %q is not in\n%s", c.command, c.want, out)
		}
	}
	return nil
}
