package acme

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/sallyport-dev/sallyport/fsm"
)

const otherName = "login.example.com"

// puts writes a record as it is, and stored reads it.
func (r *member) puts(name, value string) {
	r.world.t.Helper()
	txn := fsm.Txn{Ops: []fsm.Op{fsm.Put(records.Key(r.recordOf(name)), []byte(value))}}
	if _, err := r.db.Commit(r.world.t.Context(), txn); err != nil {
		r.world.t.Fatal(err)
	}
}

func (r *member) stored(name string) []byte {
	record, ok := r.db.View().Get(records.Key(r.recordOf(name)))
	if !ok {
		return nil
	}
	return record.Value
}

// A replica of an older version notes a failure. What a newer one wrote stays.
func TestFieldsOfANewerVersionSurviveANote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.authority.set(func(f *fakeAuthority) { f.fail = errors.New("no") })
		r := w.start("a")
		r.puts(webName, `{"failures":2,"paused":{"until":"2027-01-01T00:00:00Z"}}`)
		if _, err := r.shake(); err == nil {
			t.Fatal("a certificate")
		}
		var got struct {
			Failures int
			Error    string
			Paused   struct{ Until string }
		}
		if err := json.Unmarshal(r.stored(webName), &got); err != nil {
			t.Fatal(err)
		}
		if got.Failures != 3 || got.Error != "no" || got.Paused.Until != "2027-01-01T00:00:00Z" {
			t.Errorf("stored %s", r.stored(webName))
		}
	})
}

func TestRecordThatCannotBeReadIsReplacedAndNoOther(t *testing.T) {
	for _, value := range []string{"", "x", "[]", "7", "null", `{"failures":"many"}`, `{}{}`} {
		t.Run(value, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.authority.set(func(f *fakeAuthority) { f.fail = errors.New("no") })
				r := w.start("a")
				const damaged = `{"failures":"some"}`
				r.puts(otherName, damaged)
				r.puts(webName, value)
				if _, err := r.shake(); err == nil {
					t.Fatal("a certificate")
				}
				if st := r.Status(); st.Failures != 1 || st.LastError != "no" {
					t.Errorf("status %+v", st)
				}
				if got := string(r.stored(otherName)); got != damaged {
					t.Errorf("the other name's record is %q", got)
				}
			})
		})
	}
}

// Reliability row 25. Whatever becomes of the answers, a note is written once, and is no
// error if it was.
func TestNoteIsWrittenOnce(t *testing.T) {
	once := func(f fate) func(int) fate {
		return func(try int) fate {
			if try == 1 {
				return f
			}
			return commits
		}
	}
	for name, c := range map[string]struct {
		fate   func(try int) fate
		tries  int
		failed bool
	}{
		"committed":                    {fate: once(commits), tries: 1},
		"committed, the answer lost":   {fate: once(commitsUnseen), tries: 1},
		"never committed, nobody says": {fate: once(vanishes), tries: 2},
		"committed with the next try":  {fate: once(commitsLate), tries: 2},
		"nobody ever says":             {fate: func(int) fate { return vanishes }, tries: writeAttempts, failed: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newWorld(t).start("a")
				tries := 0
				r.db.decide(func(fsm.Txn) fate {
					tries++
					return c.fate(tries)
				})
				err := r.note(t.Context(), webName, func(a *attempts) bool { a.Failures++; return true })
				if (err != nil) != c.failed || tries != c.tries {
					t.Errorf("%d tries, error %v", tries, err)
				}
				want := 1
				if c.failed {
					want = 0
				}
				if got := r.attemptsOf(webName).Failures; got != want {
					t.Errorf("%d failures are noted, want %d", got, want)
				}
			})
		})
	}
}

func TestNoteThatOthersComeBeforeCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.start("a"), w.start("b")
		others, writing := writeAttempts-1, false
		a.db.decide(func(fsm.Txn) fate {
			if others == 0 || writing {
				return commits
			}
			others--
			writing = true
			b.puts(webName, fmt.Sprintf(`{"failures":%d}`, 100-10*others))
			writing = false
			return commits
		})
		if err := a.note(t.Context(), webName, func(a *attempts) bool { a.Failures++; return true }); err != nil {
			t.Fatal(err)
		}
		if got := b.attemptsOf(webName).Failures; got != 101 {
			t.Errorf("%d failures", got)
		}
	})
}
