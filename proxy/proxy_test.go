package proxy

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/splice"
	"github.com/sallyport-dev/sallyport/internal/upstream"
)

func TestRequestsAreSentOnByteForByteOverHTTP2(t *testing.T) {
	f := newFixture(t, nil)
	const path = "/api/v1/namespaces/a%20b/services/https:web:8443/proxy/caf%C3%A9/?a=b;c&d=%2F..%2f&&e=+"
	// A SelfSubjectAccessReview is no different from anything else.
	const review = `{"kind":"SelfSubjectAccessReview","apiVersion":"authorization.k8s.io/v1","spec":{}}`
	c := dialRaw(t, f.front)
	c.send("POST "+path+" HTTP/1.1", "Host: sally.example", "Content-Type: application/json", "Content-Length: 83", "", review[:83])
	if res := c.answer(); res.StatusCode != http.StatusOK {
		t.Fatal(res.Status)
	}
	got := f.backend.only(t)
	if got.URI != path || got.Body != review[:83] || got.Proto != "HTTP/2.0" || got.Method != http.MethodPost {
		t.Errorf("%+v", got)
	}
	res, _ := f.do(newRequest(t, http.MethodPost, f.front.URL+"/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", strings.NewReader(review)))
	if got := f.backend.requests()[1]; res.StatusCode != http.StatusOK || got.Body != review {
		t.Errorf("HTTP %s, %+v", res.Status, got)
	}
}

func TestRoutingByPathAndBySNI(t *testing.T) {
	f := newFixture(t, nil)
	both := serveTLS(t, f.handler.PathHandler(), f.conn.Load)
	for _, tt := range []struct {
		server   string
		path     string
		host     string
		code     int
		contains string
		uri      string
	}{
		{f.byPath.URL, "/k8s/prod/api/v1/pods?a=%2F", "", 200, "", "/api/v1/pods?a=%2F"},
		{f.byPath.URL, "/k8s/dev", "", 200, "", "/"},
		{f.byPath.URL, "/k8s/prod/version", "prod.kube.sally.example", 200, "", "/version"},
		{f.byPath.URL, "/k8s/prod/version", "dev.kube.sally.example", 421, "dev", ""},
		{f.byPath.URL, "/api/v1/pods", "", 404, "names no Kubernetes cluster", ""},
		{f.byPath.URL, "/k8s/prdo/version", "", 404, `did you mean "prod"?`, ""},
		{f.byPath.URL, "/k8s/nothing-like-it/version", "", 404, "no Kubernetes cluster", ""},
		{f.byPath.URL, "/k8s/x-0123/version", "", 404, "no Kubernetes cluster", ""},
		{f.byPath.URL, "/k8s/%20/version", "", 404, "no Kubernetes cluster", ""},
		{f.byPath.URL, "/k8s//version", "", 400, "path", ""},
		{both.URL, "/version", "", 200, "", "/version"},
		{both.URL, "/k8s/prod/version", "", 200, "", "/version"},
		{both.URL, "/k8s/dev/version", "", 421, `"dev"`, ""},
		{f.front.URL, "/version", "sally.example:443", 200, "", "/version"},
		{f.front.URL, "/version", "prod.kube.sally.example:443", 200, "", "/version"},
		{f.front.URL, "/version", "dev.kube.sally.example", 421, "dev", ""},
		{f.front.URL, "/k8s/dev/version", "", 200, "", "/k8s/dev/version"}, // no prefixes here
	} {
		before := len(f.backend.requests())
		req := newRequest(t, http.MethodGet, tt.server+tt.path, nil)
		req.Host = tt.host
		res, body := f.do(req)
		if tt.code != http.StatusOK {
			wantStatus(t, res, body, tt.code, tt.contains)
			if len(f.backend.requests()) != before {
				t.Errorf("%s reached the API server", tt.path)
			}
			continue
		}
		got := f.backend.requests()
		if res.StatusCode != http.StatusOK || got[len(got)-1].URI != tt.uri {
			t.Errorf("%s: HTTP %s %s; sent on as %s", tt.path, res.Status, body, got[len(got)-1].URI)
		}
	}
}

func TestRedirectsStayUnderThePrefix(t *testing.T) {
	f := newFixture(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "/api/v1/namespaces/a/services/b/proxy/")
		w.WriteHeader(http.StatusMovedPermanently)
	})
	res, _ := f.do(newRequest(t, http.MethodGet, f.byPath.URL+"/k8s/prod/api/v1/namespaces/a/services/b/proxy", nil))
	if got := res.Header.Get("Location"); got != "/k8s/prod/api/v1/namespaces/a/services/b/proxy/" {
		t.Errorf("Location %q", got)
	}
}

func TestRefusalsAreStatusesThatSayWhatToDo(t *testing.T) {
	for _, tt := range []struct {
		name     string
		err      error
		code     int
		contains string
	}{
		{"no session", api.Errorf(api.CodeUnauthenticated, "your session has ended"), 401, "your session has ended; log in again: tsh login --proxy=sally.example:443"},
		{"forbidden", api.Errorf(api.CodeForbidden, "no role of yours"), 403, "no role of yours"},
		{"unknown", api.Errorf(api.CodeNotFound, "no cluster prod"), 404, "no cluster prod"},
		{"no leader", api.Errorf(api.CodeUnavailable, "no leader"), 503, "no leader"},
		{"surprise", errors.New("secret detail"), 500, "internal error"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, nil)
			f.auth.forbid(tt.err)
			res, body := f.get("/api/v1/pods")
			wantStatus(t, res, body, tt.code, tt.contains)
			if strings.Contains(body, "secret detail") {
				t.Error("an inner error is shown")
			}
			if len(f.backend.requests()) != 0 {
				t.Error("the API server got a request")
			}
		})
	}
}

// hiddenCluster is an Authorizer's refusal with a reason for the log alone.
type hiddenCluster struct{ error }

func (hiddenCluster) AuditReason() string { return "role x denies it" }

func (h hiddenCluster) Unwrap() error { return h.error }

func TestTheReasonOfAHiddenClusterIsForTheLogAlone(t *testing.T) {
	f := newFixture(t, nil)
	f.auth.forbid(hiddenCluster{api.Errorf(api.CodeNotFound, "no cluster prod")})
	res, body := f.get("/api/v1/pods")
	wantStatus(t, res, body, http.StatusNotFound, "no cluster prod")
	if strings.Contains(body, "role x") {
		t.Error("the client is told:", body)
	}
	if got := f.recorder.last(t).Fields["error"]; got != "role x denies it" {
		t.Error("the log is told:", got)
	}
}

// kubectl shows a refusal of its first requests only if it is text with one of a
// few codes. What client-go makes of ours is what it prints.
func TestARefusedDiscoveryIsShownInOurWords(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		code int
		says string
	}{
		{"forbidden", api.Errorf(api.CodeForbidden, "no role of yours"), http.StatusForbidden, "no role of yours"},
		{"unknown cluster", api.Errorf(api.CodeNotFound, "no cluster cooky"), http.StatusForbidden, "no cluster cooky"},
		{"no leader", api.Errorf(api.CodeUnavailable, "no leader: try another replica"), http.StatusBadGateway, `an error on the server ("no leader: try another replica") has prevented the request from succeeding`},
		{"surprise", errors.New("secret detail"), http.StatusBadGateway, `an error on the server ("internal error, see the log of the replica") has prevented the request from succeeding`},
		{"no session", api.Errorf(api.CodeUnauthenticated, "over"), http.StatusUnauthorized, "the server has asked for the client to provide credentials"},
	} {
		f := newFixture(t, nil)
		f.auth.forbid(tt.err)
		kube, err := rest.UnversionedRESTClientFor(&rest.Config{
			Host: f.front.URL, TLSClientConfig: rest.TLSClientConfig{CAData: pemOf(f.front.Certificate())},
			ContentConfig: rest.ContentConfig{NegotiatedSerializer: scheme.Codecs.WithoutConversion()},
		})
		if err != nil {
			t.Fatal(err)
		}
		_, err = kube.Get().AbsPath("/api").Do(t.Context()).Raw() // as its discovery does
		var st apierrors.APIStatus
		if !errors.As(err, &st) || int(st.Status().Code) != tt.code || st.Status().Message != tt.says {
			t.Errorf("%s: client-go says %v", tt.name, err)
		}
	}
}

func TestAStaleReplicaAnswers503NamingWhy(t *testing.T) {
	f := newFixture(t, nil)
	err := errors.New("no contact with a leader for 15m3s")
	f.stale.Store(&err)
	res, body := f.get("/api/v1/pods")
	wantStatus(t, res, body, http.StatusServiceUnavailable, "no contact with a leader for 15m3s")
	f.stale.Store(nil)
	if res, _ := f.get("/api/v1/pods"); res.StatusCode != http.StatusOK {
		t.Errorf("HTTP %s", res.Status)
	}
}

func TestFailuresOfTheAPIServer(t *testing.T) {
	t.Run("down", func(t *testing.T) {
		f := newFixture(t, nil)
		addr := f.backend.Listener.Addr().String()
		f.backend.Close()
		res, body := f.get("/api/v1/pods")
		wantStatus(t, res, body, http.StatusBadGateway, `cluster "prod" can't be reached: connection refused`)
		if strings.Contains(body, addr) {
			t.Error("the answer tells the inner address")
		}
		if ev := f.recorder.last(t); ev.Code != "T3009E" || ev.Fields["response_code"] != 502 {
			t.Errorf("%+v", ev)
		}
	})
	t.Run("untrusted", func(t *testing.T) {
		f := newFixture(t, nil, func(o *Options) {
			up, err := upstream.New(&rest.Config{Host: "https://127.0.0.1:1"})
			if err != nil {
				t.Fatal(err)
			}
			o.Targets = lateTargets{&up}
		})
		up, err := upstream.New(&rest.Config{Host: f.backend.URL})
		if err != nil {
			t.Fatal(err)
		}
		*f.handler.targets.(lateTargets).up = up
		res, body := f.get("/api/v1/pods")
		wantStatus(t, res, body, http.StatusBadGateway, "its certificate is not trusted")
	})
	t.Run("401", func(t *testing.T) {
		f := newFixture(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) })
		res, body := f.get("/api/v1/pods")
		wantStatus(t, res, body, http.StatusBadGateway, "Sallyport's own credentials")
	})
	t.Run("torn answer", func(t *testing.T) {
		f := newFixture(t, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "half of it")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
		res, err := f.front.Client().Do(newRequest(t, http.MethodGet, f.front.URL+"/api/v1/pods", nil))
		if err == nil {
			_, err = io.ReadAll(res.Body)
			_ = res.Body.Close()
		}
		if err == nil {
			t.Error("a torn answer looks complete")
		}
	})
}

type lateTargets struct{ up *upstream.Upstream }

func (l lateTargets) Target(string) (upstream.Upstream, error) { return *l.up, nil }

func TestAnswerFieldsOfTheHopAreDropped(t *testing.T) {
	f := newFixture(t, func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		for _, name := range []string{"Set-Cookie", "Alt-Svc", "Refresh", "Strict-Transport-Security"} {
			h.Set(name, "x")
		}
		h.Set("Audit-Id", "1")
		h.Set("Warning", "299 - old")
		w.WriteHeader(http.StatusTeapot)
	})
	res, _ := f.get("/api/v1/pods")
	if res.StatusCode != http.StatusTeapot || res.Header.Get("Audit-Id") != "1" || res.Header.Get("Warning") == "" {
		t.Errorf("HTTP %s, %v", res.Status, res.Header)
	}
	for _, name := range []string{"Set-Cookie", "Alt-Svc", "Refresh", "Strict-Transport-Security"} {
		if res.Header.Get(name) != "" {
			t.Errorf("%s came through", name)
		}
	}
}

func TestWatchesAreFlushedAtOnce(t *testing.T) {
	next := make(chan string)
	f := newFixture(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		for {
			select {
			case s := <-next:
				_, _ = io.WriteString(w, s)
				_ = http.NewResponseController(w).Flush()
			case <-r.Context().Done():
				return
			}
		}
	})
	res, err := f.front.Client().Do(newRequest(t, http.MethodGet, f.front.URL+"/api/v1/pods?watch=1", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	for _, n := range []int{1, splice.Small - 1, splice.Small, splice.Small + 1, 3 * splice.Small, splice.Big, splice.Big + splice.Small, 5 * splice.Big, 7} {
		want := strings.Repeat("e", n)
		next <- want
		got := make([]byte, n)
		if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != want {
			t.Fatalf("an event of %d bytes: %v", n, err)
		}
	}
}

func TestEventsNameWhoWhatAndWhere(t *testing.T) {
	f := newFixture(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
	f.auth.decide = func(id Identity, _, _ string, _ []string) (Decision, error) {
		return Decision{ImpersonateUser: id.User, ImpersonateGroups: []string{"devs"}, KubeLabels: map[string]string{"env": "prod"}, Right: newRight()}, nil
	}
	f.get("/apis/apps/v1/namespaces/shop/deployments/web/scale?pretty=1")
	got := f.recorder.last(t)
	want := api.Event{Event: "kube.request", Code: "T3009I", User: "alice", Fields: map[string]any{
		"addr.local": "192.0.2.1:443", "addr.remote": "192.0.2.7:4711", "proto": "kube", "namespace": "default", "server_id": "r1", "session_id": "s1",
		"request_path": "/apis/apps/v1/namespaces/shop/deployments/web/scale", "verb": "GET", "kubernetes_verb": "get", "response_code": 404,
		"resource_api_group": "apps/v1", "resource_kind": "deployments/scale", "resource_namespace": "shop", "resource_name": "web",
		"kubernetes_cluster": "prod", "kubernetes_users": []string{"alice"}, "kubernetes_groups": []string{"devs"}, "kubernetes_labels": map[string]string{"env": "prod"},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := got.MarshalJSON(); err != nil {
		t.Error(err)
	}
}

func TestMetricsCountByClusterAndClass(t *testing.T) {
	f := newFixture(t, nil)
	f.get("/api/v1/pods")
	f.get("/api/v1/pods")
	f.do(newRequest(t, http.MethodGet, f.byPath.URL+"/k8s/made-up-name/x", nil))
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(f.handler); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]float64{}
	for _, mf := range families {
		for _, m := range mf.GetMetric() {
			key := mf.GetName()
			for _, l := range m.GetLabel() {
				key += "," + l.GetValue()
				if strings.Contains(l.GetValue(), "made-up") {
					t.Errorf("a client made the label %q", l.GetValue())
				}
			}
			counts[key] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	for key, want := range map[string]float64{
		"sallyport_kube_requests_total,2xx,prod": 2, "sallyport_kube_requests_total,4xx,": 1,
		"sallyport_kube_request_duration_seconds,prod": 2, "sallyport_kube_requests_in_flight": 0, "sallyport_kube_grants": 1,
	} {
		if counts[key] != want {
			t.Errorf("%s is %v, want %v", key, counts[key], want)
		}
	}
}

// The real client of exec, over SPDY: what kubectl runs.
func TestExecByClientGoOverSPDY(t *testing.T) {
	f := newFixture(t, execServer)
	cfg := &rest.Config{Host: f.byPath.URL + "/k8s/prod", TLSClientConfig: rest.TLSClientConfig{CAData: pemOf(f.byPath.Certificate())}}
	cfg.APIPath, cfg.GroupVersion = "/api", &scheme.Scheme.PrioritizedVersionsForGroup("")[0]
	cfg.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	client, err := rest.RESTClientFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	u := client.Post().Resource("pods").Namespace("a").Name("b").SubResource("exec").Param("command", "cat").Param("stdin", "true").Param("stdout", "true").URL()
	ex, err := remotecommand.NewSPDYExecutor(cfg, http.MethodPost, u)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	in := strings.Repeat("all the king's horses\n", 5000)
	if err := ex.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: strings.NewReader(in), Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	if out.String() != in {
		t.Errorf("%d of %d bytes came back", out.Len(), len(in))
	}
}

// The same over WebSockets, which kubectl prefers since 1.31.
func TestExecByClientGoOverWebSocket(t *testing.T) {
	up := websocket.Upgrader{Subprotocols: []string{"v5.channel.k8s.io"}}
	f := newFixture(t, func(w http.ResponseWriter, r *http.Request) {
		c, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer c.Close()
		for { // channels: 0 stdin, 1 stdout, 3 error, 255 close
			_, msg, err := c.ReadMessage()
			if err != nil {
				return
			}
			switch {
			case len(msg) > 1 && msg[0] == 0:
				msg[0] = 1
				err = c.WriteMessage(websocket.BinaryMessage, msg)
			case len(msg) == 2 && msg[0] == 255:
				err = c.WriteMessage(websocket.BinaryMessage, []byte("\x03{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"status\":\"Success\"}"))
				if err == nil {
					_ = c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
				}
			}
			if err != nil {
				return
			}
		}
	})
	cfg := &rest.Config{Host: f.front.URL, TLSClientConfig: rest.TLSClientConfig{CAData: pemOf(f.front.Certificate())}}
	ex, err := remotecommand.NewWebSocketExecutor(cfg, http.MethodGet, f.front.URL+"/api/v1/namespaces/a/pods/b/exec?command=cat&stdin=true&stdout=true")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	in := strings.Repeat("all the king's men\n", 5000)
	if err := ex.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: strings.NewReader(in), Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	if out.String() != in {
		t.Errorf("%d of %d bytes came back", out.Len(), len(in))
	}
	wantImpersonated(t, f.backend.only(t).Header, "alice", "devs", "system:authenticated")
}

func TestUpstreamFromConfig(t *testing.T) {
	for name, cfg := range map[string]*rest.Config{
		"impersonating":  {Host: "https://x", Impersonate: rest.ImpersonationConfig{UserName: "root"}},
		"clear text":     {Host: "http://10.0.0.1"},
		"no token":       {Host: "https://x", BearerTokenFile: filepath.Join(t.TempDir(), "none")},
		"broken address": {Host: "https://x:y:z"},
		"broken CA":      {Host: "https://x", TLSClientConfig: rest.TLSClientConfig{CAData: []byte("x")}},
	} {
		if _, err := upstream.New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	b := newBackend(t, nil)
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		cfg  rest.Config
		want string
	}{
		"token file": {rest.Config{BearerTokenFile: file}, "Bearer from-file"},
		"token":      {rest.Config{BearerToken: "t"}, "Bearer t"},
		"basic":      {rest.Config{Username: "u", Password: "p"}, "Basic dTpw"},
		"none":       {rest.Config{}, ""},
	} {
		tt.cfg.Host, tt.cfg.CAData = b.URL, pemOf(b.Certificate())
		targets, err := ConfigTargets("own", &tt.cfg)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		up, err := targets.Target("own")
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, up.URL.String()+"/version", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := up.Plain.RoundTrip(req)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_ = res.Body.Close()
		got := b.requests()
		if last := got[len(got)-1]; last.Header.Get("Authorization") != tt.want || last.Proto != "HTTP/2.0" || last.URI != "/version" {
			t.Errorf("%s: %+v", name, last)
		}
		up.CloseIdle()
	}
	if _, err := (StaticTargets{}).Target("x"); !api.IsCode(err, api.CodeNotFound) {
		t.Error(err)
	}
}
