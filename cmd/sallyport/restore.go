package main

import (
	"cmp"
	"context"
	"io"
	"log/slog"
	"os"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/server"
)

func restoreCommand(m machine) cliapp.Command {
	return cliapp.Command{
		Name:      "restore",
		Usage:     "turn a backup into the first replica of a new cluster",
		ArgsUsage: "FILE|-",
		Description: "Writes a backup (see 'tctl backup') into an empty data directory. Start this\n" +
			"replica with the cluster secret that the backup was made under; it leads a new\n" +
			"cluster alone, and replicas with empty data directories join it. Replicas of the\n" +
			"old cluster can't.",
		Examples: []string{
			"sallyport restore --data-dir=/var/lib/sallyport backup.sallyport",
			"sallyport restore --peer-advertise=replica-0:7443 backup.sallyport",
		},
		Flags: []cliapp.Flag{
			configFlag(),
			{Name: "data-dir", Usage: "empty `DIR` that will hold the state; default: as of 'sallyport start'", Env: envName("data-dir")},
			{Name: "peer-advertise", Usage: "restore for a replica that will be started with `NAME:PORT`", Env: envName("peer-advertise")},
			{Name: "cluster-secret", Usage: "open the backup with the secret in `FILE`, under which it was made; default DIR/cluster-secret", Env: envName("cluster-secret")},
		},
		MinArgs: 1, MaxArgs: 1,
		Settings: m.settings,
		Run: func(ctx context.Context, c *cliapp.Call) error {
			var in io.Reader = c.Stdin
			if name := c.Args[0]; name != "-" {
				f, err := os.Open(name) //nolint:gosec // the operator names the file
				if err != nil {
					return api.Errorf(api.CodeInvalid, "the backup: %w", err)
				}
				defer f.Close()
				in = f
			}
			log := loggerTo(c.Stderr, slog.LevelInfo, "text")
			dir := cmp.Or(c.String("data-dir"), m.dataDir())
			secret, err := server.LoadSecret(c.String("cluster-secret"), dir, false, log)
			if err != nil {
				return err
			}
			done, err := server.Restore(ctx, server.RestoreOptions{
				DataDir: dir, PeerAdvertise: c.String("peer-advertise"), Secret: secret, Backup: in,
			})
			if err != nil {
				return err
			}
			c.Printf("Restored %d records into %s as server %s of the new cluster %s.\nNow: sallyport start --data-dir=%s …\n",
				done.Records, dir, done.ServerID, done.ClusterID, api.ShellQuote(dir))
			if done.Events > 0 {
				c.Notef("A backup holds no audit events: the new cluster's log begins with event %d. Keep the\nold replicas' log directories, or an export, for what was before.", done.Events+1)
			}
			return nil
		},
	}
}
