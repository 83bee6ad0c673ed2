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
	h := New(l, Options{})
	h.Debug("not shown")
	h.Info("hello", "n", 1)
	h.Named("raft").With("peer", "b").Warn("lazy", "v", hclog.Fmt("%d-%s", 7, "x"))
	Standard(l, Options{}).Print("[ERR] memberlist: oops\n")
	Standard(l, Options{}).Print("no level\n")
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

func TestTheProgramDecidesWhatALibrarysLineDeserves(t *testing.T) {
	var buf bytes.Buffer
	l := slog.New(slog.NewTextHandler(&buf, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	opts := Options{Level: func(level slog.Level, msg string) slog.Level {
		if msg == "disk is full" {
			return level
		}
		return min(level, slog.LevelDebug)
	}}
	h := New(l, opts)
	h.Error("peer is away")
	h.Named("sub").With("a", 1).Error("peer is away")
	h.StandardLogger(nil).Print("[WARN] peer is away")
	Standard(l, opts).Print("[ERR] peer is away")
	h.Error("disk is full")
	if got, want := buf.String(), "level=ERROR msg=\"disk is full\"\n"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
