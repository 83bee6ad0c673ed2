package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/api/yamldoc"
	"github.com/sallyport-dev/sallyport/internal/audit/chain"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/client/clienttest"
)

// logWriter makes of events lines of an audit log.
type logWriter struct {
	number uint64
	last   chain.Hash
}

func (w *logWriter) line(event string) []byte {
	w.number++
	body := fmt.Appendf(nil, `%s,"replica":"id-0","raft_index":%d,"number":%d`, strings.TrimSuffix(event, "}"), 10+w.number, w.number)
	w.last = chain.Link(w.last, body)
	return fmt.Appendf(body, `,"hash":"%s"}`, w.last)
}

type logKey struct{}

// addAudit logs events: audit FILE [FIRST], a line each. FIRST is the number of the
// first, if the log begins later; audit -write FILE OUT writes the lines to a file.
func addAudit(ts *testscript.TestScript, _ bool, args []string) {
	w, _ := ts.Value(logKey{}).(*logWriter)
	write := len(args) == 3 && args[0] == "-write"
	if write {
		args = args[1:]
		w = &logWriter{}
	}
	first := uint64(1)
	if !write && len(args) > 1 {
		n, err := strconv.ParseUint(args[1], 10, 64)
		ts.Check(err)
		first = n
		w.number = n - 1
	}
	var lines [][]byte
	for event := range strings.Lines(ts.ReadFile(args[0])) {
		if event = strings.TrimSpace(event); event != "" {
			lines = append(lines, w.line(event))
		}
	}
	if write {
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), append(bytes.Join(lines, []byte("\n")), '\n'), 0o600))
		return
	}
	ts.Value(serverKey{}).(*clienttest.Server).AddAudit(first, lines...)
	ts.Setenv("HEAD", fmt.Sprintf("%d:%s", w.number, w.last))
}

// setAudit sets what else the stand-in says of audit: auditset scan LINES, cut TIMES,
// lack NUMBER, verified FILE, status FILE; auditset waiting waits until somebody waits for events.
func setAudit(ts *testscript.TestScript, _ bool, args []string) {
	srv := ts.Value(serverKey{}).(*clienttest.Server)
	switch args[0] {
	case "scan", "cut", "lack":
		n, err := strconv.Atoi(args[1])
		ts.Check(err)
		map[string]func(int){"scan": srv.SetAuditScan, "cut": srv.CutAuditExports, "lack": srv.LackAudit}[args[0]](n)
	case "verified":
		var list []api.AuditVerified
		ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[1])), &list))
		srv.SetAuditVerified(list...)
	case "status":
		var s api.AuditStatus
		text := strings.ReplaceAll(ts.ReadFile(args[1]), "THREE_MINUTES_AGO", time.Now().Add(-3*time.Minute-time.Second).Format(time.RFC3339))
		ts.Check(json.Unmarshal([]byte(text), &s))
		srv.SetAuditStatus(&s)
	case "waiting":
		deadline, poll := time.After(time.Minute), time.NewTicker(5*time.Millisecond)
		defer poll.Stop()
		for !slices.ContainsFunc(srv.AuditQueries(), func(q api.AuditQuery) bool { return q.Wait > 0 }) {
			select {
			case <-deadline:
				ts.Fatalf("nobody waits for events")
			case <-poll.C:
			}
		}
	default:
		ts.Fatalf("auditset %s", args[0])
	}
}

// TestEventLinesCannotDriveTheTerminal: threats.md, "audit injection": what the log
// escaped is decoded here, and must be escaped again.
func TestEventLinesCannotDriveTheTerminal(t *testing.T) {
	for name, tc := range map[string]struct {
		raw, want string
		failed    bool
	}{
		"a login": {
			`{"event":"user.login","code":"T1000I","time":"2026-11-23T12:00:00Z","user":"alice","method":"local","success":true,"addr.remote":"192.0.2.1","number":1}`,
			"2026-11-23T12:00:00Z T1000I user.login           alice        Logged in with a password from 192.0.2.1", false,
		},
		"a request, and where": {
			`{"event":"kube.request","code":"T3009I","time":"2026-11-23T12:00:00.123Z","user":"alice","kubernetes_cluster":"cookie","verb":"GET","kubernetes_verb":"list","resource_kind":"pods","response_code":403}`,
			"2026-11-23T12:00:00Z T3009I kube.request         alice        cookie: list pods → 403 Forbidden", true,
		},
		"nobody is known yet": {
			`{"event":"audit.lost","code":"TSP01E","time":"2026-11-23T12:00:00Z","count":3}`,
			"2026-11-23T12:00:00Z TSP01E audit.lost           -            The log has a hole here: 3 events could be kept nowhere", true,
		},
		"an event of a later version": {
			`{"event":"app.start","code":"T2007I","time":"2026-11-23T12:00:00Z","user":"bob","app":"grafana","n":2,"list":["a"],"replica":"r","raft_index":1,"number":9,"hash":"00"}`,
			`2026-11-23T12:00:00Z T2007I app.start            bob          app="grafana" list=["a"] n=2`, false,
		},
		"names with line feeds, escapes and marks": {
			`{"event":"x\ny","code":"\u001b[2J","time":"2026-11-23T12:00:00Z","user":"a\r\nb\u202ec\u009b","k\u2028":"\u001b]0;t\u0007"}`,
			`2026-11-23T12:00:00Z \u001b[2J x\ny                 a\r\nb\u202ec\u009b k\u2028="\u001b]0;t\u0007"`, false,
		},
		"a cluster that would be a line of its own": {
			`{"event":"kube.request","code":"T3009W","time":"2026-11-23T12:00:00Z","user":"a","kubernetes_cluster":"x\n2026","verb":"GET","request_path":"/\u001b[31m"}`,
			`2026-11-23T12:00:00Z T3009W kube.request         a            x\n2026: GET "/ [31m"`, true,
		},
		"no event": {`{"event":1,"x":"` + "\u202e" + `"}`, `not readable: {"event":1,"x":"\u202e"}`, true},
	} {
		t.Run(name, func(t *testing.T) {
			got, failed := eventLine(json.RawMessage(tc.raw), api.EventNames(), time.UTC, 0)
			if diff := cmp.Diff(tc.want, got); diff != "" || failed != tc.failed {
				t.Errorf("failed %v: %s", failed, diff)
			}
		})
	}
}

func FuzzEventLine(f *testing.F) {
	f.Add(`{"event":"user.login","code":"T1000I","time":"2026-11-23T12:00:00Z","user":"alice","number":1}`)
	f.Add(`{"event":"kube.request","kubernetes_cluster":"\u001b[2J","user":"\n"}`)
	f.Add(`{"x":"\u202e\u009b31m","y":{"z":["\u0007"]}}`)
	f.Add("\xff\x1b")
	f.Fuzz(func(t *testing.T, raw string) {
		line, _ := eventLine(json.RawMessage(raw), api.EventNames(), time.UTC, 0)
		if strings.IndexFunc(line, func(r rune) bool { return !strconv.IsPrint(r) }) >= 0 {
			t.Errorf("%q becomes %q", raw, line)
		}
		if n := len([]rune(line)); n > 4*mostName+mostWhat+200 {
			t.Errorf("%d characters", n)
		}
	})
}

// TestTheAuditPageHasAllEvents: names and codes stand in docs/audit.md.
func TestTheAuditPageHasAllEvents(t *testing.T) {
	page := auditPage(t)
	for _, word := range eventTypes() {
		if !strings.Contains(page, "`"+word+"`") {
			t.Errorf("docs/audit.md has no `%s`", word)
		}
	}
}

func auditPage(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/audit.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// blocks are the code blocks of a page in that language.
func blocks(page, language string) []string {
	var out []string
	for _, part := range strings.Split(page, "```"+language+"\n")[1:] {
		text, _, _ := strings.Cut(part, "```")
		out = append(out, text)
	}
	return out
}

// TestCommandsOfTheAuditPageAreRun: each command of tctl that docs/audit.md quotes
// stands in a script, word for word.
func TestCommandsOfTheAuditPageAreRun(t *testing.T) {
	scripts, err := filepath.Glob("testdata/audit*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	var ran strings.Builder
	for _, name := range scripts {
		text, err := os.ReadFile(name) //nolint:gosec // our own
		if err != nil {
			t.Fatal(err)
		}
		ran.Write(text)
	}
	found := 0
	for _, block := range blocks(auditPage(t), "sh") {
		for line := range strings.Lines(block) {
			command, _, _ := strings.Cut(line, " #")
			if command = strings.TrimSpace(command); !strings.HasPrefix(command, "tctl ") {
				continue
			}
			found++
			command, _, _ = strings.Cut(command, " | ")
			if !regexp.MustCompile(`(?m)^!? ?exec ` + regexp.QuoteMeta(command) + `( &\w+&)?$`).MatchString(ran.String()) {
				t.Errorf("no script runs: %s", command)
			}
		}
	}
	if found < 8 {
		t.Errorf("%d commands", found)
	}
}

// TestForwardersOfTheAuditPageAreGood: what docs/audit.md shows can be created.
func TestForwardersOfTheAuditPageAreGood(t *testing.T) {
	types := map[string]bool{}
	for i, text := range blocks(auditPage(t), "yaml") {
		docs, err := yamldoc.Decode([]byte(text))
		if err != nil {
			t.Errorf("example %d: %v", i+1, err)
			continue
		}
		for _, d := range docs {
			if f, ok := d.Value.(*api.AuditForwarder); ok {
				types[f.Spec.Type] = true
			}
		}
	}
	if !types[api.ForwardWebhook] || !types[api.ForwardOTLP] {
		t.Errorf("examples of %v", types)
	}
}

// TestTheRecipeOfTheAuditPageWorks: the check by hand passes on a log, and names the
// line that was changed, removed or added.
func TestTheRecipeOfTheAuditPageWorks(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("not on Linux: bash and sha256sum may not be there")
	}
	recipes := blocks(auditPage(t), "bash")
	if len(recipes) != 1 {
		t.Fatalf("%d recipes", len(recipes))
	}
	if n := strings.Count(recipes[0], "\n"); n > 12 {
		t.Errorf("the recipe has %d lines", n)
	}
	w := &logWriter{}
	var lines []string
	for i := range 6 {
		lines = append(lines, string(w.line(fmt.Sprintf(`{"event":"user.login","user":"a%d ,\"hash\":\"\\x\" %% $(x) `+"`y`"+`","n":"ü"}`, i))))
	}
	changed, removed := slices.Clone(lines), slices.Delete(slices.Clone(lines), 2, 3)
	changed[3] = strings.Replace(changed[3], "a3", "b3", 1)
	for name, tc := range map[string]struct {
		lines []string
		want  string
	}{
		"whole":              {lines, fmt.Sprintf("ok %d:%s\n", w.number, w.last)},
		"from the middle on": {lines[2:], fmt.Sprintf("ok %d:%s\n", w.number, w.last)},
		"changed":            {changed, "not ok: line 4\n"},
		"removed":            {removed, "not ok: line 3\n"},
		"doubled":            {slices.Insert(slices.Clone(lines), 2, lines[1]), "not ok: line 3\n"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "events.log"), []byte(strings.Join(tc.lines, "\n")+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), "bash", "-c", recipes[0]) //nolint:gosec // of the page
			cmd.Dir = dir
			got, err := cmd.CombinedOutput()
			if diff := cmp.Diff(tc.want, string(got)); diff != "" {
				t.Errorf("%v: %s", err, diff)
			}
		})
	}
}

// follower runs "tctl audit ls --follow" in this process.
type follower struct {
	out  *bufio.Scanner
	errs chan string // lines, enough of them to keep nobody waiting
	end  func() int
}

// said is the next line on standard error.
func (f *follower) said(t *testing.T) string {
	t.Helper()
	line, ok := <-f.errs
	if !ok {
		t.Fatal("it ended")
	}
	return line
}

func follow(t *testing.T, srv *clienttest.Server, args ...string) *follower {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	outR, outW := io.Pipe()
	errR, errW := io.Pipe()
	a := app()
	a.Stdin, a.Stdout, a.Stderr = strings.NewReader(""), outW, errW
	code := make(chan int, 1)
	go func() {
		code <- a.Main(ctx, append([]string{"tctl", "--socket=" + srv.Socket, "audit", "ls", "--follow", "--format=json"}, args...))
		_, _ = outW.Close(), errW.Close()
	}()
	f := &follower{out: bufio.NewScanner(outR), errs: make(chan string, 1000)}
	go func() {
		for lines := bufio.NewScanner(errR); lines.Scan(); {
			f.errs <- lines.Text()
		}
		close(f.errs)
	}()
	f.end = func() int {
		cancel()
		_, _ = io.Copy(io.Discard, outR)
		return <-code
	}
	t.Cleanup(cancel)
	return f
}

func (f *follower) numbers(t *testing.T, n int) string {
	t.Helper()
	var got []string
	for range n {
		if !f.out.Scan() {
			t.Fatalf("it ended after %v", got)
		}
		trailer, ok := chain.ParseTrailer(f.out.Bytes())
		if !ok {
			t.Fatalf("%s", f.out.Text())
		}
		got = append(got, strconv.FormatUint(trailer.Number, 10))
	}
	return strings.Join(got, " ")
}

func startAudit(t *testing.T) (*clienttest.Server, *logWriter) {
	t.Helper()
	t.Setenv("HOME", t.TempDir())
	dir, err := os.MkdirTemp("", "tctl") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	srv, err := clienttest.Start(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	return srv, &logWriter{}
}

func event(name, user string) string {
	return fmt.Sprintf(`{"event":%q,"code":"T0","time":"2026-11-23T12:00:00Z","uid":"u","user":%q}`, name, user)
}

// TestFollowingGoesOnWhereItWas: through a replica that goes away meanwhile, and with
// what does not match; Ctrl-C is no failure.
func TestFollowingGoesOnWhereItWas(t *testing.T) {
	srv, w := startAudit(t)
	add := func(users ...string) {
		var lines [][]byte
		for _, user := range users {
			lines = append(lines, w.line(event("user.login", user)))
		}
		srv.AddAudit(1, lines...)
	}
	add("alice", "bob", "alice", "alice")
	f := follow(t, srv, "--limit=2", "--user=alice")
	if got := f.numbers(t, 2); got != "3 4" {
		t.Errorf("at first: %s", got)
	}
	add("bob", "alice")
	if got := f.numbers(t, 1); got != "6" {
		t.Errorf("then: %s", got)
	}
	srv.FailAudit(2)
	if text := f.said(t); !strings.Contains(text, "this replica is stopping") {
		t.Errorf("nothing was said of a replica that is gone: %q", text)
	}
	if text := f.said(t); text != "Going on." {
		t.Error(text)
	}
	add("alice", "alice")
	if got := f.numbers(t, 2); got != "7 8" {
		t.Errorf("after it came back: %s", got)
	}
	if code := f.end(); code != 0 {
		t.Errorf("exit status %d", code)
	}
}

// TestFollowingMissesNothingThatComesDuringTheSearch: the pages of a search say where
// the log ends when they are made, which is later than what they looked at.
func TestFollowingMissesNothingThatComesDuringTheSearch(t *testing.T) {
	w := &logWriter{}
	var lines []json.RawMessage
	add := func(user string) { lines = append(lines, w.line(event("user.login", user))) }
	add("alice")
	add("bob")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got []string
	l := &auditLister{
		limit: 10, query: api.AuditQuery{User: "alice"}, ticker: &ticker{now: time.Now}, note: func(string, ...any) {},
		print: func(raw json.RawMessage) error {
			trailer, _ := chain.ParseTrailer(raw)
			got = append(got, strconv.FormatUint(trailer.Number, 10))
			return nil
		},
		ask: func(_ context.Context, q api.AuditQuery) (*api.AuditPage, error) {
			page := &api.AuditPage{Done: true, First: 1, Next: q.After}
			for i := range lines {
				if q.Newest {
					i = len(lines) - 1 - i
				}
				n := uint64(i + 1) //nolint:gosec // an index
				if n <= q.After || q.Before > 0 && n >= q.Before {
					continue
				}
				if q.Limit == 1 && len(page.Events) == 1 {
					page.Done = false
					break
				}
				if page.Next = n; q.User == "" || bytes.Contains(lines[i], []byte(`"user":"alice"`)) {
					page.Events = append(page.Events, lines[i])
				}
			}
			if len(lines) < 6 {
				add("alice") // while each of the searches is under way
			} else {
				cancel()
			}
			page.Last = uint64(len(lines))
			return page, nil
		},
	}
	after, _, err := l.newest(ctx)
	if err == nil {
		err = l.follow(ctx, after)
	}
	if want := "1 3 4 5 6"; err != nil || strings.Join(got, " ") != want {
		t.Errorf("%v, %v, want %s", got, err, want)
	}
}

// TestFollowingSurvivesARestart: the socket is gone, and then another replica's, with
// the same log.
func TestFollowingSurvivesARestart(t *testing.T) {
	srv, w := startAudit(t)
	lines := [][]byte{w.line(event("user.login", "alice")), w.line(event("user.login", "bob"))}
	srv.AddAudit(1, lines...)
	f := follow(t, srv)
	if got := f.numbers(t, 2); got != "1 2" {
		t.Error(got)
	}
	srv.Close()
	if text := f.said(t); !strings.HasPrefix(text, "The replica can't be asked (") {
		t.Error(text)
	}
	again, err := clienttest.Start(filepath.Dir(srv.Socket))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(again.Close)
	again.AddAudit(1, append(lines, w.line(event("user.login", "carol")))...)
	if text := f.said(t); text != "Going on." {
		t.Error(text)
	}
	if got := f.numbers(t, 1); got != "3" {
		t.Errorf("after the restart: %s", got)
	}
	if code := f.end(); code != 0 {
		t.Errorf("exit status %d", code)
	}
}

// TestStatusTellsOfAuditOnce: what is normal does not look like a fault, and a fault
// stands in one place.
func TestStatusTellsOfAuditOnce(t *testing.T) {
	now := time.Now()
	good := api.AuditStatus{Policy: "spool", First: 1, Number: 7, Hash: "5f70", Queued: 12}
	bad := good
	bad.Problem, bad.SpoolBytes, bad.SpoolLimit = "events can't reach the cluster since 12:04:05 UTC", 1<<20, 256<<20
	forwarders := []api.ForwarderStatus{
		{Name: "failing", Failing: now.Add(-3*time.Minute - time.Second), Error: "connection refused"},
		{Name: "behind", Behind: 1, Skipped: 1},
		{Name: "both", Behind: 2, Failing: now.Add(-3*time.Minute - time.Second)},
	}
	led, leaderless := good, bad
	led.SetAside = []string{"log/before-00000000000000000007"}
	led.Forwarders, leaderless.Forwarders = forwarders, forwarders
	for name, tc := range map[string]struct {
		status    api.Status
		want, not []string
	}{
		"all is well": {api.Status{LeaderID: "r1", Ready: true, Audit: &led}, []string{
			"Ready       yes\n", "Set aside   log/before-00000000000000000007 in the data directory: lines from before a loss", "Forwarder   failing: failing for 3m: connection refused\n",
			"Forwarder   behind: 1 line behind; 1 line given up, see 'tctl audit ls --type=audit.forward_skipped'\n", "Forwarder   both: 2 lines behind, failing for 3m\n",
		}, []string{"Audit spool", "in memory", "up to date", "nobody sends"}},
		"no leader": {api.Status{Ready: true, Reason: "audit: " + bad.Problem, Audit: &leaderless}, []string{
			"Ready       yes, but see \"Audit fault\"\n", "Audit fault events can't reach the cluster since 12:04:05 UTC\n",
			"Forwarder   failing: nobody sends while there is no leader\n", "Forwarder   behind: 1 line behind, nobody sends while there is no leader; 1 line given up",
		}, []string{"audit: ", "failing for", "up to date"}},
		"something else is wrong": {api.Status{Ready: true, Reason: "the disk is full", Audit: &bad}, []string{"Ready       yes, but the disk is full\n", "Audit fault events"}, nil},
	} {
		var out bytes.Buffer
		printStatus(&cliapp.Call{Stdout: &out}, &tc.status, nil)
		for _, want := range tc.want {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s: no %q in\n%s", name, want, &out)
			}
		}
		for _, not := range tc.not {
			if strings.Contains(out.String(), not) {
				t.Errorf("%s: %q is in\n%s", name, not, &out)
			}
		}
	}
}

// TestAFollowerShowsNothingTwice: whatever a replica says whose disk was lost, or which
// lacks lines.
func TestAFollowerShowsNothingTwice(t *testing.T) {
	w := &logWriter{}
	var lines []json.RawMessage
	for range 9 {
		lines = append(lines, w.line(event("user.login", "alice")))
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		pages := []api.AuditPage{
			{First: 1, Last: 2, Next: 2, Done: true, Events: lines[:2]},               // of a log that is fetched anew
			{First: 1, Last: 4, Next: 4, Done: true, Events: lines[2:4]},              // a part of it
			{First: 1, Last: 4, Next: 5, Done: true, Events: lines[3:4]},              // which says that it has gone further
			{First: 1, Last: 5, Next: 5, Done: true},                                  // nothing new
			{First: 1, Last: 5, Next: 5, Missing: []api.AuditRange{{From: 6, To: 9}}}, // and what will come
			{First: 1, Last: 9, Next: 9, Done: true, Events: []json.RawMessage{lines[4], lines[5], lines[8]}, Missing: []api.AuditRange{{From: 3, To: 4}, {From: 7, To: 8}}},
		}
		var got, said []string
		began, asked := time.Now(), 0
		l := &auditLister{
			limit: 10, ticker: &ticker{now: time.Now}, note: func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) },
			print: func(raw json.RawMessage) error {
				trailer, _ := chain.ParseTrailer(raw)
				got = append(got, strconv.FormatUint(trailer.Number, 10))
				return nil
			},
			ask: func(context.Context, api.AuditQuery) (*api.AuditPage, error) {
				page := pages[asked]
				if asked++; asked == len(pages) {
					cancel()
				}
				return &page, nil
			},
		}
		if err := l.follow(ctx, 5); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff([]string{"6", "9"}, got); diff != "" {
			t.Error(diff)
		}
		if time.Since(began) < 2*followMost {
			t.Errorf("old lines are asked for again after %s", time.Since(began))
		}
		if want := "The replica lacks the lines 7 to 8, or can't read them: left out."; len(said) != 2 || said[1] != want {
			t.Errorf("said: %q", said)
		}
		if err := l.lacking(); err == nil || !strings.Contains(err.Error(), "the lines 7 to 8 of the log") {
			t.Error(err)
		}
	})
}

func TestFollowingAnEmptyLog(t *testing.T) {
	srv, w := startAudit(t)
	f := follow(t, srv)
	srv.AddAudit(1, w.line(event("user.login", "alice")))
	if got := f.numbers(t, 1); got != "1" {
		t.Error(got)
	}
	if code := f.end(); code != 0 {
		t.Errorf("exit status %d", code)
	}
}

// TestASearchThatDoesNotGetOnEnds: a server must not keep a client for ever.
func TestASearchThatDoesNotGetOnEnds(t *testing.T) {
	for name, run := range map[string]func(*auditLister, context.Context) (uint64, bool, error){"newest": (*auditLister).newest, "oldest": (*auditLister).oldest} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			l := &auditLister{limit: 10, print: func(json.RawMessage) error { return nil }, ticker: &ticker{now: time.Now}, ask: func(context.Context, api.AuditQuery) (*api.AuditPage, error) {
				asked++
				return &api.AuditPage{First: 1, Last: 100, Next: 50, Events: []json.RawMessage{[]byte("{}")}}, nil
			}}
			if _, _, err := run(l, t.Context()); err == nil || asked > 3 {
				t.Errorf("%d calls, %v", asked, err)
			}
		})
	}
}
