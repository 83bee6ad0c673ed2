package profile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// TestDamagedLoginWithoutANoteIsNotTakenForNobody: an older tsh noted the pin in
// the login alone.
func TestDamagedLoginWithoutANoteIsNotTakenForNobody(t *testing.T) {
	for _, content := range []string{"", "{", `{"version":2}`, `{"version":1}`} {
		store := Open(t.TempDir())
		path, err := store.path("p:443")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		a, err := store.Authority("p:443")
		if !a.Nobody() || !api.IsCode(err, api.CodeForbidden) || !strings.HasSuffix(err.Error(), "tsh logout --forget --proxy=p:443") {
			t.Errorf("%q: %v, %v", content, a, err)
		}
		if err := store.Trust("p:443", Authority{WebCAs: "pem"}); err != nil {
			t.Fatal(err)
		}
		if a, err := store.Authority("p:443"); err != nil || a.WebCAs != "pem" {
			t.Errorf("%q: %v, %v", content, a, err)
		}
	}
}

func TestNotedIsWhatStandsInAFileOfItsOwn(t *testing.T) {
	store := Open(t.TempDir())
	p := sample("p:443")
	p.WebCAs = "pem"
	if err := store.Save(p); err != nil {
		t.Fatal(err)
	}
	if store.Noted("p:443") {
		t.Error("a login is taken for a note")
	}
	if err := store.Trust("p:443", Authority{WebCAs: "pem"}); err != nil {
		t.Fatal(err)
	}
	if !store.Noted("p:443") {
		t.Error("not noted")
	}
}
