package sso

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// Options are what every provider is made with.
type Options struct {
	// HTTP is what identity providers are asked with, made by NewClient: one for all
	// connectors shares its connections. nil: one of its own.
	HTTP   *http.Client
	Clock  func() time.Time // nil: time.Now
	Logger *slog.Logger     // nil: nothing is logged
}

// Now is the time here.
func (o Options) Now() time.Time {
	if o.Clock == nil {
		return time.Now()
	}
	return o.Clock()
}

// Log is where to log.
func (o Options) Log() *slog.Logger {
	if o.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return o.Logger
}

// Client is what to ask identity providers with.
func (o Options) Client() *http.Client {
	if o.HTTP == nil {
		return NewClient(nil)
	}
	return o.HTTP
}

// NotBefore is nil unless a moment that an identity provider put at the earliest is
// still to come by more than MaxSkew. What is the begin of the message's second half:
// "the ID token was issued at".
func NotBefore(what string, at, now time.Time) error {
	if at.After(now.Add(MaxSkew)) {
		return clocksDiffer(what, at, now)
	}
	return nil
}

// NotAfter is nil unless a moment that an identity provider put at the latest is past
// by more than MaxSkew.
func NotAfter(what string, at, now time.Time) error {
	if at.Before(now.Add(-MaxSkew)) {
		return clocksDiffer(what, at, now)
	}
	return nil
}

func clocksDiffer(what string, at, now time.Time) error {
	return api.Errorf(api.CodeUnauthenticated,
		"the clocks of the identity provider and of Sallyport differ by more than %s: %s %s, here it is %s; set both by NTP, then log in again",
		MaxSkew, what, at.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
}
