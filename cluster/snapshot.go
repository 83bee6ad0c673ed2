package cluster

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/raft"
)

const (
	snapshotEntries = 8192
	snapshotBytes   = 64 << 20
	trailingBytes   = 64 << 20 // of log kept behind a snapshot, for followers that lag
	maxTrailing     = 10240
	minTrailing     = 16
	snapshotRetry   = 10 * time.Second
)

// keepSnapshots bounds the log in bytes, which Raft counts in entries only: a
// snapshot is due after 8,192 entries or 64 MiB, and as many entries stay behind
// it as make about 64 MiB by their average size.
func (n *Node) keepSnapshots(ctx context.Context, in *instance) {
	due := make(chan struct{}, 1)
	n.meter.snapshotDue.Store(&due)
	defer n.meter.snapshotDue.Store(nil)
	for {
		select {
		case <-due:
		case <-ctx.Done():
			return
		}
		if err := n.takeSnapshot(ctx, in); err != nil && ctx.Err() == nil {
			n.meter.snapshotFailures.Add(1)
			n.log.Warn("snapshot failed, will be tried again", "error", err)
			pause(ctx, snapshotRetry)
		}
	}
}

func (n *Node) takeSnapshot(ctx context.Context, in *instance) error {
	entries, bytes := n.meter.snapEntries.Swap(0), n.meter.snapBytes.Swap(0)
	if err := in.reload(func(rc *raft.ReloadableConfig) { rc.TrailingLogs = trailing(entries, bytes) }); err != nil {
		return err
	}
	_, err := in.await(ctx, func() raft.Future { return in.raft.Snapshot() })
	if err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		n.meter.snapEntries.Add(entries) // still due
		n.meter.snapBytes.Add(bytes)
		return err
	}
	n.meter.snapshots.Add(1)
	return nil
}

// trailing is how many entries of the average size make trailingBytes.
func trailing(entries, bytes uint64) uint64 {
	if entries == 0 || bytes == 0 {
		return maxTrailing
	}
	return min(max(trailingBytes*entries/bytes, minTrailing), maxTrailing)
}
