package upstream

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// secretTimeout bounds each request for a Secret.
const secretTimeout = 10 * time.Second

// ErrSecretChanged is what Create and Set of a SecretRef give where the Secret is not as
// it was read: whoever wants to write it reads it again.
var ErrSecretChanged = errors.New("the Secret was made, changed or deleted by somebody else at the same time")

// SecretRef is the way to one Kubernetes Secret, by our own credentials.
type SecretRef struct {
	Upstream        Upstream
	Namespace, Name string
	Verbs           []string // all that is done with it: get, create, update. For those who lack a right
}

// Secret is what the API server has under a SecretRef.
type Secret struct{ object map[string]any } // whole: what is not ours is written as it was

// Value is what the Secret holds under a key. A nil Secret holds nothing.
func (s *Secret) Value(key string) (value []byte, ok bool) {
	if s == nil {
		return nil, false
	}
	data, _ := s.object["data"].(map[string]any)
	text, ok := data[key].(string)
	value, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return []byte(text), ok // no API server stores that: whoever reads it says that it is damaged
	}
	return value, ok
}

// Read gives the Secret, or nil if it is not there.
func (r SecretRef) Read(ctx context.Context) (*Secret, error) {
	s, status, err := r.call(ctx, http.MethodGet, r.Name, nil)
	switch {
	case status == http.StatusNotFound:
		return nil, nil //nolint:nilnil // a nil Secret holds nothing
	case err != nil:
		return nil, r.failed("read", status, err)
	}
	return s, nil
}

// Create makes the Secret, if there is none; manager is who says so in its label.
func (r SecretRef) Create(ctx context.Context, manager, key string, value []byte) (*Secret, error) {
	s, status, err := r.call(ctx, http.MethodPost, "", map[string]any{
		"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
		"metadata": map[string]any{
			"name": r.Name, "namespace": r.Namespace, "labels": map[string]any{"app.kubernetes.io/managed-by": manager},
		},
		"data": map[string]any{key: base64.StdEncoding.EncodeToString(value)},
	})
	switch {
	case status == http.StatusConflict:
		return nil, ErrSecretChanged
	case err != nil:
		return nil, r.failed("make", status, err)
	}
	return s, nil
}

// Set puts a value into the Secret, if it is still as it was read: its resourceVersion
// goes with it. All else in it stays.
func (r SecretRef) Set(ctx context.Context, was *Secret, key string, value []byte) (*Secret, error) {
	object := maps.Clone(was.object)
	data, _ := object["data"].(map[string]any)
	if data = maps.Clone(data); data == nil {
		data = map[string]any{}
	}
	data[key] = base64.StdEncoding.EncodeToString(value)
	object["data"] = data
	s, status, err := r.call(ctx, http.MethodPut, r.Name, object)
	switch {
	case status == http.StatusConflict, status == http.StatusNotFound:
		return nil, ErrSecretChanged
	case err != nil:
		return nil, r.failed("write", status, err)
	}
	return s, nil
}

func (r SecretRef) call(ctx context.Context, method, name string, in any) (_ *Secret, status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, secretTimeout)
	defer cancel()
	path := "/api/v1/namespaces/" + url.PathEscape(r.Namespace) + "/secrets"
	if name != "" {
		path += "/" + url.PathEscape(name)
	}
	var s Secret
	status, err = r.Upstream.Call(ctx, method, path, in, &s.object)
	if err == nil && s.object == nil {
		err = fmt.Errorf("the API server at %s: no object: %w", r.Upstream.URL.Host, ErrNoJSON)
	}
	return &s, status, err
}

// failed says what to do. What may pass by itself has CodeUnavailable.
func (r SecretRef) failed(verb string, status int, err error) error {
	switch {
	case status == 0 || status == http.StatusTooManyRequests || status >= http.StatusInternalServerError:
		return api.Errorf(api.CodeUnavailable, "%s the %s: %w", verb, r, err)
	case status == http.StatusUnauthorized:
		return api.Errorf(api.CodeForbidden, "%s the %s: %w (the API server does not know the pod's service account, or not any more: look whether it is there, and make the pod anew)", verb, r, err)
	case status == http.StatusForbidden: // by RBAC, or by a quota or a webhook, which say so
		return api.Errorf(api.CodeForbidden, `%s the %s: %w (where it is a right that is missing: the pod's service account needs a Role in the namespace %q with the rule {apiGroups: [""], resources: [secrets], verbs: [%s]})`,
			verb, r, err, r.Namespace, strings.Join(r.Verbs, ", "))
	}
	return api.Errorf(api.CodeInvalid, "%s the %s: %w", verb, r, err)
}

func (r SecretRef) String() string { return "Secret " + r.Namespace + "/" + r.Name }
