package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/upstream"
)

// lookTimeout bounds the look at the Secret that a dial waits for.
const lookTimeout = 3 * time.Second

// SecretStore keeps the identity in a Kubernetes Secret, which is made if it is not
// there. Each pod needs one of its own.
type SecretStore struct {
	upstream.SecretRef

	mu     sync.Mutex
	secret *upstream.Secret // as last read or written; nil: it is not there
	last   []byte           // the state in it
}

// InClusterSecret is a Secret in the pod's own namespace.
func InClusterSecret(namespace, name string) (*SecretStore, error) {
	up, _, err := inClusterUpstream()
	if err != nil {
		return nil, err
	}
	return &SecretStore{SecretRef: upstream.SecretRef{Upstream: up, Namespace: namespace, Name: name, Verbs: []string{"get", "create", "update"}}}, nil
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
	secret, err := s.Read(ctx)
	if err != nil {
		return State{}, false, err
	}
	there, _ := secret.Value(stateFile)
	if bytes.Equal(there, s.last) {
		return State{}, false, nil
	}
	if len(there) == 0 {
		return State{}, true, nil
	}
	state, err := decodeState(there)
	return state, true, err
}

// read fetches the Secret.
func (s *SecretStore) read(ctx context.Context) error {
	secret, err := s.Read(ctx)
	if err != nil {
		return err
	}
	s.secret = secret
	s.last, _ = secret.Value(stateFile)
	return nil
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
		if !errors.Is(err, upstream.ErrSecretChanged) {
			return err
		}
		secret, ours := s.secret, s.last
		if err := s.read(ctx); err != nil {
			return err
		}
		switch {
		case bytes.Equal(s.last, b):
			return nil // an earlier attempt, of which the answer was lost
		case len(s.last) > 0 && !bytes.Equal(s.last, ours):
			s.secret, s.last = secret, ours // so that the next Save fails, too
			return fmt.Errorf("%s: %w", s, ErrForeign)
		}
	}
	return err
}

// write puts the state into the Secret as it was last seen.
func (s *SecretStore) write(ctx context.Context, b []byte) error {
	var saved *upstream.Secret
	var err error
	if s.secret == nil {
		saved, err = s.Create(ctx, "sallyport-agent", stateFile, b)
	} else {
		saved, err = s.Set(ctx, s.secret, stateFile, b)
	}
	if err != nil {
		return err
	}
	s.secret, s.last = saved, b
	return nil
}
