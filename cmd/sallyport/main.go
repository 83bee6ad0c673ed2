// Command sallyport is the daemon: "sallyport start" runs a replica, "sallyport agent"
// what makes a Kubernetes cluster reachable through the replicas. It turns
// flags, environment and one settings file into options and does nothing else itself.
package main

import (
	"os"

	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

// version is set by the linker (-X main.version=…).
var version = "0.1.0-dev"

func main() { app(thisMachine()).Exec() }

func app(m machine) *cliapp.App {
	return &cliapp.App{
		Name:    "sallyport",
		Usage:   "access to Kubernetes clusters through one address, highly available with nothing beside it",
		Version: version,
		Commands: []cliapp.Command{
			startCommand(m),
			agentCommand(m),
			configureCommand(m),
			secretCommand(),
			restoreCommand(m),
		},
		Environment: []cliapp.Variable{
			{Name: "XDG_CONFIG_HOME", Usage: "the user's settings are in sallyport/sallyport.yaml there, if not root (default: ~/.config)"},
			{Name: "XDG_DATA_HOME", Usage: "the state is in sallyport there, if not root (default: ~/.local/share)"},
		},
	}
}

// thisMachine is where the process runs.
func thisMachine() machine {
	home, _ := os.UserHomeDir() // "": none, and then no files in it
	return machine{root: os.Getuid() == 0, home: home, getenv: os.Getenv, exists: func(path string) bool {
		_, err := os.Stat(path)
		return err == nil
	}}
}
