package web

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// auditLog is a log of some lines, which a search looks through in steps of budget.
type auditLog struct {
	lines   []json.RawMessage // number 1 first
	budget  int
	missing []api.AuditRange
	err     error // of every search
	right   error
	busy    error // of Begin
	begun   int
	queries []api.AuditQuery
}

const noRight = "you may not list event: your roles (access) have no rule with the resource event and the verb list"

func newAuditLog(n int) *auditLog {
	l := &auditLog{budget: 1 << 30}
	for i := range n {
		at := noon.Add(time.Duration(i-n) * time.Minute)
		switch i % 4 {
		case 0:
			l.add(api.Event{Event: api.EventUserLogin, Code: "T1000I", Time: at, User: "alice", Fields: map[string]any{"method": "local", "success": true, "addr.remote": "192.0.2.1"}})
		case 1:
			l.add(api.Event{Event: api.EventKubeRequest, Code: "T3009I", Time: at, User: "bob", Fields: map[string]any{
				"kubernetes_cluster": "production-eu", "verb": "GET", "kubernetes_verb": "list", "resource_kind": "pods", "resource_namespace": "payments", "response_code": 200,
				"request_path": "/api/v1/namespaces/payments/pods", "kubernetes_groups": []string{"dev", "viewers"}, "session_id": "0123",
			}})
		case 2:
			l.add(api.Event{Event: api.EventKubeRequest, Code: "T3009W", Time: at, User: "carol", Fields: map[string]any{
				"kubernetes_cluster": "production-eu", "verb": "DELETE", "kubernetes_verb": "delete", "resource_kind": "secrets", "resource_name": "tls", "resource_namespace": "payments",
				"response_code": 403, "error": "no role of carol leads to secrets in payments",
			}})
		default:
			l.add(api.Event{Event: api.EventUserLogin, Code: "T1000W", Time: at, Fields: map[string]any{"method": "local", "success": false, "error": "wrong user name or password", "addr.remote": "203.0.113.9"}})
		}
	}
	return l
}

func (l *auditLog) add(e api.Event) {
	e.UID, e.ClusterName = "5f0c", "gate.example.com"
	line, err := json.Marshal(e)
	if err != nil {
		panic(err)
	}
	l.addLine(string(line[:len(line)-1]))
}

func (l *auditLog) addLine(head string) {
	n := len(l.lines) + 1
	l.lines = append(l.lines, json.RawMessage(fmt.Sprintf(`%s,"replica":"r1","raft_index":%d,"number":%d,"hash":"%064x"}`, head, n+7, n, n)))
}

func (l *auditLog) Authorize(_ context.Context, cookie string) error {
	if user, _, _ := strings.Cut(cookie, "."); user == "bob" {
		return api.Errorf(api.CodeForbidden, noRight)
	}
	return l.right
}

func (l *auditLog) Begin(context.Context, string) (func(), error) {
	if l.busy != nil {
		return nil, l.busy
	}
	l.begun++
	return func() { l.begun-- }, nil
}

func (l *auditLog) Search(ctx context.Context, user string, q api.AuditQuery) (*api.AuditPage, error) {
	l.queries = append(l.queries, q)
	if l.begun != 1 || user != "alice" {
		panic(fmt.Sprint(l.begun, " searches, ", user))
	}
	if err := cmp.Or(l.err, ctx.Err()); err != nil {
		return nil, err
	}
	last := uint64(len(l.lines))
	p := &api.AuditPage{First: min(1, last), Last: last, Done: true, Missing: l.missing}
	at, step := q.After+1, uint64(1)
	if q.Newest {
		at, step = last, ^uint64(0)
		if q.Before != 0 {
			at = min(q.Before-1, last)
		}
	}
	for looked := 0; at >= 1 && at <= last; at += step {
		if len(p.Events) == q.Limit || looked == l.budget {
			p.Done = false
			break
		}
		looked++
		line := l.lines[at-1]
		p.Next = at
		var e api.Event
		_ = json.Unmarshal(line, &e)
		if (q.User == "" || q.User == e.User) && regexp.MustCompile(q.Grep).Match(line) {
			p.Events = append(p.Events, line)
		}
	}
	return p, nil
}

func auditSite(t testing.TB, l *auditLog) http.Handler {
	t.Helper()
	a := newAccounts()
	a.audit = l
	return newSiteOf(t, &invites{}, a, io.Discard)
}

func shownAudit(t testing.TB) map[string]func() *httptest.ResponseRecorder {
	t.Helper()
	at := func(user, query string, change func(*auditLog)) func() *httptest.ResponseRecorder {
		return func() *httptest.ResponseRecorder {
			l := newAuditLog(4)
			if change != nil {
				change(l)
			}
			a := newAccounts()
			a.audit = l
			return send(newSiteOf(t, &invites{}, a, os.Stderr), request{path: auditPath + query, user: user})
		}
	}
	nothing := func(*auditLog) {}
	return map[string]func() *httptest.ResponseRecorder{
		"audit":        at("alice", "", nothing),
		"audit-many":   at("alice", "?user=alice&before=280", func(l *auditLog) { l.lines, l.budget = newAuditLog(300).lines, 8 }),
		"audit-lacks":  at("alice", "?user=nobody", func(l *auditLog) { l.missing = []api.AuditRange{{From: 2, To: 3}} }),
		"audit-none":   at("alice", "?user=nobody", nothing),
		"audit-empty":  at("alice", "", func(l *auditLog) { l.lines = nil }),
		"audit-wrong":  at("alice", "?since=yesterday&until=2026-13-01&user=%5Ea&grep=%28&type=user.*", nothing),
		"audit-denied": at("bob", "", nothing),
		"audit-hostile": at("alice", "", func(l *auditLog) {
			l.lines = nil
			l.add(api.Event{Event: api.EventKubeRequest, Code: "T3009E", Time: noon, User: "m\u202ellory<b>", Fields: map[string]any{
				"kubernetes_cluster": strings.Repeat("long", 60), "verb": "GET", "request_path": "/<script>alert(1)</script>\u2066" + strings.Repeat("x", 500), "<i>": []string{"<i>"},
			}})
			l.addLine(`{"event":"x","text":"no code`)
		}),
		"audit-busy": at("alice", "", func(l *auditLog) {
			l.err = api.Errorf(api.CodeUnavailable, "this replica is fetching the log from others")
		}),
	}
}

func wantAudit() map[string]look {
	return map[string]look{
		"audit":         {200, "4 found in lines 1 to 4."},
		"audit-many":    {200, "so far: there was more to look through"},
		"audit-lacks":   {200, "This is not all: this replica lacks the lines 2 to 3 of the log"},
		"audit-none":    {200, "Nothing found in lines 1 to 4."},
		"audit-empty":   {200, "Nothing found."},
		"audit-wrong":   {400, "This is no time. Write it as 2026-11-22"},
		"audit-denied":  {403, "the verb list, as the role auditor has"},
		"audit-hostile": {200, "This line is no event"},
		"audit-busy":    {503, "Not just now"},
	}
}

func TestAudit_isForThoseWhoMayListEvents(t *testing.T) {
	l := newAuditLog(4)
	h := auditSite(t, l)
	for user, want := range map[string]struct {
		status int
		words  string
		nav    bool
	}{
		"alice":       {200, "wrong user name or password", true},
		"bob":         {403, "You may not list event: your roles (access)", false},
		"alice.ended": {303, "", false},
		"":            {303, "", false},
	} {
		l.queries = nil
		w := send(h, request{path: auditPath + "?user=carol", user: user})
		if w.Code != want.status || len(l.queries) != 0 && user != "alice" {
			t.Errorf("%s: %d, searched for %v", user, w.Code, l.queries)
		}
		checkPage(t, w)
		if user != "" && strings.Contains(w.Body.String(), user+".live") {
			t.Errorf("%s: the cookie's value is in the page", user)
		}
		if to := w.Header().Get("Location"); want.status == 303 && to != loginURL(auditPath) || want.status == 303 && safeNext(auditPath) != auditPath {
			t.Errorf("%s: to %s", user, to)
		}
		if got := strings.Contains(send(h, request{path: "/", user: user}).Body.String(), `<a href="/web/audit"`); got != want.nav {
			t.Errorf("%s: in the navigation: %v", user, got)
		}
	}
	l.queries = nil
	l.right = api.Errorf(api.CodeUnavailable, "the clock of this replica is wrong")
	if w := send(h, request{path: auditPath, user: "alice"}); w.Code != http.StatusServiceUnavailable || len(l.queries) != 0 {
		t.Errorf("%d", w.Code)
	}
	// Where the server has no log there is neither page nor link.
	h = newSite(t, &invites{}, io.Discard)
	if w := send(h, request{path: auditPath, user: "alice"}); w.Code != http.StatusNotFound || strings.Contains(w.Body.String(), auditPath) {
		t.Errorf("%d", w.Code)
	}
}

func TestAudit_isOnlyLookedAt(t *testing.T) {
	l := newAuditLog(4)
	h := auditSite(t, l)
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete} {
		w := send(h, request{method: method, path: auditPath, user: "alice"})
		if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET, HEAD" || len(l.queries) != 0 {
			t.Errorf("%s: %d", method, w.Code)
		}
		checkHeaders(t, w.Header())
	}
}

func TestAudit_asksForWhatWasTyped(t *testing.T) {
	day := func(d, h, m int) time.Time { return time.Date(2026, 11, d, h, m, 0, 0, time.UTC) }
	for query, want := range map[string]api.AuditQuery{
		"":                                   {Newest: true},
		"?since=2026-11-20&until=2026-11-21": {Newest: true, Since: day(20, 0, 0), Until: day(22, 0, 0)},
		"?since=2026-11-20+10:30&until=2026-11-20T11:00Z":         {Newest: true, Since: day(20, 10, 30), Until: day(20, 11, 0)},
		"?since=2026-11-20T12:30:00%2B02:00&until=2026-11-20+UTC": {Newest: true, Since: day(20, 10, 30), Until: day(21, 0, 0)},
		"?since=2h&until=30m": {Newest: true, Since: noon.Add(-2 * time.Hour), Until: noon.Add(-30 * time.Minute)},
		"?since=1d12h":        {Newest: true, Since: noon.Add(-36 * time.Hour)},
		"?since=11:30":        {Newest: true, Since: noon.Add(-30 * time.Minute)},
		"?user=+al*+&cluster=prod-*&grep=%5E%7B.*x": {Newest: true, User: "al*", Cluster: "prod-*", Grep: "^{.*x"},
		"?type=user.*%2C+T3009W++exec":              {Newest: true, Types: []string{"user.*", "T3009W", "exec"}},
		"?before=17":                                {Newest: true, Before: 17},
		"?after=17&user=bob":                        {After: 17, User: "bob"},
		"?after=0":                                  {},
		"?user=alice&user=bob&something=else&since=&until=&after=": {Newest: true, User: "alice"},
	} {
		l := newAuditLog(20)
		w := send(auditSite(t, l), request{path: auditPath + query, user: "alice"})
		want.Limit = maxAuditRows
		for _, q := range l.queries {
			if len(q.Types) == 0 {
				q.Types = nil
			}
			if diff := gocmp.Diff(want, q); diff != "" {
				t.Errorf("%s: %s", query, diff)
			}
		}
		if w.Code != 200 || len(l.queries) != 1 {
			t.Errorf("%s: %d, %d searches", query, w.Code, len(l.queries))
		}
	}
}

// What can't be searched for is said beside its field, and stays as it was typed.
func TestAudit_saysWhatIsWrongWithAField(t *testing.T) {
	for query, want := range map[string]struct{ field, words string }{
		"since=soon":                           {"since", "This is no time. Write it as 2026-11-22"},
		"since=h":                              {"since", "This is no time."},
		"since=-1h":                            {"since", "This is no time."},
		"until=2026-02-30":                     {"until", "This is no time."},
		"since=2026-11-20&until=2026-11-19":    {"until", "This is not after the beginning."},
		"grep=%28%5B":                          {"grep", "This is no regular expression: missing closing ]: `[`."},
		"user=%5E%28%24":                       {"user", "This is no regular expression"},
		"cluster=%5Ex":                         {"cluster", "begins with ^ and ends with $"},
		"type=a," + strings.Repeat("x%2C", 20): {"type", "At most 20 at once."},
		"grep=" + strings.Repeat("%28a%29*", 1000): {"grep", "This is too long: at most 512 bytes."},
	} {
		l := newAuditLog(1)
		w := send(auditSite(t, l), request{path: auditPath + "?" + query, user: "alice"})
		checkPage(t, w)
		page := w.Body.String()
		if w.Code != 400 || len(l.queries) != 0 || strings.Count(page, "aria-invalid") != 1 || strings.Count(page, `role="alert"`) != 1 {
			t.Errorf("%s: %d, %v\n%s", query, w.Code, l.queries, page)
		}
		if !regexp.MustCompile(`id="` + want.field + `-error">[^<]*` + regexp.QuoteMeta(strings.ReplaceAll(want.words, "`", "&#96;"))).MatchString(strings.ReplaceAll(page, "`", "&#96;")) {
			t.Errorf("%s: not %q in\n%s", query, want.words, page)
		}
		asked, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		for name, v := range asked {
			if len(v[0]) <= maxAuditField && !strings.Contains(page, `name="`+name+`" type="text" value="`+v[0]+`"`) {
				t.Errorf("%s: %s was not kept", query, name)
			}
		}
	}
	for _, query := range []string{"before=0", "before=x", "after=-1", "before=3&after=2", "before=18446744073709551615", "a=%zz", "x=" + strings.Repeat("x", maxForm)} {
		l := newAuditLog(1)
		w := send(auditSite(t, l), request{path: auditPath + "?" + query, user: "alice"})
		checkPage(t, w)
		if w.Code != 400 || len(l.queries) != 0 || !strings.Contains(w.Body.String(), "Press Search") && !strings.Contains(w.Body.String(), "Fill in the form again") {
			t.Errorf("%.40s: %d", query, w.Code)
		}
	}
}

func TestAudit_saysWhatTheSearchRefuses(t *testing.T) {
	l := newAuditLog(1)
	l.err = api.Errorf(api.CodeInvalid, "grep: too complex <b>\u202e%s", strings.Repeat("x", 1<<20))
	w := send(auditSite(t, l), request{path: auditPath + "?grep=x", user: "alice"})
	checkPage(t, w)
	if page := w.Body.String(); w.Code != 400 || !strings.Contains(page, "Grep: too complex &lt;b&gt;xx") || !strings.Contains(page, `value="x"`) || len(page) > 1<<16 {
		t.Errorf("%d, %d bytes", w.Code, len(page))
	}
	l.err = fmt.Errorf("secret detail of the disk")
	if w = send(auditSite(t, l), request{path: auditPath, user: "alice"}); w.Code != 500 || strings.Contains(w.Body.String(), "secret detail") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

var rowNumber = regexp.MustCompile(`<span class="hint">line (\d+)</span></summary>`)

// numbersOf are the lines that a page shows.
func numbersOf(t *testing.T, page string) (out []int) {
	t.Helper()
	for _, m := range rowNumber.FindAllStringSubmatch(page, -1) {
		n, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, n)
	}
	return out
}

// linkOf is where a link of these words leads; "": there is none.
func linkOf(page, words string) string {
	m := regexp.MustCompile(`<a class="button quiet" href="([^"]*)">` + words + `</a>`).FindStringSubmatch(page)
	if m == nil {
		return ""
	}
	return strings.ReplaceAll(m[1], "&amp;", "&")
}

// follow reads pages from one on, by links of these words, and gives all lines.
func follow(t *testing.T, h http.Handler, path string, words ...string) (lines []int, last string) {
	t.Helper()
	for range 100 {
		w := send(h, request{path: path, user: "alice"})
		last = w.Body.String()
		if w.Code != 200 || !strings.Contains(last, `name="user" type="text" value="alice"`) {
			t.Fatalf("%s: %d\n%s", path, w.Code, last)
		}
		found := numbersOf(t, last)
		if !slices.IsSortedFunc(found, func(a, b int) int { return b - a }) {
			t.Errorf("%s: not the newest first: %v", path, found)
		}
		lines = append(lines, found...)
		path = ""
		for _, word := range words {
			if path == "" {
				path = linkOf(last, word)
			}
		}
		if path == "" {
			checkPage(t, w)
			return lines, last
		}
	}
	t.Fatal("the links never end")
	return nil, ""
}

func TestAudit_leadsThroughTheWholeLogAndBack(t *testing.T) {
	for budget, size := range map[int]int{1: 41, 7: 301, 60: 797, 1000: 797} {
		l := newAuditLog(size)
		l.budget = budget
		h := auditSite(t, l)
		var want []int
		for n := len(l.lines); n > 0; n-- {
			if n%4 == 1 {
				want = append(want, n)
			}
		}
		lines, last := follow(t, h, auditPath+"?user=alice", "Older", "Search on in older lines")
		if diff := gocmp.Diff(want, lines); diff != "" {
			t.Errorf("older, budget %d: %s", budget, diff)
		}
		if linkOf(last, "Newer") == "" {
			t.Fatalf("no way back from\n%s", last)
		}
		lines, _ = follow(t, h, auditPath+"?user=alice&after=0", "Newer", "Search on in newer lines")
		slices.SortFunc(lines, func(a, b int) int { return b - a })
		if diff := gocmp.Diff(want, lines); diff != "" {
			t.Errorf("newer, budget %d: %s", budget, diff)
		}
	}
}

func TestAudit_isHonestAboutWhatItLookedThrough(t *testing.T) {
	l := newAuditLog(300)
	l.budget = 100
	h := auditSite(t, l)
	for query, want := range map[string]struct{ words, older, newer string }{
		"?user=nobody":            {"Nothing found in lines 201 to 300 so far", "/web/audit?before=201&user=nobody", ""},
		"?user=nobody&before=150": {"Nothing found in lines 50 to 149 so far", "/web/audit?before=50&user=nobody", "/web/audit?after=149&user=nobody"},
		"?user=nobody&before=50":  {"Nothing found in lines 1 to 49.", "", "/web/audit?after=49&user=nobody"},
		"?user=nobody&after=10":   {"Nothing found in lines 11 to 110 so far", "/web/audit?before=11&user=nobody", "/web/audit?after=110&user=nobody"},
		"?user=nobody&after=250":  {"Nothing found in lines 251 to 300.", "/web/audit?before=251&user=nobody", ""},
		"?user=bob":               {"25 found in lines 201 to 300 so far", "/web/audit?before=201&user=bob", ""},
		"":                        {"50 found in lines 251 to 300.", "/web/audit?before=251", ""},
		"?before=9000":            {"50 found in lines 251 to 300.", "/web/audit?before=251", "/web/audit?after=8999"},
		"?after=9000":             {"Nothing found.", "/web/audit?before=9001", ""},
		"?before=1":               {"Nothing found.", "", "/web/audit?after=0"},
	} {
		w := send(h, request{path: auditPath + query, user: "alice"})
		page := w.Body.String()
		older, newer := linkOf(page, "Older")+linkOf(page, "Search on in older lines"), linkOf(page, "Newer")+linkOf(page, "Search on in newer lines")
		if w.Code != 200 || !strings.Contains(page, want.words) || older != want.older || newer != want.newer {
			t.Errorf("%s: %d, older %q, newer %q, not %+v", query, w.Code, older, newer, want)
		}
		if !strings.Contains(want.words, "Nothing found.") && !strings.Contains(page, "This replica keeps lines 1 to 300.") {
			t.Errorf("%s: does not say what there is", query)
		}
	}
}

// A replica whose answers lead nowhere makes no page that leads in circles.
func TestAudit_oddAnswersEndTheLinks(t *testing.T) {
	for _, p := range []api.AuditPage{{}, {First: 1, Last: 9}, {First: 1, Last: 9, Next: 9}, {First: 5, Last: 9, Next: 4}} {
		for _, q := range []string{"before=5", "after=9"} {
			f := (&site{opts: Options{Clock: func() time.Time { return noon }}}).auditForm(q)
			page := auditPage{}
			page.fill(&f, &p)
			if page.Older.Search || page.Newer.Search {
				t.Errorf("%+v, %s: %+v", p, q, page)
			}
		}
	}
}

func TestAudit_longLinesFillAPageSooner(t *testing.T) {
	l := newAuditLog(0)
	for range 40 {
		l.add(api.Event{Event: api.EventUserLogin, Code: "T1000I", Time: noon, User: "alice", Fields: map[string]any{"long": strings.Repeat("\"", 32<<10)}})
	}
	h := auditSite(t, l)
	w := send(h, request{path: auditPath + "?user=alice", user: "alice"})
	if found := numbersOf(t, w.Body.String()); len(found) == 0 || len(found) > 16 || w.Body.Len() > 8<<20 {
		t.Errorf("%d lines, %d bytes", len(found), w.Body.Len())
	}
	lines, _ := follow(t, h, auditPath+"?user=alice", "Older")
	if len(lines) != 40 {
		t.Errorf("%d lines in all", len(lines))
	}
	lines, _ = follow(t, h, auditPath+"?user=alice&after=0", "Newer")
	if len(lines) != 40 {
		t.Errorf("%d lines in all, from the oldest", len(lines))
	}
}

// threats.md, audit injection: whatever strangers put into an event, in any field,
// and a link into the form, stays words.
func TestAudit_escapesEveryField(t *testing.T) {
	const evil = `"></bdi></td><script>alert(1)</script><img src=x onerror=alert(1)>{{.}}$(id)'` + "\u202e\u2066\u200b\n\x1b[31m"
	l := newAuditLog(0)
	fields := map[string]any{evil: evil, "list": []string{evil}, "map": map[string]any{evil: evil}, "success": evil, "response_code": evil}
	for _, name := range []string{
		"name", "addr.remote", "error", "method", "connector", "roles", "request_path", "verb", "kubernetes_verb", "resource_kind", "resource_name", "resource_namespace",
		"requested_user", "kubernetes_cluster", "command", "kubernetes_pod_name", "reason", "exitError", "exitCode", "node_name", "host_id", "token_name", "attempts",
	} {
		fields[name] = evil
	}
	for _, name := range append(api.EventNames(), evil) {
		l.add(api.Event{Event: name, Code: evil, Time: noon, User: evil, Fields: fields})
		delete(fields, "resource_kind") // once with, then without
	}
	l.addLine(`{"event":` + strings.Repeat("[", 50) + `<script>alert(1)</script>`)
	h := auditSite(t, l)
	q := url.Values{}
	for _, name := range []string{"since", "to", "user", "type", "cluster"} {
		q.Set(name, evil)
	}
	for _, path := range []string{"", "?before=50", "?user=" + url.QueryEscape(evil), "?grep=" + url.QueryEscape(evil), "?before=" + url.QueryEscape(evil), "?" + q.Encode()} {
		w := send(h, request{path: auditPath + path, user: "alice"})
		page := w.Body.String()
		for _, bad := range []string{"<script", "<img src=x", "\u202e", "\u2066", "\u200b", "\x1b"} {
			form := strings.Contains(path, "=%22") && bad != "<script" && bad != "<img src=x" // what one typed oneself stays
			if strings.Contains(page, bad) && !form {
				t.Errorf("%s: %q is in the page", path, bad)
			}
		}
		if w.Code >= 500 {
			t.Errorf("%s: %d", path, w.Code)
		}
		if strings.Contains(path, "=%22") {
			page = strings.Map(func(r rune) rune {
				if r == 0x1b { // which XML can't have
					return -1
				}
				return r
			}, page)
			checkHeaders(t, w.Header())
			checkHTML(t, page)
			continue
		}
		checkPage(t, w)
		if !strings.Contains(page, `\u202e`) {
			t.Errorf("%s: does not show what is hidden", path)
		}
	}
}

func TestAudit_showsAllFieldsInTheirOrder(t *testing.T) {
	l := newAuditLog(0)
	l.addLine(`{"event":"new.kind","code":"X1I","time":"2026-11-22T10:00:00.25Z","user":"al ice","big":12345678901234567890,"o":{"b":1,"a":[true,null]},"s":"` + strings.Repeat("long ", 200) + `"`)
	row := newAuditRow(l.lines[0])
	var got []string
	for _, f := range row.Fields {
		got = append(got, fmt.Sprint(f.Name, "=", f.Value[:min(len(f.Value), 30)], f.Cut))
	}
	want := []string{
		"event=new.kindfalse", "code=X1Ifalse", "time=2026-11-22T10:00:00.25Zfalse", "user=al icefalse", "big=12345678901234567890false", `o={"b":1,"a":[true,null]}false`,
		"s=long long long long long long true", "replica=r1false", "raft_index=8false", "number=1false", "hash=" + strings.Repeat("0", 30) + "false",
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if row.Raw != string(l.lines[0]) || row.Number != 1 || row.Time.Words != "2026-11-22 10:00:00" || row.Hash != "000000000000" || row.Outcome != "ok" {
		t.Errorf("%+v", row)
	}
}

func FuzzAuditRow(f *testing.F) {
	for _, line := range newAuditLog(4).lines {
		f.Add([]byte(line))
	}
	f.Add([]byte(`{"event":"x","code":1}`))
	f.Add([]byte(`{"a":"\ud800","":{},"a":[[]]} {}`))
	f.Add([]byte("{\"a\":\"\xff\u202e\"}"))
	f.Fuzz(func(t *testing.T, line []byte) {
		row := newAuditRow(line)
		for _, s := range []string{row.Raw, row.Event, row.User, row.Summary, row.Cluster, row.Hash, row.Code} {
			if visible(s) != s {
				t.Errorf("%q is not all seen", s)
			}
		}
		for _, field := range row.Fields {
			if visible(field.Name) != field.Name || visible(field.Value) != field.Value || len(field.Value) > 10*maxAuditValue+3 {
				t.Errorf("%+v", field)
			}
		}
	})
}

func FuzzAuditForm(f *testing.F) {
	f.Add("from=2h&until=2026-11-22&user=*&type=user.*,T1000I&cluster=^a$&grep=(?i)x&before=3")
	f.Add("after=0&from=&until=x;y")
	s := &site{opts: Options{Clock: func() time.Time { return noon }}}
	f.Fuzz(func(t *testing.T, raw string) {
		form := s.auditForm(raw)
		if form.error == "" && len(form.errors) == 0 {
			again := s.auditForm(strings.TrimPrefix(form.link("before", 7), auditPath+"?"))
			again.query.Before, again.query.After, again.query.Newest = form.query.Before, form.query.After, form.query.Newest
			if diff := gocmp.Diff(form.query, again.query); diff != "" || again.error != "" || len(again.errors) > 0 {
				t.Errorf("a link of it asks for something else: %s", diff)
			}
		}
	})
}

// A page of another site must not learn from a search what is in the log.
func TestAudit_searchesNothingForOtherSites(t *testing.T) {
	l := newAuditLog(4)
	h := auditSite(t, l)
	for site, want := range map[string]int{"cross-site": 0, "same-site": 0, "same-origin": 1, "none": 1, "": 1} {
		l.queries = nil
		w := send(h, request{path: auditPath + "?grep=wrong", user: "alice", header: http.Header{"Sec-Fetch-Site": {site}}})
		asks := strings.Contains(w.Body.String(), "A link of another site filled in this form")
		if w.Code != 200 || len(l.queries) != want || asks != (want == 0) || !strings.Contains(w.Body.String(), `value="wrong"`) {
			t.Errorf("%s: %d, %d searches", site, w.Code, len(l.queries))
		}
		checkPage(t, w)
	}
}

func TestAudit_saysThatManyAreSearching(t *testing.T) {
	l := newAuditLog(4)
	l.busy = api.Errorf(api.CodeRateLimited, "8 searches of yours are under way: wait")
	w := send(auditSite(t, l), request{path: auditPath, user: "alice"})
	if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), "8 searches of yours") || len(l.queries) != 0 {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	checkPage(t, w)
	l.busy = nil
	if w := send(auditSite(t, l), request{path: auditPath, user: "alice"}); w.Code != http.StatusOK || l.begun != 0 {
		t.Errorf("afterwards: %d, %d searches", w.Code, l.begun)
	}
}
