package auth_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
)

func TestAPreferenceThatLocksUsersOutWarns(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", nil)
	f.AddUser(t, "bob", nil)
	f.AddTOTP(t, f.WebLogin(t, "bob").Identity)
	f.AddUser(t, "carol", nil)
	f.AddPasskey(t, f.WebLogin(t, "carol").Identity, authtest.NewAuthenticator())
	f.Invite(t, "dan", nil) // sets a factor with the password
	const text = "%s can't log in from now on, for want of a second factor that counts: %s; 'tctl users reset NAME' gives a link"
	put := func(mode api.SecondFactor, rpID string) []string {
		t.Helper()
		resp, err := f.Preference.Put(t.Context(), authtest.Admin(), preferenceDoc(mode, rpID), true)
		if err != nil {
			t.Fatal(err)
		}
		return resp.Warnings
	}
	for _, tc := range []struct {
		mode  api.SecondFactor
		rpID  string
		count string
		who   string
	}{
		{api.SecondFactorOff, "", "", ""},
		{api.SecondFactorOptional, "", "", ""},
		{api.SecondFactorOn, "", "1 user", "alice"},
		{api.SecondFactorWebAuthn, "", "2 users", "alice, bob"},
		{api.SecondFactorOptional, "example.com", "1 user", "carol"},
	} {
		var want []string
		if tc.count != "" {
			want = []string{fmt.Sprintf(text, tc.count, tc.who)}
		}
		if diff := cmp.Diff(want, put(tc.mode, tc.rpID)); diff != "" {
			t.Errorf("%s %s: %s", tc.mode, tc.rpID, diff)
		}
	}
	for _, name := range []string{"e", "f", "g", "h", "i"} {
		f.AddUser(t, name, nil)
	}
	if diff := cmp.Diff([]string{fmt.Sprintf(text, "7 users", "alice, bob, e, f, g, and 2 more")}, put(api.SecondFactorWebAuthn, "")); diff != "" {
		t.Error(diff)
	}
}
