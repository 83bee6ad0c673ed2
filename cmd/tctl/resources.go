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
	"github.com/sallyport-dev/sallyport/internal/client"
)

func createCommand() cliapp.Command {
	return cliapp.Command{
		Name: "create", Usage: "create users, roles and other documents from YAML", ArgsUsage: "[FILE]", MaxArgs: 1,
		Description: "Reads FILE, or standard input if there is none or it is -. It may hold several\ndocuments, separated by ---; all are checked before the first is sent.",
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
		return inFile(name, err)
	}
	return withReplica(c, func(r *replica) error {
		for i, doc := range docs {
			resp, err := r.Put(ctx, doc.JSON, c.Bool("force"))
			if err != nil {
				more := ""
				if api.IsCode(err, api.CodeConflict) {
					more = "; to write yours whatever is there, remove its line 'revision'"
				}
				if i > 0 {
					more += fmt.Sprintf(" (the %d before it are done)", i)
				}
				return api.Errorf(api.CodeOf(err), "%s, line %d: %w%s", name, refusedLine(&doc, err), err, more)
			}
			printPut(c, resp)
		}
		return nil
	})
}

// inFile says of which file an error is, and beside it of which line, if it does.
func inFile(file string, err error) error {
	if strings.HasPrefix(err.Error(), "line ") {
		return api.Errorf(api.CodeOf(err), "%s, %w", file, err)
	}
	return api.Errorf(api.CodeOf(err), "%s: %w", file, err)
}

// refusedLine is the line of what a replica refuses.
func refusedLine(doc *yamldoc.Document, err error) int {
	if refusal, ok := errors.AsType[*api.Error](err); ok {
		return doc.FieldLine(refusal.Field)
	}
	return doc.Line
}

func printPut(c *cliapp.Call, resp *api.PutResponse) {
	verb := "has been updated"
	switch {
	case resp.Unchanged:
		verb = "is as it was"
	case resp.Created && resp.Kind != api.KindAuthPreference: // there always is one
		verb = "has been created"
	}
	c.Printf("%s %s\n", spoken(resp.Kind, resp.Name), verb)
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
	text, err = io.ReadAll(io.LimitReader(in, yamldoc.MaxSize+1))
	if err != nil {
		return "", nil, fmt.Errorf("read %s: %w", name, err)
	}
	return name, text, nil
}

func getCommand() cliapp.Command {
	return cliapp.Command{
		Name: "get", Usage: "print documents", ArgsUsage: "KIND[/NAME][,...]", MinArgs: 1, MaxArgs: -1,
		Description: "Kinds are role, user, github, oidc, saml, cap (the cluster auth preference), token,\nkube_cluster and audit_forwarder; connectors means github, oidc and saml, all every\nkind. What it prints as YAML can be given to 'tctl create -f'. Tokens are named by\ntheir ids: what they are is not kept. Secrets of connectors and forwarders are left\nout; one that is written back without them keeps those that it has.",
		Examples: []string{
			"tctl get roles", "tctl get user/alice", "tctl get users,roles", "tctl get connectors", "tctl get all > everything.yaml",
			"tctl get users --format=json | jq -r '.[].metadata.name'", "(umask 077; tctl get github/github --with-secrets > github.yaml)",
		},
		Flags: []cliapp.Flag{
			formatFlag("yaml"),
			{Name: "with-secrets", Kind: cliapp.Bool, Usage: "print the secrets of connectors and forwarders, too; needs the right to update them"},
		},
		Complete: func(*cliapp.Call) []string { return append(completeKinds(), connectors, all) },
		Run:      get,
	}
}

func get(ctx context.Context, c *cliapp.Call) error {
	refs, err := parseRefs(c.Args)
	if err != nil {
		return orConnector(ctx, c, err)
	}
	items := []json.RawMessage{}
	err = withReplica(c, func(r *replica) error {
		for _, ref := range refs {
			some, _, err := fetch(ctx, r, ref, c.Bool("with-secrets"))
			if err != nil {
				return err
			}
			items = append(items, some...)
		}
		return nil
	})
	if err != nil {
		return orConnector(ctx, c, err)
	}
	if c.String("format") == "yaml" { // documents rather than a list of them
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
		if len(headers) == 0 {
			c.Notef("Nothing found")
			return
		}
		rows := make([][]string, len(headers))
		for i, h := range headers {
			rows[i] = []string{h.Kind, h.Metadata.Name, h.Metadata.Description}
		}
		c.Table([]string{"Kind", "Name", "Description"}, rows)
	})
}

// fetch gives the documents that a reference names, and the reference by the name
// that they have.
func fetch(ctx context.Context, r *replica, typed ref, secrets bool) (items []json.RawMessage, found ref, err error) {
	if typed.kind == connectors {
		if typed, err = findConnector(ctx, r, typed.name); err != nil {
			return nil, typed, err
		}
	}
	if hasSecrets(typed.kind) {
		return fetchSecret(ctx, r, typed, secrets)
	}
	if typed.kind == api.KindToken && typed.name != "" {
		name, err := withToken(ctx, r, typed.name, func(name string) (err error) {
			items, err = r.List(ctx, api.KindToken, name)
			return err
		})
		return items, ref{typed.kind, name}, err
	}
	items, err = r.List(ctx, typed.kind, typed.name)
	return items, typed, suggest(ctx, r, typed, err)
}

// suggest adds to the error that there is no such document which one was likely meant.
func suggest(ctx context.Context, r *replica, typed ref, err error) error {
	if !api.IsCode(err, api.CodeNotFound) || typed.name == "" {
		return err
	}
	hint := ""
	if near := client.Nearest(typed.name, namesOf(ctx, r, typed.kind)); near != "" {
		hint = fmt.Sprintf(", did you mean %q?", near)
	}
	if typed.kind == api.KindUser {
		if u := ssoUser(ctx, r, typed.name); u != nil {
			return noDocument(u)
		}
	}
	if typed.kind == api.KindKubeCluster {
		return api.Errorf(api.CodeNotFound, "%s not found%s", spoken(typed.kind, typed.name), hint)
	}
	return api.Errorf(api.CodeNotFound, "%w%s", err, hint)
}

func rmCommand() cliapp.Command {
	return cliapp.Command{
		Name: "rm", Usage: "remove documents", ArgsUsage: "KIND/NAME...", MinArgs: 1, MaxArgs: -1,
		Description: "'tctl rm cap' puts the cluster auth preference back to the default. The sessions\nof a user, and those that a connector has made, end at once.",
		Examples:    []string{"tctl rm role/dev", "tctl rm user/alice user/bob", "tctl rm github/github", "tctl rm cap", "tctl rm kube_cluster/cookie"},
		Flags:       []cliapp.Flag{{Name: "force", Aliases: []string{"f"}, Kind: cliapp.Bool, Usage: "reset the cluster auth preference even if passkeys are worth nothing then; forget a Kubernetes cluster even while agents of it are connected"}},
		Complete:    func(*cliapp.Call) []string { return completeKinds() },
		Run: func(ctx context.Context, c *cliapp.Call) error {
			refs, err := parseNamed("rm", c.Args)
			if err != nil {
				return orConnector(ctx, c, err)
			}
			return withReplica(c, func(r *replica) error {
				return each(ctx, refs, func(ref ref) error {
					return remove(ctx, c, r, ref, c.Bool("force"))
				})
			})
		},
	}
}

// remove removes a document and says so.
func remove(ctx context.Context, c *cliapp.Call, r *replica, ref ref, force bool) error {
	var note string
	var err error
	if ref.kind == connectors {
		if ref, err = findConnector(ctx, r, ref.name); err != nil {
			return err
		}
	}
	switch ref.kind {
	case api.KindToken:
		ref.name, err = removeToken(ctx, r, ref.name)
	case api.KindKubeCluster:
		note, err = removeKube(ctx, r, ref.name, force)
		err = suggest(ctx, r, ref, err)
	case api.KindUser:
		note = mayReturn(ssoUser(ctx, r, ref.name))
		err = suggest(ctx, r, ref, r.Delete(ctx, ref.kind, ref.name, force))
	default:
		if slices.Contains(api.ConnectorKinds(), ref.kind) {
			note = "Sessions that it made have ended."
		}
		err = suggest(ctx, r, ref, r.Delete(ctx, ref.kind, ref.name, force))
	}
	if err != nil {
		return err
	}
	done := "deleted"
	if ref.kind == api.KindAuthPreference {
		done = "reset to defaults"
	}
	c.Printf("%s has been %s\n", spoken(ref.kind, ref.name), done)
	if note != "" {
		c.Notef("%s", note)
	}
	return nil
}
