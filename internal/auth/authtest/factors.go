package authtest

import (
	"testing"
	"time"

	"github.com/pquerna/otp/totp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

// SetSecondFactor puts a policy in force.
func (f *Fixture) SetSecondFactor(t testing.TB, mode api.SecondFactor) {
	t.Helper()
	doc := api.DefaultAuthPreference()
	doc.Spec.SecondFactor = mode
	if _, err := f.Preference.Put(t.Context(), Admin(), doc, true); err != nil {
		t.Fatal(err)
	}
}

// Code is what an authenticator app shows at a time.
func Code(t testing.TB, secret string, at time.Time) string {
	t.Helper()
	code, err := totp.GenerateCode(secret, at)
	if err != nil {
		t.Fatal(err)
	}
	return code
}

// WebLogin logs a user in with Password, who has no second factor.
func (f *Fixture) WebLogin(t testing.TB, user string) *auth.WebSession {
	t.Helper()
	c, err := f.Service.Login.Begin(t.Context(), user, Password, Client)
	if err != nil {
		t.Fatal(err)
	}
	s, err := f.Service.Login.Web(t.Context(), c.State, auth.FactorAnswer{}, Client)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// AddTOTP adds an authenticator app and returns its secret. The code that enrols
// is the one before the present, so that the present one can be used.
func (f *Fixture) AddTOTP(t testing.TB, session pki.UserIdentity) (secret string) {
	t.Helper()
	offer, err := f.Factors.Offer(session)
	if err != nil {
		t.Fatal(err)
	}
	code := Code(t, offer.TOTPSecret, f.DB.View().Now().Add(-30*time.Second))
	e := auth.Enrolment{State: offer.State, FactorAnswer: auth.FactorAnswer{TOTP: code}}
	if _, err := f.Factors.Add(t.Context(), session, e, auth.Actor{Addr: Client}); err != nil {
		t.Fatal(err)
	}
	return offer.TOTPSecret
}

// AddPasskey adds a passkey of the authenticator and returns its id.
func (f *Fixture) AddPasskey(t testing.TB, session pki.UserIdentity, a *Authenticator) (id string) {
	t.Helper()
	offer, err := f.Factors.Offer(session)
	if err != nil {
		t.Fatal(err)
	}
	e := auth.Enrolment{State: offer.State, FactorAnswer: auth.FactorAnswer{WebAuthn: a.Create(t, offer.WebAuthn)}}
	added, err := f.Factors.Add(t.Context(), session, e, auth.Actor{Addr: Client})
	if err != nil {
		t.Fatal(err)
	}
	return added.ID
}
