package tests

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestHealthReadinessMetrics(t *testing.T) {
	c, alice := shared(t)
	ctx := within(t, time.Minute)
	ok(t, alice.Kubectl(ctx, "get", "ns"))
	for _, r := range c.Replicas {
		for path, want := range map[string]string{"/healthz": "ok\n", "/readyz": "ok\n"} {
			var body bytes.Buffer
			if err := r.Diag(ctx, path, &body); err != nil || body.String() != want {
				t.Errorf("%s%s: %q, %v", r.Name, path, &body, err)
			}
		}
		var metrics bytes.Buffer
		if err := r.Diag(ctx, "/metrics", &metrics); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"process_resident_memory_bytes", "sallyport_"} {
			if !strings.Contains(metrics.String(), want) {
				t.Errorf("%s: no %s in /metrics", r.Name, want)
			}
		}
		if strings.Contains(metrics.String(), "alice") {
			t.Errorf("%s: /metrics names a user", r.Name)
		}
		if err := r.Diag(ctx, "/debug/pprof/", nil); err == nil {
			t.Errorf("%s: pprof is served", r.Name)
		}
	}
}

func TestPing(t *testing.T) {
	c, alice := shared(t)
	client, err := alice.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer client.CloseIdleConnections()
	for _, r := range c.Replicas {
		for _, path := range []string{"/webapi/ping", "/v1/webapi/ping"} {
			resp, err := client.Get(r.URL() + path)
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			var ping map[string]any
			if err != nil || resp.StatusCode != http.StatusOK || json.Unmarshal(b, &ping) != nil {
				t.Fatalf("%s%s: %s, %v: %s", r.Name, path, resp.Status, err, b)
			}
			if ping["server_version"] == "" || ping["min_client_version"] == nil || ping["cluster_name"] != clusterName {
				t.Errorf("%s%s: %s", r.Name, path, b)
			}
		}
		// Neither metrics nor the admin's calls are on the public port.
		for _, path := range []string{"/metrics", "/debug/pprof/", "/v1/status", "/v1/resources/user", "/v1/backup"} {
			resp, err := client.Get(r.URL() + path)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode < 400 {
				t.Errorf("%s%s is served to strangers: %s", r.Name, path, resp.Status)
			}
		}
	}
}
