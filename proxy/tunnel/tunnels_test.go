package tunnel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/wire"
)

// reliability.md, 16: it does not matter which replica a request or a tunnel landed on.
func TestARequestGoesOverTheOwnTunnelOrOneHop(t *testing.T) {
	all := startReplicas(t, "a", "b", "c")
	all[0].dial(t, agentID(1), "cookie")
	for _, r := range all {
		r.knows(t, agentID(1), "a")
		if got, want := r.get(t, "cookie", "/version?x=1"), "1 cookie /version?x=1 "; got != want {
			t.Errorf("through %s: %q, want %q", r.id, got, want)
		}
	}
}

func TestARequestArrivesAsItWasSent(t *testing.T) {
	all := startReplicas(t, "a", "b")
	ag := all[0].connect(t, agentID(1))
	type seen struct {
		Method, URI, Host, Body string
		Header                  http.Header
	}
	got := make(chan seen, 2)
	ag.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- seen{r.Method, r.RequestURI, r.Host, string(body), r.Header}
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = io.WriteString(w, "not really")
	})
	ag.hello(t, "Big.Tea")
	ag.hear(t, "welcome", isWelcome)
	ag.serve(t)
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1") // a tunnel leads to one place
	label := api.KubeLabel("Big.Tea")
	for _, r := range all {
		r.knows(t, agentID(1), "a")
		up, err := r.Target("Big.Tea")
		if err != nil {
			t.Fatal(err)
		}
		if up.URL.String() != "http://"+label {
			t.Errorf("URL %s, want http://%s", up.URL, label)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPatch, up.URL.String()+"/api/v1/a%2Fb//c?q=%zz;x&y=a+b", strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = http.Header{
			"Impersonate-User":               {"alice"},
			"Impersonate-Group":              {"devs", "system:authenticated"},
			"Impersonate-Extra-Sap%2fscope9": {"x"},
			"Accept-Encoding":                {"br"},
			"User-Agent":                     {"kubectl"},
		}
		res, err := up.Plain.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if string(body) != "not really" || res.Header.Get("Content-Encoding") != "gzip" {
			t.Errorf("answer through %s: %q, %v", r.id, body, res.Header)
		}
		want := seen{http.MethodPatch, "/api/v1/a%2Fb//c?q=%zz;x&y=a+b", label, "body", req.Header.Clone()}
		want.Header["Content-Length"] = []string{"4"}
		if diff := cmp.Diff(want, <-got); diff != "" {
			t.Errorf("through %s (-want +got):\n%s", r.id, diff)
		}
	}
}

// threats.md, SSRF: whatever a request names, and wherever an answer points, nothing
// is dialled but a stream to the agent.
func TestATunnelLeadsToItsAgentAlone(t *testing.T) {
	all := startReplicas(t, "a", "b")
	ag := all[0].connect(t, agentID(1))
	ag.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "http://169.254.169.254/latest/meta-data")
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	ag.hello(t, "cookie")
	ag.hear(t, "welcome", isWelcome)
	ag.serve(t)
	for i, r := range all {
		r.knows(t, agentID(1), "a")
		up, err := r.Target("cookie")
		if err != nil {
			t.Fatal(err)
		}
		for j, to := range []string{"http://169.254.169.254", "http://127.0.0.1:1", "http://cake"} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, to, nil)
			if err != nil {
				t.Fatal(err)
			}
			res, err := up.Plain.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			if want := int64(3*i + j + 1); res.StatusCode != http.StatusTemporaryRedirect || ag.requests.Load() != want {
				t.Errorf("%s through %s: %s, after %d requests, want %d", to, r.id, res.Status, ag.requests.Load(), want)
			}
		}
	}
}

func TestUpgradedStreamsCloseByHalves(t *testing.T) {
	all := startReplicas(t, "a", "b")
	all[0].dial(t, agentID(1), "cookie")
	for _, r := range all {
		r.knows(t, agentID(1), "a")
		if err := talk(t.Context(), r, "hello"); err != nil {
			t.Errorf("through %s: %v", r.id, err)
		}
	}
}

// talk says something on a stream of its own and expects the echo, and the last
// word that comes after this end has said that it is done.
func talk(ctx context.Context, r *replica, what string) error {
	stream, err := r.upgrade(ctx, "cookie")
	if err != nil {
		return err
	}
	defer stream.Close()
	if _, err := io.WriteString(stream, what); err != nil {
		return err
	}
	got := make([]byte, len(what))
	if _, err := io.ReadFull(stream, got); err != nil || string(got) != what {
		return fmt.Errorf("echo %q: %w", got, err)
	}
	if err := stream.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		return err
	}
	rest, err := io.ReadAll(stream)
	if err == nil && string(rest) != " bye" {
		err = errors.New("the other end is not heard out")
	}
	if err != nil {
		return fmt.Errorf("last word %q: %w", rest, err)
	}
	return nil
}

// reliability.md, 20: 10,000 port-forwards, some ended in good order, some broken
// off, leave nothing behind.
func TestManyShortStreamsLeaveNothingBehind(t *testing.T) {
	all := startReplicas(t, "a", "b")
	all[0].dial(t, agentID(1), "cookie")
	all[1].knows(t, agentID(1), "a")
	ctx := t.Context()
	burst := func(n int) {
		var wg sync.WaitGroup
		defer wg.Wait()
		for worker := range 20 {
			wg.Go(func() {
				for i := range n / 20 {
					r := all[(worker+i)%2]
					if i%3 != 0 {
						if err := talk(ctx, r, "x"); err != nil {
							t.Errorf("through %s: %v", r.id, err)
						}
						continue
					}
					stream, err := r.upgrade(ctx, "cookie")
					if err != nil {
						t.Errorf("through %s: %v", r.id, err)
						continue
					}
					if _, err := io.WriteString(stream, strings.Repeat("x", 1<<10)); err != nil {
						t.Errorf("through %s: %v", r.id, err)
					}
					_ = stream.Close() // the echo is under way
				}
			})
		}
	}
	burst(200) // what is made once is there
	idle := func() bool {
		return all[0].metrics.streams.Load()+all[1].metrics.streams.Load()+all[0].metrics.spliced.Load() == 0
	}
	eventually(t, "no stream is left", idle)
	goroutines, files := runtime.NumGoroutine(), descriptors(t)
	burst(10_000)
	eventually(t, "no stream is left", idle)
	eventually(t, fmt.Sprintf("%d goroutines are left, as at the start", goroutines), func() bool { return runtime.NumGoroutine() <= goroutines+5 })
	if now := descriptors(t); now > files+5 {
		t.Errorf("%d files are open, %d at the start", now, files)
	}
	all[0].mu.RLock()
	defer all[0].mu.RUnlock()
	for _, r := range all[0].routes.kubes["cookie"].routes {
		if n := r.active.Load(); n != 0 {
			t.Errorf("%d requests still count as under way", n)
		}
	}
	if n := all[0].own[agentID(1)].tunnels[0].waiting.Load(); n != 0 {
		t.Errorf("%d requests still count as waiting", n)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	if runtime.GOOS != "linux" {
		return 0
	}
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

// The replica that carries the tunnel is gone without a word; the agent has another.
func TestTheNextRequestWorksWhenAReplicaIsKilled(t *testing.T) {
	all := startReplicas(t, "a", "b", "c")
	all[0].dial(t, agentID(1), "cookie")
	all[1].dial(t, agentID(1), "cookie")
	c := all[2]
	c.knows(t, agentID(1), "a")
	c.knows(t, agentID(1), "b")
	for range 20 { // streams to both are in the pool
		c.get(t, "cookie", "/")
	}
	all[0].stop()
	start := time.Now()
	for range 20 {
		c.get(t, "cookie", "/")
	}
	if took := time.Since(start); took > 5*time.Second { // it takes milliseconds, but the machine may be busy
		t.Errorf("20 requests took %v", took)
	}
	eventually(t, "the killed replica's table is forgotten", func() bool { return len(c.Replicas()[agentID(1)]) == 1 })
	if status := c.Statuses()["cookie"]; status.Agents != 1 {
		t.Errorf("agents: %d, want 1", status.Agents)
	}
}

func TestATableDiesWithItsLinkAndARestartedPeerIsAnother(t *testing.T) {
	all := startReplicas(t, "a", "b")
	a, b := all[0], all[1]
	b.dial(t, agentID(1), "cookie")
	a.knows(t, agentID(1), "b")
	b.stop()
	eventually(t, "the table died with the link", func() bool { return len(a.Replicas()) == 0 })
	if _, err := a.Target("cookie"); err != nil && !api.IsCode(err, api.CodeUnavailable) {
		t.Errorf("Target: %v", err)
	}
	again := a.all.start(t, "b", nil)
	again.dial(t, agentID(2), "cookie")
	a.knows(t, agentID(2), "b")
	want := map[string][]string{agentID(2): {"b"}}
	if diff := cmp.Diff(want, a.Replicas()); diff != "" {
		t.Errorf("replicas (-want +got):\n%s", diff)
	}
	if got := a.get(t, "cookie", "/"); !strings.HasPrefix(got, "2 ") {
		t.Errorf("answer %q, want agent 2's", got)
	}
}

// A GET that waits on a tunnel that went black is answered over another one, soon.
func TestADeadTunnelIsLeftForAnother(t *testing.T) {
	for _, through := range []int{0, 2} { // by the own tunnel, by one hop
		t.Run(fmt.Sprintf("hops=%d", min(through, 1)), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				all := startPiped(t, "a", "b", "c")
				dead, sound := all[0].dial(t, agentID(1), "cookie"), all[1].dial(t, agentID(1), "cookie")
				r := all[through]
				r.knows(t, agentID(1), "a")
				r.knows(t, agentID(1), "b")
				r.mu.RLock()
				for _, way := range r.routes.kubes["cookie"].routes {
					if way.via() == "b" {
						way.active.Add(100) // so that the other is the first choice
					}
				}
				r.mu.RUnlock()
				r.get(t, "cookie", "/")
				synctest.Wait()
				if dead.requests.Load() != 1 {
					t.Fatal("the tunnel that is to die is not the first choice")
				}
				dead.hole.swallow()
				start := time.Now()
				if got := r.get(t, "cookie", "/"); got != "1 cookie / " {
					t.Fatalf("got %q", got)
				}
				if took := time.Since(start); took > 7*time.Second {
					t.Errorf("the answer took %v", took)
				}
				if n := sound.requests.Load(); n != 1 {
					t.Errorf("the other tunnel saw %d requests", n)
				}
			})
		})
	}
}

func TestADeadTunnelIsFoundWithoutRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := startPiped(t, "a")[0]
		ag := a.dial(t, agentID(1), "cookie")
		synctest.Wait()
		ag.hole.swallow()
		start := time.Now()
		if err := <-ag.served; err == nil {
			t.Error("ServeAgent gives no reason")
		}
		if took := time.Since(start); took > 20*time.Second { // reliability.md, 17
			t.Errorf("the black hole was found after %v", took)
		}
		if len(a.Replicas()) != 0 {
			t.Errorf("still known: %v", a.Replicas())
		}
	})
}

// countedReader counts what was read of a client's body.
type countedReader struct {
	io.Reader
	n      atomic.Int64
	closed atomic.Int64
}

func (r *countedReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.n.Add(int64(n))
	return n, err
}

func (r *countedReader) Close() error {
	r.closed.Add(1)
	return nil
}

// What may have been carried out is not sent twice.
func TestABodyIsNotRepeatedOnceBytesWereSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := startPiped(t, "a", "b")
		a := all[0]
		dead := a.dial(t, agentID(1), "cookie")
		other := all[1].dial(t, agentID(1), "cookie")
		a.knows(t, agentID(1), "b")
		synctest.Wait()
		dead.hole.swallow()
		body := &countedReader{Reader: strings.NewReader("create it")}
		_, err := a.request(t.Context(), http.MethodPost, "cookie", "/", body)
		if !api.IsCode(err, api.CodeAmbiguous) {
			t.Errorf("%v, want ambiguous", err)
		}
		if n := other.requests.Load(); n != 0 {
			t.Errorf("the request was sent again, %d times", n)
		}
		synctest.Wait()
		if body.closed.Load() != 1 {
			t.Errorf("the body was closed %d times", body.closed.Load())
		}
	})
}

func TestAnUpgradeIsNotRepeatedOnceSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := startPiped(t, "a", "b")
		a := all[0]
		dead := a.dial(t, agentID(1), "cookie")
		other := all[1].dial(t, agentID(1), "cookie")
		a.knows(t, agentID(1), "b")
		synctest.Wait()
		dead.hole.swallow()
		if _, err := a.upgrade(t.Context(), "cookie"); !api.IsCode(err, api.CodeAmbiguous) {
			t.Errorf("%v, want ambiguous", err)
		}
		if n := other.requests.Load(); n != 0 {
			t.Errorf("the command was started again, %d times", n)
		}
	})
}

// A tunnel that is gone before anything was sent is nobody's business: a body goes
// to the next one. The peer's table may be behind the truth for a moment.
func TestABodyGoesToTheNextTunnelWhileNothingWasSent(t *testing.T) {
	all := startReplicas(t, "a", "b")
	a, b := all[0], all[1]
	b.dial(t, agentID(1), "cookie")
	a.knows(t, agentID(1), "b")
	// Agents that the peer's table names and that it does not hold (any more).
	a.mu.Lock()
	l := a.peers.links["b"]
	for i := range 3 {
		r := &route{t: a.Tunnels, agent: agentID(10 + i), link: l}
		a.routes.set(r, []clusterStatus{{Name: "cookie"}})
	}
	a.mu.Unlock()
	for range 20 {
		body := &countedReader{Reader: strings.NewReader("create it")}
		res, err := a.request(t.Context(), http.MethodPost, "cookie", "/", body)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || string(got) != "1 cookie / create it" {
			t.Fatalf("got %q, %v", got, err)
		}
		eventually(t, "the body is closed once", func() bool { return body.closed.Load() == 1 })
	}
}

func TestALongAnswerThatIsNotReadSlowsNothingElse(t *testing.T) {
	all := startReplicas(t, "a", "b")
	ag := all[0].connect(t, agentID(1))
	begun := make(chan struct{}, 2)
	ag.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/log" {
			ag.answer(w, r)
			return
		}
		piece := bytes.Repeat([]byte("log line\n"), 4<<10)
		begun <- struct{}{}
		for {
			if _, err := w.Write(piece); err != nil {
				return
			}
		}
	})
	ag.hello(t, "cookie")
	ag.hear(t, "welcome", isWelcome)
	ag.serve(t)
	for _, r := range all {
		r.knows(t, agentID(1), "a")
		ctx, cancel := context.WithCancel(t.Context())
		res, err := r.request(ctx, http.MethodGet, "cookie", "/log", nil)
		if err != nil {
			t.Fatal(err)
		}
		<-begun
		for range 50 {
			r.get(t, "cookie", "/")
		}
		cancel()
		_ = res.Body.Close()
	}
}

func TestAgentsOfOneClusterShareLoad(t *testing.T) {
	all := startReplicas(t, "a", "b")
	ag1, ag2 := all[0].dial(t, agentID(1), "cookie"), all[0].dial(t, agentID(2), "cookie")
	for _, r := range all {
		r.knows(t, agentID(1), "a")
		r.knows(t, agentID(2), "a")
		var open []io.Closer
		before1, before2 := ag1.requests.Load(), ag2.requests.Load()
		for range 10 {
			stream, err := r.upgrade(t.Context(), "cookie")
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, stream)
		}
		if n1, n2 := ag1.requests.Load()-before1, ag2.requests.Load()-before2; n1 != 5 || n2 != 5 {
			t.Errorf("through %s: %d and %d of 10 streams, want 5 each", r.id, n1, n2)
		}
		for _, c := range open {
			_ = c.Close()
		}
	}
}

func TestAClusterWithoutATunnelIsUnavailableInWords(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	c := &cluster{byID: make(map[string]*replica), pipes: true}
	var clock atomic.Int64
	r := c.start(t, "a", func(o *Options) {
		o.Clock = func() time.Time { return now.Add(time.Duration(clock.Load())) }
		o.LastSeen = func(name string) time.Time {
			if name == "cake" {
				return now.Add(-49 * time.Hour)
			}
			return time.Time{}
		}
	})
	ag := r.dial(t, agentID(1), "cookie")
	ag.close()
	eventually(t, "the tunnel is gone", func() bool { return len(r.Replicas()) == 0 })
	clock.Store(int64(2 * time.Minute))
	for name, want := range map[string]string{
		"cookie": `no agent of Kubernetes cluster "cookie" is connected (last seen 2m ago); look at its pods' logs`,
		"cake":   `no agent of Kubernetes cluster "cake" is connected (last seen 2d ago); look at its pods' logs`,
		"tea":    `no agent of Kubernetes cluster "tea" is connected; look at its pods' logs`,
	} {
		_, err := r.Target(name)
		if !api.IsCode(err, api.CodeUnavailable) || err.Error() != want {
			t.Errorf("%s: %v\nwant %s", name, err, want)
		}
	}
}

// An agent whose only tunnel has just ended is back in a moment: requests wait that long.
func TestARequestWaitsForAnAgentThatComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := startPiped(t, "a")[0]
		ag := a.dial(t, agentID(1), "cookie")
		ag.close()
		synctest.Wait()
		got := make(chan error, 1)
		go func() {
			_, err := a.tryGet("cookie", "/")
			got <- err
		}()
		synctest.Wait()
		a.dial(t, agentID(1), "cookie")
		if err := <-got; err != nil {
			t.Error(err)
		}
	})
	synctest.Test(t, func(t *testing.T) { // and not longer
		a := startPiped(t, "a")[0]
		a.dial(t, agentID(1), "cookie").close()
		synctest.Wait()
		start := time.Now()
		if _, err := a.tryGet("cookie", "/"); !api.IsCode(err, api.CodeUnavailable) {
			t.Errorf("%v, want unavailable", err)
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("the refusal took %v", took)
		}
	})
}

func TestACancelledRequestReturnsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := startPiped(t, "a")[0]
		ag := a.connect(t, agentID(1))
		ag.handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		ag.hello(t, "cookie")
		ag.hear(t, "welcome", isWelcome)
		ag.serve(t)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_, err := a.request(ctx, http.MethodGet, "cookie", "/", nil)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

func TestStatusesSumUpWhatAgentsSay(t *testing.T) {
	all := startReplicas(t, "a", "b")
	a, b := all[0], all[1]
	ag1, ag2 := a.dial(t, agentID(1), "cookie", "cake"), b.dial(t, agentID(2), "cookie")
	now := time.Now().UTC()
	ag1.say(t, wire.Message{Status: &wire.Status{Clusters: []wire.Cluster{
		{Name: "cookie", Health: api.HealthUnhealthy, Reason: "it\x1b[31m may not impersonate " + strings.Repeat("é", 400), Version: "v1.34.1", Checked: now.Add(time.Hour)},
	}}})
	ag2.say(t, wire.Message{Status: &wire.Status{Clusters: []wire.Cluster{{Name: "cookie", Health: "splendid", Version: "v1.34.2", Checked: now}}}})
	for _, r := range all {
		eventually(t, r.id+" knows what the agents said last", func() bool {
			s := r.Statuses()["cookie"]
			return s.Agents == 2 && s.Health == api.HealthUnhealthy && r.Status("cake") == nil
		})
		s := r.Statuses()["cookie"]
		if !strings.HasPrefix(s.Reason, "1 of 2 agents: it [31m may not impersonate éé") || len(s.Reason) > maxReason+20 || s.Version != "v1.34.1" || s.Own {
			t.Errorf("%s: %+v", r.id, s)
		}
		if s.Checked.After(time.Now()) || s.LastSeen.IsZero() {
			t.Errorf("%s: times %v, %v", r.id, s.Checked, s.LastSeen)
		}
		if diff := cmp.Diff(map[string][]string{agentID(1): {"a"}, agentID(2): {"b"}}, r.Replicas()); diff != "" {
			t.Errorf("%s: replicas (-want +got):\n%s", r.id, diff)
		}
	}
	// One of which its API server does not say enough may refuse: that outweighs an agent
	// that does well. One that was not asked yet does not.
	for _, c := range []struct {
		checked time.Time
		want    api.Health
	}{{now, api.HealthUnknown}, {time.Time{}, api.HealthHealthy}} {
		ag1.say(t, wire.Message{Status: &wire.Status{Clusters: []wire.Cluster{{Name: "cookie", Health: api.HealthHealthy, Checked: now}}}})
		ag2.say(t, wire.Message{Status: &wire.Status{Clusters: []wire.Cluster{{Name: "cookie", Health: api.HealthUnknown, Checked: c.checked}}}})
		for _, r := range all {
			eventually(t, r.id+" weighs what is not known", func() bool { return r.Statuses()["cookie"].Health == c.want })
		}
	}
}

func TestChangedTellsOfEveryChange(t *testing.T) {
	a := startPiped(t, "a")[0]
	changed := a.Changed()
	ag := a.dial(t, agentID(1), "cookie")
	<-changed
	changed = a.Changed()
	ag.close()
	<-changed
}
