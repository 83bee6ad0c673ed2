package main

import (
	"log/slog"
	"os"
	"slices"

	"github.com/sallyport-dev/sallyport/internal/cliapp/settings"
	"github.com/sallyport-dev/sallyport/internal/server"
)

// reloader puts a changed settings file into force while the replica runs.
type reloader struct {
	cfg     config // in force, or at the start for what needs a restart
	machine machine
	file    string // of --config; "": wherever it is by default
	level   *slog.LevelVar
	server  interface{ Reload(server.Reload) error }
	log     *slog.Logger
}

// atOnce are the keys that need no restart.
func atOnce() []string { return []string{"log_level", "cert_file", "key_file", "trusted_proxies"} }

func (r *reloader) run(hangup <-chan os.Signal, done <-chan struct{}) {
	for {
		select {
		case <-hangup:
			r.reload()
		case <-done:
			return
		}
	}
}

// reload is all or nothing: what can't be read, or is wrong anywhere, changes nothing.
func (r *reloader) reload() {
	next, err := r.read()
	if err != nil {
		r.log.Error("the settings are not reloaded: all stay as they were", "error", err)
		return
	}
	// Whatever needs a restart stays as it was at the start, so that it is named
	// again at the next reload.
	var applied, restart []string
	for _, key := range r.cfg.changed(next) {
		if slices.Contains(atOnce(), key) {
			applied = append(applied, key)
		} else {
			restart = append(restart, key)
		}
	}
	for _, f := range replicaFlags() {
		if slices.Contains(atOnce(), settings.Key(f.Name)) {
			r.cfg.values[f.Name], r.cfg.set[f.Name] = next.values[f.Name], next.set[f.Name]
		}
	}
	r.log.Info("settings reloaded", "changed", applied)
	if len(restart) > 0 {
		r.log.Warn("some changed settings come into force only with a restart", "settings", restart)
	}
}

// read reads the file again and puts into force what can be.
func (r *reloader) read() (config, error) {
	file, err := r.machine.load(r.file)
	if err != nil {
		return config{}, err
	}
	next := r.cfg.with(file)
	opts, err := next.options(r.machine)
	if err != nil {
		return config{}, err
	}
	if err := opts.Check(); err != nil { // what needs a restart should not fail then
		return config{}, err
	}
	if err := r.server.Reload(server.Reload{CertFile: opts.CertFile, KeyFile: opts.KeyFile, TrustedProxies: opts.TrustedProxies}); err != nil {
		return config{}, err
	}
	return next, setLevel(r.level, next)
}
