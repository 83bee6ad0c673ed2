package server

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/upstream"
)

// reviewTime bounds a TokenReview.
const reviewTime = 10 * time.Second

// reviewed is the status of a TokenReview.
type reviewed struct {
	Authenticated bool     `json:"authenticated"`
	Audiences     []string `json:"audiences"`
	Error         string   `json:"error"`
	User          struct {
		Username string `json:"username"`
	} `json:"user"`
}

// tokenReview asks the replica's own cluster whose a service account's token is.
func tokenReview(up upstream.Upstream) func(context.Context, string, []string) (string, error) {
	return func(ctx context.Context, jwt string, audiences []string) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, reviewTime)
		defer cancel()
		review := map[string]any{
			"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
			"spec": map[string]any{"token": jwt, "audiences": audiences},
		}
		var answer struct {
			Status reviewed `json:"status"`
		}
		status, err := up.Call(ctx, http.MethodPost, "/apis/authentication.k8s.io/v1/tokenreviews", review, &answer)
		switch {
		case status == 0:
			return "", api.Errorf(api.CodeUnavailable, "the API server of this replica's Kubernetes cluster can't be asked about the service account: %s", upstream.Why(err))
		case status == http.StatusUnauthorized, status == http.StatusForbidden:
			return "", api.Errorf(api.CodeUnavailable,
				"the replicas may not ask their Kubernetes cluster about service accounts (it answers %d): bind their own service account to the ClusterRole system:auth-delegator", status)
		case errors.Is(err, upstream.ErrNoJSON):
			return "", api.Errorf(api.CodeUnavailable, "the replicas' Kubernetes cluster answers a TokenReview with something that is no JSON: try again")
		case err != nil:
			return "", api.Errorf(api.CodeUnavailable, "the replicas' Kubernetes cluster answers %d to a TokenReview: try again", status)
		}
		return answer.Status.username(audiences)
	}
}

// username is whose the token is, if it is for one of the audiences.
func (r reviewed) username(audiences []string) (string, error) {
	switch {
	case !r.Authenticated && r.Error != "":
		return "", api.Errorf(api.CodeUnauthenticated, "the replicas' Kubernetes cluster does not accept the service account's token: %.200q", r.Error)
	case !r.Authenticated:
		return "", api.Errorf(api.CodeUnauthenticated, "the replicas' Kubernetes cluster does not accept the service account's token: is it of that cluster, and made for the audience %q?", audiences)
	// An API server that does not know audiences says none, and would take a token
	// that was made for itself.
	case !slices.ContainsFunc(r.Audiences, func(a string) bool { return slices.Contains(audiences, a) }):
		return "", api.Errorf(api.CodeUnauthenticated, "the service account's token was not made for the audience %q", audiences)
	case r.User.Username == "":
		return "", errors.New("a TokenReview names nobody")
	}
	return r.User.Username, nil
}
