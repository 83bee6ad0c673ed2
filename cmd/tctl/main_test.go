package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/api/yamldoc"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/client/clienttest"
	"github.com/sallyport-dev/sallyport/internal/client/profile"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"tctl": main, "users": main, "create": main})
}

// TestScripts runs the real main against a stand-in for a replica.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			srv, err := clienttest.Start(env.WorkDir)
			if err != nil {
				return err
			}
			env.Defer(srv.Close)
			env.Values[serverKey{}] = srv
			env.Values[logKey{}] = &logWriter{}
			env.Setenv("SALLYPORT_SOCKET", srv.Socket)
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("ADDR", srv.Addr)
			env.Setenv("NO_COLOR", "1")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"login": login, "session": addSession, "agents": setAgents, "kube": setKube, "ssouser": addSSOUser, "ssotest": setSSOTest, "audit": addAudit, "auditset": setAudit, "maxttl": setMaxTTL, "mode": checkMode},
	})
}

type serverKey struct{}

// login leaves on disk what tsh would: login USER LIFE ROLE...
func login(ts *testscript.TestScript, _ bool, args []string) {
	srv := ts.Value(serverKey{}).(*clienttest.Server)
	life, err := time.ParseDuration(args[1])
	ts.Check(err)
	l, err := srv.LogIn(args[0], life, args[2:]...)
	ts.Check(err)
	store := profile.Open(filepath.Join(ts.Getenv("HOME"), ".sallyport"))
	ts.Check(store.Save(&profile.Profile{
		Proxy: srv.Addr, ClusterName: l.ClusterName, User: l.User, SessionID: l.SessionID, NotAfter: l.NotAfter,
		Cert: string(l.CertPEM), Key: string(l.KeyPEM), HostCAs: string(l.CAs), KubeAddr: l.KubeAddr,
	}))
	ts.Check(store.SetCurrent(srv.Addr))
}

// addSession makes a session: session USER KIND ID HOUR [ADDR].
func addSession(ts *testscript.TestScript, _ bool, args []string) {
	hour, err := strconv.Atoi(args[3])
	ts.Check(err)
	created := time.Date(2036, 1, 2, hour, 4, 5, 0, time.UTC)
	s := api.Session{User: args[0], Kind: args[1], ID: args[2], Created: created, Expires: created.Add(12 * time.Hour)}
	if len(args) > 4 {
		s.ClientAddr = args[4]
	}
	ts.Value(serverKey{}).(*clienttest.Server).AddSession(s)
}

// setMaxTTL is what the roles allow a session: maxttl DURATION.
func setMaxTTL(ts *testscript.TestScript, _ bool, args []string) {
	d, err := time.ParseDuration(args[0])
	ts.Check(err)
	ts.Value(serverKey{}).(*clienttest.Server).SetMaxTTL(d)
}

// checkMode compares a file's permissions: mode OCTAL FILE.
func checkMode(ts *testscript.TestScript, _ bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := fmt.Sprintf("%#o", info.Mode().Perm()); got != args[0] {
		ts.Fatalf("%s: %s, want %s", args[1], got, args[0])
	}
}

// setAgents makes agents: agents FILE, which holds a list as JSON.
func setAgents(ts *testscript.TestScript, _ bool, args []string) {
	var list []api.Agent
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &list))
	for _, a := range list {
		ts.Value(serverKey{}).(*clienttest.Server).AddAgent(a)
	}
}

// setKube says which clusters there are: kube FILE, which holds a list as JSON.
func setKube(ts *testscript.TestScript, _ bool, args []string) {
	var list []api.KubeCluster
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &list))
	ts.Value(serverKey{}).(*clienttest.Server).SetKube(list...)
}

// addSSOUser makes somebody who comes from a connector: ssouser FILE, which holds a
// list as JSON.
func addSSOUser(ts *testscript.TestScript, _ bool, args []string) {
	var list []api.SSOUser
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &list))
	for _, u := range list {
		ts.Value(serverKey{}).(*clienttest.Server).AddSSOUser(u)
	}
}

// setSSOTest says what comes of tests of connectors: ssotest PENDING FILE.
func setSSOTest(ts *testscript.TestScript, _ bool, args []string) {
	pending, err := strconv.Atoi(args[0])
	ts.Check(err)
	var result api.SSOTestResult
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[1])), &result))
	ts.Value(serverKey{}).(*clienttest.Server).SetSSOTest(pending, result)
}

func TestTheEditorIsTheUsers(t *testing.T) {
	for _, tc := range []struct {
		name, visual, editor, installed, want string
	}{
		{"VISUAL first", "code --wait", "ed", "vi", "code --wait"},
		{"then EDITOR", "", "ed", "vi", "ed"},
		{"then vi", "", "", "vi", "/bin/vi"},
		{"then nano", "", "", "nano", "/bin/nano"},
		{"or none", "", "", "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			env := map[string]string{"VISUAL": tc.visual, "EDITOR": tc.editor}
			got, err := editorOf(func(name string) string { return env[name] }, func(name string) (string, error) {
				if name != tc.installed {
					return "", errors.New("not found")
				}
				return "/bin/" + name, nil
			})
			if got != tc.want || (err == nil) != (tc.want != "") {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

func TestProgressIsDrawnNowAndThenAndTakenAway(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(100, 0)
	bar := &ticker{out: &out, now: func() time.Time { return now }}
	p := &meter{bar: bar}
	for range 5 {
		if n, err := p.Write(make([]byte, 1<<20)); n != 1<<20 || err != nil {
			t.Fatal(n, err)
		}
		now = now.Add(progressEvery / 2)
	}
	bar.clear()
	bar.clear()
	if want := "\r1 MiB so far\r3 MiB so far\r5 MiB so far\r" + strings.Repeat(" ", len("5 MiB so far")) + "\r"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
	out.Reset()
	quiet := newTicker(&cliapp.Call{Stderr: &out})
	_, _ = (&meter{bar: quiet}).Write(make([]byte, 10))
	quiet.clear()
	if out.Len() > 0 {
		t.Errorf("no terminal: %q", out.String())
	}
}

// TestHelpFitsTheScreen: the help of every command, in 80 columns.
func TestHelpFitsTheScreen(t *testing.T) {
	var walk func(path []string, commands []cliapp.Command)
	walk = func(path []string, commands []cliapp.Command) {
		var out bytes.Buffer
		a := app()
		a.Stdout, a.Stderr = &out, &out
		if status := a.Main(t.Context(), append(append([]string{"tctl"}, path...), "--help")); status != 0 {
			t.Fatal(path, status, out.String())
		}
		for l := range strings.Lines(out.String()) {
			if len([]rune(strings.TrimRight(l, "\n"))) > screen && !strings.HasPrefix(l, "   tctl ") { // an example is pasted whole
				t.Errorf("tctl %s: wider than %d columns: %s", strings.Join(path, " "), screen, l)
			}
		}
		for _, c := range commands {
			if c.Usage == "" || c.Run != nil && c.MinArgs > 0 && len(c.Examples) == 0 {
				t.Errorf("tctl %s %s: no usage, or arguments without an example", strings.Join(path, " "), c.Name)
			}
			walk(append(path[:len(path):len(path)], c.Name), c.Commands)
		}
	}
	walk(nil, app().Commands)
}

// TestDocumentsOfThePageCanBeCreated: the YAML of docs/sso.md, whole documents that is.
func TestDocumentsOfThePageCanBeCreated(t *testing.T) {
	page, err := os.ReadFile("../../docs/sso.md")
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]bool{}
	for i, part := range strings.Split(string(page), "```yaml\n")[1:] {
		text, _, _ := strings.Cut(part, "```")
		if !strings.HasPrefix(text, "kind: ") {
			continue
		}
		docs, err := yamldoc.Decode([]byte(text))
		if err != nil {
			t.Errorf("example %d: %v", i+1, err)
			continue
		}
		for _, d := range docs {
			if c, ok := d.Value.(api.Connector); ok {
				kinds[c.ConnectorKind()] = true
			}
		}
	}
	if len(kinds) != len(api.ConnectorKinds()) {
		t.Errorf("examples of %v, want one of each kind", kinds)
	}
}

func TestEachGoesOnUnlessAllWouldFail(t *testing.T) {
	gone, down := api.Errorf(api.CodeNotFound, "gone"), api.Errorf(api.CodeUnavailable, "down")
	for name, test := range map[string]struct {
		fails map[int]error
		done  int
		want  string
		code  api.Code
	}{
		"nothing fails":         {nil, 4, "", ""},
		"the first code counts": {map[int]error{1: gone, 3: down}, 2, "gone\ndown", api.CodeNotFound},
		"no way to a replica":   {map[int]error{1: down}, 1, "down\n2 more not tried", api.CodeUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			done := 0
			err := each(t.Context(), []int{0, 1, 2, 3}, func(i int) error {
				if test.fails[i] == nil {
					done++
				}
				return test.fails[i]
			})
			text := ""
			if err != nil {
				text = err.Error()
			}
			if done != test.done || text != test.want || api.CodeOf(err) != test.code {
				t.Errorf("%d done, %q (%s)", done, text, api.CodeOf(err))
			}
		})
	}
}
