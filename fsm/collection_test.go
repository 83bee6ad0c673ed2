package fsm

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type user struct {
	Name  string            `json:"name"`
	Email string            `json:"email,omitempty"`
	Spec  userSpec          `json:"spec"`
	Tags  map[string]string `json:"tags,omitempty"`
	Rules []userRule        `json:"rules,omitempty"`
}

type userSpec struct {
	Roles []string `json:"roles,omitempty"`
	Shell string   `json:"shell,omitempty"`
}

type userRule struct {
	Verb string `json:"verb"`
}

var users = NewCollection[user]("users/")

func storeWith(t testing.TB, key, value string) *Store {
	t.Helper()
	s := newStore(Options{})
	apply(t, s, at(0), ops(Put(key, []byte(value))))
	return s
}

func TestCollectionRoundTrip(t *testing.T) {
	s := newStore(Options{})
	if _, _, err := users.Get(s.View(), "alice"); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
	_, _, created, err := users.Watch(s.View(), "alice")
	if !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
	_, listChanged := s.View().WatchPrefix("users/")

	alice := user{Name: "alice", Spec: userSpec{Roles: []string{"access"}}}
	op, err := users.Put("alice", &alice, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	apply(t, s, at(0), Txn{Checks: []Check{users.Absent("alice")}, Ops: []Op{op}}, ops(Put("users2/bob", []byte("{}"))))
	if !fired(created) || !fired(listChanged) {
		t.Error("watchers sleep on")
	}
	got, rec, err := users.Get(s.View(), "alice")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&alice, got); diff != "" {
		t.Error(diff)
	}
	if users.Name(rec) != "alice" || rec.Key != users.Key("alice") || !rec.Expires.Equal(at(60)) {
		t.Errorf("record %+v", rec)
	}
	n := 0
	for r, u := range users.List(s.View()) {
		n++
		if r != rec || u != got {
			t.Error("List does not share what Get decoded")
		}
	}
	if n != 1 {
		t.Errorf("%d listed", n)
	}
}

func TestCollectionDecodesOncePerRevision(t *testing.T) {
	s := storeWith(t, "users/alice", `{"name":"alice"}`)
	first, rec, _ := users.Get(s.View(), "alice")
	second, _, _ := users.Get(s.View(), "alice")
	own, err := users.Decode(rec)
	if err != nil || first != second || own == first {
		t.Errorf("first %p, second %p, own %p, %v", first, second, own, err)
	}
	// Another type over the same record gets its own value, not a panic.
	if n, _, err := NewCollection[struct{ Name string }]("users/").Get(s.View(), "alice"); err != nil || n.Name != "alice" {
		t.Errorf("got %v, %v", n, err)
	}
	apply(t, s, at(1), ops(Put("users/alice", []byte(`{"name":"alice","email":"a@example.com"}`))))
	if third, _, _ := users.Get(s.View(), "alice"); third.Email == "" {
		t.Error("an old value outlived its revision")
	}
}

func TestCollectionReadsOnTheRequestPathDoNotAllocate(t *testing.T) {
	name := strings.Repeat("a-long-session-name-", 5)
	s := storeWith(t, users.Key(name), `{"name":"alice"}`)
	reads := map[string]func(){
		"hit":      func() { _, _, _ = users.Get(s.View(), name) },
		"miss":     func() { _, _, _ = users.Get(s.View(), "nobody") },
		"watch":    func() { _, _, _, _ = users.Watch(s.View(), name) },
		"view get": func() { s.View().Get("users/a-key-longer-than-the-32-bytes-that-go-on-the-stack-anyway") },
		"revision": func() { s.View().Revision(name) },
	}
	for what, read := range reads {
		if n := testing.AllocsPerRun(100, read); n != 0 {
			t.Errorf("%s: %v allocations", what, n)
		}
	}
}

func TestUnreadableRecordIsReportedNotSkipped(t *testing.T) {
	tests := []struct {
		name, value string
		ok          bool
	}{
		{"sound", `{"name":"a"}`, true},
		{"unknown field", `{"name":"a","only_from":"10.0.0.0/8"}`, true},
		{"nested unknown field", `{"name":"a","spec":{"until":"noon"}}`, true},
		{"wrong type", `{"name":7}`, false},
		{"two values", `{"name":"a"}{}`, false},
		{"trailing bracket", `{"name":"a"}]`, false},
		{"empty", ``, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := storeWith(t, "users/a", tt.value)
			if _, rec, err := users.Get(s.View(), "a"); (err == nil) != tt.ok || rec == nil || errors.Is(err, ErrNotFound) {
				t.Errorf("Get: %v, record %v", err, rec)
			}
			n := 0
			for _, u := range users.List(s.View()) {
				n++
				if (u != nil) != tt.ok {
					t.Errorf("List gave %v", u)
				}
			}
			if n != 1 {
				t.Errorf("%d listed", n)
			}
		})
	}
}

func TestUpdateKeepsWhatANewerVersionWrote(t *testing.T) {
	tests := []struct {
		name, stored string
		change       func(*user)
		want         string // "": an error
	}{
		{"nothing unknown", `{"name":"a","spec":{}}`, func(u *user) { u.Email = "e" },
			`{"name":"a","email":"e","spec":{}}`},
		{"unknown at the top", `{"name":"a","mfa":true,"spec":{}}`, func(u *user) { u.Email = "e" },
			`{"email":"e","mfa":true,"name":"a","spec":{}}`},
		{"unknown inside", `{"name":"a","spec":{"until":"noon","shell":"sh"}}`, func(u *user) { u.Spec.Shell = "zsh" },
			`{"name":"a","spec":{"shell":"zsh","until":"noon"}}`},
		{"known field removed", `{"name":"a","email":"e","spec":{},"x":1}`, func(u *user) { u.Email = "" },
			`{"name":"a","spec":{},"x":1}`},
		{"map member removed", `{"name":"a","spec":{},"tags":{"k":"v","l":"w"}}`, func(u *user) { delete(u.Tags, "k") },
			`{"name":"a","spec":{},"tags":{"l":"w"}}`},
		{"no change", `{"name":"a","spec":{}, "rules":[{"verb":"get","ns":"x"}]}`, func(*user) {},
			`{"name":"a","spec":{}, "rules":[{"verb":"get","ns":"x"}]}`},
		{"list untouched", `{"name":"a","spec":{},"rules":[{"verb":"get","ns":"x"}]}`, func(u *user) { u.Name = "b" },
			`{"name":"b","rules":[{"verb":"get","ns":"x"}],"spec":{}}`},
		{"list touched", `{"name":"a","spec":{},"rules":[{"verb":"get","ns":"x"}]}`, func(u *user) { u.Rules[0].Verb = "*" }, ""},
		{"list touched, nothing meant", `{"name":"a","spec":{},"rules":[{"verb":"get","ns":""}]}`,
			func(u *user) { u.Rules[0].Verb = "*" }, `{"name":"a","spec":{},"rules":[{"verb":"*"}]}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := storeWith(t, "users/a", tt.stored)
			_, rec, err := users.Get(s.View(), "a")
			if err != nil {
				t.Fatal(err)
			}
			u, err := users.Decode(rec)
			if err != nil {
				t.Fatal(err)
			}
			tt.change(u)
			op, err := users.Update(rec, u, 0)
			if diff := cmp.Diff(tt.want, string(op.Value)); diff != "" {
				t.Errorf("(-want +got):\n%s(error %v)", diff, err)
			}
			if (err != nil) != (tt.want == "") {
				t.Errorf("error %v", err)
			}
			if users.Unchanged(rec) != (Check{"users/a", 1}) {
				t.Errorf("check %v", users.Unchanged(rec))
			}
		})
	}
}

func TestCollectionRefusesMistakes(t *testing.T) {
	if _, err := users.Put("", &user{}, 0); err == nil {
		t.Error("a record without a name")
	}
	if _, err := users.Put("a", &user{}, -time.Second); err == nil {
		t.Error("a ttl that has run out")
	}
	defer func() {
		if recover() == nil {
			t.Error("a prefix that contains other collections")
		}
	}()
	NewCollection[user]("user")
}
