package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/api/yamldoc"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

func createCommand() cliapp.Command {
	return cliapp.Command{
		Name: "create", Usage: "create users, roles and other documents from YAML", ArgsUsage: "[FILE]", MaxArgs: 1,
		Description: "Reads FILE, or standard input if there is none or it is -. The file may hold several\ndocuments, separated by ---; all are checked before the first is sent.",
		Examples:    []string{"tctl create role.yaml", "tctl create -f < role.yaml", "tctl get role/dev > dev.yaml; $EDITOR dev.yaml; tctl create -f dev.yaml"},
		Flags:       []cliapp.Flag{{Name: "force", Aliases: []string{"f"}, Kind: cliapp.Bool, Usage: "replace what is there already"}},
		Run:         create,
	}
}

func create(ctx context.Context, c *cliapp.Call) error {
	name, text, err := readInput(c)
	if err != nil {
		return err
	}
	docs, err := yamldoc.Decode(text)
	if err != nil {
		return api.Errorf(api.CodeOf(err), "%s: %w", name, err)
	}
	client := connect(c)
	for i, doc := range docs {
		resp, err := client.Put(ctx, doc.JSON, c.Bool("force"))
		if err != nil {
			done := ""
			if i > 0 {
				done = fmt.Sprintf(" (the %d before it are done)", i)
			}
			return api.Errorf(api.CodeOf(err), "%s, line %d: %w%s", name, doc.Line, err, done)
		}
		verb := "created"
		if !resp.Created {
			verb = "updated"
		}
		c.Printf("%s has been %s\n", spoken(resp.Kind, resp.Name), verb)
	}
	return nil
}

// spoken is how Teleport's messages name a document, quotes included:
// people's scripts look for them.
func spoken(kind, name string) string {
	if kind == api.KindUser {
		return fmt.Sprintf("%s %q", kind, name)
	}
	return fmt.Sprintf("%s '%s'", kind, name)
}

// readInput reads the file named by the first argument, or standard input.
func readInput(c *cliapp.Call) (name string, text []byte, err error) {
	in, name := c.Stdin, "standard input"
	if len(c.Args) > 0 && c.Args[0] != "-" {
		name = c.Args[0]
		f, err := os.Open(name) //nolint:gosec // the admin's own file, named by the admin
		if errors.Is(err, fs.ErrNotExist) {
			return "", nil, api.Errorf(api.CodeNotFound, "there is no file %s", name)
		}
		if err != nil {
			return "", nil, err
		}
		defer func() { _ = f.Close() }()
		in = f
	} else if c.Interactive() && len(c.Args) == 0 {
		return "", nil, api.Errorf(api.CodeInvalid, "name a file, or pipe YAML in: tctl create FILE, tctl create < FILE")
	}
	text, err = io.ReadAll(io.LimitReader(in, api.MaxRequestBody+1))
	if err != nil {
		return "", nil, fmt.Errorf("read %s: %w", name, err)
	}
	return name, text, nil
}

func getCommand() cliapp.Command {
	return cliapp.Command{
		Name: "get", Usage: "print documents", ArgsUsage: "KIND[/NAME]", MinArgs: 1, MaxArgs: 1,
		Description: "What it prints as YAML can be given to 'tctl create -f'.",
		Examples:    []string{"tctl get roles", "tctl get user/alice", "tctl get users --format=json | jq -r '.[].metadata.name'"},
		Flags:       []cliapp.Flag{formatFlag("yaml")},
		Complete:    func(*cliapp.Call) []string { return kinds() },
		Run:         get,
	}
}

func get(ctx context.Context, c *cliapp.Call) error {
	kind, name, err := parseRef(c.Args[0])
	if err != nil {
		return err
	}
	items, err := connect(c).List(ctx, kind, name)
	if err != nil {
		return err
	}
	if c.String("format") == "yaml" {
		if len(items) == 0 {
			return nil
		}
		b, err := yamldoc.Encode(items)
		if err != nil {
			return err
		}
		return writeYAML(c, b)
	}
	headers := make([]api.Header, len(items))
	for i, item := range items {
		if err := json.Unmarshal(item, &headers[i]); err != nil {
			return fmt.Errorf("document %d of the answer: %w", i+1, err)
		}
	}
	return show(c, items, func() {
		rows := make([][]string, len(headers))
		for i, h := range headers {
			rows[i] = []string{h.Kind, h.Metadata.Name, h.Metadata.Description}
		}
		c.Table([]string{"Kind", "Name", "Description"}, rows)
	})
}

func rmCommand() cliapp.Command {
	return cliapp.Command{
		Name: "rm", Usage: "remove a document", ArgsUsage: "KIND/NAME", MinArgs: 1, MaxArgs: 1,
		Examples: []string{"tctl rm role/dev"},
		Run: func(ctx context.Context, c *cliapp.Call) error {
			kind, name, err := parseRef(c.Args[0])
			if err != nil {
				return err
			}
			if name == "" {
				return api.Errorf(api.CodeInvalid, "say which %s: tctl rm %s/NAME", kind, kind)
			}
			if err := connect(c).Delete(ctx, kind, name); err != nil {
				return err
			}
			c.Printf("%s has been deleted\n", spoken(kind, name))
			return nil
		},
	}
}

func kinds() []string { return []string{api.KindUser, api.KindRole} }

// parseRef reads KIND or KIND/NAME; a plural is fine. A kind that this tctl does
// not know may be known to the replica, unless it looks like a slip.
func parseRef(ref string) (kind, name string, err error) {
	kind, name, named := strings.Cut(ref, "/")
	kind = strings.ToLower(kind)
	if named {
		if err := api.ValidateName(kind, name); err != nil {
			return "", "", err
		}
	}
	if slices.Contains(kinds(), kind) {
		return kind, name, nil
	}
	if singular := strings.TrimSuffix(kind, "s"); slices.Contains(kinds(), singular) {
		return singular, name, nil
	}
	if near := api.Nearest(kind, kinds()); near != "" {
		return "", "", api.Errorf(api.CodeInvalid, "there is no kind %q, did you mean %q?", kind, near)
	}
	return kind, name, api.ValidateName("kind", kind)
}
