package main

import (
	"context"
	"io"
	"path/filepath"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/atomicfile"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

func backupCommand() cliapp.Command {
	return cliapp.Command{
		Name: "backup", Usage: "write a snapshot of the whole state", ArgsUsage: "FILE|-", MinArgs: 1, MaxArgs: 1,
		Description: "The cluster goes on running. Secrets in the snapshot are sealed with the cluster\nsecret: keep that elsewhere, and restore with both ('sallyport restore'). A file\nof that name is replaced only when the new one is complete.",
		Examples:    []string{"tctl backup /backup/sallyport.snap", "tctl backup - | ssh vault 'cat > sallyport.snap'"},
		Run:         backup,
	}
}

func backup(ctx context.Context, c *cliapp.Call) error {
	toStdout := c.Args[0] == "-"
	if toStdout && c.StdoutIsTerminal() {
		return api.Errorf(api.CodeInvalid, "a backup is binary: name a file, or pipe it on")
	}
	path, err := filepath.Abs(c.Args[0])
	if err != nil {
		return err
	}
	return withReplica(c, func(r *replica) error {
		bar := newTicker(c)
		defer bar.clear()
		if toStdout {
			_, err := r.Backup(ctx, io.MultiWriter(c.Stdout, &meter{bar: bar}))
			return err
		}
		var size int64
		err := atomicfile.WriteFrom(path, 0o600, func(w io.Writer) error {
			var err error
			size, err = r.Backup(ctx, io.MultiWriter(w, &meter{bar: bar}))
			return err
		})
		bar.clear()
		if err != nil {
			return err
		}
		c.Notef("Backup written to %s (%d bytes). It is worth nothing without the cluster secret.", path, size)
		return nil
	})
}
