package server

import (
	"cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/audit"
)

// defaultAuditMaxSize is how much is kept of the log.
const defaultAuditMaxSize = 4 << 30

// checkAudit looks at each option of the audit log by itself.
func (o *Options) checkAudit() error {
	switch o.AuditPolicy {
	case "", api.AuditSpool, api.AuditStrict:
	default:
		return optionErrorf("audit-policy", "%q is none of %s, %s", o.AuditPolicy, api.AuditSpool, api.AuditStrict)
	}
	if o.AuditMaxAge < 0 {
		return optionErrorf("audit-max-age", "%s is less than nothing: write 0 to keep events for as long as there is room, or a duration such as 365d", o.AuditMaxAge)
	}
	for _, size := range []struct {
		flag  string
		bytes int64
	}{{"audit-max-size", o.AuditMaxSize}, {"audit-segment-size", o.AuditSegmentSize}, {"audit-spool-size", o.AuditSpoolSize}} {
		if size.bytes < 0 {
			return optionErrorf(size.flag, "%d is no size", size.bytes)
		}
	}
	return nil
}

// defaultAudit fills in what is not given, and refuses what can't go together.
func (o *Options) defaultAudit() error {
	o.AuditPolicy = cmp.Or(o.AuditPolicy, api.AuditSpool)
	o.AuditMaxSize = cmp.Or(o.AuditMaxSize, defaultAuditMaxSize)
	o.AuditSegmentSize = cmp.Or(o.AuditSegmentSize, audit.DefaultSegmentBytes)
	o.auditPace = o.auditPace.withDefaults()
	if o.volumeOf == nil {
		o.volumeOf = measureVolume
	}
	o.AuditSpoolSize = cmp.Or(o.AuditSpoolSize, audit.DefaultSpoolBytes)
	if o.AuditMaxSize < 2*o.AuditSegmentSize {
		return optionErrorf("audit-segment-size", "the log is deleted a segment at a time, and %s is more than half of --audit-max-size (%s): choose smaller segments, or give the log more room",
			api.FormatSize(o.AuditSegmentSize), api.FormatSize(o.AuditMaxSize))
	}
	return nil
}
