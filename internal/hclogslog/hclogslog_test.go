package hclogslog

import (
	"bytes"
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
)

func TestLinesArriveWithLevelNameAndValues(t *testing.T) {
	var buf bytes.Buffer
	l := slog.New(slog.NewTextHandler(&buf, &slog.HandlerOptions{
		Level: slog.LevelInfo,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
	h := New(l)
	h.Debug("not shown")
	h.Info("hello", "n", 1)
	h.Named("raft").With("peer", "b").Warn("lazy", "v", hclog.Fmt("%d-%s", 7, "x"))
	Standard(l).Print("[ERR] memberlist: oops\n")
	Standard(l).Print("no level\n")
	want := `level=INFO msg=hello n=1
level=WARN msg=lazy logger=raft peer=b v=7-x
level=ERROR msg="memberlist: oops"
level=INFO msg="no level"
`
	if diff := cmp.Diff(want, buf.String()); diff != "" {
		t.Error(diff)
	}
	if h.IsDebug() || !h.IsInfo() || h.GetLevel() != hclog.Info {
		t.Errorf("levels: debug %v, info %v, %v", h.IsDebug(), h.IsInfo(), h.GetLevel())
	}
}
