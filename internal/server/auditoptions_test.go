package server

import "testing"

// All replicas have the same audit log: without a bound below their volumes' size they
// would all be full at once.
func TestTheAuditLogIsKeptSmallerThanItsVolume(t *testing.T) {
	const mib, gib = 1 << 20, 1 << 30
	for _, c := range []struct {
		volume, size, segment    int64
		fitted                   bool
		wantMaxSize, wantSegment int64
	}{
		{0, 4 * gib, 64 * mib, false, 4 * gib, 64 * mib}, // unknown
		{10 * gib, 4 * gib, 64 * mib, false, 4 * gib, 64 * mib},
		{10 * gib, 100 * gib, 64 * mib, true, 8 * gib, 64 * mib},
		{150 * gib, 140 * gib, 64 * mib, false, 140 * gib, 64 * mib},
		{gib, 4 * gib, 64 * mib, true, 512 * mib, 64 * mib},
		{gib, 300 * mib, 128 * mib, false, 300 * mib, 128 * mib},
		{96 * mib, 4 * gib, 64 * mib, true, 48 * mib, 12 * mib},
		{mib, 4 * gib, 64 * mib, true, mib / 2, mib},
	} {
		o := Options{AuditMaxSize: c.size, AuditSegmentSize: c.segment}
		if fitted := o.fitAudit(c.volume); fitted != c.fitted || o.AuditMaxSize != c.wantMaxSize || o.AuditSegmentSize != c.wantSegment {
			t.Errorf("a volume of %d bytes, and %d wanted: %v, %d bytes in segments of %d", c.volume, c.size, fitted, o.AuditMaxSize, o.AuditSegmentSize)
		}
	}
}
