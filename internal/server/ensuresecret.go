package server

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/rest"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/seal"
	"github.com/sallyport-dev/sallyport/internal/upstream"
)

// EnsureSecretOptions say where a cluster secret is to be. Name is needed.
type EnsureSecretOptions struct {
	Name      string // of a Kubernetes Secret
	Namespace string // the pod's
	Key       string // in the Secret; DefaultSecretKey

	up *upstream.Upstream // nil: the pod's API server, as its service account
}

// DefaultSecretKey is where in a Kubernetes Secret a cluster secret is by default.
const DefaultSecretKey = secretFile

const (
	serviceAccountDir = "/var/run/secrets/kubernetes.io/serviceaccount"
	// ensureTime bounds each question to the API server.
	ensureTime = 10 * time.Second
)

// EnsureSecret makes a Kubernetes Secret with a new cluster secret, if there is none of
// that name: made is then true. One that is there is never changed, whatever is in it:
// state may be sealed under what only looks wrong. So it may run any number of times,
// and several at once.
func EnsureSecret(ctx context.Context, o EnsureSecretOptions) (made bool, namespace string, err error) {
	o.Key = cmp.Or(o.Key, DefaultSecretKey)
	switch {
	case o.Name == "":
		return false, "", optionErrorf("secret", "is missing: name the Kubernetes Secret, such as --secret=sallyport-cluster-secret")
	case !api.IsDNSName(o.Name):
		return false, "", optionErrorf("secret", "%q is no name of a Secret: use lower-case letters, digits, - and .", o.Name)
	case strings.ContainsFunc(o.Key, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-_.", r))
	}):
		return false, "", optionErrorf("key", "%q is no key in a Secret: use letters, digits, -, _ and .", o.Key)
	case o.Namespace != "" && (!api.IsDNSName(o.Namespace) || strings.Contains(o.Namespace, ".")):
		return false, "", optionErrorf("namespace", "%q is no name of a namespace", o.Namespace)
	}
	if o.up == nil {
		if o.up, err = podUpstream(); err != nil {
			return false, "", err
		}
		defer o.up.CloseIdle()
	}
	if o.Namespace == "" {
		b, err := os.ReadFile(filepath.Join(serviceAccountDir, "namespace"))
		if err != nil {
			return false, "", optionErrorf("namespace", "is missing, and there is no pod here that has one: %w", err)
		}
		o.Namespace = strings.TrimSpace(string(b))
	}
	made, err = o.ensure(ctx)
	return made, o.Namespace, err
}

func podUpstream() (*upstream.Upstream, error) {
	cfg, err := upstream.InCluster()
	if errors.Is(err, rest.ErrNotInCluster) {
		return nil, api.Errorf(api.CodeInvalid, "this is no pod: run it in one, or make the Secret with 'sallyport secret generate' and 'kubectl create secret generic NAME --from-file=%s=FILE'", DefaultSecretKey)
	}
	if err != nil {
		return nil, api.Errorf(api.CodeInvalid, "the pod's service account: %w", err)
	}
	up, err := upstream.New(cfg)
	return &up, err
}

func (o *EnsureSecretOptions) ensure(ctx context.Context) (made bool, err error) {
	for range 3 { // somebody may make it and delete it again
		there, err := o.look(ctx)
		if there || err != nil {
			return false, err
		}
		made, err := o.create(ctx)
		if made || err != nil {
			return made, err
		}
	}
	return false, api.Errorf(api.CodeConflict, "the Secret %s is made and deleted by somebody else all the time", o)
}

func (o *EnsureSecretOptions) String() string { return o.Namespace + "/" + o.Name }

func (o *EnsureSecretOptions) path() string {
	return "/api/v1/namespaces/" + url.PathEscape(o.Namespace) + "/secrets"
}

// look says whether the Secret is there; it is an error if no replica could start with it.
func (o *EnsureSecretOptions) look(ctx context.Context) (there bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, ensureTime)
	defer cancel()
	var object struct {
		Data map[string]string `json:"data"`
	}
	status, err := o.up.Call(ctx, http.MethodGet, o.path()+"/"+url.PathEscape(o.Name), nil, &object)
	switch {
	case status == http.StatusNotFound:
		return false, nil
	case err != nil:
		return false, o.failed("read", status, err)
	}
	const leave = "; nothing was changed, because state may be sealed under what is in it: put the right value there, or, if no replica has ever started with it, delete the Secret"
	text, ok := object.Data[o.Key]
	if !ok {
		return false, api.Errorf(api.CodeInvalid, "the Secret %s is there, but without the key %q"+leave, o, o.Key)
	}
	value, err := base64.StdEncoding.DecodeString(text)
	if err == nil {
		_, err = seal.ParseSecret(value) // which shows nothing of it
	}
	if err != nil {
		return false, api.Errorf(api.CodeInvalid, "what the Secret %s has as %q is no cluster secret: %w"+leave, o, o.Key, err)
	}
	return true, nil
}

// create makes the Secret; made is false if somebody else was quicker.
func (o *EnsureSecretOptions) create(ctx context.Context) (made bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, ensureTime)
	defer cancel()
	status, err := o.up.Call(ctx, http.MethodPost, o.path(), map[string]any{
		"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
		"metadata": map[string]any{
			"name": o.Name, "namespace": o.Namespace, "labels": map[string]any{"app.kubernetes.io/managed-by": "sallyport"},
		},
		"data": map[string]any{o.Key: base64.StdEncoding.EncodeToString(GenerateSecret())},
	}, nil)
	switch {
	case status == http.StatusConflict:
		return false, nil
	case err != nil:
		return false, o.failed("make", status, err)
	}
	return true, nil
}

// failed says what to do. What may pass by itself has CodeUnavailable.
func (o *EnsureSecretOptions) failed(verb string, status int, err error) error {
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return api.Errorf(api.CodeForbidden, "%s the Secret %s: %w (the pod's service account needs the rights to create secrets in that namespace, and to get this one)", verb, o, err)
	case status == 0 || status == http.StatusTooManyRequests || status >= http.StatusInternalServerError:
		return api.Errorf(api.CodeUnavailable, "%s the Secret %s: %w", verb, o, err)
	}
	return api.Errorf(api.CodeInvalid, "%s the Secret %s: %w", verb, o, err)
}
