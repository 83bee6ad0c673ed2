package fsm

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

func TestSnapshotHoldsTheMomentItWasTaken(t *testing.T) {
	s := newStore(Options{})
	apply(t, s, at(0), ops(Put("a", []byte("1")), PutTTL("b", []byte("2"), time.Minute)))
	snap := s.Snapshot()
	apply(t, s, at(1), ops(Delete("a"), Put("c", []byte("3"))))

	var buf bytes.Buffer
	if _, err := snap.WriteTo(&buf); err != nil {
		t.Fatal(err)
	}
	read, err := ReadSnapshot(&buf)
	if err != nil {
		t.Fatal(err)
	}
	if read.Index() != 1 || !read.Time().Equal(at(0)) || read.Len() != 2 {
		t.Errorf("index %d, time %s, %d records", read.Index(), read.Time(), read.Len())
	}
}

func TestRestoreThenContinueEqualsStraightRun(t *testing.T) {
	straight, restored := newStore(Options{}), newStore(Options{})
	for i := range 50 {
		txn := ops(PutTTL(fmt.Sprint("k", i%7), fmt.Append(nil, i), time.Duration(i%5+1)*time.Second), Put(fmt.Sprint("p", i%3), nil))
		apply(t, straight, at(i), txn)
		if i == 25 {
			if err := restored.Restore(bytes.NewReader(snapshotBytes(t, straight))); err != nil {
				t.Fatal(err)
			}
		}
		if i > 25 {
			apply(t, restored, at(i), txn)
		}
	}
	if !bytes.Equal(snapshotBytes(t, straight), snapshotBytes(t, restored)) {
		t.Error("different states")
	}
}

// frames builds a snapshot that is sound but for what the caller does to it.
func frames(body func(fw *frameWriter)) []byte {
	var buf bytes.Buffer
	buf.Write(snapshotPreamble())
	z, err := zstd.NewWriter(&buf, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(snapshotWindow))
	must(err)
	fw := &frameWriter{w: z, sum: sha256.New()}
	fw.sum.Write(snapshotPreamble())
	body(fw)
	must(errors.Join(fw.err, z.Close()))
	return buf.Bytes()
}

func (fw *frameWriter) finish(records int) {
	fw.end()
	fw.write(snapshotTrailer{Records: records, SHA256: fw.sum.Sum(nil)})
}

func TestRestoreRefusesWhatIsNotWholeAndSound(t *testing.T) {
	source := newStore(Options{})
	apply(t, source, at(0), ops(Put("a", []byte("1")), Put("b", []byte("2"))))
	good := snapshotBytes(t, source)
	header := snapshotHeader{Index: 5, Time: 1}
	rec := func(key string) snapshotRecord { return snapshotRecord{Key: key, Revision: 1, Created: 1} }
	edit := func(f func(b []byte)) []byte { b := bytes.Clone(good); f(b); return b }

	tests := []struct {
		name, want string
		in         []byte
	}{
		{"nothing", "not a snapshot", nil},
		{"something else", "not a snapshot", []byte("#!/bin/sh\necho")},
		{"newer version", "must be upgraded", edit(func(b []byte) { b[len(snapshotMagic)]++ })},
		{"cut off", "", good[:len(good)-5]},
		{"something behind", "", append(bytes.Clone(good), "tail"...)},
		{"another snapshot behind", "follows the trailer", append(bytes.Clone(good), good[len(snapshotMagic)+1:]...)},
		{"no header", "header", frames(func(fw *frameWriter) { fw.finish(0) })},
		{"unknown field", "unknown field", frames(func(fw *frameWriter) { fw.write(map[int]int{1: 1, 2: 2, 3: 3}) })},
		{"keys out of order", "comes after", frames(func(fw *frameWriter) {
			fw.write(header)
			fw.write(rec("b"))
			fw.write(rec("a"))
			fw.finish(2)
		})},
		{"key twice", "comes after", frames(func(fw *frameWriter) {
			fw.write(header)
			fw.write(rec("a"))
			fw.write(rec("a"))
			fw.finish(2)
		})},
		{"empty key", "empty", frames(func(fw *frameWriter) { fw.write(header); fw.write(rec("")); fw.finish(1) })},
		{"revision ahead", "revision 6", frames(func(fw *frameWriter) {
			fw.write(header)
			fw.write(snapshotRecord{Key: "a", Revision: 6, Created: 1})
			fw.finish(1)
		})},
		{"wrong count", "announced", frames(func(fw *frameWriter) { fw.write(header); fw.write(rec("a")); fw.finish(2) })},
		{"wrong sum", "checksum", frames(func(fw *frameWriter) {
			fw.write(header)
			fw.end()
			fw.write(snapshotTrailer{SHA256: make([]byte, 32)})
		})},
		{"no trailer", "cut off", frames(func(fw *frameWriter) { fw.write(header); fw.end() })},
		{"no records' end", "cut off", frames(func(fw *frameWriter) { fw.write(header); fw.write(rec("a")) })},
		{"bytes behind the trailer", "follows the trailer", frames(func(fw *frameWriter) {
			fw.write(header)
			fw.finish(0)
			fw.end()
		})},
		{"frame too long", "allowed", frames(func(fw *frameWriter) { fw.write(header); fw.frame(make([]byte, maxFrameSize+1)) })},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(Options{})
			apply(t, s, at(0), ops(Put("mine", nil)))
			_, _, ch := s.View().Watch("mine")
			err := s.Restore(bytes.NewReader(tt.in))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if _, ok := s.View().Get("mine"); !ok || s.Applied() != 1 || fired(ch) {
				t.Error("the state changed all the same")
			}
		})
	}
}

func TestEveryFlippedBitOfASnapshotIsFound(t *testing.T) {
	s := newStore(Options{})
	apply(t, s, at(0), ops(Put("a", []byte("some value")), PutTTL("b", nil, time.Second)))
	good := snapshotBytes(t, s)
	for i := range good {
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << bit
			// A flip that the decompressor does not care about may pass, if what
			// comes out is the same.
			snap, err := ReadSnapshot(bytes.NewReader(bad))
			if err == nil && !bytes.Equal(good, snapshotBytes(t, storeOf(snap))) {
				t.Fatalf("byte %d bit %d: another state passed as sound", i, bit)
			}
		}
	}
}

func storeOf(snap *Snapshot) *Store {
	s := newStore(Options{})
	s.state.Store(snap.state)
	return s
}

// A snapshot is written and read in the memory of a record, whatever the length
// announced or the size of the whole.
func TestSnapshotStreams(t *testing.T) {
	s := newStore(Options{})
	random := rand.NewChaCha8([32]byte{})
	for i := range 48 {
		value := make([]byte, 512<<10)
		_, _ = random.Read(value)
		apply(t, s, at(0), ops(Put(fmt.Sprint("k", i), value)))
	}
	snap := s.Snapshot()
	if got := allocated(func() { _, _ = snap.WriteTo(io.Discard) }); got > 16<<20 {
		t.Errorf("writing 24 MiB allocated %d MiB", got>>20)
	}

	bomb := frames(func(fw *frameWriter) {
		fw.write(snapshotHeader{Index: 1, Time: 1})
		fw.head = append(fw.head[:0], 0xff, 0xff, 0xff, 0xff, 0x0f) // 4 GiB to come
		_, fw.err = fw.w.Write(append(fw.head, make([]byte, 64<<20)...))
	})
	if got := allocated(func() { _, _ = ReadSnapshot(bytes.NewReader(bomb)) }); got > 16<<20 {
		t.Errorf("refusing a bomb of %d bytes allocated %d MiB", len(bomb), got>>20)
	}
}

func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

type failingWriter struct{ left int }

func (w *failingWriter) Write(p []byte) (int, error) {
	if len(p) > w.left {
		return 0, io.ErrShortWrite
	}
	w.left -= len(p)
	return len(p), nil
}

func TestWriteErrorIsReported(t *testing.T) {
	s := storeWith(t, "k", "value")
	for left := range len(snapshotBytes(t, s)) {
		if _, err := s.Snapshot().WriteTo(&failingWriter{left}); !errors.Is(err, io.ErrShortWrite) {
			t.Fatalf("after %d bytes: %v", left, err)
		}
	}
}
