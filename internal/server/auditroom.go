package server

import (
	"path/filepath"
	"slices"

	"github.com/sallyport-dev/sallyport/internal/audit"
)

// volume is a file system as it is made, however full it is. The zero value is one
// that nobody could measure.
type volume struct {
	size   int64 // bytes
	device uint64
}

// maxAuditReserve is the most that is kept free of the audit log on the volume that has
// the data directory: for Raft's log and snapshots, the spool, and a segment that is fetched.
const maxAuditReserve = 2 << 30

// leastSegment is the smallest that --audit-segment-size may be.
const leastSegment = 1 << 20

func (s *Server) logDir() string { return filepath.Join(s.opts.DataDir, "log") }

// auditRoom is how large the audit log may become on this replica's volume; 0: not known.
// It is measured each time: volumes grow.
func (s *Server) auditRoom() int64 {
	return auditRoom(s.opts.volumeOf(s.logDir()), s.opts.volumeOf(s.opts.DataDir), s.opts.AuditSpoolSize+2*s.opts.AuditSegmentSize)
}

// auditRoom on a volume of the log, which may have the data as well; beside is what else a
// volume of its own has to hold.
func auditRoom(log, data volume, beside int64) int64 {
	if log.device == data.device {
		beside = maxAuditReserve
	}
	return log.size - min(log.size/2, beside)
}

// roomFor is the room that too many voters have no more of: with a log that is larger their
// volumes are full, and those that are left are no majority, so that nothing can be written
// any more, not even that old lines may go. 0: there is no such bound. One replica's volume
// never makes one for others, and who does not count has room for everything.
func roomFor(replicas []holding, counts func(holding) bool) int64 {
	voters := 0
	var rooms []int64
	for _, h := range replicas {
		if !h.voter {
			continue
		}
		voters++
		if h.err == nil && h.state.Room > 0 && counts(h) {
			rooms = append(rooms, h.state.Room)
		}
	}
	full := max((voters+1)/2, min(voters, 2))
	if full == 0 || len(rooms) < full {
		return 0
	}
	slices.Sort(rooms)
	return rooms[full-1]
}

// holdsAll says of replicas whether they have the whole log. With one that has not, a volume
// may be the wrong one, as when it was not mounted: nothing is deleted for its sake.
func holdsAll(m audit.Manifest) func(holding) bool {
	return func(h holding) bool { return h.state.Has(m.First(), m.Head.First-1) }
}

// majorityTold says whether a majority of the voters have.
func majorityTold(replicas []holding) bool {
	voters, told := 0, 0
	for _, h := range replicas {
		if h.voter {
			voters++
			if h.err == nil {
				told++
			}
		}
	}
	return told > voters/2
}

// segmentFor is how large segments are with that room (0: no bound): one is deleted as a
// whole, and the newest never.
func segmentFor(size, room int64) int64 {
	if room == 0 {
		return size
	}
	return min(size, max(room/4, leastSegment))
}
