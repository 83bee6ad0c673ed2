package api

import (
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const testSigning = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func TestForwarderDocumentsAreJudged(t *testing.T) {
	for name, test := range map[string]struct{ spec, path, text string }{
		"the least":              {`{"type":"webhook","endpoint":"https://x"}`, "", ""},
		"all there is":           {`{"type":"webhook","endpoint":"https://x.example.com:8443/in/b","bearer_token":"t","signing_secret":"` + testSigning + `","headers":{"X-A":"b c"},"types":["user.*","T1000W","^a|b$"],"start":"oldest"}`, "", ""},
		"a collector":            {`{"type":"otlp","endpoint":"http://collector:4318/v1/logs","allow_http":true}`, "", ""},
		"no secret":              {`{"type":"otlp","endpoint":"https://x","bearer_token":"none","signing_secret":"none"}`, "", ""},
		"a header to be kept":    {`{"type":"otlp","endpoint":"https://x","headers":{"Authorization":""}}`, "", ""},
		"no type":                {`{"endpoint":"https://x"}`, "spec.type", "want one of webhook, otlp"},
		"another type":           {`{"type":"syslog","endpoint":"https://x"}`, "spec.type", "not known"},
		"no endpoint":            {`{"type":"otlp"}`, "spec.endpoint", "/v1/logs"},
		"http":                   {`{"type":"otlp","endpoint":"http://x"}`, "spec.endpoint", "allow_http: true"},
		"another scheme":         {`{"type":"otlp","endpoint":"ftp://x"}`, "spec.endpoint", "no address"},
		"no host":                {`{"type":"otlp","endpoint":"https:///x"}`, "spec.endpoint", "no address"},
		"a port that is none":    {`{"type":"otlp","endpoint":"https://x:99999/"}`, "spec.endpoint", "no address"},
		"a password":             {`{"type":"otlp","endpoint":"https://u:hunter2@x"}`, "spec.endpoint", "must not hold a user"},
		"a query":                {`{"type":"otlp","endpoint":"https://x/in?key=hunter2"}`, "spec.endpoint", "write one into spec.bearer_token or spec.headers"},
		"an empty query":         {`{"type":"otlp","endpoint":"https://x/in?"}`, "spec.endpoint", "leave out what begins with ?"},
		"a secret and a space":   {`{"type":"otlp","endpoint":"https://x/in?key=hunter2 "}`, "spec.endpoint", "without spaces"},
		"a fragment":             {`{"type":"otlp","endpoint":"https://x/#a"}`, "spec.endpoint", "#"},
		"a space":                {`{"type":"otlp","endpoint":"https://x/a b"}`, "spec.endpoint", "without spaces"},
		"a token with a newline": {`{"type":"otlp","endpoint":"https://x","bearer_token":"hunter2\n"}`, "spec.bearer_token", "line breaks"},
		"a token of two words":   {`{"type":"otlp","endpoint":"https://x","bearer_token":"Bearer hunter2"}`, "spec.bearer_token", "without spaces"},
		"a key for otlp":         {`{"type":"otlp","endpoint":"https://x","signing_secret":"` + testSigning + `"}`, "spec.signing_secret", "no effect"},
		"a key without whsec_":   {`{"type":"webhook","endpoint":"https://x","signing_secret":"hunter2"}`, "spec.signing_secret", "openssl rand"},
		"a short key":            {`{"type":"webhook","endpoint":"https://x","signing_secret":"whsec_aHVudGVyMg=="}`, "spec.signing_secret", "24 to 64 bytes"},
		"a header of ours":       {`{"type":"webhook","endpoint":"https://x","headers":{"webhook-ID":"hunter2"}}`, "spec.headers.webhook-ID", "not yours"},
		"the length":             {`{"type":"webhook","endpoint":"https://x","headers":{"content-length":"1"}}`, "spec.headers.content-length", "not yours"},
		"a header twice":         {`{"type":"webhook","endpoint":"https://x","headers":{"X-A":"hunter2","x-a":"hunter2"}}`, "spec.headers.x-a", "twice"},
		"no header":              {`{"type":"webhook","endpoint":"https://x","headers":{"X A":"hunter2"}}`, "spec.headers", "no name"},
		"a header with a break":  {`{"type":"webhook","endpoint":"https://x","headers":{"X-A":"hunter2\r\nHost: y"}}`, "spec.headers.X-A", "line breaks"},
		"two authorizations":     {`{"type":"webhook","endpoint":"https://x","bearer_token":"hunter2","headers":{"authorization":"hunter2"}}`, "spec.headers.authorization", "bearer_token already"},
		"a CA that is none":      {`{"type":"webhook","endpoint":"https://x","ca_cert":"hunter2"}`, "spec.ca_cert", "want PEM"},
		"a CA that is garbage":   {`{"type":"webhook","endpoint":"https://x","ca_cert":"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}`, "spec.ca_cert", "is no certificate"},
		"an empty pattern":       {`{"type":"webhook","endpoint":"https://x","types":[""]}`, "spec.types[0]", "is empty"},
		"a broken pattern":       {`{"type":"webhook","endpoint":"https://x","types":["a","^($"]}`, "spec.types[1]", "no pattern"},
		"another start":          {`{"type":"webhook","endpoint":"https://x","start":"yesterday"}`, "spec.start", "not known"},
		"an unknown field":       {`{"type":"webhook","endpont":"https://x"}`, "spec.endpont", "did you mean endpoint?"},
	} {
		t.Run(name, func(t *testing.T) {
			doc, err := DecodeDocument([]byte(`{"kind":"audit_forwarder","version":"v1","metadata":{"name":"siem"},"spec":` + test.spec + `}`))
			if test.path == "" {
				if err != nil || doc.(*AuditForwarder).Spec.Start == "" {
					t.Errorf("%+v %v", doc, err)
				}
				return
			}
			field, ok := errors.AsType[*FieldError](err)
			if !ok || field.Path != test.path || !strings.Contains(field.Reason, test.text) || !IsCode(err, CodeInvalid) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%v", err)
			}
		})
	}
	if _, err := DecodeDocument([]byte(`{"kind":"audit_forwarder","version":"v2","metadata":{"name":"siem"},"spec":{"type":"otlp","endpoint":"https://x"}}`)); err == nil || !strings.Contains(err.Error(), "v1") {
		t.Error(err)
	}
}

func TestForwarderSecretsAreTakenAndGiven(t *testing.T) {
	full := func() *AuditForwarder {
		return &AuditForwarder{Spec: AuditForwarderSpec{Type: ForwardWebhook, BearerToken: "t", SigningSecret: "s", Headers: map[string]string{"A": "a", "B": "b"}}}
	}
	doc := full()
	headers := doc.Spec.Headers
	secrets := doc.TakeSecrets()
	want := map[string]string{"spec.bearer_token": "t", "spec.signing_secret": "s", "spec.headers.A": "a", "spec.headers.B": "b"}
	if d := cmp.Diff(want, secrets); d != "" || headers["A"] != "a" {
		t.Error(d, headers)
	}
	if raw, _ := json.Marshal(doc.Spec); string(raw) != `{"type":"webhook","endpoint":"","headers":{"A":"","B":""}}` {
		t.Errorf("%s", raw)
	}
	if doc.MissingHeader() != "spec.headers.A" {
		t.Error(doc.MissingHeader())
	}
	doc.GiveSecrets(secrets)
	if d := cmp.Diff(full(), doc); d != "" || doc.MissingHeader() != "" {
		t.Error(d)
	}
	next := &AuditForwarder{Spec: AuditForwarderSpec{Type: ForwardOTLP, BearerToken: ForwardNoSecret, Headers: map[string]string{"B": "new", "C": ""}}}
	next.GiveSecrets(secrets)
	if d := cmp.Diff(AuditForwarderSpec{Type: ForwardOTLP, Headers: map[string]string{"B": "new", "C": ""}}, next.Spec); d != "" {
		t.Error(d)
	}
}

// FuzzForwarderDocument: what is accepted holds what was judged, and goes through
// taking and giving its secrets unchanged.
func FuzzForwarderDocument(f *testing.F) {
	for _, spec := range []string{
		`{"type":"webhook","endpoint":"https://x.example.com:8443/in/b","bearer_token":"t","signing_secret":"` + testSigning + `","headers":{"X-A":"b c"},"types":["user.*","^a|b$"],"start":"oldest"}`,
		`{"type":"otlp","endpoint":"http://collector:4318/v1/logs","allow_http":true,"headers":{"A":"","a":"x"}}`,
		`{"type":"otlp","endpoint":"https://[::1]:1/%zz","ca_cert":"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}`,
	} {
		f.Add([]byte(`{"kind":"audit_forwarder","version":"v1","metadata":{"name":"siem"},"spec":` + spec + `}`))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		decoded, err := DecodeDocument(b)
		doc, ok := decoded.(*AuditForwarder)
		if err != nil || !ok {
			return
		}
		if strings.ContainsAny(doc.Spec.Endpoint, "?# ") {
			t.Error(doc.Spec.Endpoint)
		}
		if !strings.HasPrefix(strings.ToLower(doc.Spec.Endpoint), "https://") && !doc.Spec.AllowHTTP {
			t.Error(doc.Spec.Endpoint)
		}
		for name, value := range doc.Spec.Headers {
			if strings.ContainsAny(name+value, "\r\n\x00:") && strings.ContainsAny(name, "\r\n\x00: ") || strings.ContainsAny(value, "\r\n\x00") {
				t.Errorf("%q: %q", name, value)
			}
		}
		again := *doc
		again.Spec.Headers = maps.Clone(doc.Spec.Headers)
		secrets := again.TakeSecrets()
		shown, err := json.Marshal(again)
		if err != nil {
			t.Fatal(err)
		}
		back, err := DecodeDocument(shown)
		if err != nil {
			t.Fatalf("what is shown can't be written back: %v", err)
		}
		given := back.(*AuditForwarder)
		given.GiveSecrets(secrets)
		if doc.Spec.BearerToken == ForwardNoSecret || doc.Spec.SigningSecret == ForwardNoSecret {
			return
		}
		if given.Spec.BearerToken != doc.Spec.BearerToken || given.Spec.SigningSecret != doc.Spec.SigningSecret || !maps.Equal(given.Spec.Headers, doc.Spec.Headers) {
			t.Errorf("%+v\n%+v", given.Spec, doc.Spec)
		}
	})
}
