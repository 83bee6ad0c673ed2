package main

import (
	"log/slog"
	"os"
	"slices"

	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/cliapp/settings"
	"github.com/sallyport-dev/sallyport/internal/server"
)

// reloader puts a changed settings file into force while the replica runs.
type reloader struct {
	start   *cliapp.Call // what is in force of what needs a restart
	now     *cliapp.Call // what is in force of the rest
	trusted *cliapp.Call // what is in force of trusted_proxies
	machine machine
	file    string // that was read; "": none yet, it may appear where it is by default
	level   *slog.LevelVar
	server  interface{ Reload(server.Reload) error }
	log     *slog.Logger
}

// reloadable are the keys that need no restart.
func reloadable() []string { return []string{"log_level", "cert_file", "key_file", "trusted_proxies"} }

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
	var applied, restart []string
	for _, f := range replicaFlags() {
		key := settings.Key(f.Name)
		live, old := slices.Contains(reloadable(), key), r.start
		switch {
		case f.Name == "trusted-proxies":
			live, old = !r.otherProtocol(next), r.trusted
		case live:
			old = r.now
		}
		switch same := next.Text(f.Name) == old.Text(f.Name); {
		case same:
		case live:
			applied = append(applied, key)
		default: // named again at each reload
			restart = append(restart, key)
		}
	}
	if !r.otherProtocol(next) {
		r.trusted = next
	}
	r.now = next
	r.log.Info("settings reloaded", "changed", applied)
	if len(restart) > 0 {
		r.log.Warn("some changed settings come into force only with a restart", "settings", restart)
	}
}

// otherProtocol says whether proxy_protocol waits for a restart. The trusted proxies
// that are given beside it are made for it, and wait with it.
func (r *reloader) otherProtocol(next *cliapp.Call) bool {
	return next.Text("proxy-protocol") != r.start.Text("proxy-protocol")
}

// read reads the file again and puts into force what can be.
func (r *reloader) read() (*cliapp.Call, error) {
	// What was there and is gone is an error: nobody takes it away to get the defaults.
	file := r.file
	if file == "" {
		file = r.machine.configFile()
	}
	loaded, err := r.machine.load(file)
	if err != nil {
		return nil, err
	}
	next, err := r.start.WithSettings(loaded)
	if err != nil {
		return nil, err
	}
	opts, err := checked(next, r.machine) // all: what needs a restart should not fail then
	if err != nil {
		return nil, placed(next, err)
	}
	trusted := opts.TrustedProxies
	if r.otherProtocol(next) {
		trusted = r.trusted.Strings("trusted-proxies")
	}
	if err := r.server.Reload(server.Reload{CertFile: opts.CertFile, KeyFile: opts.KeyFile, TrustedProxies: trusted}); err != nil {
		return nil, placed(next, err)
	}
	r.file = file
	return next, setLevel(r.level, next)
}
