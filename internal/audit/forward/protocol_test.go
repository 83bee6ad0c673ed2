package forward

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/pem"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	webhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport-dev/sallyport/internal/api"
)

const signingSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// TestSignatureIsThatOfTheSpecification: the example of standardwebhooks.com.
func TestSignatureIsThatOfTheSpecification(t *testing.T) {
	w, err := newWebhook(webhookDoc(func(d *api.AuditForwarder) { d.Spec.SigningSecret = signingSecret }))
	if err != nil {
		t.Fatal(err)
	}
	got, err := w.key.Sign("msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want || err != nil {
		t.Errorf("%s %v", got, err)
	}
}

func TestWebhookSendsTheLinesAsTheyAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, got := newWorld(), &inbox{}
		w.keeper.put(webhookDoc(func(d *api.AuditForwarder) { d.Spec.SigningSecret = signingSecret }))
		w.journal.add(2, "user.login", "T1000I", `,"x":"\u003c\ud83d ü 1e400"`)
		var bodies [][]byte
		stop := w.lead(t, func(r *http.Request) (*http.Response, error) {
			body, _ := io.ReadAll(r.Body)
			bodies = append(bodies, body)
			key, _ := webhooks.NewWebhook(signingSecret)
			if err := key.Verify(body, r.Header); err != nil {
				t.Error(err)
			}
			if got.ask(r) < 3 {
				return respond(500, "")
			}
			return respond(200, "")
		})
		after(time.Minute)
		stop()
		want := "[" + strings.Join(w.journal.lines, ",") + "]"
		ids, times := map[string]bool{}, map[string]bool{}
		for i, r := range got.asked {
			ids[r.Header.Get("webhook-id")], times[r.Header.Get("webhook-timestamp")] = true, true
			if string(bodies[i]) != want || r.Header.Get("Content-Type") != "application/json" || r.Header.Get("User-Agent") != "sallyport" || r.Method != http.MethodPost {
				t.Errorf("%s %v", bodies[i], r.Header)
			}
		}
		if len(bodies) != 3 || len(ids) != 1 || len(times) != 3 || !strings.HasPrefix(got.asked[0].Header.Get("webhook-id"), "siem_1-2_") {
			t.Errorf("%d requests, %v, %v", len(bodies), ids, times)
		}
	})
}

// flat is a record's attributes.
func flat(r *logs.LogRecord) map[string]any {
	out := map[string]any{}
	for _, a := range r.Attributes {
		switch {
		case a.Value.GetStringValue() != "":
			out[a.Key] = a.Value.GetStringValue()
		case a.Value.GetIntValue() != 0:
			out[a.Key] = a.Value.GetIntValue()
		case a.Value.GetDoubleValue() != 0:
			out[a.Key] = a.Value.GetDoubleValue()
		case a.Value.GetBoolValue():
			out[a.Key] = true
		default:
			out[a.Key] = nil
		}
	}
	return out
}

// readOTLP is what a collector sees.
func readOTLP(t testing.TB, r *http.Request) []*logs.LogRecord {
	zipped, err := gzip.NewReader(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(zipped)
	if err != nil {
		t.Fatal(err)
	}
	var data logs.LogsData
	if err := proto.Unmarshal(body, &data); err != nil {
		t.Fatal(err)
	}
	of := data.ResourceLogs[0]
	if a := of.Resource.Attributes[0]; a.Key != "service.name" || a.Value.GetStringValue() != "sallyport" || r.Header.Get("Content-Type") != "application/x-protobuf" || r.Header.Get("Content-Encoding") != "gzip" {
		t.Errorf("%v %v", of.Resource, r.Header)
	}
	return of.ScopeLogs[0].LogRecords
}

func TestOTLPHasARecordForEachLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.keeper.put(webhookDoc(func(d *api.AuditForwarder) { d.Spec.Type = api.ForwardOTLP }))
		w.journal.add(1, "user.login", "T1000W", `,"success":true,"rate":0.5,"list":["a",{"b":1}],"none":null,"big":12345678901234567890123`)
		w.journal.add(1, "exec", "T3002E", "")
		w.journal.add(1, "exec", "T3002I", "")
		w.journal.lines = append(w.journal.lines, "no JSON \xff")
		var records []*logs.LogRecord
		stop := w.lead(t, func(r *http.Request) (*http.Response, error) {
			records = append(records, readOTLP(t, r)...)
			return respond(200, "")
		})
		after(time.Minute)
		stop()
		if len(records) != 4 {
			t.Fatal(records)
		}
		want := map[string]any{
			"event": "user.login", "code": "T1000W", "time": "2026-11-23T10:00:00Z", "success": true, "rate": 0.5, "list": `["a",{"b":1}]`, "none": nil,
			"big": 12345678901234567890123.0, "number": int64(1), "hash": "00",
		}
		if d := cmp.Diff(want, flat(records[0])); d != "" {
			t.Error(d)
		}
		var severities []string
		for i, r := range records {
			severities = append(severities, r.SeverityText)
			if body := r.Body.GetStringValue(); body != strings.ToValidUTF8(w.journal.lines[i], "\uFFFD") {
				t.Errorf("%q", body)
			}
		}
		if d := cmp.Diff([]string{"WARN", "ERROR", "INFO", ""}, severities); d != "" {
			t.Error(d)
		}
		at := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
		if r := records[0]; r.TimeUnixNano != uint64(at.UnixNano()) || r.EventName != "user.login" || r.SeverityNumber != logs.SeverityNumber_SEVERITY_NUMBER_WARN {
			t.Errorf("%+v", r)
		}
	})
}

// partialSuccess is an ExportLogsServiceResponse.
func partialSuccess(rejected uint64, message string) string {
	in := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), rejected)
	in = protowire.AppendString(protowire.AppendTag(in, 2, protowire.BytesType), message)
	return string(protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), in))
}

// TestWhatACollectorDropsIsSaidAndNotSaidForEver: its answer to the event about it
// would be the reason for the next.
func TestWhatACollectorDropsIsSaidAndNotSaidForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.keeper.journal = w.journal
		w.keeper.put(webhookDoc(func(d *api.AuditForwarder) { d.Spec.Type = api.ForwardOTLP }))
		stop := w.lead(t, func(r *http.Request) (*http.Response, error) {
			return respond(200, partialSuccess(uint64(len(readOTLP(t, r))), "too old\n tok-12345"))
		})
		for range 30 {
			w.journal.logins(10)
			after(time.Second)
		}
		after(time.Hour)
		stop()
		var count uint64
		for _, s := range w.keeper.skips {
			count += s.Count
			if s.Reason != "the receiver took the batch and dropped some of it: too old  [secret]" || s.Quiet {
				t.Errorf("%+v", s)
			}
		}
		c := w.keeper.at("siem")
		// The first event may travel with logins; the last is alone.
		if len(w.keeper.skips) > 3 || count < 300 || c.Skipped != 300+uint64(len(w.keeper.skips)) || c.Number != c.Skipped {
			t.Errorf("%d events about %d lines, %+v", len(w.keeper.skips), count, c)
		}
	})
}

// TestRealReceivers: TLS by an authority of the document, redirects that are not
// followed, and an answer without an end.
func TestRealReceivers(t *testing.T) {
	batch := []event{{1, []byte(`{"number":1}`)}}
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it followed") }))
	defer elsewhere.Close()
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if string(body) != `[{"number":1}]` || err != nil || r.Header.Get("Authorization") != "Bearer tok-12345" {
			t.Errorf("%s %v %v", body, err, r.Header)
		}
		w.WriteHeader(http.StatusAccepted)
	})
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
	})
	mux.HandleFunc("/babble", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		for r.Context().Err() == nil {
			if _, err := w.Write(bytes.Repeat([]byte("no "), 1000)); err != nil {
				return
			}
		}
	})
	srv := httptest.NewUnstartedServer(mux)
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // of handshakes that fail
	srv.StartTLS()
	defer srv.Close()
	plain := httptest.NewServer(mux)
	defer plain.Close()
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))
	host := strings.TrimPrefix(srv.URL, "https://")
	for name, test := range map[string]struct {
		endpoint, ca, want string
		sort               int
	}{
		"taken":                  {endpoint: srv.URL + "/ok", ca: ca},
		"http":                   {endpoint: plain.URL + "/ok"},
		"an unknown authority":   {endpoint: srv.URL + "/ok", want: host + ": its certificate is signed by an authority that the replicas do not know: write that into spec.ca_cert"},
		"a redirect":             {endpoint: srv.URL + "/moved", ca: ca, want: host + " answered 307 Temporary Redirect; it redirects, which is not followed: write the address where it leads into spec.endpoint", sort: ofRefusal},
		"an answer without end":  {endpoint: srv.URL + "/babble", ca: ca, want: host + " answered 400 Bad Request: no no", sort: ofContent},
		"nobody there":           {endpoint: "https://127.0.0.1:1/", want: "127.0.0.1:1: connection refused"},
		"no TLS":                 {endpoint: "https://" + strings.TrimPrefix(plain.URL, "http://"), want: "it does not speak TLS"},
		"a path that is unknown": {endpoint: srv.URL + "/x", ca: ca, want: "check spec.endpoint", sort: ofRefusal},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := newReceiver(webhookDoc(func(d *api.AuditForwarder) { d.Spec.Endpoint, d.Spec.CACert = test.endpoint, test.ca }), Options{Clock: time.Now})
			if err != nil {
				t.Fatal(err)
			}
			defer r.close()
			_, failure := r.send(t.Context(), batch)
			if test.want == "" {
				if failure != nil {
					t.Error(failure.text)
				}
				return
			}
			if failure == nil || !strings.Contains(failure.text, test.want) || failure.sort != test.sort || len(failure.text) > maxShown+200 {
				t.Errorf("%+v", failure)
			}
		})
	}
}

// TestAnswerBeforeTheBatchWasReadIsNoDelivery: what answers before it has read all, such
// as a proxy by its own rules, may have nothing of it.
func TestAnswerBeforeTheBatchWasReadIsNoDelivery(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	over, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			t.Error(err)
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		<-over
	}()
	defer func() { close(over); _ = l.Close(); <-done }()
	r, err := newReceiver(webhookDoc(func(d *api.AuditForwarder) { d.Spec.Endpoint = "http://" + l.Addr().String() + "/" }), Options{Clock: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	// more than the buffers of two sockets hold
	_, failure := r.send(t.Context(), []event{{1, bytes.Repeat([]byte(" "), 64<<20)}})
	if want := l.Addr().String() + " answered 200 before it had read all that was sent"; failure == nil || failure.text != want || failure.sort != ofPassing {
		t.Errorf("%+v", failure)
	}
}

// The same over HTTP/2, where the receiver then resets the stream.
func TestAnswerBeforeTheBatchWasReadOverHTTP2(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Error(r.Proto)
		}
		w.WriteHeader(http.StatusAccepted)
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	r, err := newReceiver(webhookDoc(func(d *api.AuditForwarder) {
		d.Spec.Endpoint = srv.URL
		d.Spec.CACert = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))
	}), Options{Clock: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	_, failure := r.send(t.Context(), []event{{1, bytes.Repeat([]byte(" "), 64<<20)}})
	if failure == nil || failure.sort != ofPassing || !strings.Contains(failure.text, "before it had read") {
		t.Errorf("%+v", failure)
	}
}

// TestLinkLocalAddressesAreNotCalled: threats.md. There, clouds tell machines their
// secrets.
func TestLinkLocalAddressesAreNotCalled(t *testing.T) {
	for _, host := range []string{"169.254.169.254", "[::ffff:169.254.169.254]", "[fe80::1]", "[fe80::a9fe:a9fe%25lo]"} {
		r, err := newReceiver(webhookDoc(func(d *api.AuditForwarder) { d.Spec.Endpoint = "http://" + host + "/latest" }), Options{Clock: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		if _, failure := r.send(t.Context(), []event{{1, []byte(`{}`)}}); failure == nil || !strings.Contains(failure.text, "link-local") {
			t.Errorf("%s: %+v", host, failure)
		}
		r.close()
	}
	for address, good := range map[string]bool{
		"127.0.0.1:80": true, "10.0.0.1:443": true, "[::1]:443": true, "[fd00::1]:443": true, "169.253.0.1:80": true,
		"169.254.0.1:80": false, "[febf::1%eth0]:80": false, "[::ffff:169.254.0.1]:80": false, "": false,
	} {
		if err := dialable("tcp", address, nil); (err == nil) != good {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func TestLongSecretsAreFound(t *testing.T) {
	secret := strings.Repeat("/+ %", 512)
	if !spelt(secret).MatchString("x" + url.QueryEscape(secret)) {
		t.Error("not found")
	}
}

// FuzzOTLPAnswer reads what a collector says.
func FuzzOTLPAnswer(f *testing.F) {
	f.Add([]byte(partialSuccess(3, "too old")))
	f.Add([]byte(partialSuccess(1<<63, "")))
	f.Add([]byte("{}"))
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		if a := (otlp{}).answer(b); a.rejected > 1<<63-1 || len(a.message) > len(b) {
			t.Errorf("%+v", a)
		}
	})
}

// FuzzLogRecord makes records of any line: strangers write much of it.
func FuzzLogRecord(f *testing.F) {
	f.Add([]byte(`{"event":"user.login","code":"T1000I","time":"2026-11-23T10:00:00Z","x":[1,{"y":null}],"n":1e400}`))
	f.Add([]byte(`{"time":"0001-01-01T00:00:00Z","event":1,"code":[]}`))
	f.Add([]byte("\xff{"))
	f.Fuzz(func(t *testing.T, line []byte) {
		if _, err := proto.Marshal(logRecord(line)); err != nil {
			t.Error(err)
		}
		identify(line)
	})
}
