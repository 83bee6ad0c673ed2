package server

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/seal"
	"github.com/sallyport-dev/sallyport/internal/upstream"
)

// fakeSecrets is what an API server does with the Secrets of the namespace ns.
type fakeSecrets struct {
	mu    sync.Mutex
	data  map[string]map[string]string // by name
	made  int
	deny  int             // answers everything with this status; 0: nothing
	await *sync.WaitGroup // of those who look: nobody is answered before all have; nil: nobody waits
}

func (f *fakeSecrets) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	const all = "/api/v1/namespaces/ns/secrets"
	say := func(status int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	no := func(status int) { say(status, map[string]string{"message": "words of the API server"}) }
	if f.deny != 0 {
		no(f.deny)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	name, ok := strings.CutPrefix(r.URL.Path, all+"/")
	switch {
	case r.Method == http.MethodGet && ok && f.data[name] != nil:
		say(http.StatusOK, map[string]any{"data": f.data[name]})
	case r.Method == http.MethodGet && ok:
		if f.await != nil {
			f.mu.Unlock()
			f.await.Done()
			f.await.Wait()
			f.mu.Lock()
		}
		no(http.StatusNotFound)
	case r.Method == http.MethodPost && r.URL.Path == all:
		var object struct {
			Metadata struct{ Name string }
			Data     map[string]string
		}
		if err := json.NewDecoder(r.Body).Decode(&object); err != nil {
			no(http.StatusBadRequest)
			return
		}
		if f.data[object.Metadata.Name] != nil {
			no(http.StatusConflict)
			return
		}
		f.data[object.Metadata.Name] = object.Data
		f.made++
		say(http.StatusCreated, object)
	default:
		no(http.StatusMethodNotAllowed)
	}
}

func (f *fakeSecrets) start(t *testing.T) *upstream.Upstream {
	t.Helper()
	srv := httptest.NewServer(f)
	t.Cleanup(srv.Close)
	up, err := upstream.New(&rest.Config{Host: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(up.CloseIdle)
	return &up
}

// threats.md, secrets at rest: a second secret would lock out whatever is sealed under the first.
func TestOneOfManyMakesTheClusterSecret(t *testing.T) {
	t.Parallel()
	const n = 10
	f := &fakeSecrets{data: map[string]map[string]string{}, await: &sync.WaitGroup{}}
	f.await.Add(n)
	up := f.start(t)
	var makers atomic.Int32
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			made, ns, err := EnsureSecret(t.Context(), EnsureSecretOptions{Name: "s", Namespace: "ns", up: up})
			if err != nil || ns != "ns" {
				t.Error(ns, err)
			}
			if made {
				makers.Add(1)
			}
		})
	}
	wg.Wait()
	if makers.Load() != 1 || f.made != 1 {
		t.Errorf("%d say that they made it, and it was made %d times", makers.Load(), f.made)
	}
	value, err := base64.StdEncoding.DecodeString(f.data["s"][DefaultSecretKey])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := seal.ParseSecret(value); err != nil {
		t.Error(err)
	}
	if made, _, err := EnsureSecret(t.Context(), EnsureSecretOptions{Name: "s", Namespace: "ns", up: up}); made || err != nil {
		t.Error("again:", made, err)
	}
}

func TestASecretThatIsThereIsNeverChanged(t *testing.T) {
	t.Parallel()
	good := base64.StdEncoding.EncodeToString(GenerateSecret())
	for name, c := range map[string]struct {
		data map[string]string
		key  string
		want string // in the error; "": none
	}{
		"a cluster secret":                  {map[string]string{"cluster-secret": good}, "", ""},
		"under another key":                 {map[string]string{"other": good}, "other", ""},
		"without the key":                   {map[string]string{"other": good}, "", `without the key "cluster-secret"; nothing was changed`},
		"empty":                             {map[string]string{}, "", "without the key"},
		"a value that is no cluster secret": {map[string]string{"cluster-secret": base64.StdEncoding.EncodeToString([]byte("hunter2"))}, "", "is no cluster secret: "},
		"an empty value":                    {map[string]string{"cluster-secret": ""}, "", "is no cluster secret: "},
	} {
		t.Run(name, func(t *testing.T) {
			before, _ := json.Marshal(c.data)
			f := &fakeSecrets{data: map[string]map[string]string{"s": c.data}}
			made, _, err := EnsureSecret(t.Context(), EnsureSecretOptions{Name: "s", Namespace: "ns", Key: c.key, up: f.start(t)})
			if made || (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || !api.IsCode(err, api.CodeInvalid)) {
				t.Errorf("made: %v, %v", made, err)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the value is shown: %v", err)
			}
			if after, _ := json.Marshal(f.data["s"]); string(after) != string(before) || f.made != 0 {
				t.Errorf("%s, made %d", after, f.made)
			}
		})
	}
}

func TestWhatAnAPIServerRefusesSaysWhatIsNeeded(t *testing.T) {
	t.Parallel()
	f := &fakeSecrets{deny: http.StatusForbidden}
	_, _, err := EnsureSecret(t.Context(), EnsureSecretOptions{Name: "s", Namespace: "ns", up: f.start(t)})
	if !api.IsCode(err, api.CodeForbidden) || !strings.Contains(err.Error(), "verbs: [get, create]") {
		t.Error(err)
	}
	for flag, o := range map[string]EnsureSecretOptions{
		"--secret: is missing": {}, "--secret: ": {Name: "A b"}, "--key: ": {Name: "s", Key: "a/b"}, "--namespace: ": {Name: "s", Namespace: "a/b"},
	} {
		if _, _, err := EnsureSecret(t.Context(), o); err == nil || !strings.HasPrefix(err.Error(), flag) {
			t.Errorf("%s: %v", flag, err)
		}
	}
}
