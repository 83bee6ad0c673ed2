package main

import (
	"path/filepath"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/cliapp/settings"
)

const (
	systemConfig  = "/etc/sallyport.yaml"
	systemDataDir = "/var/lib/sallyport"
	adminSocket   = "admin.sock" // in the data directory
)

// machine is what the defaults depend on.
type machine struct {
	root   bool
	home   string
	getenv func(string) string
	exists func(path string) bool
}

// userDir is a directory of the XDG base directories, "" without a home. A
// relative one in the environment is to be ignored, by the standard.
func (m machine) userDir(variable, below string) string {
	if dir := m.getenv(variable); filepath.IsAbs(dir) {
		return filepath.Join(dir, "sallyport")
	}
	if m.home == "" {
		return ""
	}
	return filepath.Join(m.home, below, "sallyport")
}

// dataDir is where the state is unless something else is said. tctl looks for the
// admin socket in the same two places.
func (m machine) dataDir() string {
	if dir := m.userDir("XDG_DATA_HOME", ".local/share"); !m.root && dir != "" {
		return dir
	}
	return systemDataDir
}

// configFile is the settings file to read if none is named: the first there is; "": none.
func (m machine) configFile() string {
	if dir := m.userDir("XDG_CONFIG_HOME", ".config"); !m.root && dir != "" {
		if path := filepath.Join(dir, "sallyport.yaml"); m.exists(path) {
			return path
		}
	}
	if m.exists(systemConfig) {
		return systemConfig
	}
	return ""
}

// settings reads the settings file for the commands that have the flag --config.
func (m machine) settings(path []string, get func(flag string) string) (map[string]cliapp.Setting, error) {
	if len(path) < 2 || path[1] != "start" && path[1] != "restore" {
		return nil, nil
	}
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
	system := filepath.Join(systemDataDir, adminSocket)
	user := filepath.Join(m.userDir("XDG_DATA_HOME", ".local/share"), adminSocket)
	if socket == system || socket == user && !m.exists(system) {
		return "tctl"
	}
	if strings.ContainsAny(socket, " \t'\"\\$`&|;<>()*?[]#~!{}") {
		socket = "'" + strings.ReplaceAll(socket, "'", `'\''`) + "'"
	}
	return "tctl --socket=" + socket
}
