package server

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

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

const serviceAccountDir = "/var/run/secrets/kubernetes.io/serviceaccount"

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
	ref := upstream.SecretRef{Upstream: *o.up, Namespace: o.Namespace, Name: o.Name, Verbs: []string{"get", "create"}}
	for range 3 { // somebody may make it and delete it again
		there, err := ref.Read(ctx)
		if err != nil {
			return false, err
		}
		if there != nil {
			return false, o.check(ref, there)
		}
		_, err = ref.Create(ctx, "sallyport", o.Key, GenerateSecret())
		if !errors.Is(err, upstream.ErrSecretChanged) {
			return err == nil, err
		}
	}
	return false, api.Errorf(api.CodeConflict, "the %s is made and deleted by somebody else all the time", ref)
}

// check says why no replica could start with a Secret.
func (o *EnsureSecretOptions) check(ref upstream.SecretRef, there *upstream.Secret) error {
	const leave = "; nothing was changed, because state may be sealed under what is in it: put the right value there, or, if no replica has ever started with it, delete the Secret"
	value, ok := there.Value(o.Key)
	if !ok {
		return api.Errorf(api.CodeInvalid, "the %s is there, but without the key %q"+leave, ref, o.Key)
	}
	if _, err := seal.ParseSecret(value); err != nil { // which shows nothing of it
		return api.Errorf(api.CodeInvalid, "what the %s has as %q is no cluster secret: %w"+leave, ref, o.Key, err)
	}
	return nil
}
