// Command tctl administers a Sallyport cluster through the unix socket of any
// of its replicas.
package main

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/client"
)

// version is set by the linker (-X main.version=…).
var version = "0.1.0-dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(app().Main(ctx, os.Args)) //nolint:gocritic // nothing is left to stop
}

// systemSocket is where a replica that runs as a service listens.
const systemSocket = "/var/lib/sallyport/admin.sock"

func app() *cliapp.App {
	return &cliapp.App{
		Name: "tctl", Version: version, Usage: "administer a Sallyport cluster",
		Description: "Run it where a replica runs, as root or as the replica's user. Any replica will do.",
		Flags: []cliapp.Flag{
			{Name: "socket", Usage: "reach the replica by its socket at `PATH`; default " + systemSocket + ", else sallyport/admin.sock in the user's data directory", Env: "SALLYPORT_SOCKET"},
		},
		Commands: []cliapp.Command{
			usersCommand(), createCommand(), getCommand(), rmCommand(),
			statusCommand(), backupCommand(), clusterCommand(), authCommand(),
		},
	}
}

// connect gives the client of the replica that the flags name.
func connect(c *cliapp.Call) *client.Client {
	path := c.String("socket")
	if path == "" {
		path = defaultSocket()
	}
	cl := client.NewUnix(path, "tctl/"+version)
	cl.OnUnsettled = func(servers []string) {
		c.Warnf("done, but not confirmed within a second by %s: whom this shuts out may get in there until it hears of it, or until --max-stale has passed", strings.Join(servers, ", "))
	}
	cl.OnWarning = func(text string) { c.Warnf("%s", text) }
	return cl
}

// defaultSocket is the first that exists; without any, the error names the system's.
func defaultSocket() string {
	data := os.Getenv("XDG_DATA_HOME")
	if home, err := os.UserHomeDir(); data == "" && err == nil {
		data = filepath.Join(home, ".local", "share")
	}
	for _, path := range []string{systemSocket, filepath.Join(data, "sallyport", "admin.sock")} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return systemSocket
}
