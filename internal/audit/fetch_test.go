package audit

import (
	"bytes"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/audit/chain"
)

func FuzzFetchAnswer(f *testing.F) {
	h := grown(0, 20)
	text := h.text()
	f.Add([]byte(text))
	f.Add([]byte(text[:len(text)/2]))
	f.Add([]byte("\n"))
	f.Add([]byte(`{"a":1,"number":1,"hash":"` + strings.Repeat("0", 64) + "\"}\n"))
	f.Add([]byte{})
	_, end := h.line(20)
	f.Fuzz(func(t *testing.T, b []byte) {
		c := checker{next: 1, linked: true, points: map[uint64]chain.Hash{20: end.Hash}}
		good, err := c.lines(b, 20)
		if err != nil {
			return
		}
		if !bytes.HasPrefix(b, good) {
			t.Error("what was checked is not what came")
		}
		if c.next == 21 && string(good) != text {
			t.Error("another text has the hash of the log")
		}
	})
}
