package auth

import (
	"crypto/rand"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/seal"
)

// CheckSecret says whether a cluster secret opens the sealed values of a state,
// before anything is built on that state. The error names the line of the
// secret that is needed.
func CheckSecret(v fsm.View, secret *seal.Secret) error {
	rec, ok := v.Get(keyDataKey)
	if !ok {
		return api.Errorf(api.CodeInvalid, "the state holds no data key: it is not a whole cluster's")
	}
	_, err := seal.Unwrap(secret, rec.Value, rand.Reader)
	return err
}
