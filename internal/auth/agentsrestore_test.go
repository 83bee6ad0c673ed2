package auth_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authtest"
)

// putBack makes the store what it was, as a restored backup does.
func putBack(t testing.TB, f *authtest.Fixture, backup []byte) {
	t.Helper()
	must(t, f.DB.Store.Restore(bytes.NewReader(backup)))
}

// history gives every certificate that an agent had, oldest first, each used, and a
// backup taken after each.
func history(t testing.TB, f *authtest.Fixture, n int) (certs []*authtest.Agent, backups [][]byte) {
	t.Helper()
	for a := f.JoinAgent(t, "", "a"); ; a = f.RenewAgent(t, a) {
		wantGrant(t, f, "its use", a)
		certs, backups = append(certs, a), append(backups, f.DB.Snapshot(t))
		if len(certs) == n {
			return certs, backups
		}
	}
}

// reliability.md, quorum loss (recover, and backups into a new cluster): agents renew all the time, and a store that was
// put back must not take that for theft. certs[i] has generation i+1.
func TestAgentsAfterTheStoreWasPutBack(t *testing.T) {
	const in, locked = api.Code(""), api.CodeForbidden
	type use struct {
		generation int
		code       api.Code
	}
	for _, tc := range []struct {
		name string
		to   int // the backup's generation
		uses []use
	}{
		{"renewed not at all", 3, []use{{3, in}}},
		{"renewed once", 2, []use{{3, in}, {3, in}}},
		{"renewed often", 1, []use{{5, in}, {5, in}}},
		{"the thief comes first, with a later one than the backup's", 3, []use{{4, in}, {5, in}, {4, locked}, {5, locked}}},
		{"the owner comes first", 3, []use{{5, in}, {4, locked}, {5, locked}}},
		{"the thief comes first, with the backup's", 3, []use{{3, in}, {5, in}, {3, locked}, {5, locked}}},
		{"an agent that is put back itself, later", 2, []use{{4, in}, {2, locked}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := authtest.New(t)
			certs, backups := history(t, f, 5)
			id := certs[0].Identity.ID
			putBack(t, f, backups[tc.to-1])
			for i, u := range tc.uses {
				_, err := f.Admit(t, certs[u.generation-1])
				wantCode(t, certs[u.generation-1].KeySum[:6], err, u.code, "locked")
				if now := agentNow(t, f, id); now.Locked.IsZero() != (u.code == in) || u.code == in && now.Generation != uint64(u.generation) {
					t.Fatalf("use %d: %+v", i, now)
				}
			}
			last := certs[tc.uses[len(tc.uses)-1].generation-1]
			if tc.uses[len(tc.uses)-1].code == in {
				wantGrant(t, f, "and renews as ever", f.RenewAgent(t, last))
			}
		})
	}
}

func TestAdoptedCertificateIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		f := authtest.New(t, func(o *auth.Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		certs, backups := history(t, f, 3)
		putBack(t, f, backups[0])
		time.Sleep(3 * 24 * time.Hour) // in the bubble
		log.Reset()
		grant := wantGrant(t, f, "adoption", certs[2])
		e := lastEvent(f)
		if e.Event != api.EventAgentRenew || e.Fields["host_id"] != certs[0].Identity.ID || e.Fields["generation"] != 3.0 || e.Fields["expected_generation"] != 1.0 ||
			!strings.Contains(e.Fields["reason"].(string), "put back in time") || e.Fields["addr.remote"] != authtest.Client.String() {
			t.Errorf("%+v", e)
		}
		if line := log.String(); strings.Count(line, "\n") != 1 || !strings.Contains(line, "level=WARN") || !strings.Contains(line, certs[0].Identity.ID) || !strings.Contains(line, "generation=3 expected_generation=1") {
			t.Error(line)
		}
		if now := agentNow(t, f, certs[0].Identity.ID); !now.Expires.Equal(certs[2].TLS.Leaf.NotAfter) || time.Until(now.Expires).Round(time.Second) != 4*24*time.Hour || grant.Generation != 3 {
			t.Errorf("%+v", now)
		}
		log.Reset()
		commits := f.DB.Commits()
		wantGrant(t, f, "again", certs[2])
		if f.DB.Commits() != commits || log.Len() > 0 {
			t.Error("once is enough", log.String())
		}
	})
}

// What the backup has of a renewal under way counts as ever.
func TestPendingRenewalInTheBackup(t *testing.T) {
	f := authtest.New(t)
	first := f.JoinAgent(t, "", "a")
	lost := f.RenewAgent(t, first)
	backup := f.DB.Snapshot(t)
	second := f.RenewAgent(t, first)
	wantGrant(t, f, "promotion", second)
	third := f.RenewAgent(t, second)
	wantGrant(t, f, "promotion", third)

	putBack(t, f, backup)
	wantGrant(t, f, "later than the pending one", third)
	_, err := f.Admit(t, lost)
	wantCode(t, "the pending one, then", err, api.CodeForbidden, "locked")

	putBack(t, f, backup)
	wantGrant(t, f, "the pending one", lost)
	wantGrant(t, f, "then a later one", third)

	putBack(t, f, backup)
	_, err = f.Admit(t, second)
	wantCode(t, "another of the pending one's generation", err, api.CodeForbidden, "locked")

	putBack(t, f, backup)
	wantGrant(t, f, "the old one, before the pending one's use", first)
	again := f.RenewAgent(t, first)
	_, err = f.Admit(t, second)
	wantCode(t, "while another renewal is pending", err, api.CodeForbidden, "locked")
	_, err = f.Admit(t, again)
	wantCode(t, "and for who renewed", err, api.CodeForbidden, "locked")
}

func TestWhoJoinedAfterTheBackupJoinsAnew(t *testing.T) {
	f := authtest.New(t)
	token := f.AddToken(t).Token
	removed := f.JoinAgent(t, token, "b")
	backup := f.DB.Snapshot(t)
	a := f.JoinAgent(t, token, "a")
	must(t, f.Agents.Delete(t.Context(), authtest.Admin(), removed.Identity.ID))
	putBack(t, f, backup)
	_, err := f.Admit(t, a)
	wantCode(t, "not in the backup", err, api.CodeUnauthenticated, "join anew")
	wantGrant(t, f, "anew", f.JoinAgent(t, token, "a"))
	wantGrant(t, f, "what was removed since is back", removed)
}

// A replica that is merely behind is no reason to adopt anything.
func TestReplicaThatIsBehindAdoptsNobody(t *testing.T) {
	db := &behind{DB: authtest.NewDB(nil)}
	f := authtest.NewOn(t, db.DB)
	late := &authtest.Fixture{Service: replica(t, db), DB: db.DB}
	first := f.JoinAgent(t, "", "a")
	db.hold()
	second := f.RenewAgent(t, first)
	wantGrant(t, f, "promotion", second)
	third := f.RenewAgent(t, second)
	wantGrant(t, f, "promotion", third)
	events := len(f.DB.Events())
	db.fail = context.DeadlineExceeded
	_, err := late.Admit(t, third)
	wantCode(t, "the leader can't be asked", err, api.CodeUnavailable, "leader")
	db.fail = nil
	wantGrant(t, late, "behind", third)
	if n := len(f.DB.Events()); n != events {
		t.Error(f.DB.Events()[events:])
	}
}

// ambiguous is a store whose commits may happen without anybody knowing.
type ambiguous struct {
	*authtest.DB
	happens, on bool
}

func (a *ambiguous) Commit(ctx context.Context, txn fsm.Txn) (uint64, error) {
	if !a.on {
		return a.DB.Commit(ctx, txn)
	}
	if a.happens {
		if rev, err := a.DB.Commit(ctx, txn); err != nil {
			return rev, err
		}
	}
	return 0, api.Errorf(api.CodeAmbiguous, "nobody knows")
}

// No certificate is let out whose record is not known to be committed: one that is
// later than the record means that the store was put back, and nothing else.
func TestRenewalLetsNothingOutThatIsNotCommitted(t *testing.T) {
	for _, happens := range []bool{false, true} {
		db := &ambiguous{DB: authtest.NewDB(nil), happens: happens}
		authtest.NewOn(t, db.DB)
		f := &authtest.Fixture{Service: replica(t, db), DB: db.DB}
		first := f.JoinAgent(t, "", "a")
		_, pub := authtest.NewKey(t)
		db.on = true
		if resp, err := f.Agents.Renew(t.Context(), first.Identity, first.KeySum, pub, authtest.Client); resp != nil || !api.IsCode(err, api.CodeAmbiguous) {
			t.Errorf("%v: %+v %v", happens, resp, err)
		}
		db.on = false
		wantGrant(t, f, "the one it has", first)
		next := f.RenewAgent(t, first)
		db.on = true
		_, err := f.Admit(t, next)
		wantCode(t, "a promotion that nobody knows of", err, api.CodeAmbiguous, "")
		db.on = false
		wantGrant(t, f, "it asked again", next)
		if n := agentNow(t, f, first.Identity.ID).Generation; n != 2 {
			t.Error(n)
		}
	}
	// Somebody else's renewal comes between, so the first is decided anew.
	f := authtest.New(t)
	first := f.JoinAgent(t, "", "a")
	var other *authtest.Agent
	f.DB.BeforeCommit(func() { other = f.RenewAgent(t, first) })
	mine := f.RenewAgent(t, first)
	wantGrant(t, f, "the later one", mine)
	_, err := f.Admit(t, other)
	wantCode(t, "the one it superseded", err, api.CodeForbidden, "locked")
	// And where the first is in use by then, nothing comes of it.
	f = authtest.New(t)
	first = f.JoinAgent(t, "", "a")
	f.DB.BeforeCommit(func() { wantGrant(t, f, "promotion", f.RenewAgent(t, first)) })
	_, pub := authtest.NewKey(t)
	resp, err := f.Agents.Renew(t.Context(), first.Identity, first.KeySum, pub, authtest.Client)
	wantCode(t, "by one that was replaced meanwhile", err, api.CodeForbidden, "generation 2 alone")
	if d := cmp.Diff((*api.JoinResponse)(nil), resp); d != "" {
		t.Error(d)
	}
}
