package upstream

import (
	"bytes"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
)

// With HTTPS_PROXY in a pod, as extraEnv gives it, its own API server is reached directly.
func TestAPodsOwnAPIServerIsReachedWithoutAProxy(t *testing.T) {
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("the proxy is asked for %s %s", r.Method, r.Host)
		w.WriteHeader(http.StatusBadGateway)
	}))
	defer proxy.Close()
	t.Setenv("HTTPS_PROXY", proxy.URL)
	t.Setenv("NO_PROXY", "")
	cfg, err := direct(&rest.Config{Host: "https://10.96.0.1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	up, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, rt := range []http.RoundTripper{up.Plain, up.Upgrade} {
		transport, ok := rt.(*http.Transport)
		if !ok {
			t.Fatalf("%T: without credentials it is the transport itself", rt)
		}
		req := httptest.NewRequest(http.MethodGet, "https://10.96.0.1/version", nil)
		if via, err := transport.Proxy(req); via != nil || err != nil {
			t.Errorf("goes through %v, %v", via, err)
		}
	}
	if _, err := direct(nil, rest.ErrNotInCluster); !errors.Is(err, rest.ErrNotInCluster) {
		t.Errorf("got %v", err)
	}
}

// client-go's own would take HTTPS_PROXY: nobody but InCluster may call it.
func TestNobodyTakesClientGosConfiguration(t *testing.T) {
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != root || d.Name() == "e2e" || d.Name() == "node_modules"):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasPrefix(path, filepath.Join(root, "internal", "upstream")):
			return nil
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte("rest.InClusterConfig")) {
			t.Errorf("%s: use upstream.InCluster", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
