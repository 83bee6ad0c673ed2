// Command tctl administers a Sallyport cluster: through the unix socket of any of
// its replicas, or from anywhere with the login that tsh keeps.
package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/client"
)

// version is set by the linker (-X main.version=…).
var version = "0.1.0-dev"

func main() {
	os.Args = calledAs(os.Args)
	app().Exec()
}

// calledAs puts the command before its arguments where the program is called by the
// command's own name. The image links those names to tctl, because kubectl runs only
// what follows "--", and the guide types "kubectl exec -ti POD tctl -- users add alice".
func calledAs(args []string) []string {
	if len(args) == 0 {
		return args
	}
	name := strings.TrimSuffix(filepath.Base(args[0]), ".exe")
	if !slices.Contains([]string{"users", "create"}, name) {
		return args
	}
	return append([]string{"tctl", name}, args[1:]...)
}

func app() *cliapp.App {
	return &cliapp.App{
		Name: "tctl", Version: version, Usage: "administer a Sallyport cluster",
		Description: "Where a replica runs, run it as root or as the replica's user: it finds the\nsocket, and may do everything. Anywhere else, log in with tsh: it then does what\n" +
			"your roles allow. Any replica will do.",
		Flags: []cliapp.Flag{
			{Name: "socket", Usage: "reach the replica by its socket at `PATH`; default " + client.SystemDataDir + "/" + client.AdminSocket + ", else sallyport/admin.sock in the user's data directory", Env: "SALLYPORT_SOCKET"},
			{Name: "proxy", Usage: "go by the login of tsh at `HOST[:PORT]`; with neither this nor a socket, by the last login", Env: "SALLYPORT_PROXY", Complete: completeProxies},
		},
		Environment: []cliapp.Variable{
			{Name: "SALLYPORT_HOME", Usage: "where tsh keeps logins, instead of ~/.sallyport"},
			{Name: "VISUAL, EDITOR", Usage: "the editor of 'tctl edit'"},
		},
		Commands: []cliapp.Command{
			usersCommand(), createCommand(), getCommand(), editCommand(), rmCommand(),
			ssoCommand(), nodesCommand(), tokensCommand(), kubeCommand(), statusCommand(), clusterCommand(), acmeCommand(), sessionsCommand(), auditCommand(), authCommand(), backupCommand(),
		},
	}
}
