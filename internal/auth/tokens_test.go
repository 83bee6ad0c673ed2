package auth_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
)

func wantCode(t testing.TB, what string, err error, code api.Code, text string) {
	t.Helper()
	if api.CodeOf(err) != code || code != "" && !strings.Contains(err.Error(), text) {
		t.Errorf("%s: %s %v, want %s %q", what, api.CodeOf(err), err, code, text)
	}
}

func tokenDoc(name string, edit ...func(*api.Token)) *api.Token {
	doc := &api.Token{
		Header: api.Header{Kind: api.KindToken, Version: api.TokenVersion, Metadata: api.Metadata{Name: name}},
		Spec:   api.TokenSpec{Roles: []string{api.TokenRoleKube}, JoinMethod: api.JoinMethodToken},
	}
	for _, fn := range edit {
		fn(doc)
	}
	return doc
}

func byServiceAccount(accounts ...string) func(*api.Token) {
	return func(doc *api.Token) {
		doc.Spec.JoinMethod = api.JoinMethodKubernetes
		doc.Spec.Kubernetes = &api.TokenKubernetes{Type: api.TokenKubernetesInCluster}
		for _, a := range accounts {
			doc.Spec.Kubernetes.Allow = append(doc.Spec.Kubernetes.Allow, api.TokenKubernetesAllow{ServiceAccount: a})
		}
	}
}

func decodeToken(t testing.TB, raw json.RawMessage) *api.Token {
	t.Helper()
	doc, err := api.DecodeDocument(raw)
	must(t, err)
	return doc.(*api.Token)
}

func TestAddedTokenIsSeenOnce(t *testing.T) {
	f := authtest.New(t)
	added, err := f.Tokens.Add(t.Context(), authtest.Admin(), api.AddTokenRequest{
		Roles: []string{"kube"}, TTL: api.Duration(10000 * time.Hour), MaxUses: 3, KubeClusters: []string{"cookie2"}, Labels: map[string]string{"team": "a"},
	})
	must(t, err)
	if len(added.Token) != 32 || added.ID != api.TokenID(added.Token) || added.Proxy != authtest.PublicAddr || time.Until(added.Expires) < 9999*time.Hour {
		t.Errorf("%+v", added)
	}
	states, err := f.Authorities.States()
	must(t, err)
	if d := cmp.Diff([]string{states[1].Pin}, added.CAPins); d != "" || states[1].Type != "host" {
		t.Error(d)
	}
	raw, err := f.Tokens.Get(added.ID)
	must(t, err)
	got := decodeToken(t, raw)
	want := tokenDoc(added.ID, func(d *api.Token) {
		d.Metadata.Labels, d.Metadata.Expires = map[string]string{"team": "a"}, added.Expires
		d.Spec.MaxUses, d.Spec.KubeClusters = 3, api.Values{"cookie2"}
	})
	want.Metadata.Revision = got.Metadata.Revision
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	e := lastEvent(f)
	if e.Event != api.EventTokenCreate || e.Code != api.EventCodeTokenCreate || e.Fields["name"] != added.ID {
		t.Errorf("%+v", e)
	}
}

func TestTokensTimeIsBounded(t *testing.T) {
	f := authtest.New(t)
	for ttl, code := range map[time.Duration]api.Code{
		0: "", time.Minute: "", 10000 * time.Hour: "", 10 * 365 * 24 * time.Hour: "",
		time.Second: api.CodeInvalid, -time.Hour: api.CodeInvalid, 11 * 365 * 24 * time.Hour: api.CodeInvalid,
	} {
		added, err := f.Tokens.Add(t.Context(), authtest.Admin(), api.AddTokenRequest{Roles: []string{"kube"}, TTL: api.Duration(ttl)})
		wantCode(t, ttl.String(), err, code, "valid for")
		if ttl == 0 && time.Duration(added.TTL) != 30*time.Minute {
			t.Error(added.TTL)
		}
	}
	for name, expires := range map[string]time.Time{"over": time.Now().Add(-time.Hour), "too far": time.Now().Add(11 * 365 * 24 * time.Hour)} {
		_, err := f.Tokens.Put(t.Context(), authtest.Admin(), tokenDoc("0123456789abcdefg", func(d *api.Token) { d.Metadata.Expires = expires }), false)
		wantCode(t, name, err, api.CodeInvalid, "metadata.expires")
	}
	resp, err := f.Tokens.Put(t.Context(), authtest.Admin(), tokenDoc("0123456789abcdefg"), false)
	must(t, err)
	if len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0], "30m") {
		t.Error("a token without an end got none, unsaid:", resp.Warnings)
	}
}

func TestTokenEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		added := f.AddToken(t)
		f.JoinAgent(t, added.Token, "a")
		time.Sleep(31 * time.Minute) // in the bubble
		_, pub := authtest.NewKey(t)
		_, err := f.Agents.Join(t.Context(), api.JoinRequest{Token: added.Token, PublicKey: pub, KubeClusters: []string{"a"}}, authtest.Client)
		wantCode(t, "join", err, api.CodeUnauthenticated, "expired")
		if list, err := f.Tokens.List(); err != nil || len(list) != 0 {
			t.Error(list, err)
		}
		_, err = f.Tokens.Get(added.ID)
		wantCode(t, "get", err, api.CodeNotFound, "tctl tokens ls")
	})
}

func TestDocumentOfATokenReadBack(t *testing.T) {
	f := authtest.New(t)
	put := func(doc *api.Token, force bool) (api.PutResponse, error) {
		return f.Tokens.Put(t.Context(), authtest.Admin(), doc, force)
	}
	secret := "this-is-a-secret-token"
	resp, err := put(tokenDoc(secret, func(d *api.Token) { d.Metadata.Expires = time.Now().Add(time.Hour) }), false)
	must(t, err)
	if resp.Name != api.TokenID(secret) || !resp.Created {
		t.Errorf("%+v", resp)
	}
	_, err = put(tokenDoc("kube-cd", byServiceAccount("default:agent")), false)
	must(t, err)
	f.JoinAgent(t, secret, "a")
	for _, name := range []string{resp.Name, "kube-cd"} {
		raw, err := f.Tokens.Get(name)
		must(t, err)
		commits := f.DB.Commits()
		_, err = put(decodeToken(t, raw), false)
		wantCode(t, name, err, api.CodeExists, "--force")
		again, err := put(decodeToken(t, raw), true)
		if err != nil || !again.Unchanged || again.Created || again.Revision != decodeToken(t, raw).Metadata.Revision || f.DB.Commits() != commits {
			t.Errorf("%s: %+v %v", name, again, err)
		}
	}
	raw, err := f.Tokens.Get(resp.Name)
	must(t, err)
	for name, edit := range map[string]func(*api.Token){
		"uses": func(d *api.Token) { d.Spec.MaxUses = 7 }, "clusters": func(d *api.Token) { d.Spec.KubeClusters = api.Values{"a"} },
		"expires": func(d *api.Token) { d.Metadata.Expires = d.Metadata.Expires.Add(time.Hour) },
	} {
		doc := decodeToken(t, raw)
		edit(doc)
		_, err := put(doc, true)
		wantCode(t, name, err, api.CodeForbidden, "lacks the secret")
	}
	_, err = put(tokenDoc("0123456789abcdef"), true)
	wantCode(t, "an id that is none", err, api.CodeInvalid, "looks like the id")
	_, err = put(tokenDoc("0123456789abcdef", byServiceAccount("default:agent")), true)
	wantCode(t, "a name like an id", err, api.CodeInvalid, "choose another name")
	_, err = f.Tokens.Add(t.Context(), authtest.Admin(), api.AddTokenRequest{Roles: []string{"kube"}, Value: "0123456789abcdef"})
	wantCode(t, "a secret like an id", err, api.CodeInvalid, "looks like the id")
	_, err = f.Tokens.Add(t.Context(), authtest.Admin(), api.AddTokenRequest{Roles: []string{"kube"}, Value: secret})
	wantCode(t, "the same secret again", err, api.CodeExists, api.TokenID(secret))
}

func TestReplacedTokenKeepsItsUses(t *testing.T) {
	f := authtest.New(t)
	doc := tokenDoc("a-token-of-two-uses", func(d *api.Token) { d.Spec.MaxUses, d.Metadata.Expires = 2, time.Now().Add(time.Hour) })
	_, err := f.Tokens.Put(t.Context(), authtest.Admin(), doc, false)
	must(t, err)
	f.JoinAgent(t, doc.Metadata.Name, "a")
	f.JoinAgent(t, doc.Metadata.Name, "a")
	next := *doc
	next.Metadata.Description, next.Spec.Uses = "once more", 0
	_, err = f.Tokens.Put(t.Context(), authtest.Admin(), &next, true)
	must(t, err)
	_, pub := authtest.NewKey(t)
	_, err = f.Agents.Join(t.Context(), api.JoinRequest{Token: doc.Metadata.Name, PublicKey: pub, KubeClusters: []string{"a"}}, authtest.Client)
	wantCode(t, "the third", err, api.CodeForbidden, "all 2 uses are spent")
}

func TestTokenIsRemovedByIDOrName(t *testing.T) {
	f := authtest.New(t)
	one, two := f.AddToken(t), f.AddToken(t)
	_, err := f.Tokens.Put(t.Context(), authtest.Admin(), tokenDoc("kube-cd", byServiceAccount("default:agent")), false)
	must(t, err)
	agent := f.JoinAgent(t, one.Token, "a")
	err = f.Tokens.Delete(t.Context(), authtest.Admin(), two.Token)
	wantCode(t, "the secret, which belongs into no request", err, api.CodeNotFound, "no such token")
	for _, name := range []string{one.ID, two.ID, "kube-cd"} {
		must(t, f.Tokens.Delete(t.Context(), authtest.Admin(), name))
		err := f.Tokens.Delete(t.Context(), authtest.Admin(), name)
		wantCode(t, name, err, api.CodeNotFound, "no such token")
		if strings.Contains(err.Error(), name) {
			t.Error("the error repeats what may be a secret:", err)
		}
	}
	if e := lastEvent(f); e.Event != api.EventTokenDelete || e.Fields["name"] != "kube-cd" {
		t.Errorf("%+v", e)
	}
	if _, err := f.Admit(t, agent); err != nil {
		t.Error("an agent went with its token:", err)
	}
}

// threats.md, secrets at rest and join tokens: the id, which many see, opens nothing,
// and the secret stands nowhere.
func TestSecretOfATokenIsNowhere(t *testing.T) {
	f := authtest.New(t)
	secret := "zzz-a-secret-nobody-may-see"
	_, err := f.Tokens.Add(t.Context(), authtest.Admin(), api.AddTokenRequest{Roles: []string{"kube"}, Value: secret})
	must(t, err)
	_, pub := authtest.NewKey(t)
	_, errID := f.Agents.Join(t.Context(), api.JoinRequest{Token: api.TokenID(secret), PublicKey: pub, KubeClusters: []string{"a"}}, authtest.Client)
	wantCode(t, "joining by the id", errID, api.CodeUnauthenticated, "not known")
	f.JoinAgent(t, secret, "a")
	_, errName := f.Agents.Join(t.Context(), api.JoinRequest{Token: secret, PublicKey: pub, KubeClusters: []string{"x-a"}}, authtest.Client)
	wantCode(t, "a bad name", errName, api.CodeInvalid, "x-")
	list, err := f.Tokens.List()
	must(t, err)
	agents, err := json.Marshal(f.Agents.List())
	must(t, err)
	events, err := json.Marshal(f.DB.Events())
	must(t, err)
	_, errDoc := api.DecodeDocument([]byte(`{"kind":"token","version":"v2","metadata":{"name":"` + secret + `"},"spec":{"rolles":["kube"]}}`))
	for name, text := range map[string][]byte{
		"documents": bytes.Join(func() (all [][]byte) {
			for _, d := range list {
				all = append(all, d)
			}
			return all
		}(), nil),
		"agents": agents, "events": events, "snapshot": inflate(t, f.DB.Snapshot(t)), "errors": []byte(errors.Join(errID, errName, errDoc).Error()),
	} {
		if bytes.Contains(text, []byte(secret)) {
			t.Errorf("the secret stands in the %s", name)
		}
		if name != "snapshot" && bytes.Contains(text, []byte(`"hash"`)) {
			t.Errorf("a hash stands in the %s", name)
		}
	}
}

func TestTokenThatANewerVersionWroteLetsNobodyIn(t *testing.T) {
	f := authtest.New(t)
	added := f.AddToken(t)
	rec, _ := f.DB.View().Get("tokens/" + added.ID)
	raw := strings.Replace(string(rec.Value), `"roles"`, `"allow_from":["10.0.0.0/8"],"roles"`, 1)
	_, err := f.DB.Commit(t.Context(), auth.PutRaw(rec.Key, raw))
	must(t, err)
	_, pub := authtest.NewKey(t)
	_, err = f.Agents.Join(t.Context(), api.JoinRequest{Token: added.Token, PublicKey: pub, KubeClusters: []string{"a"}}, authtest.Client)
	wantCode(t, "join", err, api.CodeForbidden, "can't enforce")
	if list, err := f.Tokens.List(); err != nil || len(list) != 1 {
		t.Error(list, err)
	}
	_, err = f.DB.Commit(t.Context(), auth.PutRaw(rec.Key, `{"document":7}`))
	must(t, err)
	if list, err := f.Tokens.List(); err != nil || len(list) != 1 || !strings.Contains(string(list[0]), added.ID) {
		t.Error(list, err)
	}
	must(t, f.Tokens.Delete(t.Context(), authtest.Admin(), added.ID))
}
