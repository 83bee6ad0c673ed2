package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/api/yamldoc"
	"github.com/sallyport-dev/sallyport/internal/atomicfile"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/client"
)

func ssoConfigureCommand() cliapp.Command {
	secret := cliapp.Flag{Name: "secret", Usage: "the client secret: `@FILE`, - for standard input, or the secret itself, which others on this machine can see then"}
	display := cliapp.Flag{Name: "display", Usage: "what the button on the login page says: `TEXT`"}
	out := []cliapp.Flag{
		{Name: "out", Usage: "write to `FILE` instead of standard output"},
		{Name: "force", Aliases: []string{"f"}, Kind: cliapp.Bool, Usage: "replace FILE if it is there already"},
	}
	name := func(kind string) cliapp.Flag {
		return cliapp.Flag{Name: "name", Usage: "call the connector `NAME`, which is what people type: tsh login --auth=NAME", Default: kind}
	}
	described := "Prints a commented file, for 'tctl sso test' and 'tctl create'. What no flag says is\nan example to be replaced. The address for the answers is that of the cluster,\nif a replica can be asked, else that of --proxy."
	return cliapp.Command{
		Name: "configure", Usage: "write the file of a connector, commented",
		Commands: []cliapp.Command{
			{
				Name: api.KindGithub, Usage: "write a connector for teams of GitHub", Description: described,
				Examples: []string{"tctl sso configure github > github.yaml", "tctl sso configure github --id=ID --secret=@secret --teams-to-groups=octocats/admin=system:masters | tctl sso test"},
				Flags: append([]cliapp.Flag{
					name(api.KindGithub), display,
					{Name: "id", Usage: "the client `ID` of the OAuth app"}, secret,
					{Name: "teams-to-roles", Kind: cliapp.Strings, Usage: "give the members of a team roles: `ORG/TEAM=ROLE,ROLE`; repeat it"},
					{Name: "teams-to-groups", Kind: cliapp.Strings, Usage: "give the members of a team Kubernetes groups: `ORG/TEAM=GROUP,GROUP`; repeat it"},
					{Name: "endpoint-url", Usage: "the `URL` of GitHub Enterprise Server"},
					{Name: "api-endpoint-url", Usage: "the `URL` of its API"},
				}, out...),
				Run: func(ctx context.Context, c *cliapp.Call) error { return configure(ctx, c, githubFile) },
			},
			{
				Name: api.KindOIDC, Usage: "write a connector for a provider of OpenID Connect", Description: described,
				Examples: []string{"tctl sso configure oidc --name=dex --issuer-url=https://dex.example.com --id=sallyport --secret=@secret --claims-to-roles=groups=admins=admin --out=dex.yaml"},
				Flags: append([]cliapp.Flag{
					name(api.KindOIDC), display,
					{Name: "issuer-url", Usage: "the issuer: `URL` to which /.well-known/openid-configuration is added"},
					{Name: "id", Usage: "the client `ID`"}, secret,
					{Name: "scope", Kind: cliapp.Strings, Usage: "ask for these `SCOPES` beside openid; default: email, profile"},
					{Name: "username-claim", Usage: "take the name of the user from `CLAIM`; default: email if it is verified, else preferred_username"},
					{Name: "claims-to-roles", Kind: cliapp.Strings, Usage: "give roles to whoever has a claim: `CLAIM=VALUE=ROLE,ROLE`; repeat it"},
				}, out...),
				Run: func(ctx context.Context, c *cliapp.Call) error { return configure(ctx, c, oidcFile) },
			},
			{
				Name: api.KindSAML, Usage: "write a connector for an identity provider of SAML 2.0", Description: described,
				Examples: []string{"tctl sso configure saml --name=okta --entity-descriptor=metadata.xml --attributes-to-roles=groups=okta-admin=admin --out=okta.yaml"},
				Flags: append([]cliapp.Flag{
					name(api.KindSAML), display,
					{Name: "entity-descriptor", Usage: "the metadata of the identity provider: `FILE|URL`"},
					{Name: "username-attribute", Usage: "take the name of the user from `ATTRIBUTE`; default: the NameID"},
					{Name: "attributes-to-roles", Kind: cliapp.Strings, Usage: "give roles to whoever has an attribute: `NAME=VALUE=ROLE,ROLE`; repeat it"},
				}, out...),
				Run: func(ctx context.Context, c *cliapp.Call) error { return configure(ctx, c, samlFile) },
			},
		},
	}
}

// sheet is a commented YAML file that is being written.
type sheet struct {
	b        strings.Builder
	callback string   // where answers arrive; "": the cluster fills it in
	examples []string // fields that no flag has said
}

// line writes a line, indented by so many levels.
func (s *sheet) line(level int, format string, args ...any) {
	s.b.WriteString(strings.Repeat("  ", level) + fmt.Sprintf(format, args...) + "\n")
}

// field writes a field of the spec under a comment.
func (s *sheet) field(name, value, comment string) {
	s.line(1, "# %s", comment)
	s.line(1, "%s: %s", name, scalar(value))
}

// given is what somebody has said of a field, else an example.
func (s *sheet) given(field, value, example string) string {
	if value == "" {
		s.examples = append(s.examples, field)
		return example
	}
	return value
}

// scalar writes text so that YAML reads it as text.
func scalar(text string) string {
	b, err := json.Marshal(text)
	if err == nil {
		b, err = yamldoc.Encode([]json.RawMessage{b})
	}
	if err != nil {
		return `""`
	}
	return strings.TrimSuffix(string(b), "\n")
}

// flow writes a list on one line.
func flow(values []string) string {
	quoted := make([]string, len(values))
	for i, v := range values {
		b, _ := json.Marshal(v) // a string
		quoted[i] = string(b)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// begin writes what all kinds have in common.
func (s *sheet) begin(c *cliapp.Call, kind, version, what string) {
	s.line(0, "# %s", what)
	s.line(0, "# Try it with 'tctl sso test FILE', save it with 'tctl create FILE'.")
	s.line(0, "kind: %s", kind)
	s.line(0, "version: %s", version)
	s.line(0, "metadata:")
	s.line(1, "# what people type: tsh login --auth=%s", c.String("name"))
	s.line(1, "name: %s", scalar(c.String("name")))
	s.line(0, "spec:")
}

// answers writes where the identity provider sends people back to.
func (s *sheet) answers(c *cliapp.Call, kind, comment string) {
	doc := api.NewConnector(kind)
	doc.Head().Metadata.Name = c.String("name")
	callback, paths := doc.Callback()
	field := strings.TrimPrefix(callback.Path, "spec.")
	if s.callback == "" {
		s.line(1, "# %s; filled in if it is left out", comment)
		s.line(1, "# %s: %s", field, api.CallbackURL("tele.example.com", paths[0]))
		return
	}
	s.field(field, api.CallbackURL(s.callback, paths[0]), comment)
}

// configure writes the file of a connector where it is wanted.
func configure(ctx context.Context, c *cliapp.Call, write func(context.Context, *cliapp.Call, *sheet) error) error {
	if err := api.ValidateName("connector", c.String("name")); err != nil {
		return err
	}
	var s sheet
	var err error
	if s.callback, err = publicAddr(ctx, c); err != nil {
		return err
	}
	if err := write(ctx, c, &s); err != nil {
		return err
	}
	text := []byte(s.b.String())
	if _, err := yamldoc.Decode(text); err != nil { // a flag said what no connector can hold
		reason := err.Error() // about a line of a file that nobody has
		if _, rest, ok := strings.Cut(reason, ": "); ok && strings.HasPrefix(reason, "line ") {
			reason = rest
		}
		return api.Errorf(api.CodeInvalid, "the flags make no connector: %s", reason)
	}
	path := c.String("out")
	if path == "" {
		err = writeYAML(c, text)
	} else {
		err = writeOut(path, text, c.Bool("force"))
	}
	if err != nil {
		return err
	}
	if len(s.examples) > 0 {
		c.Notef("To be replaced before it is of use: %s.", strings.Join(s.examples, ", "))
	}
	if path != "" {
		c.Notef("Written to %s. Try it: tctl sso test %s. Save it: tctl create %s", path, api.ShellQuote(path), api.ShellQuote(path))
	}
	return nil
}

// writeOut writes what may hold a secret.
func writeOut(path string, text []byte, force bool) error {
	if force {
		return atomicfile.Write(path, text, 0o600)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // the admin's own file, named by the admin
	if errors.Is(err, fs.ErrExist) {
		return api.Errorf(api.CodeExists, "%s is there already: --force replaces it", path)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}

// pingTime bounds the wait for a replica that need not be there.
const pingTime = 5 * time.Second

// publicAddr is the address of the cluster: what a replica says, else what --proxy
// names; "": nobody knows it here.
func publicAddr(ctx context.Context, c *cliapp.Call) (string, error) {
	w, err := wayOf(c)
	if err != nil {
		return "", err
	}
	if r, err := w.open(os.Getenv, time.Now()); err == nil {
		defer r.Close()
		asking, cancel := context.WithTimeout(ctx, pingTime)
		defer cancel()
		ping, err := r.Ping(asking)
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		if err == nil && ping.Proxy.Kube.PublicAddr != "" {
			return ping.Proxy.Kube.PublicAddr, nil
		}
	}
	if w.proxy == "" {
		return "", nil
	}
	host, port, err := client.SplitProxy(w.proxy)
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(host, port), nil
}

// maxSecret bounds a file that is named as a secret by mistake.
const maxSecret = 4 << 10

// clientSecret is the client secret that the flag says; "": none.
func clientSecret(ctx context.Context, c *cliapp.Call) (string, error) {
	value := c.String("secret")
	switch file, named := strings.CutPrefix(value, "@"); {
	case value == "":
		return "", nil
	case named && file != "-":
		f, err := os.Open(file) //nolint:gosec // the admin's own file, named by the admin
		if err != nil {
			return "", api.Errorf(api.CodeInvalid, "--secret: %w", err)
		}
		defer func() { _ = f.Close() }()
		b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
		if err != nil {
			return "", fmt.Errorf("--secret: %w", err)
		}
		value = string(b)
	case value == "-" || named:
		var err error
		if value, err = c.ReadPassword(ctx, "Enter the client secret: "); err != nil {
			return "", err
		}
	default:
		c.Warnf("others on this machine can see what stands on a command line, and your shell's history keeps it: --secret=@FILE and --secret=- keep the secret from them")
	}
	if value = strings.TrimSpace(value); value == "" || len(value) > maxSecret {
		return "", api.Errorf(api.CodeInvalid, "--secret: want one line of at most %d bytes", maxSecret)
	}
	return value, nil
}

// secret writes the client secret, or the place for it.
func (s *sheet) secret(ctx context.Context, c *cliapp.Call, comment string) error {
	secret, err := clientSecret(ctx, c)
	if err != nil {
		return err
	}
	s.field("client_secret", s.given("spec.client_secret", secret, ""), comment)
	return nil
}
