// Command sallyport is the daemon: "sallyport start" runs a replica. It turns
// flags and environment into options and does nothing else itself.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

// version is set by the linker (-X main.version=…).
var version = "0.1.0-dev"

func main() {
	// A second signal kills: who presses Ctrl-C twice doesn't want to wait.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(app().Main(ctx, os.Args))
}

func app() *cliapp.App {
	return &cliapp.App{
		Name:    "sallyport",
		Usage:   "access to Kubernetes clusters through one address, highly available with nothing beside it",
		Version: version,
		Commands: []cliapp.Command{
			startCommand(),
			secretCommand(),
			restoreCommand(),
		},
	}
}
