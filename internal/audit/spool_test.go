package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// disk is a spool file in memory whose faults a test chooses. It outlives the
// emitters that close it.
type disk struct {
	mu     sync.Mutex
	data   []byte
	synced []byte        // what a power cut leaves
	syncs  int           // begun
	hang   chan struct{} // syncs wait for it to be closed; nil: they don't
	write  error         // of writes

	badFrom, badTo int64 // what reads fail at
	sync           error // of syncs
}

func (d *disk) open(string) (spoolFile, error) { return d, nil }

func (d *disk) ReadAt(b []byte, at int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if at >= int64(len(d.data)) {
		return 0, io.EOF
	}
	if at+int64(len(b)) > d.badFrom && at < d.badTo {
		return copy(b, d.data[at:max(at, d.badFrom)]), syscall.EIO
	}
	n := copy(b, d.data[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (d *disk) WriteAt(b []byte, at int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := len(b), error(nil)
	if d.write != nil && at+int64(n) > int64(len(d.data)) { // within the file there is space
		n, err = n/2, d.write
	}
	if grow := at + int64(n) - int64(len(d.data)); grow > 0 {
		d.data = append(d.data, make([]byte, grow)...)
	}
	return copy(d.data[at:], b[:n]), err
}

func (d *disk) Truncate(size int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.data = append(d.data, make([]byte, max(size-int64(len(d.data)), 0))...)[:size]
	return nil
}

func (d *disk) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.syncs++
	for d.hang != nil {
		h := d.hang
		d.mu.Unlock()
		<-h
		d.mu.Lock()
	}
	if d.sync != nil {
		return d.sync
	}
	d.synced = bytes.Clone(d.data)
	return nil
}

func (d *disk) Close() error { return nil }

func (d *disk) Stat() (os.FileInfo, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return diskInfo{size: int64(len(d.data))}, nil
}

type diskInfo struct {
	os.FileInfo
	size int64
}

func (i diskInfo) Size() int64 { return i.size }

// set changes the disk's faults.
func (d *disk) set(change func(*disk)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(d)
}

// begun counts syncs.
func (d *disk) begun() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.syncs
}

// isDurable says whether a power cut would leave the text; "": all there is.
func (d *disk) isDurable(text string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if text == "" {
		return bytes.Equal(d.data, d.synced)
	}
	return bytes.Contains(d.synced, []byte(text))
}

// copyOf is a disk as a kill leaves it or, without what was not synced, a power cut.
func (d *disk) copyOf(powerCut bool) *disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	b := d.data
	if powerCut {
		b = d.synced
	}
	return &disk{data: bytes.Clone(b), synced: bytes.Clone(b)}
}

// inSpool makes lines FROM to TO of an epoch, each {"n":NUMBER}.
func inSpool(epoch uint64, from, to int) (out []numbered) {
	for i := from; i < to; i++ {
		out = append(out, numbered{epoch, uint64(i), fmt.Appendf(nil, `{"n":%d}`, i)})
	}
	return out
}

func spoolText(lines ...[]numbered) string {
	var b []byte
	for _, some := range lines {
		for _, l := range some {
			b = appendSpoolLine(b, l)
		}
	}
	return string(b)
}

func spoolHeader(at int, epoch, number uint64) string {
	return fmt.Sprintf("%s%020d %016x %020d\n", spoolMagic, at, epoch, number)
}

// replay reads all that a spool holds, each flight with its first line's number.
func replay(t *testing.T, s *spool) (flights [][]numbered, bad int) {
	t.Helper()
	for !s.empty() {
		front := s.front
		l, end, b, err := s.next(s.front, 4, 1<<20)
		if err != nil || end <= front {
			t.Fatal(err, end, front)
		}
		bad += b
		last := numbered{}
		if len(l) > 0 {
			flights, last = append(flights, l), l[len(l)-1]
		}
		if err := s.advance(end, len(l)+b, last); err != nil {
			t.Fatal(err)
		}
	}
	return flights, bad
}

var compareLines = cmp.AllowUnexported(numbered{})

func TestSpool_survives(t *testing.T) {
	all := inSpool(7, 1, 11)
	text := spoolText(all)
	at := func(lines int) int { return int(spoolHeaderLen) + len(spoolText(all[:lines])) }
	for name, c := range map[string]struct {
		file string
		want []numbered
	}{
		"a torn line":                           {spoolHeader(int(spoolHeaderLen), 0, 0) + text[:len(text)-1], all[:9]},
		"a torn header":                         {spoolMagic, nil},
		"half of its name":                      {spoolMagic[:5], nil},
		"a header of zeros":                     {strings.Repeat("\x00", 30), nil},
		"nothing":                               {"", nil},
		"an offset in the middle":               {spoolHeader(at(3), 7, 3) + text, all[3:]},
		"an offset with another line's number":  {spoolHeader(at(3), 7, 4) + text, all},
		"an offset with another epoch":          {spoolHeader(at(3), 8, 3) + text, all},
		"an offset inside a line":               {spoolHeader(at(3)+2, 7, 3) + text, all},
		"an offset behind the end":              {spoolHeader(1<<40, 7, 3) + text, all},
		"an offset behind a harmed line":        {spoolHeader(at(3), 7, 3) + strings.Replace(text, `{"n":3}`, `{"n":9}`, 1), append(append([]numbered{}, all[:2]...), all[3:]...)},
		"an offset that is no number":           {spoolMagic + strings.Repeat("x", int(spoolHeaderLen)-len(spoolMagic)-1) + "\n" + text, all},
		"everything sent":                       {spoolHeader(at(10), 7, 10) + text, nil},
		"nothing but half a line":               {spoolHeader(int(spoolHeaderLen), 0, 0) + "{", nil},
		"the front of a file that grew anew":    {spoolHeader(at(3), 7, 3) + spoolText(inSpool(7, 21, 31)), inSpool(7, 21, 31)},
		"a line without its number's last part": {spoolHeader(int(spoolHeaderLen), 0, 0) + "00000000 7 1\n" + text, all},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "spool")
			if err := os.WriteFile(path, []byte(c.file), 0o600); err != nil {
				t.Fatal(err)
			}
			file, err := openPrivate(path, 0)
			if err != nil {
				t.Fatal(err)
			}
			s, err := openSpool(file, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close() //nolint:errcheck // a test's file
			var got []numbered
			flights, _ := replay(t, s)
			for _, f := range flights {
				got = append(got, f...)
			}
			if diff := cmp.Diff(c.want, got, compareLines); diff != "" {
				t.Error(diff)
			}
			if err := s.tidy(); err != nil || s.end != spoolHeaderLen || s.events != 0 {
				t.Errorf("%d bytes, %d events left, %v", s.end, s.events, err)
			}
		})
	}
}

func TestSpool_givesLinesOfOneEpochWithoutAHole(t *testing.T) {
	s, err := openSpool(&disk{}, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for _, lines := range [][]numbered{inSpool(1, 5, 7), inSpool(2, 7, 9), inSpool(2, 10, 16)} {
		if n, err := s.add(lines, 0); n != len(lines) || err != nil {
			t.Fatal(n, err)
		}
	}
	if s.events != 10 {
		t.Errorf("counts %d events", s.events)
	}
	got, _ := replay(t, s)
	want := [][]numbered{inSpool(1, 5, 7), inSpool(2, 7, 9), inSpool(2, 10, 14), inSpool(2, 14, 16)}
	if diff := cmp.Diff(want, got, compareLines); diff != "" {
		t.Error(diff)
	}
}

func TestSpool_isBoundedByWhatWaits(t *testing.T) {
	lines := inSpool(1, 10, 20)
	size := int64(len(spoolText(lines[:1])))
	s, err := openSpool(&disk{}, 4*size)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := s.add(lines[:5], 5); n != 0 || !errors.Is(err, errSpoolFull) {
		t.Errorf("all or none: %d, %v", n, err)
	}
	if n, err := s.add(lines[:5], 0); n != 4 || !errors.Is(err, errSpoolFull) {
		t.Errorf("as many as fit: %d, %v", n, err)
	}
	// While its front is sent, there is room for others, but not without end.
	for i := range 4 {
		if err := s.advance(s.front+size, 1, lines[i]); err != nil {
			t.Fatal(err)
		}
		if n, err := s.add(lines[4+i:5+i], 0); n != 1 || err != nil {
			t.Errorf("line %d: %d, %v", i, n, err)
		}
	}
	if err := s.advance(s.front+size, 1, lines[4]); err != nil {
		t.Fatal(err)
	}
	if n, err := s.add(lines[8:9], 0); n != 0 || !errors.Is(err, errSpoolFull) || s.end > 8*size+spoolHeaderLen {
		t.Errorf("%d, %v, %d bytes", n, err, s.end)
	}
}

// TestSpool_leavesOutHarmedLines: a number that the disk has harmed must not make
// the cluster drop the events after it.
func TestSpool_leavesOutHarmedLines(t *testing.T) {
	event := func(n int) []numbered {
		return []numbered{{9, uint64(n), fmt.Appendf(nil, `{"event":"e","code":"c","user":"%d"}`, n)}}
	}
	harmed := strings.Replace(spoolText(event(2)), " 9 2 ", " 9 9000000 ", 1)
	synctest.Test(t, func(t *testing.T) {
		d := &disk{data: []byte(spoolHeader(int(spoolHeaderLen), 0, 0) + "\x00\x00\n" + spoolText(event(1)) + harmed +
			strings.Repeat("#", 600_000) + "\n" + spoolText(event(3)))}
		c := &cluster{}
		e := start(t, c, EmitterOptions{SpoolPath: filepath.Join(t.TempDir(), "spool"), openSpool: d.open})
		pass(time.Second)
		closeNow(t, e)
		got := c.users(t)
		if len(got) < 3 || got[0] != "1" || c.batches[0].Epoch != 9 || c.batches[0].First != 1 ||
			c.batches[len(c.batches)-1].First > 9000 || e.Stats().Lost < 3 || e.Stats().SpoolBytes != 0 {
			t.Errorf("got %q, %+v", got, e.Stats())
		}
		if !strings.Contains(strings.Join(got, " "), "3") {
			t.Errorf("what is behind the harm is missing: %q", got)
		}
	})
}

func TestSpool_keepsAForeignFileBeside(t *testing.T) {
	for name, text := range map[string]string{
		"long": strings.Repeat("precious\n", 100), "short": "precious\n", "of a newer version": "sallyport-spool-3 \n" + strings.Repeat("x", 100),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "spool")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			var logged bytes.Buffer
			e := start(t, &cluster{}, EmitterOptions{SpoolPath: path, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
			closeNow(t, e)
			kept, err := filepath.Glob(path + ".old-*")
			if err != nil || len(kept) != 1 || !strings.Contains(logged.String(), kept[0]) {
				t.Fatalf("%v, %v; the log says\n%s", kept, err, &logged)
			}
			if b, err := os.ReadFile(kept[0]); err != nil || string(b) != text {
				t.Errorf("changed to %q, %v", b, err)
			}
		})
	}
	if _, err := NewEmitter(EmitterOptions{}); err == nil {
		t.Error("an emitter without Send")
	}
}

// TestSpool_passesOverWhatTheDiskDoesNotGive: reliability.md, a disk that fails in part.
func TestSpool_passesOverWhatTheDiskDoesNotGive(t *testing.T) {
	var text []byte
	for n := range 600 {
		text = appendSpoolLine(text, numbered{9, uint64(n) + 1, fmt.Appendf(nil, `{"event":"e","code":"c","user":"%d"}`, n)}) //nolint:gosec // small
	}
	const badFrom, badTo = 8 << 10, 16 << 10
	synctest.Test(t, func(t *testing.T) {
		d := &disk{data: append([]byte(spoolHeader(int(spoolHeaderLen), 0, 0)), text...), badFrom: badFrom, badTo: badTo}
		c := &cluster{}
		var logged bytes.Buffer
		e := start(t, c, EmitterOptions{SpoolPath: filepath.Join(t.TempDir(), "spool"), openSpool: d.open, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
		pass(30 * time.Second)
		if s := e.Stats(); s.Lost != 0 || s.Sent == 0 || s.SpoolEvents == 0 || !strings.Contains(s.LastError, "input/output error") {
			t.Errorf("after half a minute: %+v", s)
		}
		pass(2 * time.Minute)
		closeNow(t, e)
		lost := bytes.Count(text[badFrom-spoolHeaderLen:badTo-spoolHeaderLen], []byte("\n"))
		s := e.Stats()
		if s.Lost == 0 || int(s.Lost) > lost+1 || s.SpoolBytes != 0 || s.FailingSince != (time.Time{}) || !strings.Contains(logged.String(), "passed over") { //nolint:gosec // small
			t.Errorf("%d lines were harmed, but %+v; the log says\n%s", lost, s, &logged)
		}
		got := c.users(t)
		if n := len(got); got[0] != "0" || got[n-2] != "599" || got[n-1] != fmt.Sprintf("lost %d", s.Lost) || n-1 < 600-lost-1 || n-1+int(s.Lost) > 601 { //nolint:gosec // small
			t.Errorf("%d events, %q to %q", n, got[0], got[n-2:])
		}
	})
}

func TestSpool_aFailedWriteLeavesNothing(t *testing.T) {
	d := &disk{}
	s, err := openSpool(d, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	d.write = syscall.ENOSPC
	if n, err := s.add(inSpool(1, 1, 5), 0); n != 0 || !errors.Is(err, syscall.ENOSPC) || int64(len(d.data)) != spoolHeaderLen {
		t.Errorf("%d, %v, %d bytes", n, err, len(d.data))
	}
}

func FuzzSpool(f *testing.F) {
	all := inSpool(7, 1, 5)
	f.Add([]byte(spoolHeader(int(spoolHeaderLen), 0, 0) + spoolText(all)))
	f.Add([]byte(spoolHeader(int(spoolHeaderLen)+len(spoolText(all[:1])), 7, 1) + spoolText(all)))
	f.Add([]byte(spoolMagic))
	f.Add([]byte(spoolHeader(int(spoolHeaderLen), 0, 0) + "00000000 0 0 \n\n\n00000000 7 1 {}\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		s, err := openSpool(&disk{data: file}, 1<<20)
		if err != nil {
			return
		}
		flights, _ := replay(t, s)
		for _, flight := range flights {
			for i, l := range flight {
				if l.epoch == 0 || l.number == 0 || l.epoch != flight[0].epoch || l.number != flight[0].number+uint64(i) || len(l.line) == 0 {
					t.Errorf("%+v", flight)
				}
			}
		}
	})
}
