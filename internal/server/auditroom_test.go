//go:build linux

package server

import (
	"errors"
	"os"
	"syscall"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/audit/chain"
)

func TestTheRoomOfTheAuditLogIsThatOfItsOwnVolume(t *testing.T) {
	const mib, gib = 1 << 20, 1 << 30
	for _, c := range []struct {
		log, data volume
		want      int64
	}{
		{volume{}, volume{}, 0},
		{volume{}, volume{4 * gib, 1}, 0},
		{volume{10 * gib, 1}, volume{10 * gib, 1}, 8 * gib},
		{volume{gib, 1}, volume{gib, 1}, 512 * mib},
		{volume{500 * gib, 2}, volume{4 * gib, 1}, 500*gib - 384*mib},
		{volume{4 * gib, 2}, volume{500 * gib, 1}, 4*gib - 384*mib},
		{volume{512 * mib, 2}, volume{500 * gib, 1}, 256 * mib},
	} {
		if got := auditRoom(c.log, c.data, 384*mib); got != c.want {
			t.Errorf("log %+v, data %+v: %d, want %d", c.log, c.data, got, c.want)
		}
	}
}

func TestAVolumeIsMeasuredInItsOwnBlocks(t *testing.T) {
	var fs syscall.Statfs_t
	dir := t.TempDir()
	st, err := os.Stat(dir)
	if err != nil || syscall.Statfs(dir, &fs) != nil {
		t.Fatal(err)
	}
	got := measureVolume(dir)
	if got.size <= 0 || got.size != int64(fs.Blocks)*blockSize(&fs) || got.device != st.Sys().(*syscall.Stat_t).Dev { //nolint:errcheck,forcetypeassert // what os gives here
		t.Errorf("%+v", got)
	}
	if got := measureVolume(dir + "/none"); got != (volume{}) {
		t.Errorf("what is not there has %+v", got)
	}
	if fs := (syscall.Statfs_t{Bsize: 1 << 20, Frsize: 4096}); blockSize(&fs) != 4096 {
		t.Error("NFS reads a mebibyte at once and counts in something else")
	}
}

func TestVolumesBoundTheLogByWhatAMajorityNeeds(t *testing.T) {
	m := audit.Manifest{
		Segments: []audit.Segment{{First: 1, Last: 100, Hash: chain.Hash{1}}, {First: 101, Last: 200, Prev: chain.Hash{1}}},
		Head:     audit.Head{Number: 250, First: 201},
	}
	has := func(room int64) holding {
		return holding{voter: true, state: audit.Holding{First: 1, Last: 250, Room: room}}
	}
	silent := holding{voter: true, err: errors.New("no answer")}
	empty := holding{voter: true, state: audit.Holding{First: 1, Last: 0, Room: 10}}
	filling := holding{voter: true, state: audit.Holding{First: 1, Last: 150, Room: 10}}
	learner := holding{state: audit.Holding{First: 1, Last: 250, Room: 10}}
	for name, c := range map[string]struct {
		replicas []holding
		want     int64
	}{
		"nobody":                                   {},
		"one":                                      {replicas: []holding{has(10)}, want: 10},
		"one on what is not its volume":            {replicas: []holding{empty}},
		"one small of two":                         {replicas: []holding{has(10), has(90)}, want: 90},
		"one small of three":                       {replicas: []holding{has(10), has(80), has(90)}, want: 80},
		"two small of three":                       {replicas: []holding{has(90), has(20), has(10)}, want: 20},
		"two small of three, one is silent":        {replicas: []holding{has(10), silent, has(90)}, want: 90},
		"one has told":                             {replicas: []holding{has(10), silent, silent}},
		"one is of a version that tells":           {replicas: []holding{has(10), has(0), has(0)}},
		"two of four":                              {replicas: []holding{has(10), has(20), has(80), has(90)}, want: 20},
		"two of five":                              {replicas: []holding{has(10), has(20), has(70), has(80), has(90)}, want: 70},
		"one that votes not does not count":        {replicas: []holding{learner, has(10), has(80), has(90)}, want: 80},
		"one that has nothing yet does not count":  {replicas: []holding{empty, has(10), has(90)}, want: 90},
		"one that lacks the newest does not count": {replicas: []holding{filling, has(10), has(90)}, want: 90},
	} {
		if got := roomFor(c.replicas, holdsAll(m)); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}
