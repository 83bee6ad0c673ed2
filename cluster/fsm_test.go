package cluster

import (
	"bytes"
	"io"
	"slices"
	"testing"

	"github.com/hashicorp/raft"
)

func machineWith(sm StateMachine) *machine {
	return &machine{
		sm: sm, applied: &applied{}, onFail: func(error) {},
		watch: newWatchdog("memory", discard, func() {}, func() {}),
	}
}

// Raft that starts again over a live state machine gives it the past once more.
func TestALiveStateMachineIsNeverShownThePast(t *testing.T) {
	t.Parallel()
	sm := &counting{}
	m := machineWith(sm)
	apply := func(m *machine, from, to uint64) {
		for i := from; i <= to; i++ {
			if out, ok := m.Apply(&raft.Log{Index: i, Data: []byte("x")}).(outcome); !ok || out.err != nil {
				t.Fatalf("entry %d: %v", i, out.err)
			}
		}
	}
	apply(m, 1, 3)
	snap, err := m.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	var old bytes.Buffer
	if _, err := snap.(*snapshot).WriteTo(&old); err != nil {
		t.Fatal(err)
	}
	apply(m, 4, 5)

	again := &machine{sm: sm, applied: m.applied, watch: m.watch, onFail: m.onFail} // the next instance
	body := bytes.NewReader(old.Bytes())
	if err := again.Restore(io.NopCloser(body)); err != nil {
		t.Fatal(err)
	}
	if body.Len() != 0 {
		t.Errorf("%d bytes of the snapshot were not read, so not verified by its checksum", body.Len())
	}
	if sm.restored != 0 {
		t.Error("the state went back to the snapshot")
	}
	apply(again, 4, 6)
	if want := []uint64{1, 2, 3, 4, 5, 6}; !slices.Equal(sm.seen, want) || m.applied.get() != 6 {
		t.Errorf("applied %d up to %d, want %d", sm.seen, m.applied.get(), want)
	}
	fresh := machineWith(&counting{})
	if err := fresh.Restore(io.NopCloser(&old)); err != nil || fresh.applied.get() != 3 {
		t.Errorf("a snapshot that is ahead: at %d, %v", fresh.applied.get(), err)
	}
}
