package authtest

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

// WebSession writes the session of a web login that asked for nothing, made by
// hand so that a change of the cookie's form or of the record is noticed. It
// gives the cookie's value and whom it stands for.
func (f *Fixture) WebSession(t testing.TB, user string) (cookie string, id pki.UserIdentity) {
	t.Helper()
	token := make([]byte, 32)
	_, _ = rand.Read(token) // never fails
	cookie = base64.RawURLEncoding.EncodeToString([]byte(user)) + "." + hex.EncodeToString(token)
	id, err := auth.WebIdentity(cookie, ClusterName)
	if err != nil {
		t.Fatal(err)
	}
	v := f.DB.View()
	rec, ok := v.Get("users/" + user)
	if !ok {
		t.Fatalf("no user %s", user)
	}
	doc, err := json.Marshal(map[string]any{
		"id": id.SessionID, "kind": api.SessionWeb, "user": user,
		"created": v.Now(), "expires": v.Now().Add(12 * time.Hour), "user_created": rec.Created,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.DB.Commit(t.Context(), fsm.Txn{Ops: []fsm.Op{fsm.Put("sessions/"+user+"/"+id.SessionID, doc)}}); err != nil {
		t.Fatal(err)
	}
	return cookie, id
}
