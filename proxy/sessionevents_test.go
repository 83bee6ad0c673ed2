package proxy

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/gorilla/websocket"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
)

const (
	sessionStart = api.EventCodeSessionStart
	sessionEnd   = api.EventCodeSessionEnd
	request      = api.EventCodeKubeRequest
)

// exits answers an exec over WebSocket with a Status at once.
func exits(status string) http.HandlerFunc {
	up := websocket.Upgrader{Subprotocols: []string{"v5.channel.k8s.io"}}
	return func(w http.ResponseWriter, r *http.Request) {
		c, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer c.Close()
		_ = c.WriteMessage(websocket.BinaryMessage, []byte("\x03"+status))
		_ = c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(patience))
	}
}

// open asks for an upgraded stream and gives the answer.
func (f *fixture) open(t *testing.T, path string) (*rawConn, *http.Response) {
	t.Helper()
	c := dialRaw(t, f.front)
	c.send("GET "+path+" HTTP/1.1", "Host: sally.example", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol: v5.channel.k8s.io", "")
	return c, c.answer()
}

const execPath = "/api/v1/namespaces/a/pods/b/exec?container=c&tty=true&command=sh&command=-c&command=exit+7"

func TestExecHasBeginExitCodeAndEnd(t *testing.T) {
	for name, tc := range map[string]struct {
		status, code string
		want         map[string]any
	}{
		"success":   {success, api.EventCodeExec, map[string]any{"exitCode": "0"}},
		"exit code": {seven, api.EventCodeExecFailed, map[string]any{"exitCode": "7", "exitError": "command terminated with exit code 7"}},
		"no shell":  {noShell, api.EventCodeExecFailed, map[string]any{"exitError": `OCI runtime exec failed: "sh": not found`}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, exits(tc.status))
			c, res := f.open(t, execPath)
			if res.StatusCode != http.StatusSwitchingProtocols {
				t.Fatal(res.Status)
			}
			_, _ = io.Copy(io.Discard, c.br)
			_ = c.Close()
			eventually(t, "the session has ended", func() bool { return f.handler.inFlight.Load() == 0 })
			if d := cmp.Diff([]string{sessionStart, request, tc.code, sessionEnd}, f.recorder.codes()); d != "" {
				t.Fatal(d)
			}
			start := f.recorder.only(t, sessionStart)
			sid, _ := start.Fields["sid"].(string)
			want := map[string]any{
				"sid": sid, "session_id": "s1", "login": "alice", "proto": "kube", "namespace": "default", "server_id": "r1", "interactive": true, "session_recording": "off",
				"addr.remote": "192.0.2.7:4711", "addr.local": "192.0.2.1:443", "kubernetes_cluster": "prod",
				"kubernetes_users": []string{"alice"}, "kubernetes_groups": []string{"devs", "system:authenticated"},
				"kubernetes_pod_namespace": "a", "kubernetes_pod_name": "b", "kubernetes_container_name": "c", "initial_command": []string{"sh", "-c", "exit 7"},
			}
			if d := cmp.Diff(want, start.Fields); d != "" || len(sid) != 36 || start.User != "alice" {
				t.Errorf("session.start: %s", d)
			}
			if ev := f.recorder.only(t, request); ev.Fields["sid"] != sid || ev.Fields["response_code"] != 101 {
				t.Errorf("kube.request: %+v", ev)
			}
			end := f.recorder.only(t, sessionEnd)
			want["participants"] = []string{"alice"}
			times := cmpopts.IgnoreMapEntries(func(k string, _ any) bool { return k == "session_start" || k == "session_stop" })
			if d := cmp.Diff(want, end.Fields, times); d != "" || end.Fields["session_stop"].(time.Time).Before(end.Fields["session_start"].(time.Time)) {
				t.Errorf("session.end: %s", d)
			}
			delete(want, "participants")
			delete(want, "initial_command")
			want["command"] = "sh -c exit 7"
			for k, v := range tc.want {
				want[k] = v
			}
			if d := cmp.Diff(want, f.recorder.only(t, tc.code).Fields); d != "" {
				t.Errorf("exec: %s", d)
			}
		})
	}
}

func TestOtherStreamsHaveTheirEvents(t *testing.T) {
	for name, tc := range map[string]struct {
		path  string
		codes []string
	}{
		"attach":              {"/api/v1/namespaces/a/pods/b/attach?container=c", []string{sessionStart, request, sessionEnd}},
		"portforward":         {"/api/v1/namespaces/a/pods/b/portforward?ports=80&ports=81", []string{api.EventCodePort, request}},
		"log":                 {"/api/v1/namespaces/a/pods/b/log", []string{sessionStart, request, sessionEnd}},
		"a pod's port":        {"/api/v1/namespaces/a/pods/b:80/proxy/x", []string{sessionStart, request, sessionEnd}},
		"a Service's port":    {"/api/v1/namespaces/a/services/b:80/proxy/x", []string{sessionStart, request, sessionEnd}},
		"an aggregated API's": {"/apis/x.example/v1/namespaces/a/things/b/proxy/x", []string{sessionStart, request, sessionEnd}},
		"a kubelet's other":   {"/api/v1/nodes/n1/proxy/x", []string{sessionStart, request, sessionEnd}},
		"a machine's console": {"/apis/subresources.kubevirt.io/v1/namespaces/a/virtualmachineinstances/b/portforward", []string{api.EventCodePort, request}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, echoServer)
			c, res := f.open(t, tc.path)
			if res.StatusCode != http.StatusSwitchingProtocols {
				t.Fatal(res.Status)
			}
			_ = c.Close()
			eventually(t, "the stream has ended", func() bool { return f.handler.inFlight.Load() == 0 })
			if d := cmp.Diff(tc.codes, f.recorder.codes()); d != "" {
				t.Fatal(d)
			}
			ev := f.recorder.only(t, tc.codes[0])
			switch name {
			case "a pod's port", "a Service's port", "an aggregated API's", "a kubelet's other", "log":
				if ev.Fields["upgrade"] != "websocket" || ev.Fields["request_path"] != tc.path || ev.Fields["interactive"] != nil {
					t.Errorf("%+v", ev)
				}
			case "portforward":
				if d := cmp.Diff([]string{"80", "81"}, ev.Fields["ports"]); d != "" || ev.Fields["kubernetes_pod_name"] != "b" {
					t.Errorf("%+v", ev)
				}
			case "a machine's console":
				if ev.Fields["resource_kind"] != "virtualmachineinstances/portforward" || ev.Fields["kubernetes_pod_name"] != nil {
					t.Errorf("%+v", ev)
				}
			}
		})
	}
}

const kubeletExec = "/api/v1/nodes/n1/proxy/exec/a/b/c?command=sh&command=-c&command=exit+7&tty=1"

// A kubelet's own API starts processes as well as the API server's: its sessions are
// told as those, with pod and container from the path.
func TestSessionsByAKubeletsOwnAPI(t *testing.T) {
	type fields = map[string]any
	pod := fields{"kubernetes_pod_namespace": "a", "kubernetes_pod_name": "b", "kubernetes_container_name": "c"}
	for path, tc := range map[string]struct {
		codes []string
		want  fields
	}{
		kubeletExec: {
			[]string{sessionStart, request, api.EventCodeExecFailed, sessionEnd},
			fields{"initial_command": []string{"sh", "-c", "exit 7"}, "interactive": true},
		},
		"/api/v1/nodes/n1/proxy/exec/a/b/8a7f-uid/c?command=sh": {
			[]string{sessionStart, request, api.EventCodeExecFailed, sessionEnd},
			fields{"initial_command": []string{"sh"}, "interactive": false},
		},
		"/api/v1/nodes/n1/proxy/attach/a/b/c": {[]string{sessionStart, request, sessionEnd}, fields{"interactive": false}},
		"/api/v1/nodes/n1/proxy/portForward/a/b?port=80": {
			[]string{api.EventCodePort, request}, fields{"ports": []string{"80"}, "kubernetes_container_name": nil},
		},
		"/api/v1/nodes/n1/proxy/cri/exec/token?command=sh": {
			[]string{sessionStart, request, api.EventCodeExecFailed, sessionEnd},
			fields{"kubernetes_pod_namespace": nil, "kubernetes_pod_name": nil, "kubernetes_container_name": nil},
		},
	} {
		t.Run(path, func(t *testing.T) {
			f := newFixture(t, exits(seven))
			c, res := f.open(t, path)
			if res.StatusCode != http.StatusSwitchingProtocols {
				t.Fatal(res.Status)
			}
			_, _ = io.Copy(io.Discard, c.br)
			_ = c.Close()
			eventually(t, "the session has ended", func() bool { return f.handler.inFlight.Load() == 0 })
			if d := cmp.Diff(tc.codes, f.recorder.codes()); d != "" {
				t.Fatal(d)
			}
			got := f.recorder.only(t, tc.codes[0]).Fields
			want := maps.Clone(pod)
			maps.Copy(want, tc.want)
			target, _, _ := strings.Cut(path, "?")
			maps.Copy(want, fields{"resource_kind": "nodes/proxy", "resource_name": "n1", "request_path": target, "upgrade": "websocket"})
			for k, v := range want {
				if d := cmp.Diff(v, got[k]); d != "" {
					t.Errorf("%s: %s", k, d)
				}
			}
			if tc.codes[0] == sessionStart && f.recorder.only(t, sessionEnd).Fields["sid"] != got["sid"] {
				t.Error("the session has two ids")
			}
		})
	}
}

// A kubelet's run is a command without a stream.
func TestACommandThatAKubeletRunsIsASession(t *testing.T) {
	const path = "/api/v1/nodes/n1/proxy/run/a/b/c"
	for name, tc := range map[string]struct {
		query, contentType string
		status             int // the kubelet's
		codes              []string
		command            []string
	}{
		"success":   {"?cmd=id+-u", "", 200, []string{sessionStart, request, api.EventCodeExec, sessionEnd}, []string{"id", "-u"}},
		"failure":   {"?cmd=false", "", 500, []string{sessionStart, request, api.EventCodeExecFailed, sessionEnd}, []string{"false"}},
		"a body":    {"?cmd=id", "text/plain", 200, []string{sessionStart, request, api.EventCodeExec, sessionEnd}, []string{"id"}},
		"a form":    {"?cmd=id", "application/x-www-form-urlencoded", 0, []string{api.EventCodeKubeRequestRefused, api.EventCodeExecFailed}, nil},
		"two forms": {"?cmd=id", "Multipart/Form-Data; boundary=x", 0, []string{api.EventCodeKubeRequestRefused, api.EventCodeExecFailed}, nil},
		"no type":   {"?cmd=id", "a/b; c", 0, []string{api.EventCodeKubeRequestRefused, api.EventCodeExecFailed}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(tc.status) })
			req := newRequest(t, http.MethodPost, f.front.URL+path+tc.query, strings.NewReader("cmd=reboot"))
			if tc.contentType != "" {
				req.Header.Set("Content-Type", tc.contentType)
			}
			res, _ := f.do(req)
			if want := tc.status; res.StatusCode != want && (want != 0 || res.StatusCode != http.StatusBadRequest) {
				t.Error(res.Status)
			}
			if n := len(f.backend.requests()); tc.status == 0 && n != 0 {
				t.Errorf("the API server got %d requests", n)
			}
			eventually(t, "the session has ended", func() bool { return f.handler.inFlight.Load() == 0 })
			if d := cmp.Diff(tc.codes, f.recorder.codes()); d != "" {
				t.Fatal(d)
			}
			if tc.command == nil {
				return
			}
			start := f.recorder.only(t, sessionStart).Fields
			if d := cmp.Diff(tc.command, start["initial_command"]); d != "" || start["kubernetes_pod_name"] != "b" || start["kubernetes_container_name"] != "c" || start["request_path"] != path {
				t.Errorf("%s %+v", d, start)
			}
		})
	}
}

// FuzzKubeletPath: what is read of a path stands in it.
func FuzzKubeletPath(f *testing.F) {
	for _, path := range []string{"exec/a/b/c", "exec/a/b/uid/c", "portForward/a/b", "cri/attach/x", "run/a", "/", "cri", "logs/x"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		kind, rest := kubeletKind(path)
		s := session{kind: kind}
		s.readPath(rest)
		for _, part := range []string{s.namespace, s.pod, s.container} {
			if strings.Contains(part, "/") || !strings.Contains(path, part) {
				t.Fatalf("%q gave the part %q", path, part)
			}
		}
	})
}

// A client's connection that can't be taken over ends the session that had begun,
// once.
func TestASessionThatComesToNothingEndsOnce(t *testing.T) {
	f := newFixture(t, exits(success))
	f.front = serveTLS(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.handler.ServeHTTP(struct{ http.ResponseWriter }{w}, r) // can't be hijacked
	}), f.conn.Load)
	_, res := f.open(t, execPath)
	if res.StatusCode != http.StatusInternalServerError {
		t.Error(res.Status)
	}
	if d := cmp.Diff([]string{sessionStart, api.EventCodeKubeRequestFailed, api.EventCodeExecFailed, sessionEnd}, f.recorder.codes()); d != "" {
		t.Error(d)
	}
}

// Nobody gets the first byte of a shell of which the log does not know, and no API
// server is asked for it.
func TestASessionsBeginIsDurableBeforeItsFirstByte(t *testing.T) {
	for path, code := range map[string]string{
		execPath:                                           sessionStart,
		"/api/v1/namespaces/a/pods/b/attach":               sessionStart,
		"/api/v1/namespaces/a/pods/b/portforward":          api.EventCodePort,
		"/api/v1/namespaces/a/pods/b/log":                  sessionStart,
		"/api/v1/namespaces/a/pods/b/proxy/x":              sessionStart,
		"/api/v1/namespaces/a/services/b/proxy/x":          sessionStart,
		"/apis/x.example/v1/things/b/proxy":                sessionStart,
		kubeletExec:                                        sessionStart,
		"/api/v1/nodes/n1/proxy/attach/a/b/c":              sessionStart,
		"/api/v1/nodes/n1/proxy/portForward/a/b?port=80":   api.EventCodePort,
		"/api/v1/nodes/n1/proxy/cri/exec/x":                sessionStart,
		"/api/v1/nodes/n1/proxy/run/a/b/c?cmd=id":          sessionStart,
		"/api/v1/nodes/https:n1:10250/proxy/%65xec/a/b/c":  sessionStart,
		"/api/v1/nodes/n1/proxy/whatever/comes/with/later": sessionStart,
	} {
		t.Run(path, func(t *testing.T) {
			f := newFixture(t, echoServer)
			asked, durable := make(chan api.Event, 1), make(chan struct{})
			f.recorder.commit = func(_ context.Context, e api.Event) error {
				asked <- e
				<-durable
				return nil
			}
			c := dialRaw(t, f.front)
			c.send("GET "+path+" HTTP/1.1", "Host: x", "Connection: Upgrade", "Upgrade: websocket", "", "early")
			if ev := <-asked; ev.Code != code {
				t.Errorf("%+v", ev)
			}
			_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			if b, err := c.br.Peek(1); err == nil {
				t.Errorf("the client got %q before", b)
			}
			if n := len(f.backend.requests()); n != 0 {
				t.Errorf("the API server got %d requests before", n)
			}
			close(durable)
			// A timeout ends a TLS connection for good: that the client is answered now
			// shows in the log.
			eventually(t, "the stream begins", func() bool { return len(f.recorder.codes()) >= 2 })
		})
	}
}

func TestASessionThatCantBeRecordedIsRefused(t *testing.T) {
	down := api.Errorf(api.CodeUnavailable, "no leader, and the disk is full")
	for path, codes := range map[string][]string{
		execPath:                                  {api.EventCodeKubeRequestRefused, api.EventCodeExecFailed},
		"/api/v1/namespaces/a/pods/b/attach":      {api.EventCodeKubeRequestRefused},
		"/api/v1/namespaces/a/pods/b/portforward": {api.EventCodeKubeRequestRefused, api.EventCodePortFailed},
		kubeletExec:                               {api.EventCodeKubeRequestRefused, api.EventCodeExecFailed},
		"/api/v1/nodes/n1/proxy/x":                {api.EventCodeKubeRequestRefused},
	} {
		t.Run(path, func(t *testing.T) {
			f := newFixture(t, echoServer)
			f.recorder.commit = func(context.Context, api.Event) error { return down }
			c, res := f.open(t, path)
			body, _ := io.ReadAll(res.Body)
			wantStatus(t, res, string(body), http.StatusServiceUnavailable, "the disk is full; what can't be recorded")
			c.wantClosed()
			if n := len(f.backend.requests()); n != 0 {
				t.Errorf("the API server got %d requests", n)
			}
			if d := cmp.Diff(codes, f.recorder.codes()); d != "" {
				t.Error(d)
			}
			for _, e := range f.recorder.events { // which begin may have got into the log all the same
				if e.Fields["sid"] == nil {
					t.Errorf("%+v names no session", e)
				}
			}
		})
	}
}

// The right may end while the log is waited for.
func TestASessionCutWhileItIsRecordedIsRefused(t *testing.T) {
	f := newFixture(t, echoServer)
	over := api.Errorf(api.CodeForbidden, "role removed")
	f.recorder.commit = func(ctx context.Context, _ api.Event) error {
		f.auth.forbid(over)
		<-ctx.Done()
		return ctx.Err()
	}
	_, res := f.open(t, execPath)
	body, _ := io.ReadAll(res.Body)
	wantStatus(t, res, string(body), http.StatusForbidden, "role removed")
}

func TestRefusedSessionsAreFailures(t *testing.T) {
	f := newFixture(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	for path, code := range map[string]string{execPath: api.EventCodeExecFailed, "/api/v1/namespaces/a/pods/b/portforward": api.EventCodePortFailed} {
		_, res := f.open(t, path)
		if res.StatusCode != http.StatusForbidden {
			t.Fatal(res.Status)
		}
		ev := f.recorder.only(t, code)
		text, _ := ev.Fields["exitError"].(string)
		if portText, ok := ev.Fields["error"].(string); ok {
			text = portText
		}
		if text != "the API server answered 403" {
			t.Errorf("%+v", ev)
		}
	}
	// What had begun has an end; a port-forward is one event.
	want := []string{sessionStart, request, api.EventCodeExecFailed, sessionEnd, api.EventCodePort, request, api.EventCodePortFailed}
	got := f.recorder.codes()
	if len(got) == len(want) && got[0] == api.EventCodePort { // the other path was first
		want = append(want[4:], want[:4]...)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	end, exec := f.recorder.only(t, sessionEnd), f.recorder.only(t, api.EventCodeExecFailed)
	if end.Fields["reason"] != "the API server answered 403" || end.Fields["sid"] != exec.Fields["sid"] {
		t.Errorf("%+v %+v", end, exec)
	}
}

func TestCutStreamsSayWhy(t *testing.T) {
	for kind, start := range liveKinds {
		if kind == "watch without an answer yet" || kind == "upload that stalls" {
			continue // refused, with a Status
		}
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, liveServer)
			wait := start(t, f)
			eventually(t, "the answer has begun", func() bool { return len(f.recorder.codes()) > 0 })
			f.auth.forbid(api.Errorf(api.CodeForbidden, "role removed"))
			_ = wait()
			eventually(t, "the request is over", func() bool { return f.handler.inFlight.Load() == 0 })
			ev := f.recorder.only(t, api.EventCodeClientDisconnect)
			if ev.Event != api.EventClientDisconnect || ev.User != "alice" || ev.Fields["reason"] != "role removed" || ev.Fields["addr.remote"] != "192.0.2.7:4711" || ev.Fields["server_id"] != "r1" {
				t.Errorf("%+v", ev)
			}
			if kind == "exec" {
				end, exec := f.recorder.only(t, sessionEnd), f.recorder.only(t, api.EventCodeExecFailed)
				if end.Fields["reason"] != "role removed" || exec.Fields["exitError"] != "role removed" || end.Fields["sid"] != ev.Fields["sid"] {
					t.Errorf("%+v %+v", end, exec)
				}
			}
		})
	}
}

func TestAReplicaThatStopsTakesNoRight(t *testing.T) {
	f := newFixture(t, liveServer)
	wait := liveKinds["exec"](t, f)
	_ = f.handler.Close()
	_ = wait()
	eventually(t, "the stream is over", func() bool { return f.handler.inFlight.Load() == 0 })
	for _, code := range f.recorder.codes() {
		if code == api.EventCodeClientDisconnect {
			t.Error("a stop is told as the end of a right")
		}
	}
	if ev := f.recorder.only(t, sessionEnd); !strings.Contains(ev.Fields["reason"].(string), "stopping") {
		t.Errorf("%+v", ev)
	}
}

// reliability.md, row 28 (fail closed): what can't be recorded is refused, counted, and
// reaches no API server; what runs goes on. An event for each refusal would be what
// keeps the events from the cluster: clients that try again would hold the door shut.
func TestStrictPolicyRefusesNewRequestsOnly(t *testing.T) {
	var failing atomic.Bool
	var counted []auth.Refusal
	f := newFixture(t, echoServer, func(o *Options) {
		o.Refused = func(r auth.Refusal) { counted = append(counted, r) }
		o.Admit = func() error {
			if failing.Load() {
				return errors.New("events have not reached the cluster for 3s")
			}
			return nil
		}
	})
	c := f.upgrade(t, "SPDY/3.1")
	before := len(f.recorder.codes())
	failing.Store(true)
	for _, path := range []string{"/api/v1/pods", "/version", "/api/v1/pods?watch=1"} {
		res, body := f.get(path)
		wantStatus(t, res, body, http.StatusServiceUnavailable, "events have not reached the cluster for 3s")
	}
	want := auth.Refusal{User: "alice", SessionID: "s1", Proto: "kube", Remote: "192.0.2.7:4711", Local: "192.0.2.1:443", Reason: "events have not reached the cluster for 3s", Unaudited: true}
	if d := cmp.Diff([]auth.Refusal{want, want, want}, counted); d != "" {
		t.Error(d)
	}
	if codes := f.recorder.codes()[before:]; len(codes) != 0 {
		t.Errorf("events of their own: %q", codes)
	}
	echo(t, c, "still here")
	if n := len(f.backend.requests()); n != 1 {
		t.Errorf("the API server got %d requests", n)
	}
	failing.Store(false)
	f.upgrade(t, "SPDY/3.1")
}

func TestRefusedCertificatesAreTold(t *testing.T) {
	told := make(chan auth.Refusal, 2)
	f := newFixture(t, nil, func(o *Options) { o.Refused = func(r auth.Refusal) { told <- r } })
	f.auth.deny = api.Errorf(api.CodeForbidden, "no")
	f.get("/api/v1/pods")
	f.auth.deny = api.Errorf(api.CodeUnauthenticated, "the session of user \"alice\" has ended")
	f.get("/api/v1/pods")
	want := auth.Refusal{User: "alice", SessionID: "s1", Proto: "kube", Remote: "192.0.2.7:4711", Local: "192.0.2.1:443", Reason: "the session of user \"alice\" has ended"}
	if d := cmp.Diff(want, <-told); d != "" {
		t.Error(d)
	}
	for _, info := range []*ConnInfo{
		{Addr: "192.0.2.8:1", LocalAddr: "192.0.2.1:443"}, // without any: nobody is to blame
		{Refused: api.Errorf(api.CodeUnauthenticated, "the certificate has expired"), Addr: "192.0.2.8:1", LocalAddr: "192.0.2.1:443"},
	} {
		f.conn.Store(info)
		f.front = serveTLS(t, f.handler, f.conn.Load)
		f.get("/api/v1/pods")
	}
	want = auth.Refusal{Proto: "kube", Remote: "192.0.2.8:1", Local: "192.0.2.1:443", Reason: "the certificate has expired"}
	if d := cmp.Diff(want, <-told); d != "" || len(told) != 0 {
		t.Error(d, len(told))
	}
}
