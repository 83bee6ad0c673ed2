package acme

import (
	"bytes"
	"errors"
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
)

func TestLibrariesLogToOurStream(t *testing.T) {
	for _, tc := range []struct {
		name  string
		level slog.Level
		write func(*slog.Logger)
		want  string
	}{
		{"a step of CertMagic's is for debugging", slog.LevelInfo, func(l *slog.Logger) { zapLogger(l).Info("acquiring lock") }, ""},
		{
			"and is there then", slog.LevelDebug,
			func(l *slog.Logger) {
				zapLogger(l).Named("obtain").With(zap.String("b", "2")).Info("acquiring lock", zap.Int("z", 1), zap.Strings("a", []string{"x"}))
			},
			"level=DEBUG msg=\"acquiring lock\" b=2 a=[x] z=1 logger=obtain\n",
		},
		{"a warning stays one", slog.LevelInfo, func(l *slog.Logger) { zapLogger(l).Warn("odd", zap.Error(errors.New("why"))) }, "level=WARN msg=odd error=why\n"},
		{"an error is a warning", slog.LevelInfo, func(l *slog.Logger) { zapLogger(l).Error("unable to unlock") }, "level=WARN msg=\"unable to unlock\"\n"},
		{"what we say too is left to us", slog.LevelInfo, func(l *slog.Logger) { zapLogger(l).Error(duplicate) }, ""},
		{"nothing when nothing is wanted", slog.LevelError, func(l *slog.Logger) { zapLogger(l).Error("unable to unlock") }, ""},
		{"an error of acmez comes back as one", slog.LevelInfo, func(l *slog.Logger) { slog.New(debugHandler{l.Handler()}).Error("challenge failed") }, ""},
		{
			"and is there for debugging", slog.LevelDebug,
			func(l *slog.Logger) {
				slog.New(debugHandler{l.Handler()}).With("a", 1).WithGroup("g").Error("challenge failed", "b", 2)
			},
			"level=DEBUG msg=\"challenge failed\" a=1 g.b=2\n",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var buf bytes.Buffer
			tc.write(slog.New(slog.NewTextHandler(&buf, &slog.HandlerOptions{Level: tc.level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey {
					return slog.Attr{}
				}
				return a
			}})))
			if diff := cmp.Diff(tc.want, buf.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}
