package proxy

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// misdirectedError is a request for another cluster than its connection's (421).
type misdirectedError struct{ kube, named string }

func (e *misdirectedError) Error() string {
	return fmt.Sprintf("this connection is for the Kubernetes cluster %q, the request names %q: send it on a connection of its own", e.kube, e.named)
}

// gatewayError is a failure of, or on the way to, an API server (502).
type gatewayError struct {
	message string
	cause   error
}

func (e *gatewayError) Error() string { return e.message }
func (e *gatewayError) Unwrap() error { return e.cause }

// unreachable puts a transport's error in words that name no inner address: those
// are for the log.
func unreachable(kube string, err error) error {
	why := "the connection failed"
	var certErr *x509.UnknownAuthorityError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		why = "connection refused"
	case errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || isTimeout(err):
		why = "timeout"
	case errors.As(err, &certErr) || strings.Contains(err.Error(), "x509:"):
		why = "its certificate is not trusted"
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		why = "its name does not resolve"
		if dns.IsTimeout {
			why = "its name resolves too slowly"
		}
	}
	return &gatewayError{
		message: fmt.Sprintf("the API server of the Kubernetes cluster %q can't be reached: %s; the log of this replica says more", kube, why),
		cause:   err,
	}
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// statusOf is the HTTP status, the Kubernetes reason and the text of an error.
func statusOf(err error) (int, metav1.StatusReason, string) {
	if e, ok := errors.AsType[*misdirectedError](err); ok {
		return http.StatusMisdirectedRequest, "MisdirectedRequest", e.Error()
	}
	if e, ok := errors.AsType[*gatewayError](err); ok {
		return http.StatusBadGateway, "BadGateway", e.Error()
	}
	e, ok := errors.AsType[*api.Error](err)
	if !ok {
		return http.StatusInternalServerError, metav1.StatusReasonInternalError, "internal error, see the log of the replica"
	}
	return e.Code.HTTPStatus(), reasonOf(e.Code), e.Message
}

func reasonOf(code api.Code) metav1.StatusReason {
	switch code {
	case api.CodeInvalid:
		return metav1.StatusReasonBadRequest
	case api.CodeUnauthenticated:
		return metav1.StatusReasonUnauthorized
	case api.CodeForbidden:
		return metav1.StatusReasonForbidden
	case api.CodeNotFound:
		return metav1.StatusReasonNotFound
	case api.CodeExists:
		return metav1.StatusReasonAlreadyExists
	case api.CodeConflict:
		return metav1.StatusReasonConflict
	case api.CodeTooLarge:
		return metav1.StatusReasonRequestEntityTooLarge
	case api.CodeRateLimited:
		return metav1.StatusReasonTooManyRequests
	case api.CodeUnavailable:
		return metav1.StatusReasonServiceUnavailable
	case api.CodeAmbiguous:
		return metav1.StatusReasonTimeout
	case api.CodeInternal:
		return metav1.StatusReasonInternalError
	default:
		return metav1.StatusReasonInternalError
	}
}

// retryAfter is, in seconds, when whoever has too much under way may try again.
// client-go does so by itself, a few times.
const retryAfter = 1

func newStatus(code int, reason metav1.StatusReason, message string) *metav1.Status {
	var details *metav1.StatusDetails
	if code == http.StatusTooManyRequests {
		details = &metav1.StatusDetails{RetryAfterSeconds: retryAfter}
	}
	return &metav1.Status{
		Details:  details,
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure,
		Message:  message,
		Reason:   reason,
		Code:     int32(code), //nolint:gosec // an HTTP status has three digits
	}
}

// writeStatus answers with a Kubernetes Status, which kubectl prints.
func writeStatus(w http.ResponseWriter, code int, reason metav1.StatusReason, message string, closing bool) {
	body, err := json.Marshal(newStatus(code, reason, message))
	if err != nil {
		code, body = http.StatusInternalServerError, nil // strings always marshal
	}
	h := w.Header()
	clear(h) // of what an answer that did not come to be has left
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-cache, private")
	h.Set("X-Content-Type-Options", "nosniff")
	if code == http.StatusTooManyRequests {
		h.Set("Retry-After", strconv.Itoa(retryAfter))
	}
	if closing {
		h.Set("Connection", "close")
	}
	w.WriteHeader(code)
	_, _ = w.Write(body) // the client is gone: nobody to tell
}

// beginning answers a refusal of one of the two requests by which kubectl begins
// (it reads discovery raw, by rest.Result.Raw) so that kubectl shows our words:
// of a Status it would make "Forbidden: unknown". It shows text, and the text of
// a 403 or of a 5xx other than 503 and 504 alone; of a 404, say, it makes "the
// server could not find the requested resource". So whoever may not know whether
// there is such a cluster is forbidden it, and a replica that can't serve is a
// bad gateway. 401 stays: it makes client-go ask for new credentials.
func beginning(status int, path string) (code int, text bool) {
	if path != "/api" && path != "/apis" {
		return status, false
	}
	switch status {
	case http.StatusForbidden, http.StatusNotFound:
		return http.StatusForbidden, true
	case http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return http.StatusBadGateway, true
	}
	return status, false
}

// writeText answers with the message alone.
func writeText(w http.ResponseWriter, code int, message string, closing bool) {
	h := w.Header()
	clear(h)
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(message)))
	h.Set("Cache-Control", "no-cache, private")
	h.Set("X-Content-Type-Options", "nosniff")
	if closing {
		h.Set("Connection", "close")
	}
	w.WriteHeader(code)
	_, _ = io.WriteString(w, message) // the client is gone: nobody to tell
}
