package agent

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/upstream"
)

// someIdentity is one that a fake cluster gave.
func someIdentity(t *testing.T) *Identity {
	t.Helper()
	f := newFake(t, "r1")
	id, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	public, err := id.publicKey()
	if err != nil {
		t.Fatal(err)
	}
	res, err := f.join(api.JoinRequest{Token: testToken, PublicKey: public, KubeClusters: []string{"cookie"}})
	if err != nil {
		t.Fatal(err)
	}
	id.AgentID, id.ClusterName, id.Generation, id.Cert, id.HostSigners, id.KubeClusters = res.AgentID, res.ClusterName, res.Generation, res.Cert, res.HostSigners, []string{"cookie"}
	return id
}

// fakeSecrets is an API server that knows Secrets.
type fakeSecrets struct {
	mu      sync.Mutex
	objects map[string]map[string]any
	version int
	fail    int                     // status of all answers
	lose    string                  // the next request of this method is done, but its answer is lost
	losing  func(state []byte) bool // whether the answer to a write of a state is
	frozen  bool                    // writes fail
	asked   int
	flooded func() // told of the thousandth request
}

func (s *fakeSecrets) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name, ok := strings.CutPrefix(r.URL.Path, "/api/v1/namespaces/agents/secrets")
	name = strings.TrimPrefix(name, "/")
	refuse := func(code int) {
		w.WriteHeader(code)
		fmt.Fprintf(w, `{"kind":"Status","message":"%s refused"}`, r.Method)
	}
	if s.asked++; s.asked == 1000 && s.flooded != nil {
		s.flooded()
	}
	if !ok || s.fail != 0 {
		refuse(max(s.fail, 400))
		return
	}
	if s.frozen && r.Method != http.MethodGet {
		refuse(http.StatusServiceUnavailable)
		return
	}
	var in map[string]any
	if r.Method != http.MethodGet {
		b, _ := io.ReadAll(r.Body)
		if err := json.Unmarshal(b, &in); err != nil {
			refuse(400)
			return
		}
	}
	meta, _ := in["metadata"].(map[string]any)
	switch r.Method {
	case http.MethodPost:
		name, _ = meta["name"].(string)
		if s.objects[name] != nil {
			refuse(http.StatusConflict)
			return
		}
	case http.MethodPut:
		if s.objects[name] == nil {
			refuse(http.StatusNotFound)
			return
		}
		if meta["resourceVersion"] != s.objects[name]["metadata"].(map[string]any)["resourceVersion"] {
			refuse(http.StatusConflict)
			return
		}
	default:
		if s.objects[name] == nil {
			refuse(http.StatusNotFound)
			return
		}
		json.NewEncoder(w).Encode(s.objects[name])
		return
	}
	s.version++
	meta["resourceVersion"] = fmt.Sprint(s.version)
	s.objects[name] = in
	if s.losing != nil && s.losing(stateOf(in)) {
		panic(http.ErrAbortHandler)
	}
	if s.lose == r.Method {
		s.lose = ""
		panic(http.ErrAbortHandler)
	}
	json.NewEncoder(w).Encode(in)
}

// stateOf is what a Secret holds of the agent's.
func stateOf(object map[string]any) []byte {
	text, _ := object["data"].(map[string]any)[stateFile].(string)
	b, _ := base64.StdEncoding.DecodeString(text)
	return b
}

// touch is somebody else who changes a Secret.
func (s *fakeSecrets) touch(name string, change func(object map[string]any)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	object := s.objects[name]
	object["metadata"].(map[string]any)["resourceVersion"] = fmt.Sprint(s.version)
	change(object)
}

func secretServer(t *testing.T) (*fakeSecrets, func() *SecretStore) {
	t.Helper()
	s := &fakeSecrets{objects: map[string]map[string]any{}}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	return s, func() *SecretStore {
		return &SecretStore{SecretRef: upstream.SecretRef{Upstream: upstream.Upstream{URL: u, Plain: srv.Client().Transport}, Namespace: "agents", Name: "pod-1-identity", Verbs: []string{"get", "create", "update"}}}
	}
}

// What every Store must do.
func TestStoresKeepTheIdentity(t *testing.T) {
	_, secret := secretServer(t)
	dir := filepath.Join(t.TempDir(), "below", "agent")
	memory := &MemoryStore{}
	for name, open := range map[string]func() Store{
		"directory": func() Store { return &DirStore{Dir: dir} },
		"secret":    func() Store { return secret() },
		"memory":    func() Store { return memory },
	} {
		t.Run(name, func(t *testing.T) {
			id := someIdentity(t)
			key, err := newKey()
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []State{{}, {Next: key}, {Current: id}, {Current: id, Next: key}, {Current: id, Next: id}, {Current: id}} {
				s := open()
				got, err := s.Load(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if want != (State{}) {
					if err := s.Save(t.Context(), want); err != nil {
						t.Fatal(err)
					}
					if err := s.Save(t.Context(), want); err != nil {
						t.Errorf("twice: %v", err)
					}
					closeStore(s)
					s = open()
					if got, err = s.Load(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Error(diff)
				}
				closeStore(s)
			}
		})
	}
}

func closeStore(s Store) {
	if c, ok := s.(io.Closer); ok {
		c.Close()
	}
}

func TestADirectoryIsForItsOwnerAndOneAgent(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "agent")
	s := &DirStore{Dir: dir}
	if _, err := s.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Save(t.Context(), State{Current: someIdentity(t)}); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, s.path(): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	other := &DirStore{Dir: dir}
	if _, err := other.Load(t.Context()); err == nil || !strings.Contains(err.Error(), "in use by another agent: give each its own --data-dir") {
		t.Error(err)
	}
	s.Close()
	if _, err := other.Load(t.Context()); err != nil {
		t.Error(err)
	}
	other.Close()
}

// A state that can't be understood ends it: a guess could lock the identity.
func TestDamagedStates(t *testing.T) {
	id := someIdentity(t)
	good, err := encodeState(State{Current: id})
	if err != nil {
		t.Fatal(err)
	}
	other, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	swapped := *id
	swapped.Key = other.Key
	noCA := *id
	noCA.HostSigners = nil
	for name, b := range map[string][]byte{
		"cut short":           good[:len(good)/2],
		"empty":               {},
		"another format":      []byte(`{"version":2}`),
		"no key":              []byte(`{"version":1,"next":{}}`),
		"another key":         encoded(t, State{Current: &swapped}),
		"no authority":        encoded(t, State{Current: &noCA}),
		"no certificate":      encoded(t, State{Current: other}),
		"half a certificate":  []byte(strings.Replace(string(good), `"cert":"LS0t`, `"cert":"AAAA`, 1)),
		"no cluster":          []byte(strings.Replace(string(good), `"cluster_name":"tele.`, `"cluster_name":"TELE.`, 1)),
		"generation of zero":  []byte(strings.Replace(string(good), `"generation":1`, `"generation":0`, 1)),
		"a damaged authority": []byte(strings.Replace(string(good), `"tls_certs":["LS0t`, `"tls_certs":["AAAA`, 1)),
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, stateFile), b, 0o600); err != nil {
			t.Fatal(err)
		}
		s := &DirStore{Dir: dir}
		if got, err := s.Load(t.Context()); err == nil || !strings.Contains(err.Error(), "remove it") {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		s.Close()
	}
}

func encoded(t *testing.T, s State) []byte {
	t.Helper()
	b, err := encodeState(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestASecretThatOthersChange(t *testing.T) {
	id := someIdentity(t)
	state := State{Current: id}
	t.Run("labels are theirs", func(t *testing.T) {
		server, open := secretServer(t)
		s := open()
		if _, err := s.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.Save(t.Context(), State{Next: &Identity{Key: id.Key}}); err != nil {
			t.Fatal(err)
		}
		server.touch(s.Name, func(o map[string]any) {
			o["metadata"].(map[string]any)["labels"] = map[string]any{"theirs": "x"}
			o["data"].(map[string]any)["other"] = "eA=="
		})
		if err := s.Save(t.Context(), state); err != nil {
			t.Fatal(err)
		}
		o := server.objects[s.Name]
		if o["metadata"].(map[string]any)["labels"].(map[string]any)["theirs"] != "x" || o["data"].(map[string]any)["other"] != "eA==" {
			t.Errorf("%v", o)
		}
	})
	t.Run("the state is ours alone", func(t *testing.T) {
		server, open := secretServer(t)
		s, other := open(), open()
		for _, one := range []*SecretStore{s, other} {
			if _, err := one.Load(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Save(t.Context(), state); err != nil {
			t.Fatal(err)
		}
		if err := other.Save(t.Context(), State{Next: &Identity{Key: id.Key}}); !errors.Is(err, ErrForeign) {
			t.Error(err)
		}
		if got := server.objects[s.Name]["data"].(map[string]any)[stateFile]; got != base64.StdEncoding.EncodeToString(encoded(t, state)) {
			t.Error("it was overwritten")
		}
	})
	t.Run("Helm makes it, empty", func(t *testing.T) {
		for name, late := range map[string]bool{"before the agent starts": false, "while it starts": true} {
			server, open := secretServer(t)
			s := open()
			if late {
				if _, err := s.Load(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			server.objects[s.Name] = map[string]any{"metadata": map[string]any{"resourceVersion": "7", "labels": map[string]any{"theirs": "x"}}}
			if !late {
				if got, err := s.Load(t.Context()); err != nil || got != (State{}) {
					t.Errorf("%s: %+v, %v", name, got, err)
				}
			}
			if err := s.Save(t.Context(), state); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if got, err := open().Load(t.Context()); err != nil || cmp.Diff(state, got) != "" {
				t.Errorf("%s: %v %s", name, err, cmp.Diff(state, got))
			}
			if server.objects[s.Name]["metadata"].(map[string]any)["labels"].(map[string]any)["theirs"] != "x" {
				t.Errorf("%s: %v", name, server.objects[s.Name])
			}
		}
	})
	t.Run("it is deleted", func(t *testing.T) {
		server, open := secretServer(t)
		s := open()
		if err := s.Save(t.Context(), State{Next: &Identity{Key: id.Key}}); err != nil {
			t.Fatal(err)
		}
		server.mu.Lock()
		clear(server.objects)
		server.mu.Unlock()
		if err := s.Save(t.Context(), state); err != nil || server.objects[s.Name] == nil {
			t.Error(err)
		}
	})
	for _, method := range []string{http.MethodPost, http.MethodPut} {
		t.Run("the answer to "+method+" is lost", func(t *testing.T) {
			server, open := secretServer(t)
			s := open()
			if method == http.MethodPut {
				if err := s.Save(t.Context(), State{Next: &Identity{Key: id.Key}}); err != nil {
					t.Fatal(err)
				}
			}
			server.mu.Lock()
			server.lose = method
			server.mu.Unlock()
			if err := s.Save(t.Context(), state); err == nil {
				t.Log("the transport tried again by itself")
			}
			if err := s.Save(t.Context(), state); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("no right to it", func(t *testing.T) {
		server, open := secretServer(t)
		server.fail = http.StatusForbidden
		s := open()
		if _, err := s.Load(t.Context()); err == nil || !strings.Contains(err.Error(), `a Role in the namespace "agents" with the rule {apiGroups: [""], resources: [secrets], verbs: [get, create, update]}`) {
			t.Error(err)
		}
		if err := s.Save(t.Context(), state); err == nil || !strings.Contains(err.Error(), "make the Secret agents/pod-1-identity") {
			t.Error(err)
		}
	})
	t.Run("it is damaged", func(t *testing.T) {
		server, open := secretServer(t)
		s := open()
		if err := s.Save(t.Context(), state); err != nil {
			t.Fatal(err)
		}
		server.touch(s.Name, func(o map[string]any) { o["data"].(map[string]any)[stateFile] = "%%%" })
		if _, err := open().Load(t.Context()); err == nil || !strings.Contains(err.Error(), "the identity in Secret agents/pod-1-identity: it is damaged") {
			t.Error(err)
		}
	})
}

func FuzzDecodeState(f *testing.F) {
	f.Add([]byte(`{"version":1}`))
	f.Add([]byte(`{"version":1,"current":{"key":"LS0t"},"next":{}}`))
	f.Add([]byte(`{"version":1,"next":{"key":"LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0tCi0tLS0tRU5EIFBSSVZBVEUgS0VZLS0tLS0K"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeState(b)
		if err != nil {
			return
		}
		if s.Current != nil {
			if _, err := s.Current.credentials(); err != nil {
				t.Errorf("taken, but of no use: %v", err)
			}
		}
	})
}
