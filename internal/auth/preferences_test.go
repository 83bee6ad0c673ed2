package auth_test

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
)

func preferenceDoc(mode api.SecondFactor, rpID string) *api.AuthPreference {
	doc := api.DefaultAuthPreference()
	doc.Spec.SecondFactor, doc.Spec.WebAuthn.RPID = mode, rpID
	return doc
}

func TestPreferenceIsOptionalUntilOneIsWritten(t *testing.T) {
	f := authtest.New(t)
	ctx := t.Context()
	doc, err := f.Preference.Get()
	must(t, err)
	if doc.Spec.SecondFactor != api.SecondFactorOptional || doc.Spec.WebAuthn.RPID != authtest.ClusterName {
		t.Errorf("%+v", doc.Spec)
	}
	if err := f.Preference.Delete(ctx, authtest.Admin(), false); !api.IsCode(err, api.CodeNotFound) {
		t.Error(err)
	}
	first, err := f.Preference.Put(ctx, authtest.Admin(), preferenceDoc(api.SecondFactorOn, ""), false)
	if err != nil || !first.Created {
		t.Fatal(first, err)
	}
	if e := lastEvent(f); e.Code != "TSP14I" || e.Fields["second_factor"] != "on" || e.User != auth.SocketUser {
		t.Errorf("%+v", e)
	}
	if _, err := f.Preference.Put(ctx, authtest.Admin(), preferenceDoc(api.SecondFactorOff, ""), false); !api.IsCode(err, api.CodeExists) {
		t.Error(err)
	}
	raw, err := f.Preference.Document()
	must(t, err)
	read, err := api.DecodeDocument(raw)
	must(t, err)
	stale := read.(*api.AuthPreference)
	if stale.Metadata.Revision != first.Revision || stale.Spec.WebAuthn.RPID != "" {
		t.Errorf("%s", raw)
	}
	_, err = f.Preference.Put(ctx, authtest.Admin(), preferenceDoc(api.SecondFactorOff, ""), true)
	must(t, err)
	if _, err := f.Preference.Put(ctx, authtest.Admin(), stale, true); !api.IsCode(err, api.CodeConflict) {
		t.Error("a stale document was written:", err)
	}
	must(t, f.Preference.Delete(ctx, authtest.Admin(), false))
	if doc, err := f.Preference.Get(); err != nil || doc.Spec.SecondFactor != api.SecondFactorOptional {
		t.Error(doc, err)
	}
}

func TestRelyingPartyIsThePublicHostOrAbove(t *testing.T) {
	at := func(addr string) *authtest.Fixture {
		return authtest.New(t, func(o *auth.Options) { o.PublicAddr = addr })
	}
	for _, tc := range []struct {
		host, id string
		mode     api.SecondFactor
		ok       bool
	}{
		{"a.tele.example.com", "a.tele.example.com", "on", true},
		{"a.tele.example.com", "tele.example.com", "on", true},
		{"a.tele.example.com", "example.com", "on", true},
		{"a.tele.example.com", "", "webauthn", true},
		{"a.tele.example.com", "com", "on", false},
		{"a.tele.example.com", "ele.example.com", "on", false},
		{"a.tele.example.com", "b.a.tele.example.com", "on", false},
		{"a.tele.example.com", "evil.org", "on", false},
		{"a.tele.example.com", "EXAMPLE.com", "on", false},
		{"tele.example.co.uk", "co.uk", "on", false},
		{"tele.example.co.uk", "example.co.uk", "on", true},
		{"someone.github.io", "github.io", "on", false},
		{"localhost", "localhost", "webauthn", true},
		{"192.0.2.1", "192.0.2.1", "on", false},
		{"192.0.2.1", "", "webauthn", false},
		{"192.0.2.1", "", "on", true},
	} {
		f := at(tc.host + ":3080")
		_, err := f.Preference.Put(t.Context(), authtest.Admin(), preferenceDoc(tc.mode, tc.id), true)
		if (err == nil) != tc.ok || err != nil && !api.IsCode(err, api.CodeInvalid) {
			t.Errorf("%s under %s, mode %s: %v", tc.id, tc.host, tc.mode, err)
		}
	}
	f := at("192.0.2.1:3080")
	doc, err := f.Preference.Get()
	if err != nil || doc.Spec.WebAuthn.RPID != "" {
		t.Error("an address is a relying party:", doc, err)
	}
	f.AddUser(t, "alice", nil)
	offer, err := f.Factors.Offer(f.WebLogin(t, "alice").Identity)
	if err != nil || offer.WebAuthn != nil || offer.TOTPSecret == "" {
		t.Errorf("%+v %v", offer, err)
	}
}

func TestPasskeysAreNotMadeWorthlessByAccident(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", nil)
	f.AddPasskey(t, f.WebLogin(t, "alice").Identity, authtest.NewAuthenticator())
	put := func(id string, force bool) error {
		_, err := f.Preference.Put(t.Context(), authtest.Admin(), preferenceDoc(api.SecondFactorOptional, id), force)
		return err
	}
	if err := put("example.com", false); !api.IsCode(err, api.CodeConflict) || !strings.Contains(err.Error(), "alice") {
		t.Fatal(err)
	}
	must(t, put("example.com", true))
	if _, err := f.Service.Login.Begin(t.Context(), "alice", authtest.Password, home); !api.IsCode(err, api.CodeForbidden) || !strings.Contains(err.Error(), "tctl users reset alice") {
		t.Error("the passkey of another relying party was let off:", err)
	}
	must(t, put(authtest.ClusterName, true))
	must(t, f.Preference.Delete(t.Context(), authtest.Admin(), false))

	must(t, put("example.com", true))
	f.AddUser(t, "bob", nil)
	f.AddPasskey(t, f.WebLogin(t, "bob").Identity, authtest.NewAuthenticator())
	if err := f.Preference.Delete(t.Context(), authtest.Admin(), false); !api.IsCode(err, api.CodeConflict) || !strings.Contains(err.Error(), "bob") {
		t.Error("bob's passkey:", err)
	}
	must(t, f.Preference.Delete(t.Context(), authtest.Admin(), true))
}

func TestPreferenceThatIsNotUnderstoodIsDeletedWhateverPasskeysThereAre(t *testing.T) {
	for name, raw := range map[string]string{
		"an unknown field": `{"kind":"cluster_auth_preference","version":"v2","metadata":{"name":"cluster-auth-preference"},"spec":{"type":"local","second_factor":"optional","webauthn":{"rp_id":"example.com"},"pin_length":12}}`,
		"no document":      `[]`,
	} {
		t.Run(name, func(t *testing.T) {
			f := authtest.New(t)
			f.AddUser(t, "alice", nil)
			f.AddUser(t, "bob", nil)
			session := f.WebLogin(t, "alice").Identity
			_, err := f.Preference.Put(t.Context(), authtest.Admin(), preferenceDoc(api.SecondFactorOptional, "example.com"), true)
			must(t, err)
			f.AddPasskey(t, session, authtest.NewAuthenticator())
			_, err = f.DB.Commit(t.Context(), auth.PutRaw("system/auth_preference", raw))
			must(t, err)
			if err := login(t, f, "bob", authtest.Password, home); !api.IsCode(err, api.CodeForbidden) {
				t.Error(err)
			}
			must(t, f.Preference.Delete(t.Context(), authtest.Admin(), false)) // as Put says
			must(t, login(t, f, "bob", authtest.Password, home))
		})
	}
}

func TestPreferenceOfANewerVersionDeniesLogins(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", groups("a"))
	id, _ := f.Login(t, "alice")
	pending := f.Invite(t, "bob", nil)
	for name, raw := range map[string]string{
		"an unknown field": `{"kind":"cluster_auth_preference","version":"v2","metadata":{"name":"cluster-auth-preference"},"spec":{"type":"local","second_factor":"optional","pin_length":12}}`,
		"an unknown mode":  `{"kind":"cluster_auth_preference","version":"v2","metadata":{"name":"cluster-auth-preference"},"spec":{"type":"local","second_factor":"retina"}}`,
		"no document":      `[]`,
	} {
		_, err := f.DB.Commit(t.Context(), auth.PutRaw("system/auth_preference", raw))
		must(t, err)
		derivations, _ := f.Derivations()
		for _, user := range []string{"alice", "nobody"} {
			if err := login(t, f, user, authtest.Password, home); !api.IsCode(err, api.CodeForbidden) {
				t.Errorf("%s: %s: %v", name, user, err)
			}
			if _, err := f.Service.Login.Begin(t.Context(), user, authtest.Password, home); !api.IsCode(err, api.CodeForbidden) {
				t.Errorf("%s: %s: %v", name, user, err)
			}
		}
		if after, _ := f.Derivations(); after != derivations {
			t.Error(name, "cost derivations")
		}
		if _, err := f.Invites.Redeem(t.Context(), pending, authtest.Password, nil, auth.Actor{}); !api.IsCode(err, api.CodeForbidden) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := f.Access.Kube(id, authtest.KubeCluster, auth.KubeRequest{}); err != nil {
			t.Error(name, "ends certificates:", err)
		}
		if _, err := f.Preference.Get(); !api.IsCode(err, api.CodeForbidden) {
			t.Errorf("%s: %v", name, err)
		}
		if name == "an unknown field" {
			if _, err := f.Preference.Put(t.Context(), authtest.Admin(), preferenceDoc(api.SecondFactorOff, ""), true); !api.IsCode(err, api.CodeForbidden) {
				t.Error("a restriction of a newer version was overwritten:", err)
			}
			raw, err := f.Preference.Document()
			if err != nil || !json.Valid(raw) || !strings.Contains(string(raw), "pin_length") {
				t.Errorf("%s %v", raw, err)
			}
		}
	}
	must(t, f.Preference.Delete(t.Context(), authtest.Admin(), false))
	must(t, login(t, f, "alice", authtest.Password, netip.Addr{}))
}
