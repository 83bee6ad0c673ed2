package main

import (
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

func TestTheAuditLogsBoundsAreChecked(t *testing.T) {
	m := machine{root: true, getenv: func(string) string { return "" }}
	opts, err := options(callOf(t, nil, nil), m)
	if err != nil || opts.AuditPolicy != api.AuditSpool || opts.AuditMaxAge != 0 || opts.AuditMaxSize != 4<<30 || opts.AuditSegmentSize != 64<<20 || opts.AuditSpoolSize != 256<<20 {
		t.Errorf("%+v, %v", opts, err)
	}
	opts, err = options(callOf(t,
		map[string]string{"audit-policy": "strict", "audit-max-age": "90d", "audit-max-size": "500GB", "audit-spool-size": "1Gi"},
		map[string]cliapp.Setting{"audit-segment-size": {Values: []string{"1MiB"}, Source: "line 1"}}), m)
	if err != nil || opts.AuditPolicy != api.AuditStrict || opts.AuditMaxAge != 90*24*time.Hour || opts.AuditMaxSize != 500e9 || opts.AuditSegmentSize != 1<<20 || opts.AuditSpoolSize != 1<<30 {
		t.Errorf("%+v, %v", opts, err)
	}
	for _, c := range []struct{ flag, value, says string }{
		{"audit-max-age", "-1h", "less than nothing"},
		{"audit-max-size", "1MiB", "1MiB is not between 64MiB and 1024TiB"},
		{"audit-segment-size", "100", "100B is not between 1MiB and 1GiB"},
		{"audit-segment-size", "2GiB", "2GiB is not between 1MiB and 1GiB"},
		{"audit-spool-size", "0", "0B is not between 1MiB and 1TiB"},
	} {
		_, err := options(callOf(t, map[string]string{c.flag: c.value}, nil), m)
		if !api.IsCode(err, api.CodeInvalid) || !strings.Contains(err.Error(), "--"+c.flag+": ") || !strings.Contains(err.Error(), c.says) {
			t.Errorf("--%s=%s: %v", c.flag, c.value, err)
		}
	}
	_, err = checked(callOf(t, map[string]string{"audit-max-size": "100MiB"}, nil), m)
	if !api.IsCode(err, api.CodeInvalid) || !strings.Contains(err.Error(), "--audit-segment-size: ") || !strings.Contains(err.Error(), "--audit-max-size") {
		t.Errorf("segments of more than half the log: %v", err)
	}
}
