package main

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/agent"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/cliapp/settings"
	"github.com/sallyport-dev/sallyport/internal/client"
)

const (
	systemAgentConfig = "/etc/sallyport-agent.yaml"
	projectedToken    = "/var/run/secrets/tokens/sallyport" //nolint:gosec // a path
)

// agentFlags are the flags of an agent, and so the keys of its settings file.
func agentFlags() []cliapp.Flag {
	flags := []cliapp.Flag{
		{Name: "proxy", Usage: "reach Sallyport at `HOST:PORT`, as users do; port 443 if none is given"},
		{Name: "token", Usage: "join with `TOKEN` (see 'tctl nodes add'), or with what is in a file: @FILE; with --join-method=kubernetes the name of the token"},
		{Name: "token-file", Usage: "join with the token in `FILE`"},
		{Name: "join-method", Usage: "show the token, or the service account's: `METHOD`", Default: api.JoinMethodToken, Values: []string{api.JoinMethodToken, api.JoinMethodKubernetes}},
		{Name: "kubernetes-token-path", Usage: "with --join-method=kubernetes, show the token in `FILE`, whose audience is the cluster's name; if it is not there, one is asked of the API server", Default: projectedToken},
		{Name: "ca-pin", Kind: cliapp.Strings, Usage: "join only the Sallyport whose host CA has the `PIN` sha256:… (see 'tctl status'); default: the one whose certificate this machine trusts"},
		{Name: "insecure", Kind: cliapp.Bool, Usage: "join whoever answers, unchecked: whoever is on the way gets the token"},
		{Name: "kube-cluster-name", Usage: "call the Kubernetes cluster `NAME`; default: as its context of the kubeconfig"},
		{Name: "kubeconfig", Usage: "reach the Kubernetes cluster by the kubeconfig in `FILE`; default: by the pod's service account, outside of a pod by the one that kubectl uses"},
		{Name: "kube-contexts", Kind: cliapp.Strings, Usage: "serve the clusters of these `CONTEXTS` of the kubeconfig, * for all; default: of its current one"},
		{Name: "labels", Kind: cliapp.Strings, Usage: "label the clusters `KEY=VALUE`"},
		{Name: "label-commands", Kind: cliapp.Strings, Usage: "label the clusters with what commands print: `KEY=COMMAND`, of which no shell takes part (no commas; 'sh /path/to/script' does for more)"},
		{Name: "label-command-period", Kind: cliapp.Duration, Usage: "run the commands every `DURATION`", Default: "1m"},
		{Name: "data-dir", Usage: "keep the agent's identity in `DIR`; default: in a pod none (see --state-secret), else " + client.SystemDataDir + "-agent, or for others than root sallyport-agent in the user's data directory (~/.local/share)"},
		{Name: "state-secret", Usage: "keep the agent's identity in the Secret `NAME` of the pod's namespace; default, in a pod without --data-dir: POD-identity"},
		{Name: "drain-timeout", Kind: cliapp.Duration, Usage: "when told to stop, take nothing new, and let what is under way go on for `DURATION`; below the time that Kubernetes gives the pod", Default: "25s"},
		{Name: "diag-addr", Usage: "serve /healthz, /readyz and /metrics on `ADDR`; default: not at all"},
		{Name: "log-level", Usage: "log what is of `LEVEL` or above", Default: "info", Values: []string{"debug", "info", "warn", "error"}},
		{Name: "log-format", Usage: "log to standard error as `FORMAT`", Default: "text", Values: []string{"text", "json"}},
	}
	for i := range flags {
		flags[i].Env = agentEnvName(flags[i].Name)
	}
	return flags
}

func agentEnvName(flag string) string { return envName("agent-" + flag) }

func agentCommand(m machine) cliapp.Command {
	return cliapp.Command{
		Name:  "agent",
		Usage: "make a Kubernetes cluster reachable through Sallyport",
		Description: "Runs an agent until it gets SIGTERM or Ctrl-C; a second one ends it at once. It\n" +
			"joins with a token, dials out to two replicas and passes requests to its\n" +
			"cluster's API server as the users whom Sallyport names. Nothing has to reach the\n" +
			"agent. Its service account (or the user of the kubeconfig) needs the right to\n" +
			"impersonate users and groups.\n\n" +
			"The token is needed once: the agent keeps its identity (see --data-dir and\n" +
			"--state-secret) and renews it. HTTPS_PROXY and NO_PROXY are obeyed.",
		Examples: []string{
			"sallyport agent --proxy=tele.example.com:443 --token=@FILE --ca-pin=PIN --kube-cluster-name=cookie",
			"sallyport agent --proxy=tele.example.com:443 --token=@FILE --kubeconfig=FILE --kube-contexts='*'",
		},
		Flags: append([]cliapp.Flag{{
			Name: "config", Env: agentEnvName("config"),
			Usage: "read settings from `FILE`, keys as the flags with _ for -, which flags and environment go over; default: " + systemAgentConfig + " if there is one",
		}}, agentFlags()...),
		Settings: m.agentSettings,
		Run:      func(ctx context.Context, c *cliapp.Call) error { return runAgent(ctx, c, m) },
	}
}

// agentSettings are those of the command agent.
func (m machine) agentSettings(get func(flag string) string) (map[string]cliapp.Setting, error) {
	file := get("config")
	if file == "" && m.exists(systemAgentConfig) {
		file = systemAgentConfig
	}
	if file == "" {
		return nil, nil
	}
	return settings.Load(file, agentFlags())
}

func runAgent(ctx context.Context, c *cliapp.Call, m machine) error {
	var level slog.LevelVar
	if err := setLevel(&level, c); err != nil {
		return err
	}
	opts, err := agentOptions(c, m)
	if err != nil {
		return agentPlaced(c, err)
	}
	opts.Logger = loggerTo(c.Stderr, &level, c.String("log-format"))
	a, err := agent.New(opts)
	if err != nil {
		return agentPlaced(c, err)
	}
	defer endAtSecond(c, opts.Logger)()
	return agentPlaced(c, a.Run(ctx))
}

// agentPlaced puts before an error about an option where its value is from.
func agentPlaced(c *cliapp.Call, err error) error {
	wrong, ok := errors.AsType[*agent.OptionError](err)
	if !ok {
		return err
	}
	switch source := c.Source(wrong.Flag); source {
	case "default", "--" + wrong.Flag:
		return err
	case agentEnvName(wrong.Flag):
		return api.Errorf(api.CodeOf(err), "environment variable %s: %w", source, wrong.Err)
	default:
		return api.Errorf(api.CodeOf(err), "%s: %s: %w", source, settings.Key(wrong.Flag), wrong.Err)
	}
}

func agentErrorf(flag, format string, args ...any) error {
	return &agent.OptionError{Flag: flag, Err: api.Errorf(api.CodeInvalid, format, args...)}
}

// agentOptions turns the flags of an agent into its options.
func agentOptions(c *cliapp.Call, m machine) (agent.Options, error) {
	opts := agent.Options{
		Proxy: c.String("proxy"), TokenFile: c.String("token-file"), JoinMethod: c.String("join-method"),
		CAPins: c.Strings("ca-pin"), Insecure: c.Bool("insecure"),
		LabelCommandPeriod: c.Duration("label-command-period"), DrainTimeout: c.Duration("drain-timeout"), DiagAddr: c.String("diag-addr"), Version: version,
	}
	if opts.Proxy == "" {
		return opts, agentErrorf("proxy", "is missing: say where Sallyport is, such as --proxy=tele.example.com:443")
	}
	if opts.LabelCommandPeriod < time.Second {
		return opts, agentErrorf("label-command-period", "%s is too short: at least 1s", c.Text("label-command-period"))
	}
	if opts.DrainTimeout <= 0 {
		return opts, agentErrorf("drain-timeout", "%s leaves no time to end anything: write a duration such as 25s", c.Text("drain-timeout"))
	}
	if err := tokenOption(c, &opts); err != nil {
		return opts, err
	}
	var err error
	if opts.Labels, err = keyValues(c.Strings("labels")); err != nil {
		return opts, &agent.OptionError{Flag: "labels", Err: err}
	}
	commands, err := keyValues(c.Strings("label-commands"))
	if err != nil {
		return opts, &agent.OptionError{Flag: "label-commands", Err: err}
	}
	for _, key := range slices.Sorted(maps.Keys(commands)) {
		words, err := splitWords(commands[key])
		if err != nil {
			return opts, agentErrorf("label-commands", "%s: %w", key, err)
		}
		opts.LabelCommands = append(opts.LabelCommands, agent.LabelCommand{Key: key, Command: words})
	}
	if name := c.String("kube-cluster-name"); name != "" {
		if err := agent.CheckClusterName(name); err != nil {
			return opts, err
		}
	}
	inPod := m.getenv("KUBERNETES_SERVICE_HOST") != ""
	if opts.Clusters, err = agentClusters(c, inPod); err != nil {
		return opts, err
	}
	opts.Name = cmp.Or(m.getenv("POD_NAME"), hostname())
	if opts.JoinMethod == api.JoinMethodKubernetes {
		opts.JWTFile = c.String("kubernetes-token-path")
		if inPod {
			opts.JWT = agent.ServiceAccountJWT(agent.ServiceAccountDir)
		}
	}
	if err := opts.Check(); err != nil { // before anything is made
		return opts, err
	}
	opts.Store, err = agentStore(c, m, inPod, opts.Name)
	return opts, err
}

// tokenOption takes the token in any of the ways to give one. It is never in an error.
func tokenOption(c *cliapp.Call, opts *agent.Options) error {
	token := strings.TrimSpace(c.String("token"))
	file, isFile := strings.CutPrefix(token, "@")
	switch {
	case token != "" && opts.TokenFile != "":
		return agentErrorf("token-file", "there is a --token, too (%s): give one of them", c.Source("token"))
	case isFile && file == "":
		return agentErrorf("token", "@ wants a file's name behind it")
	case isFile:
		opts.TokenFile = file
	default:
		opts.Token = token
	}
	return nil
}

func agentClusters(c *cliapp.Call, inPod bool) ([]agent.Cluster, error) {
	name, contexts := c.String("kube-cluster-name"), c.Strings("kube-contexts")
	if file := c.String("kubeconfig"); file != "" || !inPod {
		return agent.KubeconfigClusters(file, contexts, name)
	}
	if len(contexts) > 0 {
		return nil, agentErrorf("kube-contexts", "are those of a kubeconfig: give --kubeconfig=FILE, too")
	}
	cluster, err := agent.InCluster(name)
	return []agent.Cluster{cluster}, err
}

// agentStore is where the identity is kept.
func agentStore(c *cliapp.Call, m machine, inPod bool, pod string) (agent.Store, error) {
	dir, secret := c.String("data-dir"), c.String("state-secret")
	switch {
	case dir != "" && secret != "":
		return nil, agentErrorf("state-secret", "there is a --data-dir, too (%s): give one of them", c.Source("data-dir"))
	case dir != "" && !filepath.IsAbs(dir) && c.Source("data-dir") != "--data-dir":
		return nil, agentErrorf("data-dir", "%s depends on where sallyport is started: write a path that begins with /", dir)
	case dir == "" && secret == "" && inPod:
		secret = pod + "-identity"
	case dir == "" && secret == "":
		dir = m.dataDir() + "-agent"
	}
	if dir != "" {
		return &agent.DirStore{Dir: dir}, nil
	}
	if err := agent.CheckSecretName(secret); err != nil {
		return nil, err
	}
	namespace, err := os.ReadFile(filepath.Join(agent.ServiceAccountDir, "namespace"))
	if err != nil || !inPod {
		return nil, agentErrorf("state-secret", "there is no pod's service account here to keep a Secret with: give --data-dir=DIR")
	}
	return agent.InClusterSecret(strings.TrimSpace(string(namespace)), secret)
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}

// keyValues reads KEY=VALUE.
func keyValues(pairs []string) (map[string]string, error) {
	out := map[string]string{}
	for _, pair := range pairs {
		key, value, ok := strings.Cut(pair, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if _, twice := out[key]; !ok || key == "" || value == "" || twice {
			return nil, api.Errorf(api.CodeInvalid, "%q: want KEY=VALUE, each key once", pair)
		}
		out[key] = value
	}
	return out, nil
}

// splitWords splits a command at blanks as a shell would, with ' and " around what
// holds any, and does nothing else a shell does.
func splitWords(text string) ([]string, error) {
	var words []string
	var word strings.Builder
	var quote rune
	in := false
	for _, r := range text {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote == 0 && (r == '\'' || r == '"'):
			quote, in = r, true
		case quote == 0 && (r == ' ' || r == '\t'):
			if in {
				words = append(words, word.String())
				word.Reset()
				in = false
			}
		default:
			word.WriteRune(r)
			in = true
		}
	}
	if quote != 0 {
		return nil, api.Errorf(api.CodeInvalid, "a quotation mark %c is not closed", quote)
	}
	if in {
		words = append(words, word.String())
	}
	return words, nil
}
