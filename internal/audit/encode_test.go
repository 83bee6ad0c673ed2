package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/audit/chain"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 5e6, time.UTC)

func event(fields map[string]any) api.Event {
	return api.Event{Event: "kube.request", Code: "T3009I", Time: noon, UID: "u1", ClusterName: "prod", User: "alice", Fields: fields}
}

// checkLine asserts what holds of every line whatever the event.
func checkLine(t *testing.T, line []byte) {
	t.Helper()
	if len(line) > MaxLine {
		t.Errorf("line of %d bytes, at most %d are allowed", len(line), MaxLine)
	}
	if !utf8.Valid(line) {
		t.Errorf("not UTF-8: %q", line)
	}
	for _, r := range string(line) {
		if !unicode.IsPrint(r) {
			t.Errorf("unprintable %U in %q", r, line)
		}
	}
	if !isLine(line) {
		t.Errorf("no JSON object on one line: %q", line)
	}
}

func TestEncode_writesOneFlatObjectInOrder(t *testing.T) {
	line, err := Encode(event(map[string]any{
		"verb": "get", "request_path": "/api/v1/pods?limit=5&watch=1", "response_code": 200, "ok": true,
		"kubernetes_groups": []string{"dev", "ops"}, "addr.remote": netip.MustParseAddrPort("10.0.0.1:55"),
		"none": nil, "ratio": 0.5, "took": time.Second, "error": errors.New("no"),
		"attributes": map[string][]string{"b": {"2"}, "a": {"1"}},
	}))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"event":"kube.request","code":"T3009I","time":"2026-11-22T12:00:00.005Z","uid":"u1","cluster_name":"prod","user":"alice",` +
		`"addr.remote":"10.0.0.1:55","attributes":{"a":["1"],"b":["2"]},"error":"no","kubernetes_groups":["dev","ops"],"none":null,` +
		`"ok":true,"ratio":0.5,"request_path":"/api/v1/pods?limit=5&watch=1","response_code":200,"took":"1s","verb":"get"}`
	if diff := cmp.Diff(want, string(line)); diff != "" {
		t.Error(diff)
	}
	checkLine(t, line)
}

func TestEncode_readsBackAsTheEvent(t *testing.T) {
	want := event(map[string]any{"verb": "get", "list": []any{"a", 1.5, true, nil}, "o": map[string]any{"k": "v"}})
	line, err := Encode(want)
	if err != nil {
		t.Fatal(err)
	}
	var got api.Event
	if err := json.Unmarshal(line, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestEncode_escapesWhatDoesNotPrint(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"line ends":               {"a\r\n{\"event\":\"forged\"}", `a\r\n{\"event\":\"forged\"}`},
		"ANSI":                    {"\x1b[2J\x1b]0;title\a", `\u001b[2J\u001b]0;title\u0007`},
		"C1 control as UTF-8":     {"\u009b31m", `\u009b31m`},
		"delete, NUL":             {"\x7f\x00", `\u007f\u0000`},
		"line separators":         {"a\u2028b\u2029c", `a\u2028b\u2029c`},
		"bidirectional override":  {"abc\u202etxt.exe", `abc\u202etxt.exe`},
		"zero width, BOM":         {"a\u200bb\ufeff", `a\u200bb\ufeff`},
		"tag character, astral":   {"\U000e0041", `\udb40\udc41`},
		"invalid UTF-8":           {"a\xff\xc3(", `a\\xff\\xc3(`},
		"surrogate half as UTF-8": {"\xed\xa0\x80", `\\xed\\xa0\\x80`},
		"markup":                  {"</script><b>", `\u003c/script\u003e\u003cb\u003e`},
		"letters of the world":    {"Zoë 例 🚪", `Zoë 例 🚪`},
	} {
		t.Run(name, func(t *testing.T) {
			line, err := Encode(event(map[string]any{"path": c.in}))
			if err != nil {
				t.Fatal(err)
			}
			checkLine(t, line)
			if !bytes.Contains(line, []byte(`"path":"`+c.want+`"}`)) {
				t.Errorf("want %s in %s", c.want, line)
			}
			// The same string is as harmless as a name of the event itself.
			line, err = Encode(api.Event{Event: c.in, Code: c.in, User: c.in, ClusterName: c.in, UID: c.in, Fields: map[string]any{c.in: c.in}})
			if err != nil {
				t.Fatal(err)
			}
			checkLine(t, line)
		})
	}
}

func TestEncode_cutsAndSaysSo(t *testing.T) {
	deep := map[string]any{}
	for range 100 {
		deep = map[string]any{"in": deep, "and": "more"}
	}
	many := map[string]any{}
	for i := range 5000 {
		many[fmt.Sprintf("key-%d-%s", i, strings.Repeat("\x00", 5000))] = strings.Repeat("\x01", 5000)
	}
	wide := map[string]any{}
	for i := range 10 {
		wide[fmt.Sprint(i)] = many
	}
	for name, fields := range map[string]map[string]any{
		"a header of a megabyte": {"user_agent": strings.Repeat("A", 1<<20)},
		"one byte too long":      {"s": strings.Repeat("A", MaxString+1)},
		"all controls":           {"s": strings.Repeat("\x1b", 1<<20)},
		"many fields":            many,
		"wide and deep":          {"w": wide, "d": deep},
		"a long list":            {"l": make([]string, 1<<16)},
		"a list of many types":   {"l": []any{many, deep, strings.Repeat("\xff", 1<<16)}},
		"many long fields":       {"a": strings.Repeat("a", 4096), "b": strings.Repeat("\x00", 4096), "c": strings.Repeat("\x00", 4096)},
	} {
		t.Run(name, func(t *testing.T) {
			line, err := Encode(event(fields))
			if err != nil {
				t.Fatal(err)
			}
			checkLine(t, line)
			var back struct {
				Event, User string
				Truncated   bool
			}
			if err := json.Unmarshal(line, &back); err != nil {
				t.Fatal(err)
			}
			if !back.Truncated || back.Event != "kube.request" || back.User != "alice" {
				t.Errorf("got %+v from %.200s", back, line)
			}
		})
	}
}

func TestEncode_leavesWhatFits(t *testing.T) {
	line, err := Encode(event(map[string]any{"s": strings.Repeat("é", MaxString/2)}))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(line, []byte("truncated")) {
		t.Error("marked as truncated although nothing is missing")
	}
	line, err = Encode(event(map[string]any{"s": "a" + strings.Repeat("é", MaxString/2)}))
	if err != nil {
		t.Fatal(err)
	}
	if want := `"s":"a` + strings.Repeat("é", MaxString/2-1) + `","truncated":true}`; !bytes.HasSuffix(line, []byte(want)) {
		t.Errorf("cut inside a character: …%s", line[len(line)-40:])
	}
}

func TestEncode_renamesFieldsThatAreOurs(t *testing.T) {
	line, err := Encode(event(map[string]any{
		"user": "root", "EVENT": "x", "raft_index": 1, "replica": "other", "truncated": true, "u\u017fer": "folded", "time": "never",
	}))
	if err != nil {
		t.Fatal(err)
	}
	var got api.Event
	if err := json.Unmarshal(line, &got); err != nil {
		t.Fatal(err)
	}
	want := event(map[string]any{
		"x_user": "root", "x_EVENT": "x", "x_raft_index": 1.0, "x_replica": "other", "x_truncated": true, "x_u\u017fer": "folded", "x_time": "never",
	})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestEncode_takesAnyValue(t *testing.T) {
	line, err := Encode(event(map[string]any{
		"nan": math.NaN(), "inf": math.Inf(-1), "chan": make(chan int), "count": json.Number("1e5"), "forged": json.Number(`1,"user":"root"`),
		"struct": struct{ A, B string }{"x", "\x1b"}, "year": time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC), "raw": json.RawMessage(`{"a":"\u2028"}`),
	}))
	if err != nil {
		t.Fatal(err)
	}
	checkLine(t, line)
	var got api.Event
	if err := json.Unmarshal(line, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"nan": "NaN", "inf": "-Inf", "chan": "cannot encode chan int: json: unsupported type: chan int", "count": 1e5, "forged": `1,"user":"root"`,
		"struct": map[string]any{"A": "x", "B": "\x1b"}, "year": "0001-01-01T00:00:00Z", "raw": map[string]any{"a": "\u2028"},
	}
	if diff := cmp.Diff(want, got.Fields); diff != "" {
		t.Error(diff)
	}
}

func TestEncode_refusesAnEventWithoutName(t *testing.T) {
	for _, ev := range []api.Event{{}, {Event: "user.login"}, {Code: "T1000I"}} {
		if _, err := Encode(ev); err == nil {
			t.Errorf("encoded %+v", ev)
		}
	}
}

func TestSource_fillsTimeIDAndCluster(t *testing.T) {
	s := Source{ClusterName: "prod", Clock: func() time.Time { return noon.In(time.FixedZone("x", 3600)) }, Rand: bytes.NewReader(make([]byte, 16))}
	got := s.complete(api.Event{Event: "user.login", Code: "T1000I", User: "alice", Fields: map[string]any{"method": "local"}})
	want := api.Event{
		Event: "user.login", Code: "T1000I", Time: noon, UID: "00000000-0000-4000-8000-000000000000",
		ClusterName: "prod", User: "alice", Fields: map[string]any{"method": "local"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	var zero Source
	a, b := zero.complete(api.Event{}), zero.complete(api.Event{})
	if a.UID == b.UID || a.Time.IsZero() {
		t.Errorf("got %+v and %+v", a, b)
	}
}

func FuzzEncode(f *testing.F) {
	f.Add("user.login", "alice", "path", "/api\r\n", int64(0), 1.5)
	f.Add("\x1b[2J", "\u2028", "user", "\xff\xfe", int64(math.MaxInt64), math.NaN())
	f.Add("e", "u", "\u202e", strings.Repeat("\u009b", 9000), int64(-1), math.Inf(1))
	f.Fuzz(func(t *testing.T, name, user, key, value string, unix int64, num float64) {
		ev := api.Event{
			Event: name, Code: "T1000I", Time: time.Unix(unix, 0), UID: value, ClusterName: key, User: user,
			Fields: map[string]any{
				key: value, "n": num, "list": []string{value, key, user}, "count": json.Number(value),
				"o": map[string]any{value: map[string]string{key: user}}, "raw": json.RawMessage(value),
			},
		}
		line, err := Encode(ev)
		if name == "" {
			if err == nil {
				t.Error("encoded an event without name")
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		checkLine(t, line)
		var got api.Event
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatal(err)
		}
		if utf8.ValidString(user) && len(user) <= budgets[len(budgets)-1].str && got.User != user {
			t.Errorf("user %q became %q", user, got.User)
		}
		if got.Code != "T1000I" {
			t.Errorf("code became %q", got.Code)
		}
		w := chainWriter{index: 7, number: 3}
		w.add(line, "self")
		if m, ok := chain.ParseTrailer(w.buf[:len(w.buf)-1]); !ok || m.Number != 4 || m.Hash != w.last {
			t.Errorf("the log reads its own line as %+v", m)
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	ev := event(map[string]any{
		"verb": "get", "request_path": "/api/v1/namespaces/default/pods?limit=500", "response_code": 200, "addr.remote": "10.1.2.3:4567",
		"kubernetes_groups": []string{"dev", "system:authenticated"}, "kubernetes_users": []string{"alice"}, "kubernetes_cluster": "cookie",
		"resource_kind": "pods", "resource_namespace": "default", "resource_api_group": "core/v1", "proto": "kube", "server_id": "r1",
	})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Encode(ev); err != nil {
			b.Fatal(err)
		}
	}
}
