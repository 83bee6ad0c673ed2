package clustertest

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// disk is what a node's writes go through.
type disk struct {
	mu   sync.Mutex
	hang chan struct{} // non-nil: writes wait until it closes
	err  error
	slow time.Duration // what a write takes
}

func (d *disk) stall() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.hang == nil {
		d.hang = make(chan struct{})
	}
}

func (d *disk) fault(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

func (d *disk) mend() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.hang != nil {
		close(d.hang)
		d.hang = nil
	}
	d.err = nil
}

func (d *disk) write() error {
	d.mu.Lock()
	hang, slow := d.hang, d.slow
	d.mu.Unlock()
	if hang != nil {
		<-hang
	}
	if slow > 0 {
		_ = wait(context.Background(), slow) // never ends early
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

type diskLogs struct {
	raft.LogStore
	d *disk
}

func (s diskLogs) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

func (s diskLogs) StoreLogs(l []*raft.Log) error {
	if err := s.d.write(); err != nil {
		return err
	}
	return s.LogStore.StoreLogs(l) //nolint:wrapcheck // a store's own
}

type diskStable struct {
	raft.StableStore
	d *disk
}

func (s diskStable) Set(k, v []byte) error {
	if err := s.d.write(); err != nil {
		return err
	}
	return s.StableStore.Set(k, v) //nolint:wrapcheck // a store's own
}

func (s diskStable) SetUint64(k []byte, v uint64) error {
	if err := s.d.write(); err != nil {
		return err
	}
	return s.StableStore.SetUint64(k, v) //nolint:wrapcheck // a store's own
}
