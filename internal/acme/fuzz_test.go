package acme

import (
	"encoding/json"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/fsm"
)

func FuzzDecodeFile(f *testing.F) {
	good, err := json.Marshal(fileRecord{Version: fileVersion, Sealed: []byte("sealed"), Modified: time.Unix(1, 0).UTC(), Size: 3})
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{string(good), "", "{}", "null", "[]", `{"version":1}`, `{"version":1,"sealed":"AA==","size":-1}`, `{"version":9,"sealed":"AA=="}`, `{"version":1,"sealed":5}`} {
		f.Add([]byte(seed))
	}
	s := newTestStorage(f, newTestDB(f))
	f.Fuzz(func(t *testing.T, value []byte) {
		record, err := decodeFile(value)
		if err != nil {
			if !cmp.Equal(record, fileRecord{}) {
				t.Errorf("%+v beside %v", record, err)
			}
			return
		}
		if record.Version != fileVersion || len(record.Sealed) == 0 || record.Size < 0 || record.Size > maxFileSize {
			t.Errorf("took %+v", record)
		}
		if b, err := s.open("a", value); err == nil {
			t.Errorf("opened %q, which nobody sealed", b)
		}
	})
}

func FuzzCleanKey(f *testing.F) {
	for _, seed := range []string{"", ".", "/", "a", "/a/", "a//b", "./a/./b", "..", "a/../b", "a/..", "...", "a/...b", "a\x00", "\xff", `a\..\b`, "acme/x/users/default/default.key"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, key string) {
		file, err := cleanKey(key)
		if err != nil {
			return
		}
		if again, err := cleanKey(file); err != nil || again != file {
			t.Errorf("%q cleaned is %q, and that cleaned %q, %v", key, file, again, err)
		}
		if file != "" && (path.Join("/root", file) != "/root/"+file || strings.HasPrefix(file, "/")) {
			t.Errorf("%q cleaned is %q", key, file)
		}
		if file != "" && path.Join("/root", key) != "/root/"+file {
			t.Errorf("%q and %q are not the same file", key, file)
		}
		txn := fsm.Txn{Ops: []fsm.Op{fsm.Delete(filesPrefix + file)}}
		if _, err := fsm.EncodeItem(fsm.Item{Txn: &txn}); err != nil {
			t.Errorf("%q can't be a key: %v", file, err)
		}
	})
}
