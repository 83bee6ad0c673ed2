package main

import (
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

// endAtSecond lets a second Ctrl-C or SIGTERM end the process at once; the first one
// stops it in order, which may take as long as open requests do. The signals' default
// is not enough: process 1 of a container ignores it, and what was ignored when the
// process began, as Ctrl-C is in the background of a script, is ignored again.
// Who calls it calls the function that it gives, in the end.
func endAtSecond(c *cliapp.Call, log *slog.Logger) (done func()) {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	over := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		for first := true; ; first = false {
			select {
			case <-over:
				return
			case s := <-signals:
				if !first {
					os.Exit(exitStatus(s)) // as the signal would have done
				}
				if c.StderrIsTerminal() {
					log.Info("stopping: another Ctrl-C ends it at once")
				}
			}
		}
	})
	return func() {
		signal.Stop(signals)
		close(over)
		watch.Wait()
	}
}

// exitStatus is what shells say of who was ended by a signal.
func exitStatus(s os.Signal) int {
	if n, ok := s.(syscall.Signal); ok {
		return 128 + int(n)
	}
	return 1
}
