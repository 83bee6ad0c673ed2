package auth_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
)

func TestFactorsAreChangedByAFreshWebSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		f.AddUser(t, "alice", nil)
		cli, _ := f.Login(t, "alice")
		session := f.WebLogin(t, "alice").Identity
		present := f.AddPasskey(t, session, authtest.NewAuthenticator())
		if _, err := f.Factors.Offer(cli); !api.IsCode(err, api.CodeUnauthenticated) {
			t.Error("an offer to a certificate's session:", err)
		}
		if err := f.Factors.Remove(t.Context(), cli, present, auth.Actor{}); !api.IsCode(err, api.CodeUnauthenticated) {
			t.Error("a removal by a certificate's session:", err)
		}
		<-time.After(10*time.Minute - time.Second)
		offer, err := f.Factors.Offer(session)
		must(t, err)
		<-time.After(time.Second)
		if _, err := f.Factors.Offer(session); !api.IsCode(err, api.CodeUnauthenticated) || !strings.Contains(err.Error(), "more than 10 minutes ago: log in again") {
			t.Error("an offer to a session of ten minutes:", err)
		}
		if err := f.Factors.Remove(t.Context(), session, present, auth.Actor{}); !api.IsCode(err, api.CodeUnauthenticated) || !strings.Contains(err.Error(), "more than 10 minutes ago: log in again") {
			t.Error("a removal by a session of ten minutes:", err)
		}
		<-time.After(9 * time.Minute)
		e := auth.Enrolment{State: offer.State, FactorAnswer: totpAnswer(authtest.Code(t, offer.TOTPSecret, time.Now()))}
		_, err = f.Factors.Add(t.Context(), session, e, auth.Actor{})
		must(t, err) // what was offered in time may be taken in time
		if got := f.Factors.List("alice"); len(got) != 2 {
			t.Error(got)
		}
	})
}

func TestRemovalIsJudgedWhenItIsDone(t *testing.T) {
	now := time.Now()
	f := authtest.NewOn(t, authtest.NewDB(func() time.Time { return now }))
	f.AddUser(t, "alice", nil)
	session := f.WebLogin(t, "alice").Identity
	present := f.AddPasskey(t, session, authtest.NewAuthenticator())
	f.DB.BeforeCommit(func() {
		now = now.Add(10 * time.Minute)
		f.SetSecondFactor(t, api.SecondFactorOptional) // so that the removal is judged again
	})
	if err := f.Factors.Remove(t.Context(), session, present, auth.Actor{}); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Error("a session that was fresh when the removal began:", err)
	}
}
