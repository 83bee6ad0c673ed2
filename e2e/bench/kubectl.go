package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// kubectl is metric 11: what a person waits for. A cold `kubectl get ns` with a
// certificate in the kubeconfig and with the exec plugin, against the same
// directly; and forty at once.
func (b *bench) kubectl(ctx context.Context) error {
	static, err := b.staticKubeconfig()
	if err != nil {
		return err
	}
	run := func(kubeconfig string) func() error {
		return func() error {
			env := append(b.user.Env(), "KUBECONFIG="+kubeconfig)
			return testbed.Run(ctx, testbed.Command{Args: []string{testbed.Bin("kubectl"), "get", "namespaces"}, Env: env, Dir: b.user.Home}).Err
		}
	}
	direct, certificate, plugin := run(b.cp.Kubeconfig), run(static), run(b.user.Kubeconfig())
	ways := []func() error{direct, certificate, plugin}
	samples := make([][]time.Duration, len(ways))
	for turn := range b.n(40) + 1 {
		for i, way := range ways {
			start := time.Now()
			if err := way(); err != nil {
				return err
			}
			if turn > 0 { // the first fills kubectl's discovery cache
				samples[i] = append(samples[i], time.Since(start))
			}
		}
	}
	base, cert, exec := percentile(samples[0], 0.5), percentile(samples[1], 0.5), percentile(samples[2], 0.5)
	pluginCost := exec - cert
	plugin8 := row{11, "the exec plugin on top of that (median)", millis(pluginCost), "–", math.NaN(), "≤ 8 ms", verdict(pluginCost <= 8*time.Millisecond, 0)}
	b.rows = append(b.rows,
		atMost(11, "`kubectl get ns`, cold, certificate in the kubeconfig / direct", millis(cert), millis(base), float64(cert)/float64(base), 1.15), plugin8)

	forty := make([][]float64, 2)
	for range max(2, b.n(6)) {
		for i, way := range []func() error{direct, plugin} {
			start := time.Now()
			if err := parallel(40, way); err != nil {
				return err
			}
			forty[i] = append(forty[i], time.Since(start).Seconds())
		}
	}
	ours, theirs := median(forty[1]), median(forty[0])
	b.rows = append(b.rows, atMost(11, "forty `kubectl get ns` at once (`xargs -P 40`), exec plugin / direct",
		fmt.Sprintf("%.2f s", ours), fmt.Sprintf("%.2f s", theirs), ours/theirs, 1.2))
	return nil
}

func parallel(n int, f func() error) error {
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = f() })
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// staticKubeconfig has the user's certificate inside, as `tctl auth sign` would write it.
func (b *bench) staticKubeconfig() (string, error) {
	path := filepath.Join(b.user.Home, "static.kubeconfig")
	data := base64.StdEncoding.EncodeToString
	return path, os.WriteFile(path, fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: s, cluster: {server: %q, tls-server-name: %q, certificate-authority-data: %s}}]
users: [{name: s, user: {client-certificate-data: %s, client-key-data: %s}}]
contexts: [{name: s, context: {cluster: s, user: s}}]
current-context: s
`, b.ours.url, b.ours.tls.ServerName, data(b.ca), data(b.cert), data(b.key)), 0o600)
}
