package clustertest

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// Machine is a small state machine for tests of package cluster itself: it
// remembers every item in order, and answers an item with its position.
type Machine struct {
	mu    sync.Mutex
	state machineState
	fail  error
	once  bool // fail is for one Apply
}

// maxRemembered bounds what a Machine keeps of an item, in bytes: large items are about the
// log, not about the state.
const maxRemembered = 128

type machineState struct {
	Items []string  `json:"items"`
	Time  time.Time `json:"time"`
	Index uint64    `json:"index"`
}

type machineEntry struct {
	Time  time.Time `json:"time"`
	Items [][]byte  `json:"items"`
}

type itemError int

func (e itemError) Error() string { return fmt.Sprintf("item %d is bad", int(e)) }
func (e itemError) Item() int     { return int(e) }

// Encode is the EncodeEntry that belongs to Machine.
func Encode(now time.Time, items [][]byte) ([]byte, error) {
	for i, it := range items {
		if string(it) == "bad" {
			return nil, itemError(i)
		}
	}
	b, err := json.Marshal(machineEntry{Time: now.UTC(), Items: items})
	if err != nil {
		return nil, fmt.Errorf("encode entry: %w", err)
	}
	return b, nil
}

// Apply implements cluster.StateMachine.
func (m *Machine) Apply(index uint64, entry []byte) ([][]byte, error) {
	var e machineEntry
	if err := json.Unmarshal(entry, &e); err != nil {
		return nil, fmt.Errorf("decode entry: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.fail; err != nil {
		if m.once {
			m.fail = nil
		}
		return nil, err
	}
	if index <= m.state.Index {
		return nil, fmt.Errorf("entry %d after %d", index, m.state.Index)
	}
	m.state.Index = index
	if e.Time.After(m.state.Time) {
		m.state.Time = e.Time
	}
	var out [][]byte
	for _, it := range e.Items {
		m.state.Items = append(m.state.Items, string(it[:min(len(it), maxRemembered)]))
		out = append(out, binary.BigEndian.AppendUint64(nil, uint64(len(m.state.Items))))
	}
	return out, nil
}

// Fail makes every later Apply fail.
func (m *Machine) Fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail, m.once = err, false
}

// FailOnce makes the next Apply fail and none after it. A follower applies
// when it hears of the commit, which is after the proposal has returned: only
// the machine itself can know which Apply is the next.
func (m *Machine) FailOnce(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail, m.once = err, true
}

// Items are the items applied so far.
func (m *Machine) Items() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.state.Items)
}

// Has reports whether an item was applied.
func (m *Machine) Has(item string) bool { return slices.Contains(m.Items(), item) }

// StateTime implements cluster.StateMachine.
func (m *Machine) StateTime() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.Time
}

type machineSnapshot []byte

func (s machineSnapshot) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(s)
	if err != nil {
		return int64(n), fmt.Errorf("write snapshot: %w", err)
	}
	return int64(n), nil
}

// Snapshot implements cluster.StateMachine.
func (m *Machine) Snapshot() io.WriterTo {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, err := json.Marshal(m.state)
	if err != nil {
		panic(err) // strings and numbers
	}
	return machineSnapshot(b)
}

// Restore implements cluster.StateMachine.
func (m *Machine) Restore(r io.Reader) error {
	var s machineState
	if err := json.NewDecoder(r).Decode(&s); err != nil {
		return fmt.Errorf("restore snapshot: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state = s
	return nil
}
