package main

import (
	"cmp"
	"context"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/server"
)

func startCommand(m machine) cliapp.Command {
	return cliapp.Command{
		Name:  "start",
		Usage: "run a replica",
		Description: "Runs one replica of a cluster until it gets SIGTERM or Ctrl-C; a second one ends\n" +
			"it at once. Replicas that share a cluster secret and know one another's gossip\n" +
			"addresses agree on everything else by themselves. Without any flag it is a\n" +
			"cluster of its own for this machine alone, to try things out.\n\n" +
			"SIGHUP reads the settings file again: log_level, cert_file, key_file and\n" +
			"trusted_proxies change at once, the log names what needs a restart. Started in a\n" +
			"terminal (of which standard error is), it ends with it: SIGHUP stops it then.",
		Examples: []string{
			"sallyport start",
			"sallyport start --config=/etc/sallyport.yaml",
			"sallyport start --cluster-name=tele.example.com --cluster-secret=FILE",
			"sallyport start --cluster-name=tele.example.com --cluster-secret=FILE \\",
			"    --bootstrap-expect=3 --peer-advertise=$(hostname -f):7443 \\",
			"    --join=replica-0:7946,replica-1:7946,replica-2:7946",
		},
		Flags:    append([]cliapp.Flag{configFlag()}, replicaFlags()...),
		Settings: m.settings,
		Run:      func(ctx context.Context, c *cliapp.Call) error { return start(ctx, c, m) },
	}
}

func start(ctx context.Context, c *cliapp.Call, m machine) error {
	hangup := make(chan os.Signal, 1)
	if c.StderrIsTerminal() && !signal.Ignored(syscall.SIGHUP) {
		// It is the terminal that hangs up, and nobody would see or stop it any more.
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, syscall.SIGHUP)
		defer stop()
	} else {
		// From here on SIGHUP ends nobody: one that comes too early waits.
		signal.Notify(hangup, syscall.SIGHUP)
		defer signal.Stop(hangup)
	}

	var level slog.LevelVar
	if err := setLevel(&level, c); err != nil {
		return err
	}
	log := loggerTo(c.Stderr, &level, c.String("log-format"))
	file := cmp.Or(c.String("config"), m.configFile())
	if file != "" {
		log.Info("settings", "file", file)
	}
	opts, err := checked(c, m) // before anything is made
	if err != nil {
		return placed(c, err)
	}
	opts.Logger = log
	opts.Serving = func(users bool) {
		switch {
		case users:
		case c.StderrIsTerminal():
			c.Notef("%s", welcome(opts, m))
		default:
			log.Info("there are no users yet: make one next", "command", addUser(opts, m))
		}
	}
	if opts.Secret, err = server.LoadSecret(c.String("cluster-secret"), opts.DataDir, alone(opts), log); err != nil {
		return err
	}
	srv, err := server.New(opts)
	if err != nil {
		return socketPlaced(c, opts.SocketPath, err)
	}
	defer endAtSecond(c, log)()
	r := &reloader{start: c, now: c, trusted: c, machine: m, file: file, level: &level, server: srv, log: log}
	done := make(chan struct{})
	var reloads sync.WaitGroup
	reloads.Go(func() { r.run(hangup, done) })
	err = srv.Run(ctx)
	close(done)
	reloads.Wait()
	return socketPlaced(c, opts.SocketPath, err)
}

// welcome tells who started a replica by hand what to type next.
func welcome(opts server.Options, m machine) string {
	text := "\nSallyport serves https://" + opts.PublicAddr
	if opts.CertFile == "" {
		text += "\nwith a certificate of its own authority, which browsers don't know: they warn."
	}
	return text + "\n\nNext, in another terminal, make a user and open the link that is printed:\n\n" +
		"    " + addUser(opts, m) + "\n\n" +
		"then log in:\n\n    tsh login --proxy=" + opts.PublicAddr + " --user=NAME\n"
}

func addUser(opts server.Options, m machine) string {
	return m.tctl(opts.SocketPath) + " users add NAME --k8s-groups=system:masters"
}

func setLevel(level *slog.LevelVar, c *cliapp.Call) error {
	var l slog.Level
	if err := l.UnmarshalText([]byte(c.String("log-level"))); err != nil {
		return api.Errorf(api.CodeInvalid, "--log-level: %w", err)
	}
	level.Set(l)
	return nil
}

func loggerTo(w io.Writer, level slog.Leveler, format string) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey && a.Value.Kind() == slog.KindTime {
			a.Value = slog.TimeValue(a.Value.Time().UTC().Truncate(time.Millisecond))
		}
		return a
	}}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
