package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/server"
)

const defaultDataDir = "/var/lib/sallyport"

func startCommand() cliapp.Command {
	return cliapp.Command{
		Name:  "start",
		Usage: "run a replica",
		Description: "Runs one replica of a cluster until it gets SIGTERM or Ctrl-C. Replicas that share a cluster\n" +
			"secret and know one another's gossip addresses agree on everything else by themselves.",
		Examples: []string{
			"sallyport secret generate > cluster-secret",
			"sallyport start --cluster-name=tele.example.com --cluster-secret=cluster-secret",
			"sallyport start --cluster-name=tele.example.com --cluster-secret=cluster-secret \\",
			"    --bootstrap-expect=3 --peer-advertise=$(hostname -f):7443 --join=replica-0:7946,replica-1:7946,replica-2:7946",
		},
		Flags: startFlags(),
		Run:   start,
	}
}

func startFlags() []cliapp.Flag {
	flags := []cliapp.Flag{
		{Name: "cluster-name", Usage: "public DNS `NAME` of the cluster, such as tele.example.com"},
		{Name: "data-dir", Usage: "keep the state in `DIR`", Default: defaultDataDir},
		{Name: "cluster-secret", Usage: "read the secret that all replicas share from `FILE` (see 'sallyport secret generate'); default DIR/cluster-secret, made if this replica is to be alone"},
		{Name: "public-addr", Usage: "users type `HOST:PORT`; default NAME:443"},
		{Name: "public-kube-addr", Usage: "users reach --kube-listen-addr by `HOST:PORT`; default HOST and the port of --kube-listen-addr"},
		{Name: "listen-addr", Usage: "listen on `ADDR` for browsers, tsh and kubectl", Default: ":3080"},
		{Name: "kube-listen-addr", Usage: "listen on `ADDR` for kubectl alone, and always ask for a certificate", Default: ":3026"},
		{Name: "peer-addr", Usage: "listen on `ADDR` for other replicas", Default: ":7443"},
		{Name: "peer-advertise", Usage: "stable `NAME:PORT` by which other replicas reach --peer-addr"},
		{Name: "gossip-addr", Usage: "listen on `ADDR` (TCP and UDP) to find other replicas", Default: ":7946"},
		{Name: "diag-addr", Usage: "serve /healthz, /readyz and /metrics on `ADDR`", Default: ":3000"},
		{Name: "socket", Usage: "make the admin socket at `PATH`; default DIR/admin.sock"},
		{Name: "bootstrap-expect", Kind: cliapp.Int, Usage: "found the cluster once `N` replicas have met; default: 1, or with --join none: this replica then only joins"},
		{Name: "join", Kind: cliapp.Strings, Usage: "find other replicas at gossip addresses `ADDR`"},
		{Name: "kubeconfig", Usage: "reach this replica's own Kubernetes cluster by the kubeconfig in `FILE`; default: the pod's service account, if in a pod"},
		{Name: "kube-context", Usage: "use `CONTEXT` of the kubeconfig; default: its current one"},
		{Name: "kube-cluster-name", Usage: "call that cluster `NAME`; default: the cluster name"},
		{Name: "cert-file", Usage: "show the certificate in `FILE` (PEM, with intermediates) for the public name; default: signed by the cluster's own host CA"},
		{Name: "key-file", Usage: "its key is in `FILE`"},
		{Name: "max-stale", Kind: cliapp.Duration, Usage: "let sessions go on for `DURATION` on a replica that hears from no leader; 0 to be strict", Default: "15m"},
		{Name: "log-level", Usage: "log what is of `LEVEL` or above", Default: "info", Values: []string{"debug", "info", "warn", "error"}},
		{Name: "log-format", Usage: "log to standard error as `FORMAT`", Default: "text", Values: []string{"text", "json"}},
	}
	for i := range flags {
		flags[i].Env = envName(flags[i].Name)
	}
	return flags
}

// envName is the environment variable of a flag: SALLYPORT_DATA_DIR for data-dir.
func envName(flag string) string {
	b := []byte("SALLYPORT_" + flag)
	for i, c := range b {
		switch {
		case c == '-':
			b[i] = '_'
		case 'a' <= c && c <= 'z':
			b[i] = c - 'a' + 'A'
		}
	}
	return string(b)
}

func start(ctx context.Context, c *cliapp.Call) error {
	log, err := logger(c)
	if err != nil {
		return err
	}
	opts := server.Options{
		ClusterName:     c.String("cluster-name"),
		DataDir:         c.String("data-dir"),
		PublicAddr:      c.String("public-addr"),
		PublicKubeAddr:  c.String("public-kube-addr"),
		ListenAddr:      c.String("listen-addr"),
		KubeListenAddr:  c.String("kube-listen-addr"),
		PeerAddr:        c.String("peer-addr"),
		PeerAdvertise:   c.String("peer-advertise"),
		GossipAddr:      c.String("gossip-addr"),
		DiagAddr:        c.String("diag-addr"),
		SocketPath:      c.String("socket"),
		BootstrapExpect: c.Int("bootstrap-expect"),
		Join:            c.Strings("join"),
		Kubeconfig:      c.String("kubeconfig"),
		KubeContext:     c.String("kube-context"),
		KubeClusterName: c.String("kube-cluster-name"),
		CertFile:        c.String("cert-file"),
		KeyFile:         c.String("key-file"),
		MaxStale:        c.Duration("max-stale"),
		Version:         version,
		Logger:          log,
	}
	if opts.ClusterName == "" {
		return api.Errorf(api.CodeInvalid, "the cluster needs a name: --cluster-name=tele.example.com (the public DNS name that users will type)")
	}
	if opts.MaxStale == 0 {
		opts.MaxStale = -1 // an explicit zero: everywhere below, zero means the default
	}
	opts.InCluster = opts.Kubeconfig == "" && os.Getenv("KUBERNETES_SERVICE_HOST") != ""
	alone := opts.BootstrapExpect <= 1 && len(opts.Join) == 0
	if opts.Secret, err = server.LoadSecret(c.String("cluster-secret"), opts.DataDir, alone, log); err != nil {
		return err
	}
	srv, err := server.New(opts)
	if err != nil {
		return err
	}
	return srv.Run(ctx)
}

func logger(c *cliapp.Call) (*slog.Logger, error) {
	return loggerTo(c.Stderr, c.String("log-level"), c.String("log-format"))
}

func loggerTo(w io.Writer, levelName, format string) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(levelName)); err != nil {
		return nil, api.Errorf(api.CodeInvalid, "--log-level: %w", err)
	}
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey && a.Value.Kind() == slog.KindTime {
			a.Value = slog.TimeValue(a.Value.Time().UTC().Truncate(time.Millisecond))
		}
		return a
	}}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return slog.New(slog.NewTextHandler(w, opts)), nil
}
