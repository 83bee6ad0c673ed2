package agent

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/upstream"
)

const (
	secretTimeout = 10 * time.Second // of each request of a SecretStore
	lookTimeout   = 3 * time.Second  // of one that a dial waits for
)

// SecretStore keeps the identity in a Kubernetes Secret, which is made if it is not
// there. Each pod needs one of its own.
type SecretStore struct {
	Upstream  upstream.Upstream
	Namespace string
	Name      string

	mu     sync.Mutex
	object map[string]any // as last read or written; nil: it is not there
	last   []byte         // the state in it
}

// InClusterSecret is a Secret in the pod's own namespace.
func InClusterSecret(namespace, name string) (*SecretStore, error) {
	up, _, err := inClusterUpstream()
	if err != nil {
		return nil, err
	}
	return &SecretStore{Upstream: up, Namespace: namespace, Name: name}, nil
}

// CheckSecretName says what can't be the name of a Secret (RFC 1123).
func CheckSecretName(name string) error {
	if !api.IsDNSName(name) {
		return optionErrorf("state-secret", "%q is no name of a Secret: use lower-case letters, digits, - and .", name)
	}
	return nil
}

// Load implements Store.
func (s *SecretStore) Load(ctx context.Context) (State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.read(ctx); err != nil {
		return State{}, err
	}
	if len(s.last) == 0 {
		return State{}, nil
	}
	state, err := decodeState(s.last)
	if err != nil {
		return State{}, fmt.Errorf("the identity in %s: %w", s, err)
	}
	return state, nil
}

// Close closes connections that carry nothing.
func (s *SecretStore) Close() error {
	s.Upstream.CloseIdle()
	return nil
}

// Changed implements sharedStore. It takes nothing over: what differs still stops a Save.
func (s *SecretStore) Changed(ctx context.Context) (State, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	_, there, err := s.get(ctx)
	if err != nil || bytes.Equal(there, s.last) {
		return State{}, false, err
	}
	if len(there) == 0 {
		return State{}, true, nil
	}
	state, err := decodeState(there)
	return state, true, err
}

// read fetches the Secret.
func (s *SecretStore) read(ctx context.Context) error {
	object, state, err := s.get(ctx)
	if err != nil {
		return err
	}
	s.object, s.last = object, state
	return nil
}

// get gives the Secret, nil if it is not there, and the state in it.
func (s *SecretStore) get(ctx context.Context) (object map[string]any, state []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, secretTimeout)
	defer cancel()
	status, err := s.Upstream.Call(ctx, http.MethodGet, s.path(s.Name), nil, &object)
	switch {
	case status == http.StatusNotFound:
		return nil, nil, nil
	case err != nil:
		return nil, nil, s.failed("read", status, err)
	}
	return object, stateOf(object), nil
}

// stateOf is what the Secret holds of ours.
func stateOf(object map[string]any) []byte {
	data, _ := object["data"].(map[string]any)
	text, _ := data[stateFile].(string)
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return []byte(text) // somebody wrote it: decodeState says that it is damaged
	}
	return b
}

// Save implements Store. Others may change labels and the like of the Secret
// meanwhile, but not the state.
func (s *SecretStore) Save(ctx context.Context, state State) error {
	b, err := encodeState(state)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for range 3 {
		err = s.write(ctx, b)
		if !errors.Is(err, errConflict) {
			return err
		}
		object, ours := s.object, s.last
		if err := s.read(ctx); err != nil {
			return err
		}
		switch {
		case bytes.Equal(s.last, b):
			return nil // an earlier attempt, of which the answer was lost
		case len(s.last) > 0 && !bytes.Equal(s.last, ours):
			s.object, s.last = object, ours // so that the next Save fails, too
			return fmt.Errorf("%s: %w", s, ErrForeign)
		}
	}
	return err
}

var errConflict = errors.New("the Secret was changed by somebody else at the same time")

// write puts the state into the Secret as it was last seen.
func (s *SecretStore) write(ctx context.Context, b []byte) error {
	ctx, cancel := context.WithTimeout(ctx, secretTimeout)
	defer cancel()
	method, path := http.MethodPut, s.path(s.Name)
	object := maps.Clone(s.object) // but for what is replaced below, nothing in it changes
	if object == nil {
		method, path = http.MethodPost, s.path("")
		object = map[string]any{
			"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
			"metadata": map[string]any{
				"name": s.Name, "namespace": s.Namespace,
				"labels": map[string]any{"app.kubernetes.io/managed-by": "sallyport-agent"},
			},
		}
	}
	data, _ := object["data"].(map[string]any)
	if data = maps.Clone(data); data == nil {
		data = map[string]any{}
	}
	data[stateFile] = base64.StdEncoding.EncodeToString(b)
	object["data"] = data
	var saved map[string]any
	status, err := s.Upstream.Call(ctx, method, path, object, &saved)
	switch {
	case status == http.StatusConflict, status == http.StatusNotFound && method == http.MethodPut:
		return errConflict // made, changed or deleted meanwhile: look again
	case err != nil:
		return s.failed("write", status, err)
	}
	s.object, s.last = saved, b
	return nil
}

// failed says what to do. What may pass by itself has CodeUnavailable.
func (s *SecretStore) failed(verb string, status int, err error) error {
	if status == 0 || status == http.StatusTooManyRequests || status >= http.StatusInternalServerError {
		return api.Errorf(api.CodeUnavailable, "%s the %s: %w", verb, s, err)
	}
	return api.Errorf(api.CodeForbidden, "%s the %s: %w (its service account needs the rights get, create and update on secrets in its namespace)", verb, s, err)
}

func (s *SecretStore) path(name string) string {
	p := "/api/v1/namespaces/" + url.PathEscape(s.Namespace) + "/secrets"
	if name != "" {
		p += "/" + url.PathEscape(name)
	}
	return p
}

func (s *SecretStore) String() string { return "Secret " + s.Namespace + "/" + s.Name }
