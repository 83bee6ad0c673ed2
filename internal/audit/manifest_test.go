package audit

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/audit/chain"
)

// fourSegments are of a hundred lines each; a head of fifty follows them.
func fourSegments() Manifest {
	m := Manifest{Head: Head{Number: 450, First: 401, Prev: chain.Hash{4}, Hash: chain.Hash{5}}}
	for i := range uint64(4) {
		m.Segments = append(m.Segments, Segment{First: 100*i + 1, Last: 100*i + 100, Prev: chain.Hash{byte(i)}, Hash: chain.Hash{byte(i + 1)}})
	}
	return m
}

func TestTheFloorIsWhereSomebodyHasTheLogAgain(t *testing.T) {
	m := fourSegments()
	has := func(first, last uint64) Holding { return Holding{First: first, Last: last} }
	hash := chain.Hash{42}
	for name, c := range map[string]struct {
		gap    Gap
		others []Holding
		want   *Floor
	}{
		"a replica alone":                                {gap: Gap{From: 1, To: 440, Hash: hash}, want: &Floor{First: 441, Prev: hash}},
		"others with nothing":                            {gap: Gap{From: 1, To: 440, Hash: hash}, others: []Holding{has(1, 0), has(1, 0)}, want: &Floor{First: 441, Prev: hash}},
		"others with what came since":                    {gap: Gap{From: 1, To: 440, Hash: hash}, others: []Holding{has(441, 450)}, want: &Floor{First: 441, Prev: hash}},
		"one that has the beginning":                     {gap: Gap{From: 1, To: 440, Hash: hash}, others: []Holding{has(1, 10)}},
		"one that has the end":                           {gap: Gap{From: 1, To: 440, Hash: hash}, others: []Holding{has(150, 450)}, want: &Floor{First: 201, Prev: chain.Hash{2}}},
		"one that has the end of what is being written":  {gap: Gap{From: 1, To: 440, Hash: hash}, others: []Holding{has(350, 450)}, want: &Floor{First: 401, Prev: chain.Hash{4}}},
		"one that has less than a segment":               {gap: Gap{From: 1, To: 440, Hash: hash}, others: []Holding{has(430, 450)}, want: &Floor{First: 441, Prev: hash}},
		"one with the same gap":                          {gap: Gap{From: 10, To: 440, Hash: hash}, others: []Holding{{First: 1, Last: 450, Gap: &api.AuditRange{From: 5, To: 440}}}, want: &Floor{First: 441, Prev: hash}},
		"the gap's end is the cluster's":                 {gap: Gap{From: 1, To: 450}, want: &Floor{First: 451, Prev: chain.Hash{5}}},
		"the gap's end is a segment's":                   {gap: Gap{From: 1, To: 300}, want: &Floor{First: 301, Prev: chain.Hash{3}}},
		"the gap's end is before what is being written":  {gap: Gap{From: 1, To: 400}, want: &Floor{First: 401, Prev: chain.Hash{4}}},
		"the hash at the gap's end is known from nobody": {gap: Gap{From: 1, To: 440}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, m.FloorFor(c.gap, c.others)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestWhatAReplicaHas(t *testing.T) {
	h := JournalState{First: 10, Last: 100, Gap: &Gap{From: 50, To: 60}}.Holding()
	for lines, want := range map[[2]uint64]bool{{10, 49}: true, {61, 100}: true, {9, 20}: false, {90, 101}: false, {40, 50}: false, {60, 70}: false, {40, 70}: false} {
		if got := h.Has(lines[0], lines[1]); got != want {
			t.Errorf("%d: %v", lines, got)
		}
	}
	m := fourSegments()
	m.Floor.First = 201
	if got := m.First(); got != 201 {
		t.Error(got)
	}
	if got := (Manifest{Head: Head{First: 7}}).First(); got != 7 {
		t.Error(got)
	}
}
