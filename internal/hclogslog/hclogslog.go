// Package hclogslog lets HashiCorp's libraries log to slog: hclog's interface
// (raft, raft-autopilot) and the standard logger's (memberlist).
package hclogslog

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"strings"

	"github.com/hashicorp/go-hclog"
)

// Options say what becomes of a library's lines. The zero value passes them on.
type Options struct {
	// Level gives a line the level that it deserves here: libraries can't know
	// what is an error to the program around them. Nil: the library's own.
	Level func(level slog.Level, msg string) slog.Level
}

func (o Options) level(level slog.Level, msg string) slog.Level {
	if o.Level == nil {
		return level
	}
	return o.Level(level, msg)
}

// New adapts l. Trace goes out as debug minus 4; level setters are ignored,
// since the slog handler decides.
func New(l *slog.Logger, opts Options) hclog.Logger { return &logger{log: l, opts: opts} }

type logger struct {
	log     *slog.Logger
	opts    Options
	name    string
	implied []any
}

func level(l hclog.Level) slog.Level {
	switch l {
	case hclog.Trace, hclog.NoLevel:
		return slog.LevelDebug - 4
	case hclog.Debug:
		return slog.LevelDebug
	case hclog.Info:
		return slog.LevelInfo
	case hclog.Warn:
		return slog.LevelWarn
	case hclog.Error:
		return slog.LevelError
	case hclog.Off:
		return slog.LevelDebug - 8
	default:
		return slog.LevelInfo
	}
}

func (l *logger) Log(lv hclog.Level, msg string, args ...any) {
	if lv == hclog.Off {
		return
	}
	to := l.opts.level(level(lv), msg)
	if !l.log.Enabled(context.Background(), to) {
		return // before the values: Raft's are costly to print
	}
	l.log.Log(context.Background(), to, msg, values(args)...)
}

// values turns hclog's lazy values into what slog prints.
func values(args []any) []any {
	out := make([]any, len(args))
	for i, a := range args {
		switch v := a.(type) {
		case hclog.Format:
			if len(v) > 0 {
				if f, ok := v[0].(string); ok {
					out[i] = fmt.Sprintf(f, v[1:]...)
					continue
				}
			}
			out[i] = fmt.Sprint(v...)
		case fmt.Stringer:
			out[i] = v.String() // at once: raft logs itself, and slog may print later
		default:
			out[i] = a
		}
	}
	return out
}

func (l *logger) Trace(msg string, args ...any) { l.Log(hclog.Trace, msg, args...) }
func (l *logger) Debug(msg string, args ...any) { l.Log(hclog.Debug, msg, args...) }
func (l *logger) Info(msg string, args ...any)  { l.Log(hclog.Info, msg, args...) }
func (l *logger) Warn(msg string, args ...any)  { l.Log(hclog.Warn, msg, args...) }
func (l *logger) Error(msg string, args ...any) { l.Log(hclog.Error, msg, args...) }

func (l *logger) enabled(lv hclog.Level) bool {
	return l.log.Enabled(context.Background(), level(lv))
}

func (l *logger) IsTrace() bool { return l.enabled(hclog.Trace) }
func (l *logger) IsDebug() bool { return l.enabled(hclog.Debug) }
func (l *logger) IsInfo() bool  { return l.enabled(hclog.Info) }
func (l *logger) IsWarn() bool  { return l.enabled(hclog.Warn) }
func (l *logger) IsError() bool { return l.enabled(hclog.Error) }

func (l *logger) ImpliedArgs() []any { return l.implied }

func (l *logger) With(args ...any) hclog.Logger {
	v := values(args)
	return &logger{log: l.log.With(v...), opts: l.opts, name: l.name, implied: append(l.implied[:len(l.implied):len(l.implied)], args...)}
}

func (l *logger) Name() string { return l.name }

func (l *logger) Named(name string) hclog.Logger {
	if l.name != "" {
		name = l.name + "." + name
	}
	return l.ResetNamed(name)
}

func (l *logger) ResetNamed(name string) hclog.Logger {
	return &logger{log: l.log.With("logger", name), opts: l.opts, name: name, implied: l.implied}
}

func (l *logger) SetLevel(hclog.Level) {}

func (l *logger) GetLevel() hclog.Level {
	for _, lv := range []hclog.Level{hclog.Trace, hclog.Debug, hclog.Info, hclog.Warn} {
		if l.enabled(lv) {
			return lv
		}
	}
	return hclog.Error
}

func (l *logger) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return Standard(l.log, l.opts)
}

func (l *logger) StandardWriter(*hclog.StandardLoggerOptions) io.Writer {
	return writer{l.log, l.opts}
}

// Standard is a log.Logger whose lines go to l; a "[WARN]" in front, as
// HashiCorp's older libraries print, sets the level.
func Standard(l *slog.Logger, opts Options) *log.Logger { return log.New(writer{l, opts}, "", 0) }

type writer struct {
	log  *slog.Logger
	opts Options
}

func (w writer) Write(p []byte) (int, error) {
	line := strings.TrimRight(string(p), "\n")
	lv := slog.LevelInfo
	if rest, ok := strings.CutPrefix(line, "["); ok {
		if name, msg, ok := strings.Cut(rest, "] "); ok {
			switch name {
			case "DEBUG":
				lv, line = slog.LevelDebug, msg
			case "INFO":
				line = msg
			case "WARN":
				lv, line = slog.LevelWarn, msg
			case "ERR", "ERROR":
				lv, line = slog.LevelError, msg
			}
		}
	}
	w.log.Log(context.Background(), w.opts.level(lv, line), line)
	return len(p), nil
}
