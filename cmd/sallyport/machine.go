package main

import (
	"path/filepath"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/cliapp/settings"
	"github.com/sallyport-dev/sallyport/internal/client"
)

const systemConfig = "/etc/sallyport.yaml"

// machine is what the defaults depend on.
type machine struct {
	root   bool
	home   string
	getenv func(string) string
	exists func(path string) bool
}

// dataDir is where the state is unless something else is said.
func (m machine) dataDir() string {
	if dir := client.UserDataDir(m.getenv, m.home); !m.root && dir != "" {
		return dir
	}
	return client.SystemDataDir
}

// configFile is the settings file to read if none is named: the first there is; "": none.
func (m machine) configFile() string {
	if dir := client.UserDir(m.getenv, m.home, "XDG_CONFIG_HOME", ".config"); !m.root && dir != "" {
		if path := filepath.Join(dir, "sallyport.yaml"); m.exists(path) {
			return path
		}
	}
	if m.exists(systemConfig) {
		return systemConfig
	}
	return ""
}

// settings are those of the commands that have the flag --config.
func (m machine) settings(get func(flag string) string) (map[string]cliapp.Setting, error) {
	return m.load(get("config"))
}

func (m machine) load(file string) (map[string]cliapp.Setting, error) {
	if file == "" {
		file = m.configFile()
	}
	if file == "" {
		return nil, nil
	}
	return settings.Load(file, replicaFlags())
}

// tctl is how tctl is called to reach a replica by its socket.
func (m machine) tctl(socket string) string {
	for _, path := range client.Sockets(m.getenv, m.home) {
		if path == socket {
			return "tctl"
		}
		if m.exists(path) {
			break // tctl would take that one
		}
	}
	return "tctl --socket=" + api.ShellQuote(socket)
}
