package acme

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
)

const challengeFile = "challenges/tele.example.com.json"

// newTestStorage makes a storage on a store of its own, or on another replica's with
// that one's keys.
func newTestStorage(t testing.TB, db *testDB, other ...*Storage) *Storage {
	t.Helper()
	opts := StorageOptions{DB: db, Owner: "replica"}
	if len(other) > 0 {
		opts.Sealer = other[0].sealer
	} else {
		opts.Sealer = newTestSealer(t)
	}
	return NewStorage(opts)
}

func store(t testing.TB, s *Storage, key, value string) {
	t.Helper()
	if err := s.Store(t.Context(), key, []byte(value)); err != nil {
		t.Fatal(err)
	}
}

func load(t testing.TB, s *Storage, key string) string {
	t.Helper()
	b, err := s.Load(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func missing(t testing.TB, s *Storage, key string) {
	t.Helper()
	if b, err := s.Load(t.Context(), key); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("load %s: %q, %v; want fs.ErrNotExist", key, b, err)
	}
}

// Reliability row 24: any replica may be asked.
func TestFileIsReadOnAReplicaThatLagsBehind(t *testing.T) {
	db := newTestDB(t)
	behind := db.replica(t)
	a := newTestStorage(t, db)
	b := newTestStorage(t, behind, a)
	behind.lag(true)
	for _, op := range []string{"load", "exists", "stat", "list"} {
		file := "d/" + op
		store(t, a, file, "x")
		s := step{op: op, key: file}
		if got := s.ask(t.Context(), b); got.Failed || op == "exists" && !got.Terminal {
			t.Errorf("%s: %+v", s, got)
		}
	}
	store(t, a, "d/delete", "x")
	if err := b.Delete(t.Context(), "d/delete"); err != nil {
		t.Fatal(err)
	}
	missing(t, a, "d/delete")
}

// Reliability row 24: orders of one name use one file, so what a replica has may be the
// challenge before this one.
func TestChallengeIsTheNewestOnAReplicaThatLagsBehind(t *testing.T) {
	db := newTestDB(t)
	behind := db.replica(t)
	a := newTestStorage(t, db)
	b := newTestStorage(t, behind, a)
	store(t, a, challengeFile, "first")
	behind.lag(true)
	store(t, a, challengeFile, "second")
	if got := load(t, b, challengeFile); got != "second" {
		t.Errorf("got the %s", got)
	}
	db.lead(false)
	if got := load(t, b, challengeFile); got != "second" {
		t.Errorf("without a leader: got the %s", got)
	}
}

// deafDB is a replica whose question to the leader is never answered.
type deafDB struct{ *testDB }

func (d deafDB) Linearize(ctx context.Context) error {
	<-ctx.Done()
	return api.Errorf(api.CodeUnavailable, "gave up the read: %w", ctx.Err())
}

// CertMagic registers another account, or orders another certificate, upon
// fs.ErrNotExist.
func TestMissWithoutALeaderIsNoAnswerThatTheFileIsAbsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestStorage(t, newTestDB(t))
		store(t, s, "here", "x")
		s.db = deafDB{s.db.(*testDB)}
		for _, key := range []string{"a", challengeFile} {
			for _, op := range []string{"load", "stat", "list", "delete"} {
				began := time.Now()
				st := step{op: op, key: key}
				if got := st.ask(t.Context(), s); !got.Failed || got.Missing {
					t.Errorf("%s: %+v", st, got)
				}
				if took := time.Since(began); took > catchUpPatience {
					t.Errorf("%s took %s", st, took)
				}
			}
			if s.Exists(t.Context(), key) {
				t.Errorf("%s exists", key)
			}
		}
		_, err := s.Load(t.Context(), "a")
		if !api.IsCode(err, api.CodeUnavailable) || !strings.Contains(err.Error(), "can't be asked") {
			t.Errorf("got %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if _, err := s.Load(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("%v after %s, the context had a second", err, time.Since(began))
		}
		if got := load(t, s, "here"); got != "x" {
			t.Errorf("what is here needs no leader: got %q", got)
		}
	})
}

// Reliability row 25: a file is whole or as it was, and the error says what is known.
func TestStoreDuringALeaderChangeIsWholeOrACleanError(t *testing.T) {
	for name, c := range map[string]struct {
		fates []fate
		want  string   // what is stored in the end
		code  api.Code // of the error
	}{
		"done, though nobody says so":      {[]fate{commitsUnseen}, "new", ""},
		"lost, and nobody says so":         {[]fate{vanishes}, "new", ""},
		"late":                             {[]fate{commitsLate}, "new", ""},
		"one disaster after the other":     {[]fate{vanishes, commitsLate, vanishes, commitsUnseen}, "new", ""},
		"no leader":                        {[]fate{fails}, "old", api.CodeUnavailable},
		"a leader that forgets every time": {[]fate{vanishes, vanishes, vanishes, vanishes, vanishes, vanishes, vanishes, vanishes}, "old", api.CodeAmbiguous},
	} {
		t.Run(name, func(t *testing.T) {
			db := newTestDB(t)
			s := newTestStorage(t, db)
			other := newTestStorage(t, db.replica(t), s)
			store(t, s, "a", "old")
			fates := c.fates
			db.decide(func(fsm.Txn) fate {
				if len(fates) == 0 {
					return commits
				}
				f := fates[0]
				fates = fates[1:]
				return f
			})
			err := s.Store(t.Context(), "a", []byte("new"))
			if got := api.CodeOf(err); got != c.code {
				t.Errorf("error %v, want code %q", err, c.code)
			}
			if errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%v is fs.ErrNotExist", err)
			}
			for _, st := range []*Storage{s, other} {
				if got := load(t, st, "a"); got != c.want {
					t.Errorf("%q is stored, want %q", got, c.want)
				}
			}
		})
	}
}

// A write that is carried out long after it was given up undoes nothing.
func TestLateWriteDoesNotUndoALaterOne(t *testing.T) {
	for _, op := range []string{"store", "delete"} {
		t.Run(op, func(t *testing.T) {
			db := newTestDB(t)
			s := newTestStorage(t, db)
			store(t, s, "a", "old")
			ctx, cancel := context.WithCancel(t.Context())
			db.decide(func(fsm.Txn) fate {
				cancel() // nothing more can be found out
				return commitsLate
			})
			st := step{op: op, key: "a", value: "forgotten"}
			if got := st.ask(ctx, s); !got.Failed {
				t.Fatalf("%s: %+v", st, got)
			}
			db.decide(nil)
			store(t, s, "a", "newer") // and now the other one comes
			if got := load(t, s, "a"); got != "newer" {
				t.Errorf("got %q", got)
			}
		})
	}
}

func TestWritersOfOneFileDoNotStopEachOther(t *testing.T) {
	db := newTestDB(t)
	behind := db.replica(t)
	a := newTestStorage(t, db)
	b := newTestStorage(t, behind, a)
	behind.lag(true)
	for i := range 3 {
		store(t, a, "f", fmt.Sprint("a", i))
		store(t, b, "f", fmt.Sprint("b", i))
		if got := load(t, a, "f"); got != fmt.Sprint("b", i) {
			t.Errorf("got %q", got)
		}
	}
}

func TestDirectoryOfManyFilesIsDeletedWhole(t *testing.T) {
	s := newTestStorage(t, newTestDB(t))
	for i := range deleteBatch + 10 {
		store(t, s, fmt.Sprintf("d/%d", i), "x")
	}
	store(t, s, "e", "stays")
	if err := s.Delete(t.Context(), "d"); err != nil {
		t.Fatal(err)
	}
	got, err := s.List(t.Context(), "", true)
	if diff := cmp.Diff([]string{"e"}, got); err != nil || diff != "" {
		t.Errorf("%v, %s", err, diff)
	}
}

func TestStatTellsWhenAndHowLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestStorage(t, newTestDB(t))
		began := time.Now()
		store(t, s, "d/older", "x")
		<-time.After(time.Hour)
		store(t, s, "d/newer", "four")
		store(t, s, "d/a", "")
		info, err := s.Stat(t.Context(), "d/newer")
		if err != nil || info.Size != 4 || !info.Modified.Equal(began.Add(time.Hour)) {
			t.Errorf("%+v, %v", info, err)
		}
		info, err = s.Stat(t.Context(), "d")
		if err != nil || info.IsTerminal || !info.Modified.Equal(began.Add(time.Hour)) {
			t.Errorf("directory: %+v, %v", info, err)
		}
	})
}

func TestFilesAreBounded(t *testing.T) {
	s := newTestStorage(t, newTestDB(t))
	store(t, s, "a", strings.Repeat("x", maxFileSize))
	if err := s.Store(t.Context(), "a", make([]byte, maxFileSize+1)); !api.IsCode(err, api.CodeTooLarge) {
		t.Errorf("too large: %v", err)
	}
	key := strings.Repeat("k", fsm.MaxKeyLength-len(filesPrefix))
	store(t, s, key, "x")
	if err := s.Store(t.Context(), key+"k", nil); !api.IsCode(err, api.CodeInvalid) {
		t.Errorf("too long: %v", err)
	}
}

// threats.md: secrets at rest; the account key only encrypted.
func TestStoreHoldsNothingInTheClear(t *testing.T) {
	db := newTestDB(t)
	s := newTestStorage(t, db)
	const secret = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIPi1vFRC\n-----END EC PRIVATE KEY-----"
	for _, key := range []string{"acme/authority/users/me/me.key", "certificates/authority/tele.example.com/tele.example.com.key", challengeFile} {
		store(t, s, key, secret)
	}
	if err := s.Lock(t.Context(), "issue_cert_tele.example.com"); err != nil {
		t.Fatal(err)
	}
	records := 0
	for r := range db.View().List("") {
		records++
		var sealed []byte
		if f, err := decodeFile(r.Value); err == nil {
			sealed = f.Sealed
		}
		for _, hidden := range []string{secret, "PRIVATE KEY", "MHcCAQEEIPi1vFRC", base64.StdEncoding.EncodeToString([]byte(secret))[:40]} {
			if bytes.Contains(r.Value, []byte(hidden)) || bytes.Contains(sealed, []byte(hidden)) {
				t.Errorf("%s holds %q", r.Key, hidden)
			}
		}
	}
	if records != 4 {
		t.Errorf("%d records", records)
	}
	if err := s.Unlock(t.Context(), "issue_cert_tele.example.com"); err != nil {
		t.Fatal(err)
	}
}

// Whoever can write the store, and not the secret, can't pass one file off as another.
func TestFileMovedToAnotherPathDoesNotOpen(t *testing.T) {
	db := newTestDB(t)
	s := newTestStorage(t, db)
	store(t, s, "a", "x")
	r, _ := db.View().Get(filesPrefix + "a")
	for key, value := range map[string][]byte{
		"b": r.Value, "c": []byte("{}"), "d": []byte("not JSON"), "e": bytes.Replace(r.Value, []byte(`"version":1`), []byte(`"version":2`), 1),
	} {
		if _, err := db.Commit(t.Context(), fsm.Txn{Ops: []fsm.Op{fsm.Put(filesPrefix+key, value)}}); err != nil {
			t.Fatal(err)
		}
		if b, err := s.Load(t.Context(), key); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %q, %v", key, b, err)
		}
		if !s.Exists(t.Context(), key) {
			t.Errorf("%s: an unreadable file exists all the same", key)
		}
	}
}
