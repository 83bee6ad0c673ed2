package cliapp

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// Exec is the main of a program: it runs it with the process's arguments and ends
// the process. Ctrl-C and SIGTERM cancel the context; a second one kills, because
// who presses Ctrl-C twice doesn't want to wait.
func (a *App) Exec() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(a.Main(ctx, os.Args)) //nolint:forbidigo // this is main's last line
}
