package main

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/atomicfile"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/cliapp/settings"
	"github.com/sallyport-dev/sallyport/internal/server"
)

const settingsHeader = `Settings of a Sallyport replica, for 'sallyport start'.

Each key is a flag's name with _ for -. What stands behind # is the default, or a word for the value. A flag goes over its variable (SALLYPORT_DATA_DIR for data_dir), and that over this file. Secrets are in files of their own, which are only named here.

Test this file with: sallyport configure --check FILE
SIGHUP reloads log_level, cert_file, key_file and trusted_proxies; for the rest restart the replica.`

func configureCommand(m machine) cliapp.Command {
	flags := []cliapp.Flag{
		{Name: "output", Aliases: []string{"o"}, Usage: "write to `FILE`, which must not be there yet; default: standard output"},
		{Name: "force", Aliases: []string{"f"}, Kind: cliapp.Bool, Usage: "replace the file of --output"},
		{Name: "check", Usage: "write nothing, but test the settings in `FILE`"},
	}
	for _, f := range replicaFlags() {
		f.Env = "" // of a replica that is started, not of what is written here
		flags = append(flags, f)
	}
	return cliapp.Command{
		Name:  "configure",
		Usage: "write a settings file, or test one",
		Description: "Writes a settings file for 'sallyport start' with all keys, what they are for\n" +
			"and their defaults, commented out but for those given as flags. With --check,\n" +
			"flags go over the file that is tested.",
		Examples: []string{
			"sallyport configure --cluster-name=tele.example.com --output=/etc/sallyport.yaml",
			"sallyport configure --check /etc/sallyport.yaml",
			"sallyport configure --check shared.yaml --peer-advertise=replica-0:7443",
		},
		Flags: flags,
		Run: func(_ context.Context, c *cliapp.Call) error {
			if file := c.String("check"); file != "" {
				return checkSettings(c, m, file)
			}
			return configure(c)
		},
	}
}

func configure(c *cliapp.Call) error {
	if err := checkGiven(c, optionsGiven(c)); err != nil {
		return err
	}
	given := map[string][]string{}
	for _, f := range replicaFlags() {
		switch {
		case !c.IsSet(f.Name):
		case f.Kind == cliapp.Strings:
			given[f.Name] = c.Strings(f.Name)
		default:
			given[f.Name] = []string{c.Text(f.Name)}
		}
	}
	var b bytes.Buffer
	if err := settings.Print(&b, replicaFlags(), settingsHeader, given); err != nil {
		return err
	}
	path := c.String("output")
	switch {
	case path == "":
		_, err := c.Stdout.Write(b.Bytes())
		return err
	case c.Bool("force"):
		if err := atomicfile.Write(path, b.Bytes(), 0o644); err != nil {
			return err
		}
	default:
		if err := writeNew(path, b.Bytes()); err != nil {
			return err
		}
	}
	c.Notef("Wrote %s. Test it with: sallyport configure --check %s", path, api.ShellQuote(path))
	return nil
}

func writeNew(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644) //nolint:gosec // holds no secret
	if errors.Is(err, fs.ErrExist) {
		return api.Errorf(api.CodeInvalid, "%s is there already: choose another file, or replace it with --force", path)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}

// checkSettings tests all that can be told without starting a replica.
func checkSettings(c *cliapp.Call, m machine, file string) error {
	loaded, err := settings.Load(file, replicaFlags())
	if err != nil {
		return err
	}
	if c, err = c.WithSettings(loaded); err != nil {
		return err
	}
	opts, err := checked(c, m)
	var one *server.OptionError
	switch {
	case errors.As(err, &one):
		return placed(c, err)
	case err != nil:
		return api.Errorf(api.CodeOf(err), "%s: %w", file, err)
	}
	if secret, ok := loaded["cluster-secret"]; ok {
		if _, err := server.LoadSecret(secret.Values[0], opts.DataDir, false, loggerTo(c.Stderr, nil, "text")); err != nil {
			return placed(c, &server.OptionError{Flag: "cluster-secret", Err: err})
		}
	}
	c.Printf("%s is good: %d settings\n", file, len(loaded))
	return nil
}
