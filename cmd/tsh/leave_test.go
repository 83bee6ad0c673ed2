package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/client/profile"
)

// TestLogoutWaitsOnceForKubeconfigs: locks that others left behind beside many
// files of many logins cost one wait, and what is free is cleaned all the same.
func TestLogoutWaitsOnceForKubeconfigs(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("KUBECONFIG", filepath.Join(dir, "config"))
	store := profile.Open(filepath.Join(dir, "home"))
	var proxies, free []string
	for _, name := range []string{"a.example.com", "b.example.com"} {
		p := aLogin("over")
		p.Proxy, p.NotAfter = name+":443", time.Now().Add(-time.Hour)
		proxies = append(proxies, p.Proxy)
		for i := range 4 {
			path := filepath.Join(dir, fmt.Sprintf("%s-%d", name, i))
			p.Kubeconfigs = append(p.Kubeconfigs, path)
			content := fmt.Sprintf("users: [{name: x, user: {exec: {command: tsh, args: [kube, credentials, --kube-cluster=x, --proxy=%s]}}}]\n", p.Proxy)
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if i == 3 {
				free = append(free, path)
			} else if err := os.WriteFile(path+".lock", nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := store.Save(p); err != nil {
			t.Fatal(err)
		}
	}
	command := logoutCommand()
	command.Run = func(_ context.Context, c *cliapp.Call) error {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel) // Ctrl-C leaves no entries behind
			begin := time.Now()
			gone, err := leave(ctx, c, store, func() ([]string, error) { return proxies, nil })
			if took := time.Since(begin); took != kubeconfigPatience || err != nil || len(gone) != len(proxies) {
				t.Errorf("took %s, %v, %v", took, gone, err)
			}
			for _, l := range gone {
				if l.files != nil || l.kube == nil || strings.Count(l.kube.Error(), ".lock exists") != 3 {
					t.Errorf("%s: %v, %v", l.proxy, l.files, l.kube)
				}
			}
		})
		return nil
	}
	a := app()
	a.Commands, a.Stdout, a.Stderr = []cliapp.Command{command}, io.Discard, io.Discard
	if status := a.Main(t.Context(), []string{"tsh", "logout"}); status != 0 {
		t.Errorf("exit status %d", status)
	}
	for _, path := range free {
		if b, err := os.ReadFile(path); err != nil || strings.Contains(string(b), "example.com") { //nolint:gosec // a test's
			t.Errorf("%s, %v", b, err)
		}
	}
}
