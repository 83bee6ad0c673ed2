package auth_test

import (
	"crypto/sha256"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

func newHeadless(t *testing.T, f *authtest.Fixture) (tool *consoleTool, code string) {
	t.Helper()
	tool = newTool(t)
	tool.req.RedirectURL, tool.req.Headless, tool.req.Device = "", true, "build-7"
	tool.start(t, f)
	return tool, api.MatchCode(tool.req.TLSPubKey)
}

func TestHeadlessLoginIsApprovedByTypingItsCode(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", groups("dev"))
	_, web := f.WebSession(t, "alice")
	for name, typed := range map[string]func(code string) string{
		"as it is shown": func(code string) string { return code },
		"in lower case":  strings.ToLower,
		"without a dash": func(code string) string { return strings.ReplaceAll(code, "-", "") },
		"with spaces":    func(code string) string { return " " + strings.ReplaceAll(code, "-", " ") + " " },
	} {
		t.Run(name, func(t *testing.T) {
			tool, code := newHeadless(t, f)
			shown, err := f.Consoles.Get(t.Context(), tool.id, auth.Actor{Addr: office})
			must(t, err)
			if !shown.Headless || shown.Device != "build-7" || shown.Addr != home {
				t.Errorf("%+v", shown)
			}
			if _, err := tool.redeem(t, f, ""); !api.IsCode(err, api.CodeUnauthenticated) {
				t.Error("redeemed before the approval:", err)
			}
			answer, err := f.Consoles.Approve(t.Context(), web, tool.id, typed(code), auth.Actor{User: "alice", Addr: office})
			if err != nil || answer != (auth.ConsoleAnswer{Headless: true}) {
				t.Fatal(answer, err)
			}
			if resp, err := tool.wait(t.Context(), f); err != nil || resp.State != api.ConsoleApproved {
				t.Fatal(resp, err)
			}
			if _, err := tool.redeem(t, f, strings.Repeat("0", 32)); !api.IsCode(err, api.CodeUnauthenticated) {
				t.Error("redeemed with a code:", err)
			}
			resp, err := tool.redeem(t, f, "")
			if err != nil || resp.Username != "alice" {
				t.Fatal(resp, err)
			}
			if _, err := tool.redeem(t, f, ""); !api.IsCode(err, api.CodeNotFound) {
				t.Error("redeemed twice:", err)
			}
		})
	}
}

// Threats: a code that is guessed is dead, one redeem.
func TestHeadlessLoginDiesOfFiveCodesTypedWrong(t *testing.T) {
	f := authtest.New(t)
	other := authtest.NewOn(t, f.DB)
	f.AddUser(t, "alice", nil)
	_, web := f.WebSession(t, "alice")
	tool, code := newHeadless(t, f)
	from := auth.Actor{User: "alice", Addr: office}
	for _, nothing := range []string{"", " ", "-", "", " - ", ""} { // typed by nobody, so no try
		if _, err := other.Consoles.Approve(t.Context(), web, tool.id, nothing, from); !api.IsCode(err, api.CodeInvalid) || strings.Contains(err.Error(), "tries") {
			t.Errorf("%q: %v", nothing, err)
		}
	}
	for i, wrong := range []string{"0", "0000-0000", code[:8], code + "0", strings.Repeat("x", 1<<16)} {
		replica := []*authtest.Fixture{f, other}[i%2]
		want := api.CodeInvalid
		if i == 4 {
			want = api.CodeConflict
		}
		if _, err := replica.Consoles.Approve(t.Context(), web, tool.id, wrong, from); !api.IsCode(err, want) {
			t.Errorf("%.20q: %v", wrong, err)
		}
	}
	for range 5 {
		if _, err := f.Consoles.Approve(t.Context(), web, tool.id, code, from); !api.IsCode(err, api.CodeConflict) {
			t.Error("the right code after five wrong ones:", err)
		}
	}
	if e := lastEvent(f); e.Code != api.EventCodeUserLoginRefused || e.User != "alice" || e.Fields["begun_at"] != home.String() {
		t.Errorf("%+v", e)
	}
	if code, message := tool.failed(t, f); code != api.CodeForbidden || !strings.Contains(message, "typed wrong") {
		t.Error("the terminal is told:", code, message)
	}
	if _, err := tool.redeem(t, f, ""); err == nil {
		t.Error("it is redeemed")
	}
}

func TestHeadlessLoginIsGuessedAtOnceNoBetter(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", nil)
	_, web := f.WebSession(t, "alice")
	tool, _ := newHeadless(t, f)
	var wg sync.WaitGroup
	var mu sync.Mutex
	judged := 0
	for range 10 {
		wg.Go(func() {
			if _, err := f.Consoles.Approve(t.Context(), web, tool.id, "0000-0000", auth.Actor{User: "alice"}); api.IsCode(err, api.CodeInvalid) {
				mu.Lock()
				defer mu.Unlock()
				judged++
			}
		})
	}
	wg.Wait()
	if judged > 4 {
		t.Errorf("%d guesses were answered", judged)
	}
}

// Each of the two ways is its own: a login of one can't be finished by the other.
func TestHeadlessAndRedirectedLoginsNeverMix(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", nil)
	_, web := f.WebSession(t, "alice")
	both := newTool(t)
	both.req.Headless = true
	neither := newTool(t)
	neither.req.RedirectURL = ""
	for name, tool := range map[string]*consoleTool{"both": both, "neither": neither} {
		if _, err := f.Consoles.Start(t.Context(), tool.req, home); !api.IsCode(err, api.CodeInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	redirected := newTool(t).start(t, f)
	if code := redirected.approve(t, f, web); code == "" {
		t.Error("a redirect without a code")
	}
	if _, err := redirected.redeem(t, f, ""); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Error("the verifier alone redeems a login that has a code:", err)
	}
	// A replica of a version before this knows neither word, and keeps both in the record:
	// it approves with one click, whoever is logged in, and makes a code.
	clicked, _ := newHeadless(t, f)
	approveAsBefore(t, f, clicked, web)
	if _, err := clicked.redeem(t, f, ""); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Error("a click opens a headless login:", err)
	}
	if _, err := clicked.redeem(t, f, beforeCode); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Error("a code opens a headless login:", err)
	}
	tool, _ := newHeadless(t, f)
	if answer, err := f.Consoles.Deny(t.Context(), tool.id, auth.Actor{User: "alice"}); err != nil || answer != (auth.ConsoleAnswer{Headless: true}) {
		t.Error(answer, err)
	}
}

const beforeCode = "0123456789abcdef0123456789abcdef"

// approveAsBefore is Approve of a version that knows of no connectors and no headless
// logins: what it does not know stays in the record.
func approveAsBefore(t *testing.T, f *authtest.Fixture, tool *consoleTool, web pki.UserIdentity) {
	t.Helper()
	key := "consoles/" + tool.id
	rec, ok := f.DB.View().Get(key)
	if !ok {
		t.Fatal("no such login")
	}
	var doc map[string]any
	must(t, json.Unmarshal(rec.Value, &doc))
	sum := sha256.Sum256([]byte(beforeCode))
	doc["code_hash"], doc["proof"] = sum[:], web
	value, err := json.Marshal(doc)
	must(t, err)
	_, err = f.DB.Commit(t.Context(), auth.PutRaw(key, string(value)))
	must(t, err)
}

// Nor do such replicas look by which connector somebody logged in: whoever redeems does.
func TestConsoleLoginApprovedWithoutItsConnectorIsNotRedeemed(t *testing.T) {
	f := authtest.New(t)
	f.AddUser(t, "alice", nil)
	f.PutConnector(t, authtest.GithubConnector("github"))
	_, local := f.WebSession(t, "alice")
	github := f.SSOLogin(t, "github", authtest.GithubIdentity("42", "bob", "octocats/admin")).Identity
	for name, tc := range map[string]struct {
		web  pki.UserIdentity
		user string
		want api.Code
	}{
		"with a password":      {local, "", api.CodeUnauthenticated},
		"by somebody else":     {github, "carol", api.CodeForbidden},
		"by the connector":     {github, "", ""},
		"by the one it is for": {github, "bob", ""},
	} {
		tool := newTool(t)
		tool.req.ConnectorID, tool.req.User = "github", tc.user
		tool.start(t, f)
		approveAsBefore(t, f, tool, tc.web)
		if _, err := tool.redeem(t, f, beforeCode); api.CodeOf(err) != tc.want {
			t.Errorf("approved %s: %v", name, err)
		}
	}
}

func TestDeviceIsOneShortLine(t *testing.T) {
	f := authtest.New(t)
	tool := newTool(t)
	tool.req.Device = "evil\r\n\x1b[31m" + strings.Repeat("x", 1000)
	tool.start(t, f)
	shown, err := f.Consoles.Get(t.Context(), tool.id, auth.Actor{Addr: office})
	must(t, err)
	if len(shown.Device) > 64 || strings.ContainsAny(shown.Device, "\r\n\x1b") {
		t.Errorf("%q", shown.Device)
	}
}

// A login by a connector is approved by a fresh session of that one alone.
func TestConsoleLoginNamesHowToLogIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := authtest.New(t)
		f.AddUser(t, "alice", nil)
		f.PutConnector(t, authtest.GithubConnector("github"))
		f.PutConnector(t, authtest.OIDCConnector("dex"))
		old := f.SSOLogin(t, "github", authtest.GithubIdentity("44", "carol", "octocats/admin")).Identity
		time.Sleep(auth.FreshFor) // in the bubble
		_, local := f.WebSession(t, "alice")
		github := f.SSOLogin(t, "github", authtest.GithubIdentity("42", "bob", "octocats/admin")).Identity
		dex := f.SSOLogin(t, "dex", &api.SSOIdentity{Subject: "s", Username: "dave", Attributes: map[string][]string{"groups": {"admins"}}}).Identity
		for connector, may := range map[string]map[string]api.Code{
			"":            {"local": "", "github": "", "dex": "", "old": api.CodeUnauthenticated},
			"local":       {"local": "", "github": api.CodeUnauthenticated, "dex": api.CodeUnauthenticated, "old": api.CodeUnauthenticated},
			"github":      {"local": api.CodeUnauthenticated, "github": "", "dex": api.CodeUnauthenticated, "old": api.CodeUnauthenticated},
			"github:else": {"github": api.CodeForbidden, "local": api.CodeUnauthenticated},
		} {
			for who, want := range may {
				tool := newTool(t)
				var user string
				tool.req.ConnectorID, user, _ = strings.Cut(connector, ":")
				tool.req.User = user
				tool.start(t, f)
				shown, err := f.Consoles.Get(t.Context(), tool.id, auth.Actor{Addr: office})
				must(t, err)
				if shown.Connector != tool.req.ConnectorID {
					t.Errorf("%+v", shown)
				}
				web := map[string]auth.Actor{"local": {Session: local}, "github": {Session: github}, "dex": {Session: dex}, "old": {Session: old}}[who].Session
				if _, err := f.Consoles.Approve(t.Context(), web, tool.id, "", auth.Actor{}); api.CodeOf(err) != want {
					t.Errorf("begun with --auth=%s, approved by %s: %v", connector, who, err)
				}
				time.Sleep(time.Second) // in the bubble
			}
		}
		for name, want := range map[string]api.Code{"okta": api.CodeNotFound, "../x": api.CodeInvalid, strings.Repeat("x", 1000): api.CodeInvalid} {
			tool := newTool(t)
			tool.req.ConnectorID = name
			_, err := f.Consoles.Start(t.Context(), tool.req, home)
			if !api.IsCode(err, want) || want == api.CodeNotFound && !strings.HasSuffix(err.Error(), "one can log in by local, dex, github") {
				t.Errorf("%.20s: %v", name, err)
			}
		}
	})
}

// The connector goes while a login by it waits: its session is gone, too.
func TestConsoleLoginOfAConnectorThatWent(t *testing.T) {
	f := authtest.New(t)
	f.PutConnector(t, authtest.GithubConnector("github"))
	web := f.SSOLogin(t, "github", authtest.GithubIdentity("42", "bob", "octocats/admin")).Identity
	tool := newTool(t)
	tool.req.ConnectorID = "github"
	tool.start(t, f)
	code := tool.approve(t, f, web)
	must(t, f.Connectors.Delete(t.Context(), authtest.Admin(), api.KindGithub, "github"))
	if _, err := tool.redeem(t, f, code); !api.IsCode(err, api.CodeUnauthenticated) {
		t.Error(err)
	}
}
