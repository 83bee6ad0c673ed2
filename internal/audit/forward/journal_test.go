package forward

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/audit"
)

// TestLinesOfAJournalAreForwardedAcrossItsFiles: each once, though each file begins
// with copies of the lines before it.
func TestLinesOfAJournalAreForwardedAcrossItsFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, err := audit.Open(t.TempDir(), audit.JournalOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer j.Close()
		store := map[string][]byte{audit.KeyLimits: []byte(`{"segment_bytes":20000}`)}
		last, index := uint64(0), uint64(0)
		write := func(n int) {
			index++
			entry := audit.Entry{Index: index, Time: time.Now(), Batches: []audit.Batch{{Origin: "a"}}}
			for i := range n {
				entry.Batches[0].Events = append(entry.Batches[0].Events, fmt.Appendf(nil, `{"event":"user.login","code":"T1000I","i":%d}`, i))
			}
			changes, add, err := audit.Extend(entry, func(key string) []byte { return store[key] })
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range changes {
				store[c.Key] = c.Value
			}
			last = add.Head.Number
			if err := j.Write(add); err != nil {
				t.Fatal(err)
			}
		}
		write(700)
		keeper, got := newKeeper(), &inbox{}
		keeper.put(webhookDoc())
		var texts []string
		f, err := New(Options{
			Source: j, Cursors: keeper, List: keeper.list, First: func() uint64 { return 1 }, Last: func() uint64 { return last },
			HTTP: &http.Client{Transport: receiverFunc(func(r *http.Request) (*http.Response, error) {
				var lines []json.RawMessage
				if err := json.NewDecoder(r.Body).Decode(&lines); err != nil {
					t.Error(err)
				}
				for _, l := range lines {
					var line struct {
						Number uint64 `json:"number"`
						Hash   string `json:"hash"`
					}
					if err := json.Unmarshal(l, &line); err != nil || len(line.Hash) != 64 {
						t.Errorf("%s %v", l, err)
					}
					got.take([]uint64{line.Number})
					texts = append(texts, string(l))
				}
				return respond(200, "")
			})},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer start(t, f)()
		for range 20 {
			write(100)
			after(137 * time.Millisecond)
		}
		after(5 * time.Second)
		if d := cmp.Diff(upTo(1, 2700), got.taken()); d != "" {
			t.Error(d)
		}
		if n := keeper.at("siem").Number; n != 2700 {
			t.Errorf("cursor %d", n)
		}
		n := 0
		for line, err := range j.Lines(1) {
			if err != nil || n >= len(texts) || string(line.Text) != texts[n] {
				t.Fatalf("line %d is not what was sent: %v", n+1, err)
			}
			n++
		}
		if segments := j.State().Files; n != 2700 || segments < 3 {
			t.Errorf("%d lines in %d files, %s", n, segments, strings.Join(texts[:1], ""))
		}
	})
}
