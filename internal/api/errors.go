package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// Code says what kind of failure an Error is. Codes are part of the wire
// format: they are never renamed.
type Code string

// The codes, each with what the caller can do about it.
const (
	CodeInvalid         Code = "invalid"                // the request is malformed; mend it
	CodeUnauthenticated Code = "unauthenticated"        // log in (again)
	CodeSecondFactor    Code = "second_factor_required" // the password is right: send it again with a second factor
	CodeForbidden       Code = "forbidden"              // ask for a role that allows it
	CodeNotFound        Code = "not_found"              // no such thing
	CodeExists          Code = "already_exists"         // use --force, or another name
	CodeConflict        Code = "conflict"               // somebody else wrote first; read again and retry
	CodeTooLarge        Code = "too_large"              // send less
	CodeRateLimited     Code = "rate_limited"           // wait
	CodeUnavailable     Code = "unavailable"            // not now (no leader, no quorum, full disk); nothing was done, retry is safe
	CodeAmbiguous       Code = "ambiguous"              // it may or may not have been done; look before retrying
	CodeInternal        Code = "internal"               // our fault; see the log
)

// HTTPStatus is the HTTP status (RFC 9110) that carries the code.
func (c Code) HTTPStatus() int {
	switch c {
	case CodeInvalid:
		return http.StatusBadRequest
	case CodeUnauthenticated, CodeSecondFactor:
		return http.StatusUnauthorized
	case CodeForbidden:
		return http.StatusForbidden
	case CodeNotFound:
		return http.StatusNotFound
	case CodeExists, CodeConflict:
		return http.StatusConflict
	case CodeTooLarge:
		return http.StatusRequestEntityTooLarge
	case CodeRateLimited:
		return http.StatusTooManyRequests
	case CodeUnavailable:
		return http.StatusServiceUnavailable
	case CodeAmbiguous:
		return http.StatusGatewayTimeout
	case CodeInternal:
		return http.StatusInternalServerError
	default:
		return http.StatusInternalServerError
	}
}

// ExitCode is the exit status of a CLI that ends with the code: 1 for a plain
// failure, 2 for wrong usage, and small numbers above that let scripts tell
// "log in again" (3), "not allowed" (4), "not found" (5), "exists or changed"
// (6) and "try later" (7) apart.
func (c Code) ExitCode() int {
	switch c {
	case CodeInvalid, CodeTooLarge:
		return 2
	case CodeUnauthenticated, CodeSecondFactor:
		return 3
	case CodeForbidden:
		return 4
	case CodeNotFound:
		return 5
	case CodeExists, CodeConflict:
		return 6
	case CodeUnavailable, CodeAmbiguous, CodeRateLimited:
		return 7
	case CodeInternal:
		return 1
	default:
		return 1
	}
}

// Error is a failure that a user may read. Message says what failed, on what,
// and what to do next; the cause, if any, is for logs and never leaves the process.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
	// SecondFactors says, with CodeSecondFactor, what the user has: FactorTOTP, FactorWebAuthn.
	SecondFactors []string `json:"second_factors,omitempty"`
	// Field is, in an answer, the path of the *FieldError in the chain, so that a
	// client can find its line: spec.roles[0].
	Field string `json:"field,omitempty"`
	cause error
}

// Errorf makes an Error. A %w operand becomes the cause that errors.Is and
// errors.As see; its text becomes part of the message like any other operand.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), cause: errors.Unwrap(err)}
}

func (e *Error) Error() string { return e.Message }

// Unwrap gives the cause, or nil.
func (e *Error) Unwrap() error { return e.cause }

// CodeOf is the code of the first Error in err's chain, CodeInternal if there
// is none, and "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return CodeInternal
}

// IsCode reports whether err carries the code.
func IsCode(err error, code Code) bool { return err != nil && CodeOf(err) == code }

// maxErrorBody bounds what a client reads of an error answer.
const maxErrorBody = 64 << 10

// WriteError answers a request with err as {"error":{"code":…,"message":…}} and
// the code's status. An error that is no *Error is answered as "internal
// error": its text may hold what strangers must not see, so the caller logs it.
func WriteError(w http.ResponseWriter, err error) {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		e = &Error{Code: CodeInternal, Message: "internal error, see the log of the replica"}
	} else if field, ok := errors.AsType[*FieldError](err); ok && e.Field == "" {
		named := *e
		named.Field = field.Path
		e = &named
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(e.Code.HTTPStatus())
	_ = json.NewEncoder(w).Encode(map[string]*Error{"error": e}) // the client is gone: nobody to tell
}

// ReadError is WriteError's inverse. An answer of another shape (a load
// balancer's page, say) becomes an Error whose code is guessed from the status.
func ReadError(resp *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	var doc struct {
		Error *Error `json:"error"`
	}
	if err == nil && json.Unmarshal(body, &doc) == nil && doc.Error != nil && doc.Error.Code != "" {
		return doc.Error
	}
	return Errorf(codeOfStatus(resp.StatusCode), "the server answered %s", resp.Status)
}

func codeOfStatus(status int) Code {
	for _, c := range []Code{
		CodeInvalid, CodeUnauthenticated, CodeForbidden, CodeNotFound, CodeConflict,
		CodeTooLarge, CodeRateLimited, CodeUnavailable, CodeAmbiguous,
	} {
		if c.HTTPStatus() == status {
			return c
		}
	}
	if status == http.StatusBadGateway {
		return CodeUnavailable
	}
	if status < 500 {
		return CodeInvalid
	}
	return CodeInternal
}
