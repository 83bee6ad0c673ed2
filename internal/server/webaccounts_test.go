package server

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
)

// What a page does for a cookie, it does for that of a living web session alone,
// and on a replica that may let somebody in.
func TestPagesTakeLivingCookiesAlone(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", nil)
	f.AddUser(t, "bob", nil)
	good, id := f.WebSession(t, "alice")
	ended, gone := f.WebSession(t, "alice")
	if err := f.Sessions.Delete(t.Context(), authtest.Admin(), gone); err != nil {
		t.Fatal(err)
	}
	others, bob := f.WebSession(t, "bob")
	_, token, _ := strings.Cut(good, ".")
	var stale, clock error
	a := webAccounts{
		auth: f.Service, store: f.DB, name: authtest.ClusterName, stale: func() error { return stale },
		blame: func(err error) error {
			if err != nil && clock != nil {
				return clock
			}
			return err
		},
		misses: &cookieMisses{},
	}
	from := netip.MustParseAddr("192.0.2.1")
	calls := map[string]func(cookie string) error{
		"Session":           func(c string) error { _, err := a.Session(t.Context(), c, from); return err },
		"Clusters":          func(c string) error { _, err := a.Clusters(t.Context(), c); return err },
		"Factors":           func(c string) error { _, err := a.Factors(t.Context(), c); return err },
		"OfferFactor":       func(c string) error { _, err := a.OfferFactor(t.Context(), c); return err },
		"AddFactor":         func(c string) error { return a.AddFactor(t.Context(), c, auth.Enrolment{}, from) },
		"RemoveFactor":      func(c string) error { return a.RemoveFactor(t.Context(), c, "x", from) },
		"PasswordChallenge": func(c string) error { _, err := a.PasswordChallenge(t.Context(), c); return err },
		"ChangePassword": func(c string) error {
			return a.ChangePassword(t.Context(), c, authtest.Password, "another correct horse", auth.FactorAnswer{}, from)
		},
		"Sessions":         func(c string) error { _, err := a.Sessions(t.Context(), c); return err },
		"EndSession":       func(c string) error { return a.EndSession(t.Context(), c, id.SessionID, from) },
		"EndOtherSessions": func(c string) error { return a.EndOtherSessions(t.Context(), c, from) },
		"ApproveConsole":   func(c string) error { _, err := a.ApproveConsole(t.Context(), c, "x", "", from); return err },
		"DenyConsole":      func(c string) error { _, err := a.DenyConsole(t.Context(), c, "x", from); return err },
	}
	commits := f.DB.Commits()
	for name, call := range calls {
		for what, cookie := range map[string]string{
			"none": "", "another's name": base64.RawURLEncoding.EncodeToString([]byte("bob")) + "." + token,
			"an ended session's": ended, "one of a session's id": base64.RawURLEncoding.EncodeToString([]byte("alice")) + "." + id.SessionID,
		} {
			if err := call(cookie); !api.IsCode(err, api.CodeUnauthenticated) {
				t.Errorf("%s with %s: %v", name, what, err)
			}
		}
		stale = api.Errorf(api.CodeUnavailable, "no leader for long")
		if err := call(good); !api.IsCode(err, api.CodeUnavailable) {
			t.Errorf("%s on a replica that has heard from no leader: %v", name, err)
		}
		stale, clock = nil, api.Errorf(api.CodeUnavailable, "the clock is off")
		if err := call(ended); !api.IsCode(err, api.CodeUnavailable) {
			t.Errorf("%s on a replica whose clock is off: %v", name, err)
		}
		clock = nil
	}
	// A logout asks for no more than the cookie, and what is no living one's ends nothing.
	for _, cookie := range []string{ended, base64.RawURLEncoding.EncodeToString([]byte("alice")) + "." + strings.Repeat("0", len(token))} {
		if err := a.Logout(t.Context(), cookie, from); err != nil {
			t.Error(err)
		}
	}
	if err := a.Logout(t.Context(), base64.RawURLEncoding.EncodeToString([]byte("alice"))+"."+id.SessionID, from); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Error("the id of a session is no cookie:", err)
	}
	if n := f.DB.Commits() - commits; n != 0 {
		t.Errorf("%d writes", n)
	}

	// Whose session is ended is the cookie's to say, not the page's.
	if err := a.EndSession(t.Context(), good, bob.SessionID, from); err != nil {
		t.Error(err)
	}
	if _, err := a.Session(t.Context(), others, from); err != nil {
		t.Error("alice ended a session of bob's:", err)
	}
	if list, err := a.Sessions(t.Context(), good); err != nil || len(list) != 1 || list[0].ID != id.SessionID {
		t.Error(list, err)
	}
	if err := a.EndOtherSessions(t.Context(), good, from); err != nil {
		t.Error(err)
	}
	if _, err := a.Session(t.Context(), others, from); err != nil {
		t.Error("alice ended bob's sessions:", err)
	}
	account, err := a.Session(t.Context(), good, from)
	if err != nil || account.User != "alice" || account.SecondFactor != api.SecondFactorOptional {
		t.Error(account, err)
	}
	if clusters, err := a.Clusters(t.Context(), good); err != nil || len(clusters) != 0 { // she has no groups
		t.Error(clusters, err)
	}
	if err := a.Logout(t.Context(), good, from); err != nil {
		t.Error(err)
	}
	if _, err := a.Session(t.Context(), good, from); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Error(err)
	}
	events := f.DB.Events()
	if e := events[len(events)-1]; e.Event != api.EventUserLogout || e.User != "alice" || e.Fields["addr.remote"] != from.String() {
		t.Errorf("%+v", e)
	}
}

// Whose role is gone may do nothing, but can leave.
func TestPagesLogOutWhoMayDoNothing(t *testing.T) {
	f := authtest.New(t)
	f.PutRole(t, "gone", api.RoleSpec{})
	f.AddUser(t, "alice", nil, "gone")
	cookie, id := f.WebSession(t, "alice")
	if _, err := f.DB.Commit(t.Context(), fsm.Txn{Ops: []fsm.Op{fsm.Delete("roles/gone")}}); err != nil {
		t.Fatal(err)
	}
	a := webAccounts{
		auth: f.Service, store: f.DB, name: authtest.ClusterName, stale: func() error { return nil },
		blame: func(err error) error { return err },
	}
	if _, err := a.Session(t.Context(), cookie, netip.MustParseAddr("192.0.2.1")); !api.IsCode(err, api.CodeForbidden) {
		t.Fatal(err)
	}
	if err := a.Logout(t.Context(), cookie, netip.MustParseAddr("192.0.2.1")); err != nil {
		t.Error(err)
	}
	if _, err := f.Sessions.Get(id); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Error("the session goes on:", err)
	}
}

// behind is a replica that has applied nothing since it was made, until it asks.
type behind struct {
	*authtest.DB
	seen  fsm.View
	asked int
	fail  error
}

func (b *behind) View() fsm.View { return b.seen }

func (b *behind) Linearize(context.Context) error {
	b.asked++
	if b.fail == nil {
		b.seen = b.DB.View()
	}
	return b.fail
}

func TestAReplicaThatIsBehindAsksBeforeItDisownsACookie(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", nil)
	db := &behind{DB: f.DB, seen: f.DB.View()}
	a := webAccounts{
		auth: f.Service, store: db, name: authtest.ClusterName, stale: func() error { return nil },
		blame: func(err error) error { return err }, misses: &cookieMisses{},
	}
	from := netip.MustParseAddr("192.0.2.1")
	ask := func(cookie, from string) error {
		_, err := a.Session(t.Context(), cookie, netip.MustParseAddr(from))
		return err
	}
	good, id := f.WebSession(t, "alice")
	db.fail = api.Errorf(api.CodeUnavailable, "no leader")
	if err := ask(good, "192.0.2.1"); !api.IsCode(err, api.CodeUnavailable) {
		t.Errorf("without a leader nobody can tell: %v", err)
	}
	db.fail = nil
	if err := ask(good, "192.0.2.1"); err != nil || db.asked != 2 {
		t.Errorf("asked %d times: %v", db.asked, err)
	}
	if err := ask(good, "192.0.2.1"); err != nil || db.asked != 2 {
		t.Errorf("a session that is known: asked %d times: %v", db.asked, err)
	}
	for _, malformed := range []string{"", "x", strings.Repeat("x", 5000), good + "0"} {
		if err := ask(malformed, "192.0.2.1"); !api.IsCode(err, api.CodeUnauthenticated) || db.asked != 2 {
			t.Errorf("%.20q: asked %d times: %v", malformed, db.asked, err)
		}
	}

	// Cookies that somebody invents cost so much and no more.
	invented := func(i int) string {
		return base64.RawURLEncoding.EncodeToString([]byte("alice")) + fmt.Sprintf(".%064x", i)
	}
	db.asked = 0
	for i := range 200 {
		if err := ask(invented(i), fmt.Sprintf("198.51.100.%d", i)); !api.IsCode(err, api.CodeUnauthenticated) {
			t.Fatal(err)
		}
	}
	if db.asked != missesPerNetwork {
		t.Errorf("a network of invented cookies: asked %d times", db.asked)
	}
	later, _ := f.WebSession(t, "alice")
	if err := ask(later, "203.0.113.1"); err != nil {
		t.Errorf("from another network: %v", err)
	}
	for i := range 2 * missesInAll {
		_ = ask(invented(i), netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}).String())
	}
	if db.asked != missesInAll-2 { // two went before
		t.Errorf("all networks: asked %d times", db.asked)
	}
	if err := ask(good, "198.51.100.1"); err != nil {
		t.Errorf("who is known pays nothing: %v", err)
	}
	if err := f.Sessions.Delete(t.Context(), authtest.Admin(), id); err != nil {
		t.Fatal(err)
	}
	db.seen = f.DB.View()
	if _, err := a.Session(t.Context(), good, from); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Errorf("an ended session: %v", err)
	}
	if !a.misses.allow(from, f.DB.View().Now().Add(time.Minute)) {
		t.Error("a minute later")
	}
}
