package acme

import (
	"context"
	"log/slog"
	"maps"
	"slices"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// CertMagic tells of every step, twice of an error: once in its log and once to us, who
// say it in one line with what follows from it. So its lines are for those who look for
// a fault, but for what it tells nobody else.

// duplicate is CertMagic's line about an error that it also returns.
const duplicate = "could not get certificate from issuer"

// zapLogger gives CertMagic a logger that writes to ours.
func zapLogger(l *slog.Logger) *zap.Logger { return zap.New(zapCore{l}) }

// zapCore implements zapcore.Core.
type zapCore struct{ log *slog.Logger }

func (c zapCore) level(e zapcore.Entry) slog.Level {
	if e.Level >= zapcore.WarnLevel && e.Message != duplicate {
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

// Enabled must not say no to a level whose lines are written at another.
func (c zapCore) Enabled(level zapcore.Level) bool {
	return c.log.Enabled(context.Background(), c.level(zapcore.Entry{Level: level}))
}

func (c zapCore) With(fields []zapcore.Field) zapcore.Core {
	return zapCore{c.log.With(attrs(fields)...)}
}

func (c zapCore) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.log.Enabled(context.Background(), c.level(e)) {
		return checked.AddCore(e, c)
	}
	return checked
}

func (c zapCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	args := attrs(fields)
	if e.LoggerName != "" {
		args = append(args, slog.String("logger", e.LoggerName))
	}
	c.log.Log(context.Background(), c.level(e), e.Message, args...) //nolint:sloglint // the message is CertMagic's
	return nil
}

func (zapCore) Sync() error { return nil }

// attrs come in the order of their names: zap's encoder knows no other.
func attrs(fields []zapcore.Field) []any {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(enc)
	}
	out := make([]any, 0, len(enc.Fields))
	for _, k := range slices.Sorted(maps.Keys(enc.Fields)) {
		out = append(out, slog.Any(k, enc.Fields[k]))
	}
	return out
}

// debugHandler hands the lines of acmez on at debug level: whatever goes wrong there comes back
// as an error too.
type debugHandler struct{ slog.Handler }

func (q debugHandler) Enabled(ctx context.Context, _ slog.Level) bool {
	return q.Handler.Enabled(ctx, slog.LevelDebug)
}

func (q debugHandler) Handle(ctx context.Context, r slog.Record) error {
	r.Level = slog.LevelDebug
	return q.Handler.Handle(ctx, r) //nolint:wrapcheck // it is the caller's own
}

func (q debugHandler) WithAttrs(as []slog.Attr) slog.Handler {
	return debugHandler{q.Handler.WithAttrs(as)}
}
func (q debugHandler) WithGroup(name string) slog.Handler {
	return debugHandler{q.Handler.WithGroup(name)}
}
