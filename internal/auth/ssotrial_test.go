package auth_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
)

func admins() *api.SSOIdentity {
	return &api.SSOIdentity{Subject: "1", Username: "alice", Attributes: map[string][]string{"groups": {"admins"}}}
}

func TestATestOfAConnectorShowsWhatALoginWouldComeTo(t *testing.T) {
	warned := probing(func(api.Connector) (api.ConnectorFacts, error) {
		return api.ConnectorFacts{Organizations: map[string]int64{"octocats": 1}}, nil
	}, "careful")
	for _, tc := range []struct {
		name   string
		doc    api.Connector
		result api.SSOTestResult
		want   api.SSOTestResult
	}{
		{"roles", oidcDoc("dex"), api.SSOTestResult{Identity: admins()}, api.SSOTestResult{Identity: admins(), Mapping: &api.SSOMapping{Roles: []string{"access", "admin"}}}},
		{"no roles", samlDoc("okta"), api.SSOTestResult{Identity: &api.SSOIdentity{Subject: "1", Username: "alice"}},
			api.SSOTestResult{Identity: &api.SSOIdentity{Subject: "1", Username: "alice"}, Error: `user "alice" has no attributes that match attributes_to_roles of "okta" connector`}},
		{"a pinned organization", githubDoc("github"),
			api.SSOTestResult{Identity: &api.SSOIdentity{Subject: "1", Username: "alice", Teams: []api.GithubTeam{{Organization: "octocats", OrganizationID: 2, Slug: "admin"}}}},
			api.SSOTestResult{Identity: &api.SSOIdentity{Subject: "1", Username: "alice", Teams: []api.GithubTeam{{Organization: "octocats", OrganizationID: 2, Slug: "admin"}}}, Error: noTeams}},
		{"a name that nobody can have", oidcDoc("dex"), api.SSOTestResult{Identity: &api.SSOIdentity{Subject: "1", Username: "system:masters"}},
			api.SSOTestResult{Identity: &api.SSOIdentity{Subject: "1", Username: "system:masters"}, Error: `connector "dex" calls this person "system:masters": names that begin with system: belong to Kubernetes; ask an administrator to map another name`}},
		{"a failure", oidcDoc("dex"), api.SSOTestResult{Error: "the identity provider said no"}, api.SSOTestResult{Error: "the identity provider said no"}},
		{"nothing", oidcDoc("dex"), api.SSOTestResult{Mapping: &api.SSOMapping{Roles: []string{"admin"}}}, api.SSOTestResult{Error: "the login ended without an identity: try again"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := authtest.New(t, warned)
			begun, err := f.SSOTests.Start(t.Context(), authtest.Admin(), api.SSOTestRequest{Document: mustJSON(t, tc.doc)})
			if err != nil {
				t.Fatal(err)
			}
			if begun.URL != "https://tele.example.com:443/web/sso/test/"+begun.ID || len(begun.ID) != 32 {
				t.Errorf("%+v", begun)
			}
			open, err := f.SSOTests.Open(t.Context(), begun.ID)
			if err != nil {
				t.Fatal(err)
			}
			for path, secret := range open.Doc.Secrets() {
				if *secret == "" {
					t.Error("no", path)
				}
			}
			if open.Doc.Head().Metadata.Name != tc.doc.Head().Metadata.Name || open.Facts.Organizations["octocats"] != 1 && open.Doc.ConnectorKind() == api.KindGithub {
				t.Errorf("%+v", open)
			}
			if err := f.SSOTests.Finish(t.Context(), begun.ID, tc.result); err != nil {
				t.Fatal(err)
			}
			tc.want.Done, tc.want.Warnings = true, []string{"careful"}
			got, err := f.SSOTests.Wait(t.Context(), authtest.Admin(), begun.ID)
			if d := cmp.Diff(&tc.want, got); err != nil || d != "" {
				t.Error(err, d)
			}
			e := lastEvent(f)
			if e.Event != api.EventSSOTest || e.Code != api.EventCodeSSOTest || e.User != auth.SocketUser || e.Fields["connector"] != tc.doc.Head().Metadata.Name ||
				e.Fields["method"] != tc.doc.ConnectorKind() || e.Fields["success"] != (tc.want.Error == "") {
				t.Errorf("%+v", e)
			}
			// Once.
			_, err = f.SSOTests.Open(t.Context(), begun.ID)
			wantCode(t, "again", err, api.CodeConflict, "is done")
			wantCode(t, "again", f.SSOTests.Finish(t.Context(), begun.ID, tc.result), api.CodeConflict, "is done")
			// Nobody was logged in, and nothing saved.
			if n := len(f.Connectors.Public()) + len(f.Users.SSO()); n != 0 {
				t.Error(n)
			}
		})
	}
}

func TestASavedConnectorIsTested(t *testing.T) {
	f := authtest.New(t)
	putConnector(t, f, oidcDoc("dex"), false)
	begun, err := f.SSOTests.Start(t.Context(), authtest.Admin(), api.SSOTestRequest{Name: "dex"})
	if err != nil {
		t.Fatal(err)
	}
	open, err := f.SSOTests.Open(t.Context(), begun.ID)
	if err != nil || *open.Doc.Secrets()["spec.client_secret"] != clientSecret || open.Doc.(*api.OIDCConnector).Spec.RedirectURL[0] == "" {
		t.Errorf("%v %+v", err, open)
	}
	for _, req := range []api.SSOTestRequest{{}, {Name: "dex", Document: mustJSON(t, oidcDoc("dex"))}, {Document: []byte(`{"kind":"role","version":"v7","metadata":{"name":"x"}}`)}, {Document: []byte(`{`)}} {
		_, err := f.SSOTests.Start(t.Context(), authtest.Admin(), req)
		wantCode(t, "a bad request", err, api.CodeInvalid, "")
	}
	_, err = f.SSOTests.Start(t.Context(), authtest.Admin(), api.SSOTestRequest{Name: "nosuch"})
	wantCode(t, "no connector", err, api.CodeNotFound, "one can log in by local, dex")
	bad := oidcDoc("new")
	bad.Spec.ClientSecret = ""
	_, err = f.SSOTests.Start(t.Context(), authtest.Admin(), api.SSOTestRequest{Document: mustJSON(t, bad)})
	wantField(t, "no secret", err, "spec.client_secret", "is missing")
	for _, id := range []string{"", "x", "../connectors/dex", strings.Repeat("0", 32), strings.ToUpper(begun.ID) + "0"} {
		_, err := f.SSOTests.Open(t.Context(), id)
		wantCode(t, id, err, api.CodeNotFound, "no such test")
		wantCode(t, id, f.SSOTests.Finish(t.Context(), id, api.SSOTestResult{}), api.CodeNotFound, "no such test")
		_, err = f.SSOTests.Wait(t.Context(), authtest.Admin(), id)
		wantCode(t, id, err, api.CodeNotFound, "no such test")
	}
}

func TestARefusedProbeEndsATest(t *testing.T) {
	f := authtest.New(t, probing(func(api.Connector) (api.ConnectorFacts, error) {
		return api.ConnectorFacts{}, api.Errorf(api.CodeUnavailable, "the issuer is another one")
	}))
	_, err := f.SSOTests.Start(t.Context(), authtest.Admin(), api.SSOTestRequest{Document: mustJSON(t, oidcDoc("dex"))})
	wantCode(t, "refused", err, api.CodeUnavailable, "the issuer is another one")
}

func TestATestIsAwaitedByWhoBeganItForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		f.AddUser(t, "root", nil, "admin")
		f.AddUser(t, "other", nil, "admin")
		rootID, _ := f.Login(t, "root")
		otherID, _ := f.Login(t, "other")
		root, other := auth.Actor{User: "root", Session: rootID}, auth.Actor{User: "other", Session: otherID}
		begun, err := f.SSOTests.Start(t.Context(), root, api.SSOTestRequest{Document: mustJSON(t, oidcDoc("dex"))})
		if err != nil {
			t.Fatal(err)
		}
		for _, by := range []auth.Actor{other, authtest.Admin(), {}} {
			_, err = f.SSOTests.Wait(t.Context(), by, begun.ID)
			wantCode(t, by.User, err, api.CodeNotFound, "no such test")
		}
		start := time.Now()
		if r, err := f.SSOTests.Wait(t.Context(), root, begun.ID); err != nil || r.Done || time.Since(start) != 20*time.Second {
			t.Errorf("%v %+v after %s", err, r, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start = time.Now()
		if r, err := f.SSOTests.Wait(ctx, root, begun.ID); err != nil || r.Done || time.Since(start) != time.Second {
			t.Errorf("a replica that stops: %v %+v after %s", err, r, time.Since(start))
		}
		got := make(chan *api.SSOTestResult)
		go func() {
			r, err := f.SSOTests.Wait(t.Context(), root, begun.ID)
			if err != nil {
				t.Error(err)
			}
			got <- r
		}()
		synctest.Wait()
		start = time.Now()
		if err := f.SSOTests.Finish(t.Context(), begun.ID, api.SSOTestResult{Identity: admins()}); err != nil {
			t.Fatal(err)
		}
		if r := <-got; r == nil || !r.Done || r.Mapping == nil || time.Since(start) != 0 {
			t.Errorf("%+v after %s", r, time.Since(start))
		}
		time.Sleep(auth.SSOTestTTL)
		_, err = f.SSOTests.Wait(t.Context(), root, begun.ID)
		wantCode(t, "over", err, api.CodeNotFound, "10 minutes are over")
		_, err = f.SSOTests.Open(t.Context(), begun.ID)
		wantCode(t, "over", err, api.CodeNotFound, "10 minutes are over")
	})
}

func TestThereIsABoundOfTests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		putConnector(t, f, oidcDoc("dex"), false)
		for range 100 {
			if _, err := f.SSOTests.Start(t.Context(), authtest.Admin(), api.SSOTestRequest{Name: "dex"}); err != nil {
				t.Fatal(err)
			}
		}
		_, err := f.SSOTests.Start(t.Context(), authtest.Admin(), api.SSOTestRequest{Name: "dex"})
		wantCode(t, "101", err, api.CodeRateLimited, "the most there can be")
		time.Sleep(auth.SSOTestTTL)
		if _, err := f.SSOTests.Start(t.Context(), authtest.Admin(), api.SSOTestRequest{Name: "dex"}); err != nil {
			t.Error(err)
		}
	})
}

// A test asks whoever a document names, and tells them a secret: it takes what saving
// takes, and with a stored secret what trying the stored connector takes.
func TestWhoMayTryADocument(t *testing.T) {
	made := &api.KeyPair{Cert: connectorCert, PrivateKey: madeKey}
	asked := 0
	f := authtest.New(t, probing(func(c api.Connector) (facts api.ConnectorFacts, _ error) {
		asked++
		if c.ConnectorKind() == api.KindSAML {
			facts.SigningKeyPair = made
		}
		return facts, nil
	}))
	putConnector(t, f, oidcDoc("dex"), false)
	putConnector(t, f, samlDoc("okta"), false)
	actor := func(name string, rules ...api.Rule) auth.Actor {
		f.PutRole(t, "of-"+name, api.RoleSpec{Allow: api.RoleConditions{Rules: rules}})
		f.AddUser(t, name, nil, "of-"+name)
		id, _ := f.Login(t, name)
		return auth.Actor{User: name, Session: id}
	}
	roles := api.Rule{Resources: []string{api.KindRole}, Verbs: []string{api.VerbUpdate}}
	all := func(verb string) api.Rule { return api.Rule{Resources: api.ConnectorKinds(), Verbs: []string{verb}} }
	nobody := actor("nobody", all(api.VerbCreate), all(api.VerbUpdate))
	creator, updater := actor("creator", all(api.VerbCreate), roles), actor("updater", all(api.VerbCreate), all(api.VerbUpdate), roles)
	secretless, keyless, made2 := oidcDoc("dex"), samlDoc("okta"), samlDoc("okta")
	secretless.Spec.ClientSecret, keyless.Spec.AssertionKeyPair.PrivateKey = "", ""
	made2.Spec.AssertionKeyPair = nil
	for name, tc := range map[string]struct {
		by   auth.Actor
		doc  api.Connector
		code api.Code
		text string
	}{
		"who may not update roles":           {nobody, oidcDoc("new"), api.CodeForbidden, "without the right to update roles"},
		"a new one":                          {creator, oidcDoc("new"), "", ""},
		"with its secret":                    {creator, oidcDoc("dex"), "", ""},
		"with the stored secret":             {creator, secretless, api.CodeForbidden, "verbs: [update]"},
		"with the stored key":                {creator, keyless, api.CodeForbidden, "verbs: [update]"},
		"with the key that was made":         {creator, made2, api.CodeForbidden, "verbs: [update]"},
		"with the stored secret, an updater": {updater, secretless, "", ""},
		"with the stored key, an updater":    {updater, keyless, "", ""},
		"from the socket":                    {authtest.Admin(), secretless, "", ""},
	} {
		before := asked
		_, err := f.SSOTests.Start(t.Context(), tc.by, api.SSOTestRequest{Document: mustJSON(t, tc.doc)})
		if tc.code == "" {
			if err != nil || asked != before+1 {
				t.Errorf("%s: %v, asked %d times", name, err, asked-before)
			}
			continue
		}
		wantCode(t, name, err, tc.code, tc.text)
		if asked != before {
			t.Errorf("%s: the identity provider was asked", name)
		}
	}
}
