package audit

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// benchHistory is a log of about so many bytes, of events such as requests
// leave: 900 bytes as lines, 70 in an entry, as 5,000 a second are sent.
func benchHistory(b *testing.B, size int) *history {
	b.Helper()
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // no secret
	h := newHistory(64 << 20)
	for h.head().Bytes < int64(size) {
		events := make([]string, 70)
		for i := range events {
			name := fmt.Sprintf("checkout-%x-%x", r.Uint32(), r.Uint32()&0xfffff)
			user := fmt.Sprintf("user-%d@example.com", r.IntN(40))
			line, err := Encode(api.Event{
				Event: api.EventKubeRequest, Code: api.EventCodeKubeRequest, Time: h.now, ClusterName: "tele.example.com", User: user,
				UID: fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", r.Uint32(), r.Uint32()&0xffff, r.Uint32()&0xfff, r.Uint32()&0xfff, r.Uint64()&0xffffffffffff),
				Fields: map[string]any{
					"proto": "kube", "namespace": "default", "server_id": "0123456789abcdef", "kubernetes_cluster": "production-eu-central",
					"kubernetes_groups": []string{"developers", "readers", "system:authenticated"}, "kubernetes_users": []string{user},
					"kubernetes_labels": map[string]string{"env": "production", "region": "eu-central-1"},
					"session_id":        strings.Repeat("0123456789abcdef", 2), "verb": "GET", "kubernetes_verb": "get", "response_code": 200,
					"addr.remote": fmt.Sprintf("10.1.%d.%d:%d", r.IntN(8), r.IntN(256), 32768+r.IntN(28000)), "addr.local": "10.2.0.1:3026",
					"request_path": "/api/v1/namespaces/checkout/pods/" + name, "resource_api_group": "core/v1", "resource_kind": "pods",
					"resource_namespace": "checkout", "resource_name": name,
				},
			})
			if err != nil {
				b.Fatal(err)
			}
			events[i] = string(line)
		}
		h.entry(events...)
	}
	return h
}

// BenchmarkExtend is what making lines costs each replica, beside their SHA-256 alone.
func BenchmarkExtend(b *testing.B) {
	h := benchHistory(b, 1<<20)
	var events [][]byte
	for line := range bytes.Lines(h.adds[0].Lines) {
		events = append(events, bytes.Clone(line[:len(line)-1]))
	}
	e := Entry{Index: h.index + 1, Time: h.now, Batches: []Batch{{Origin: "0123456789abcdef", Events: events}}}
	get := func(key string) []byte { return h.store[key] }
	var alone time.Duration
	b.ReportAllocs()
	for b.Loop() {
		_, add, err := Extend(e, get)
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		start := time.Now()
		sha256.Sum256(add.Lines)
		alone += time.Since(start)
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(events)), "ns/event")
	b.ReportMetric(float64(b.Elapsed())/float64(alone), "x-sha256")
}

// BenchmarkWholeLog reads 64 MiB as search and verify do, and fetches them as a
// replica does whose disk was emptied, each beside the least that it could do:
// reading, SHA-256, a copy with fsync.
func BenchmarkWholeLog(b *testing.B) {
	h := benchHistory(b, 64<<20-1<<20)
	d := h.donor(b)
	m := h.head()
	size, path := m.Bytes, filepath.Join(d.dir, activeName)
	timed := func(reference func() error, ours func(b *testing.B)) func(b *testing.B) {
		return func(b *testing.B) {
			var least time.Duration
			for b.Loop() {
				b.StopTimer()
				start := time.Now()
				if err := reference(); err != nil {
					b.Fatal(err)
				}
				least += time.Since(start)
				b.StartTimer()
				ours(b)
			}
			b.SetBytes(size)
			b.ReportMetric(float64(m.Number)*float64(b.N)/b.Elapsed().Seconds(), "lines/s")
			b.ReportMetric(float64(b.Elapsed())/float64(least), "x-reference")
		}
	}
	through := func(w io.Writer) func() error {
		return func() error {
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = io.Copy(w, f)
			return err
		}
	}
	for name, q := range map[string]api.AuditQuery{
		"grep": {Grep: "no line has this"}, "user": {User: "nobody@example.com"}, "type": {Types: []string{"session.*"}},
	} {
		b.Run("search/"+name, timed(through(struct{ io.Writer }{io.Discard}), func(b *testing.B) {
			for q := q; ; {
				page, err := d.j.Search(b.Context(), q)
				if err != nil {
					b.Fatal(err)
				}
				if page.Done {
					return
				}
				q.After = page.Next
			}
		}))
	}
	b.Run("verify", timed(through(sha256.New()), func(b *testing.B) {
		manifest, _ := h.manifest()
		if v := d.j.Verify(b.Context(), manifest, nil); v.Problem != nil {
			b.Fatal(v.Problem)
		}
	}))
	b.Run("fetch", timed(func() error {
		f, err := os.Create(filepath.Join(b.TempDir(), "copy"))
		if err != nil {
			return err
		}
		defer f.Close()
		if err := through(f)(); err != nil {
			return err
		}
		return f.Sync()
	}, func(b *testing.B) {
		r := newReplica(b, h)
		_ = r.j.Close() // its files were not synced
		if err := r.open(osFiles{}); err != nil {
			b.Fatal(err)
		}
		r.peers["a"] = d.j.Serve
		r.restore(len(h.adds))
		r.mustRound()
		if s := r.j.State(); s.Gap != nil || s.Last != m.Number {
			b.Fatalf("%+v", s)
		}
	}))
}
