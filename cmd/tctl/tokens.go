package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/client"
)

func tokensCommand() cliapp.Command {
	return cliapp.Command{
		Name: "tokens", Usage: "add, list and remove the tokens by which agents join",
		Commands: []cliapp.Command{
			{
				Name: "add", Usage: "add a token and print it, the only time that it is seen",
				Description: "As 'tctl nodes add', for scripts: --format=json prints {token, id, roles, expires}.",
				Examples:    []string{"tctl tokens add --type=kube --ttl=1h", "tctl tokens add --type=kube --format=json | jq -r .token"},
				Flags:       append([]cliapp.Flag{roleFlag("type")}, tokenFlags()...),
				Run: func(ctx context.Context, c *cliapp.Call) error {
					return addToken(ctx, c, "type", func(resp *api.AddTokenResponse) error {
						return show(c, addedToken{resp.Token, resp.ID, resp.Roles, resp.Expires}, func() { printInvite(c, resp) })
					})
				},
			},
			{
				Name: "ls", Aliases: []string{"list"}, Usage: "list tokens by their ids; what they are is never shown again",
				Flags: []cliapp.Flag{formatFlag("text")}, Run: tokensList,
			},
			{
				Name: "rm", Usage: "remove tokens; agents that have joined stay", ArgsUsage: "ID...", MinArgs: 1, MaxArgs: -1,
				Description: "An ID is what 'tctl tokens ls' shows; the token itself does as well.",
				Examples:    []string{"tctl tokens rm 3f2a9c0111223344"},
				Complete:    completeTokens, Run: tokensRemove,
			},
		},
	}
}

// addedToken is what scripts see of a token that was added.
type addedToken struct {
	Token   string    `json:"token"`
	ID      string    `json:"id"`
	Roles   []string  `json:"roles"`
	Expires time.Time `json:"expires"`
}

// roleFlag is --roles of 'nodes add', --type of 'tokens add'.
func roleFlag(name string) cliapp.Flag {
	return cliapp.Flag{
		Name: name, Kind: cliapp.Strings, Usage: "let those who join be `ROLES`: agents of Kubernetes clusters",
		Values: []string{api.TokenRoleKube}, Default: api.TokenRoleKube,
	}
}

// maxTokenLife is that of servers, so that what no server could read is told, too.
const maxTokenLife = 3650 * 24 * time.Hour

func tokenFlags() []cliapp.Flag {
	return []cliapp.Flag{
		{Name: "ttl", Kind: cliapp.Duration, Usage: "let the token work for `LIFE`, at most 3650d; agents that have joined need it no more", Default: "30m", Max: maxTokenLife},
		{Name: "max-uses", Kind: cliapp.Int, Usage: "let `N` agents join by it; 0: any number", Default: "0"},
		{Name: "kube-clusters", Kind: cliapp.Strings, Usage: "let its agents serve clusters of these `NAMES` only, and also if agents of another token do; default: any name that is not taken", Complete: completeKubeClusters},
		{Name: "labels", Kind: cliapp.Strings, Usage: "label the token with `KEY=VALUE`; repeat it or separate them by commas"},
		{Name: "value", Usage: "take a token of your own from `@FILE`, or - for standard input, instead of a random one"},
		formatFlag("text"),
	}
}

// addToken makes a token as the flags say; roles is the flag that names them.
func addToken(ctx context.Context, c *cliapp.Call, roles string, done func(*api.AddTokenResponse) error) error {
	req := &api.AddTokenRequest{Roles: c.Strings(roles), MaxUses: c.Int("max-uses"), KubeClusters: c.Strings("kube-clusters")}
	if len(req.Roles) == 0 {
		return api.Errorf(api.CodeInvalid, "--%s is empty: give %s", roles, api.TokenRoleKube)
	}
	if req.MaxUses < 0 {
		return api.Errorf(api.CodeInvalid, "--max-uses must not be less than nothing")
	}
	if c.HasBlank("kube-clusters") { // no name would mean any name
		return api.Errorf(api.CodeInvalid, "--kube-clusters: a name is empty: is a variable of your shell not set? Leave the flag out for a token that is good for any name")
	}
	for _, name := range req.KubeClusters {
		if err := api.ValidateKubeName(name); err != nil {
			return err
		}
	}
	var err error
	if req.TTL, err = lifetime(c); err != nil {
		return err
	}
	if req.Labels, err = labelsOf(c); err != nil {
		return err
	}
	if req.Value, err = ownToken(ctx, c); err != nil {
		return err
	}
	return withReplica(c, func(r *replica) error {
		if err := notOwn(ctx, r, req.KubeClusters); err != nil {
			return err
		}
		resp, err := r.AddToken(ctx, req)
		if api.IsCode(err, api.CodeExists) && req.Value != "" {
			id := api.TokenID(req.Value)
			return api.Errorf(api.CodeExists, "there is a token of this value already, token %s: choose another value, or remove that one first ('tctl tokens rm %s')", id, id)
		}
		if err != nil {
			return err
		}
		return done(resp)
	})
}

// notOwn refuses names that no agent can have, as far as they are known: a replica
// would refuse each agent that joins under one.
func notOwn(ctx context.Context, r *replica, names []string) error {
	if len(names) == 0 {
		return nil
	}
	clusters, err := r.KubeClusters(ctx)
	if err != nil {
		return nil //nolint:nilerr // it is a help, and who may make tokens may see no clusters
	}
	for _, k := range clusters {
		if k.Status != nil && k.Status.Own && slices.Contains(names, k.Name) {
			return api.Errorf(api.CodeInvalid, "--kube-clusters: Kubernetes cluster %q is the replicas' own, which they reach without an agent: choose another name", k.Name)
		}
	}
	return nil
}

func labelsOf(c *cliapp.Call) (map[string]string, error) {
	var out map[string]string
	for _, pair := range c.Strings("labels") {
		key, value, ok := strings.Cut(pair, "=")
		if key = strings.TrimSpace(key); !ok || key == "" {
			return nil, api.Errorf(api.CodeInvalid, "--labels: %q is not KEY=VALUE", pair)
		}
		if out == nil {
			out = map[string]string{}
		}
		out[key] = strings.TrimSpace(value)
	}
	return out, nil
}

// ownToken is the token that somebody has chosen; "": the server makes one. No
// error repeats it.
func ownToken(ctx context.Context, c *cliapp.Call) (string, error) {
	value := c.String("value")
	switch file, named := strings.CutPrefix(value, "@"); {
	case value == "" && !c.IsSet("value"):
		return "", nil
	case named:
		f, err := os.Open(file) //nolint:gosec // the admin's own file, named by the admin
		if err != nil {
			return "", api.Errorf(api.CodeInvalid, "--value: %w", err)
		}
		defer func() { _ = f.Close() }()
		b, err := io.ReadAll(io.LimitReader(f, api.MaxNameLen+8)) // more is too long anyway
		if err != nil {
			return "", fmt.Errorf("--value: %w", err)
		}
		value = string(b)
	case value == "-":
		var err error
		if value, err = c.ReadPassword(ctx, "Enter the token: "); err != nil {
			return "", err
		}
	default:
		if !scripted(c) {
			c.Warnf("others on this machine can see what stands on a command line: --value=@FILE and --value=- keep the token from them")
		}
	}
	value = strings.TrimSpace(value)
	if len(value) < api.MinTokenLen || api.ValidateName(api.KindToken, value) != nil {
		return "", api.Errorf(api.CodeInvalid, "--value: a token has %d to %d ASCII letters, digits and -_.@+:, and begins with a letter or digit; without --value a good one is made", api.MinTokenLen, api.MaxNameLen)
	}
	return value, nil
}

// nodesAdd prints a token and how to use it. The JSON is a list with nothing
// beside it, as Teleport's: the guide's pipe takes its first element.
func nodesAdd(ctx context.Context, c *cliapp.Call) error {
	return addToken(ctx, c, "roles", func(resp *api.AddTokenResponse) error {
		list := []string{resp.Token}
		if c.String("format") == "json" {
			b, err := json.Marshal(list) // on one line
			c.Printf("%s\n", b)
			return err
		}
		return show(c, list, func() { printInvite(c, resp) })
	})
}

// printInvite says what to do with a token.
func printInvite(c *cliapp.Call, resp *api.AddTokenResponse) {
	name, note := "NAME", ", NAME being what the cluster shall be called"
	if names := c.Strings("kube-clusters"); len(names) > 0 {
		name, note = names[0], ""
	}
	uses := ""
	switch n := c.Int("max-uses"); {
	case n == 1:
		uses = " It works once."
	case n > 1:
		uses = fmt.Sprintf(" It works %d times.", n)
	}
	c.Printf("The invite token: %s\nThis token will expire in %s.%s\n", resp.Token, cliapp.ShortDuration(time.Duration(resp.TTL)), uses)
	c.Printf("\nRun this where kubectl reaches the cluster%s:\n\n> sallyport agent \\\n", note)
	lines := []string{"--proxy=" + resp.Proxy, "--token=" + resp.Token}
	for _, pin := range resp.CAPins {
		lines = append(lines, "--ca-pin="+pin)
	}
	lines = append(lines, "--kube-cluster-name="+api.ShellQuote(name))
	c.Printf("   %s\n", strings.Join(lines, " \\\n   "))
	c.Printf("\nOr install the agent in the cluster itself, with Helm:\n\n> helm install sallyport-agent sallyport/sallyport-kube-agent \\\n")
	lines = []string{
		"--set kubeClusterName=" + api.ShellQuote(name), "--set proxyAddr=" + resp.Proxy, "--set authToken=" + resp.Token,
	}
	switch len(resp.CAPins) {
	case 0:
	case 1:
		lines = append(lines, "--set caPin="+resp.CAPins[0])
	default: // while the host authority is being replaced
		lines = append(lines, "--set 'caPin={"+strings.Join(resp.CAPins, ",")+"}'")
	}
	lines = append(lines, "--create-namespace --namespace=sallyport-agent")
	c.Printf("   %s\n", strings.Join(lines, " \\\n   "))
	c.Printf("\nWhoever has the token can join: 'tctl tokens rm %s' ends that.\nNOTE: Make sure that agents can reach %s.\n", resp.ID, resp.Proxy)
}

func listTokens(ctx context.Context, r *replica) ([]json.RawMessage, []api.Token, error) {
	items, err := r.List(ctx, api.KindToken, "")
	if err != nil {
		return nil, nil, err
	}
	tokens, err := decodeAll[api.Token](items)
	return items, tokens, err
}

func decodeAll[T any](items []json.RawMessage) ([]T, error) {
	out := make([]T, len(items))
	for i, item := range items {
		if err := json.Unmarshal(item, &out[i]); err != nil {
			return nil, fmt.Errorf("document %d of the answer: %w", i+1, err)
		}
	}
	return out, nil
}

func tokensList(ctx context.Context, c *cliapp.Call) error {
	return withReplica(c, func(r *replica) error {
		items, tokens, err := listTokens(ctx, r)
		if err != nil {
			return err
		}
		return show(c, items, func() {
			if len(tokens) == 0 {
				c.Printf("No tokens found\n")
				return
			}
			rows := make([][]string, len(tokens))
			for i, t := range tokens {
				expires := "never"
				if !t.Metadata.Expires.IsZero() {
					expires = client.Minute(t.Metadata.Expires)
				}
				uses := "-" // nobody counts them
				if t.Spec.MaxUses > 0 {
					uses = fmt.Sprintf("%d of %d", t.Spec.Uses, t.Spec.MaxUses)
				}
				clusters := "any"
				if len(t.Spec.KubeClusters) > 0 {
					clusters = strings.Join(t.Spec.KubeClusters, ",")
				}
				rows[i] = []string{t.Metadata.Name, strings.Join(t.Spec.Roles, ","), client.LabelsText(t.Metadata.Labels), expires, uses, t.Spec.JoinMethod, clusters}
			}
			c.Table([]string{"Token", "Type", "Labels", "Expiry Time (UTC)", "Uses", "Method", "Kube Clusters"}, rows)
		})
	})
}

// withToken calls fn with the name of the token that somebody has typed: its id, its
// name or the token itself, which goes nowhere, not even into an error.
func withToken(ctx context.Context, r *replica, typed string, fn func(name string) error) (name string, err error) {
	name = typed
	if !api.IsTokenID(typed) {
		_, tokens, err := listTokens(ctx, r)
		if err != nil {
			return "", err
		}
		if !slices.ContainsFunc(tokens, func(t api.Token) bool { return t.Metadata.Name == typed }) {
			name = api.TokenID(typed)
		}
	}
	if err := fn(name); !api.IsCode(err, api.CodeNotFound) {
		return name, err
	}
	return "", api.Errorf(api.CodeNotFound, "there is no such token: 'tctl tokens ls' lists their ids")
}

func removeToken(ctx context.Context, r *replica, typed string) (name string, err error) {
	return withToken(ctx, r, typed, func(name string) error { return r.Delete(ctx, api.KindToken, name, false) })
}

func tokensRemove(ctx context.Context, c *cliapp.Call) error {
	return withReplica(c, func(r *replica) error {
		return each(ctx, c.Args, func(typed string) error {
			id, err := removeToken(ctx, r, typed)
			if err != nil {
				return err
			}
			c.Printf("Token %s has been deleted\n", id)
			return nil
		})
	})
}
