package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/atomicfile"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/cliapp/settings"
	"github.com/sallyport-dev/sallyport/internal/client"
	"github.com/sallyport-dev/sallyport/internal/client/profile"
)

const configHeader = "Settings of tsh login. Flags and environment variables go before them.\n" +
	"'tsh config' shows what is in force and where it is from."

// configFlags are the flags that the settings file may hold.
func configFlags() []cliapp.Flag {
	proxy := proxyFlag()
	proxy.Usage = "log in to the cluster at `HOST:PORT`; default: the one logged in to last"
	return append([]cliapp.Flag{proxy}, settingFlags()...)
}

func configPath() (string, error) {
	dir, err := profileDir()
	return filepath.Join(dir, "config.yaml"), err
}

// readSettings is for the commands that use the settings file, which are few:
// kubectl runs "kube credentials" all the time, and a file that is broken must not
// keep anybody from logging out.
func readSettings(func(string) string) (map[string]cliapp.Setting, error) {
	file, err := configPath()
	if err != nil {
		return nil, err
	}
	got, err := settings.Load(file, configFlags())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // no settings
	}
	return got, err
}

func configCommand() cliapp.Command {
	return cliapp.Command{
		Name: "config", Usage: "show what 'tsh login' goes by, and where it is from",
		Description: "A flag goes before an environment variable, and that before config.yaml in\n" +
			"~/.sallyport (SALLYPORT_HOME), which 'set' and 'unset' edit. It is read by\n" +
			"'tsh login' and by no other command. The flags of 'tsh login' may be given here,\n" +
			"too, to see what they would change.",
		Examples: []string{"tsh config", "tsh config set proxy tele.example.com:443", "tsh config unset ttl"},
		Flags:    append(hidden(settingFlags()), formatFlag()),
		Commands: []cliapp.Command{
			{
				Name: "set", Usage: "keep a setting for logins to come", ArgsUsage: "KEY VALUE", MinArgs: 2, MaxArgs: 2,
				Description: "Keys: " + strings.Join(configKeys(), ", ") + ".",
				Examples:    []string{"tsh config set user alice", "tsh config set mfa-mode browser"},
				Complete:    completeSetting, Run: configSet,
			},
			{
				Name: "unset", Usage: "remove a setting", ArgsUsage: "KEY", MinArgs: 1, MaxArgs: 1,
				Complete: completeSetting, Run: configUnset,
			},
		},
		Settings: readSettings, Run: configShow,
	}
}

func hidden(flags []cliapp.Flag) []cliapp.Flag {
	for i := range flags {
		flags[i].Hidden = true
	}
	return flags
}

func configKeys() []string {
	var keys []string
	for _, f := range configFlags() {
		keys = append(keys, f.Name)
	}
	return keys
}

func completeSetting(c *cliapp.Call) []string {
	if len(c.Args) == 0 {
		return configKeys()
	}
	f, err := settingFlag(c.Args[0])
	switch {
	case err != nil:
		return nil
	case f.Complete != nil:
		return f.Complete(c)
	case f.Kind == cliapp.Bool:
		return []string{"true", "false"}
	default:
		return f.Values
	}
}

// settingFlag finds a setting by its flag's name or its key in the file.
func settingFlag(key string) (*cliapp.Flag, error) {
	for _, f := range configFlags() {
		if key == f.Name || key == settings.Key(f.Name) {
			return &f, nil
		}
	}
	return nil, api.Errorf(api.CodeInvalid, "there is no setting %q%s; settings are %s", key, api.DidYouMean(key, configKeys()), strings.Join(configKeys(), ", "))
}

func configShow(_ context.Context, c *cliapp.Call) error {
	file, err := configPath()
	if err != nil {
		return err
	}
	type row struct {
		Name   string `json:"name"`
		Value  string `json:"value"`
		Source string `json:"source"`
	}
	var rows []row
	for _, f := range configFlags() {
		rows = append(rows, row{f.Name, c.Text(f.Name), c.Source(f.Name)})
	}
	// What a login would use where nothing is set.
	if _, proxy, err := openStore(c); err == nil && rows[0].Value == "" {
		rows[0].Value, rows[0].Source = proxy, "last login"
	}
	if _, p, err := openProfile(c); err == nil {
		last := map[string]string{"user": p.User}
		if p.SSO() { // whoever logs in there
			last = map[string]string{"auth": p.Connector}
		}
		for i, r := range rows {
			if r.Value == "" && last[r.Name] != "" {
				rows[i].Value, rows[i].Source = last[r.Name], "last login"
			}
		}
	}
	document := struct {
		File     string `json:"file"`
		Settings []row  `json:"settings"`
	}{file, rows}
	return show(c, document, func() {
		table := make([][]string, len(rows))
		for i, r := range rows {
			table[i] = []string{r.Name, r.Value, r.Source}
		}
		c.Table([]string{"Setting", "Value", "Source"}, table)
	})
}

func configSet(_ context.Context, c *cliapp.Call) error {
	f, err := settingFlag(c.Args[0])
	if err != nil {
		return err
	}
	value, err := settingValue(f, c.Args[1])
	if err != nil {
		return api.Errorf(api.CodeInvalid, "%s: %w", f.Name, err)
	}
	return editConfig(c, func(old []byte) ([]byte, error) {
		if old == nil {
			var b bytes.Buffer
			err := settings.Print(&b, configFlags(), configHeader, map[string][]string{f.Name: {value}})
			return b.Bytes(), err
		}
		return settings.Set(old, f, value)
	})
}

// settingValue refuses what a login would refuse later, and gives the value in
// the form that means the same wherever tsh is run.
func settingValue(f *cliapp.Flag, value string) (string, error) {
	if err := f.Check(value); err != nil {
		return "", err
	}
	switch f.Name {
	case "proxy":
		return profile.ProxyAddr(value)
	case "user":
		return value, api.ValidateName("user", value)
	case "auth":
		return value, api.ValidateName("connector", value)
	case "ttl":
		if d, err := api.ParseDuration(value); err != nil || d < minTTL {
			return "", api.Errorf(api.CodeInvalid, "a session lasts a minute or more")
		}
	case "ca-file":
		path, err := filepath.Abs(value)
		if err != nil {
			return "", err
		}
		pem, err := os.ReadFile(path) //nolint:gosec // the user names it
		if err != nil {
			return "", err
		}
		_, err = client.Certificates(pem)
		return path, err
	}
	return value, nil
}

func configUnset(_ context.Context, c *cliapp.Call) error {
	key := c.Args[0]
	if f, err := settingFlag(key); err == nil {
		key = settings.Key(f.Name)
	} else if !slices.Contains(fileKeys(), key) { // a wrong key that the file holds can be removed, too
		return err
	}
	return editConfig(c, func(old []byte) ([]byte, error) {
		edited, err := settings.Unset(old, key)
		if err == nil && bytes.Equal(edited, old) {
			c.Notef("%s is not set.", key)
		}
		return edited, err
	})
}

// fileKeys are the keys of the file, right or wrong.
func fileKeys() []string {
	path, err := configPath()
	if err != nil {
		return nil
	}
	b, err := os.ReadFile(path) //nolint:gosec // the user's own settings
	if err != nil {
		return nil
	}
	keys, _ := settings.Keys(b) // none of what is no YAML
	return keys
}

// editConfig rewrites the settings file. A file that was right stays so.
func editConfig(c *cliapp.Call, edit func(old []byte) ([]byte, error)) error {
	path, err := configPath()
	if err != nil {
		return err
	}
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target // a link into somebody's dotfiles stays a link
	}
	old, err := os.ReadFile(path) //nolint:gosec // the user's own settings
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the settings: %w", err)
	}
	edited, err := edit(old)
	if err != nil {
		return api.Errorf(api.CodeInvalid, "%s: %w", path, err)
	}
	if bytes.Equal(edited, old) {
		return nil
	}
	if _, err := settings.Parse(path, edited, configFlags()); err != nil {
		if _, before := settings.Parse(path, old, configFlags()); before == nil {
			return err
		}
		c.Warnf("%v", err) // and was before: it may take several steps to mend
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write the settings: %w", err)
	}
	return atomicfile.Write(path, edited, 0o600)
}
