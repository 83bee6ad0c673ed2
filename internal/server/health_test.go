package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/upstream"
)

// clusters are what tunnels and the store say, in memory.
type clusters struct {
	mu      sync.Mutex
	live    map[string]api.KubeStatus
	known   []string
	kept    map[string]api.KubeStatus
	writes  []map[string]api.KubeStatus
	err     error
	changed chan struct{}
}

func newClusters(names ...string) *clusters {
	return &clusters{known: names, live: map[string]api.KubeStatus{}, kept: map[string]api.KubeStatus{}, changed: make(chan struct{})}
}

func (c *clusters) set(name string, st *api.KubeStatus) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live = maps.Clone(c.live); st == nil {
		delete(c.live, name)
	} else {
		c.live[name] = *st
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *clusters) Statuses() map[string]api.KubeStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.live
}

func (c *clusters) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// storedClusters is the store's half.
type storedClusters struct{ *clusters }

func (c storedClusters) List() (out []api.KubeCluster) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range c.known {
		out = append(out, api.KubeCluster{Name: name, Status: &api.KubeStatus{Own: name == "theirs"}})
	}
	return out
}

func (c storedClusters) Statuses() map[string]api.KubeStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.kept)
}

func (c storedClusters) SaveStatus(_ context.Context, statuses map[string]api.KubeStatus) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	c.writes = append(c.writes, statuses)
	maps.Copy(c.kept, statuses)
	return nil
}

func (c *clusters) written() []map[string]api.KubeStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() { c.writes = nil }()
	return c.writes
}

func newTestHealth(c *clusters, up *upstream.Upstream, log io.Writer) *kubeHealth {
	h := newKubeHealth("own", up, slog.New(slog.NewTextHandler(log, nil)), time.Now)
	h.follow(c, storedClusters{c})
	return h
}

// What is written to Raft is coarse: a cluster that comes and goes costs one write a
// minute, however often it does.
func TestKubeHealth_theLeaderKeepsWhatIsWorthKnowing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClusters("cookie", "never", "gone", "theirs")
		gone := api.KubeStatus{Health: api.HealthHealthy, Version: "v1.30.0", LastSeen: time.Now().Add(-time.Hour).UTC()}
		c.kept["gone"], c.kept["theirs"] = gone, gone
		h := newTestHealth(c, nil, io.Discard)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- h.save(ctx) }()
		after := func(d time.Duration) []map[string]api.KubeStatus {
			<-time.After(d)
			synctest.Wait()
			return c.written()
		}
		healthy := &api.KubeStatus{Health: api.HealthHealthy, Version: "v1.34.1", Agents: 2}
		c.set("cookie", healthy)
		if w := after(5 * time.Second); len(w) != 1 || w[0]["cookie"].Health != api.HealthHealthy || w[0]["cookie"].Agents != 0 || len(w[0]) != 1 {
			t.Errorf("a cluster that came: %v", w)
		}
		want := map[string]api.KubeStatus{"gone": {Health: api.HealthOffline, Reason: "no agent of it is connected", Version: "v1.30.0", LastSeen: gone.LastSeen}}
		if w := after(15 * time.Second); len(w) != 1 || !cmp.Equal(want, w[0]) {
			t.Errorf("a cluster that went before this leader: %s", cmp.Diff(want, w))
		}
		after(40 * time.Second)
		for range 100 {
			c.set("cookie", nil)
			<-time.After(50 * time.Millisecond)
			c.set("cookie", healthy)
			<-time.After(50 * time.Millisecond)
		}
		if w := after(time.Minute); len(w) != 0 {
			t.Errorf("a cluster that flaps: %v", w)
		}
		seen := time.Now()
		for i := range 20 {
			c.set("cookie", &api.KubeStatus{Health: api.HealthUnhealthy, Reason: strings.Repeat("x", i+1), Agents: 1})
			<-time.After(6 * time.Second)
			seen = time.Now()
		}
		if w := after(0); len(w) < 2 || len(w) > 3 || w[0]["cookie"].Version != "v1.34.1" {
			t.Errorf("%d writes in two minutes: %v", len(w), w)
		}
		c.set("cookie", nil)
		w := after(2 * time.Minute)
		if len(w) != 1 || w[0]["cookie"].Health != api.HealthOffline || w[0]["cookie"].Version != "v1.34.1" || seen.Sub(w[0]["cookie"].LastSeen).Abs() > 7*time.Second {
			t.Errorf("a cluster that went: %v, seen at %s", w, seen)
		}
		if w := after(3 * time.Hour); len(w) != 0 {
			t.Errorf("and stays away: %v", w)
		}
		c.set("cookie", healthy)
		after(time.Minute)
		if w := after(3*time.Hour + time.Minute); len(w) != 3 {
			t.Errorf("that it lives is written %d times in 3 hours", len(w))
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestKubeHealth_tellsOnceWhenAClusterComesOrGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClusters("cookie")
		var log strings.Builder
		h := newTestHealth(c, nil, &log)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); h.watch(ctx) }()
		said := func(d time.Duration) string {
			<-time.After(d)
			synctest.Wait()
			defer log.Reset()
			return log.String()
		}
		for _, step := range []struct {
			what string
			st   *api.KubeStatus
			wait time.Duration
			want string // "": silence
		}{
			{"came", &api.KubeStatus{Health: api.HealthUnknown, Agents: 1}, time.Second, "is connected"},
			{"was asked", &api.KubeStatus{Health: api.HealthHealthy, Agents: 1, Version: "v1.34.1"}, time.Second, "is healthy"},
			{"has another agent", &api.KubeStatus{Health: api.HealthHealthy, Agents: 2}, time.Minute, ""},
			{"fell ill", &api.KubeStatus{Health: api.HealthUnhealthy, Reason: "timeout", Agents: 2}, time.Second, "is unhealthy"},
			{"is still ill", &api.KubeStatus{Health: api.HealthUnhealthy, Reason: "timeout", Agents: 1}, time.Minute, ""},
			{"hiccups", nil, 5 * time.Second, ""},
			{"is back", &api.KubeStatus{Health: api.HealthUnhealthy, Reason: "timeout", Agents: 1}, time.Minute, ""},
			{"went", nil, time.Minute, "is gone"},
		} {
			c.set("cookie", step.st)
			got := said(step.wait)
			if n := strings.Count(got, "\n"); step.want == "" && n != 0 || step.want != "" && (n != 1 || !strings.Contains(got, step.want)) {
				t.Errorf("it %s: %q, want %q", step.what, got, step.want)
			}
		}
		if st := h.status("cookie"); st == nil || st.Health != api.HealthOffline || st.Agents != 0 || time.Since(st.LastSeen) < 50*time.Second {
			t.Errorf("what is left: %+v", st)
		}
		if st := h.status("nobody"); st != nil {
			t.Errorf("%+v of nobody", st)
		}
		c.mu.Lock()
		c.known = nil
		c.mu.Unlock()
		said(time.Minute)
		if st := h.status("cookie"); st != nil {
			t.Errorf("remembered though it was removed: %+v", st)
		}
		cancel()
		<-done
	})
}

// A cluster of which its API server does not say enough was asked all the same: that is
// kept, with why, and told once. One that nobody has asked yet is not.
func TestKubeHealth_whatCannotBeToldIsKnownToBeSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClusters("cookie", "new")
		was := api.KubeStatus{Health: api.HealthHealthy, Version: "v1.34.1", LastSeen: time.Now().Add(-time.Hour).UTC()}
		c.kept["cookie"], c.kept["new"] = was, was
		var log strings.Builder
		h := newTestHealth(c, nil, &log)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = h.save(ctx) })
		wg.Go(func() { h.watch(ctx) })
		c.set("new", &api.KubeStatus{Health: api.HealthUnknown, Agents: 1})
		c.set("cookie", &api.KubeStatus{Health: api.HealthUnknown, Reason: "it shows no right", Agents: 1, Checked: time.Now().UTC()})
		<-time.After(10 * time.Second)
		synctest.Wait()
		w := c.written()
		if len(w) != 1 || len(w[0]) != 1 {
			t.Fatalf("%v", w)
		}
		if got := w[0]["cookie"]; got.Health != api.HealthUnknown || got.Reason != "it shows no right" || got.Version != "v1.34.1" || !got.LastSeen.After(was.LastSeen) {
			t.Errorf("%+v", got)
		}
		<-time.After(10 * time.Minute)
		synctest.Wait()
		if w := c.written(); len(w) != 0 {
			t.Errorf("and again: %v", w)
		}
		cancel()
		wg.Wait()
		if n := strings.Count(log.String(), "it is not known how a Kubernetes cluster does"); n != 1 || !strings.Contains(log.String(), "it shows no right") {
			t.Errorf("told %d times:\n%s", n, &log)
		}
	})
}

// The own cluster was reached, though it does not say enough.
func TestKubeHealth_ofAnOwnClusterThatDoesNotSayEnough(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews":
			_, _ = io.WriteString(w, `{"status":{"allowed":false}}`)
		case "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews":
			_, _ = io.WriteString(w, `{"status":{"incomplete":true}}`)
		}
	}))
	defer srv.Close()
	up, err := upstream.New(&rest.Config{Host: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	h := newTestHealth(newClusters("own"), &up, io.Discard)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); h.probe(ctx) }()
	eventually(t, 10*time.Second, "a probe", func() error {
		if st := h.status("own"); st.Health != api.HealthUnknown || st.Reason == "" || st.Checked.IsZero() || st.LastSeen.IsZero() {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
	cancel()
	<-done
}

// The replica's own cluster is asked, and so many series are shown.
func TestKubeHealth_ofTheOwnCluster(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/version":
			_, _ = io.WriteString(w, `{"gitVersion":"v1.34.1"}`)
		case "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews":
			_, _ = io.WriteString(w, `{"status":{"allowed":true}}`)
		}
	}))
	defer srv.Close()
	up, err := upstream.New(&rest.Config{Host: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	c := newClusters("cookie", "own")
	h := newTestHealth(c, &up, io.Discard)
	if st := h.status("own"); st == nil || st.Health != api.HealthUnknown || !st.Own {
		t.Errorf("before it was asked: %+v", st)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); h.probe(ctx) }()
	eventually(t, 10*time.Second, "a probe", func() error {
		if st := h.status("own"); st.Health != api.HealthHealthy || st.Version != "v1.34.1" || !st.Own || st.LastSeen.IsZero() {
			return errors.New("not yet")
		}
		return nil
	})
	cancel()
	<-done
	c.set("own", &api.KubeStatus{Health: api.HealthUnhealthy, Agents: 1}) // an agent takes no own cluster's name
	if st := h.status("own"); !st.Own || st.Health != api.HealthHealthy {
		t.Errorf("%+v", st)
	}
	for range 2 * healthSeries {
		c.known = append(c.known, "x")
	}
	reg := prometheus.NewRegistry()
	if err := reg.Register(h.collector()); err != nil {
		t.Fatal(err)
	}
	c.known = slices.Compact(c.known)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var on []string
	for _, m := range families[0].GetMetric() {
		if m.GetGauge().GetValue() == 1 {
			on = append(on, m.GetLabel()[1].GetValue()+" "+m.GetLabel()[0].GetValue())
		}
	}
	slices.Sort(on)
	if d := cmp.Diff([]string{"cookie offline", "own healthy", "x offline"}, on); d != "" {
		t.Error(d)
	}
}

// The service account of somebody who joins is named by the replica's own cluster, for
// our audience alone.
func TestTokenReview(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what   string
		status int
		answer string
		want   string
		code   api.Code
	}{
		{"accepted", 201, `{"status":{"authenticated":true,"audiences":["tele.example.com"],"user":{"username":"system:serviceaccount:ns:sa"}}}`, "system:serviceaccount:ns:sa", ""},
		{"refused", 201, `{"status":{"authenticated":false,"error":"expired"}}`, "", api.CodeUnauthenticated},
		{"for another audience", 201, `{"status":{"authenticated":true,"audiences":["kubernetes"],"user":{"username":"system:serviceaccount:ns:sa"}}}`, "", api.CodeUnauthenticated},
		{"by an API server that knows no audiences", 201, `{"status":{"authenticated":true,"user":{"username":"system:serviceaccount:ns:sa"}}}`, "", api.CodeUnauthenticated},
		{"not allowed to ask", 403, `{}`, "", api.CodeUnavailable},
		{"broken", 500, `{}`, "", api.CodeUnavailable},
		{"no JSON", 200, `<html>`, "", api.CodeUnavailable},
		{"nobody", 200, `{"status":{"authenticated":true,"audiences":["tele.example.com"]}}`, "", api.CodeInternal},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				if r.Method != http.MethodPost || r.URL.Path != "/apis/authentication.k8s.io/v1/tokenreviews" || !strings.Contains(string(body), `"spec":{"audiences":["tele.example.com"],"token":"jwt"}`) {
					t.Errorf("%s %s %s", r.Method, r.URL, body)
				}
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.answer)
			}))
			defer srv.Close()
			up, err := upstream.New(&rest.Config{Host: srv.URL})
			if err != nil {
				t.Fatal(err)
			}
			got, err := tokenReview(up)(t.Context(), "jwt", []string{testCluster})
			if got != c.want || c.code == "" && err != nil || c.code != "" && api.CodeOf(err) != c.code {
				t.Errorf("%q, %v; want %q, %s", got, err, c.want, c.code)
			}
		})
	}
}
