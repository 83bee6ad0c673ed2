package main

import (
	"errors"
	"net"
	"path/filepath"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/cliapp/settings"
	"github.com/sallyport-dev/sallyport/internal/client"
	"github.com/sallyport-dev/sallyport/internal/server"
)

// replicaFlags are the flags of a replica, and so the keys of its settings file.
func replicaFlags() []cliapp.Flag {
	flags := []cliapp.Flag{
		{Name: "cluster-name", Usage: "public DNS `NAME` of the cluster, such as tele.example.com; default: localhost, for a replica alone that listens on loopback"},
		{Name: "data-dir", Usage: "keep the state in `DIR`; default: " + client.SystemDataDir + ", or for others than root sallyport in the user's data directory (~/.local/share)"},
		{Name: "cluster-secret", Usage: "read the secret that all replicas share from `FILE` (see 'sallyport secret generate'); default: DIR/cluster-secret, made if this replica is to be alone"},
		{Name: "public-addr", Usage: "users type `HOST:PORT`; default: the cluster name and 443"},
		{Name: "public-kube-addr", Usage: "users reach --kube-listen-addr by `HOST:PORT`; default: the host of --public-addr and the port of --kube-listen-addr"},
		{Name: "listen-addr", Usage: "listen on `ADDR` for browsers, tsh and kubectl; 127.0.0.1:3080 if neither this nor --cluster-name is given", Default: ":3080"},
		{Name: "kube-listen-addr", Usage: "listen on `ADDR` for kubectl alone, and always ask for a certificate; 127.0.0.1:3026 if neither this nor --cluster-name is given", Default: ":3026"},
		{Name: "peer-addr", Usage: "listen on `ADDR` for other replicas; 127.0.0.1:7443 if neither this nor --cluster-name is given", Default: ":7443"},
		{Name: "peer-advertise", Usage: "stable `NAME:PORT` by which other replicas reach --peer-addr"},
		{Name: "gossip-addr", Usage: "listen on `ADDR` (TCP and UDP) to find other replicas; 127.0.0.1:7946 if neither this nor --cluster-name is given", Default: ":7946"},
		{Name: "diag-addr", Usage: "serve /healthz, /readyz and /metrics on `ADDR`; 127.0.0.1:3000 if neither this nor --cluster-name is given", Default: ":3000"},
		{Name: "socket", Usage: "make the admin socket at `PATH`; default: DIR/" + client.AdminSocket},
		{Name: "bootstrap-expect", Kind: cliapp.Int, Usage: "found the cluster once `N` replicas have met; default: 1, or with --join none: this replica then only joins"},
		{Name: "join", Kind: cliapp.Strings, Usage: "find other replicas at gossip addresses `ADDR`"},
		{Name: "kubeconfig", Usage: "reach this replica's own Kubernetes cluster by the kubeconfig in `FILE`; default: the pod's service account, if in a pod"},
		{Name: "kube-context", Usage: "use `CONTEXT` of the kubeconfig; default: its current one"},
		{Name: "kube-cluster-name", Usage: "call that cluster `NAME`; default: the cluster name"},
		{Name: "kube-labels", Kind: cliapp.Strings, Usage: "label that cluster `KEY=VALUE`, for the roles that choose by labels; the same on all replicas"},
		{Name: "cert-file", Usage: "show the certificate in `FILE` (PEM, with intermediates) for the public name; default: one that the cluster's own host CA signs"},
		{Name: "key-file", Usage: "the certificate's key is in `FILE`"},
		{Name: "acme", Kind: cliapp.Bool, Usage: "get the certificate for the public name from an ACME authority, Let's Encrypt unless --acme-uri says another; the first TLS connection for the name orders it. To use one is to agree to its terms"},
		{Name: "acme-email", Usage: "give the ACME authority `ADDRESS` to write to, should there be something wrong with a certificate"},
		{Name: "acme-uri", Usage: "the ACME server's directory is at `URL`; default: Let's Encrypt"},
		{Name: "acme-ca-file", Usage: "trust the ACME server by the certificates in `FILE` (PEM), beside those that this machine trusts"},
		{Name: "acme-http-addr", Usage: "with --acme, listen on `ADDR` for the authority's HTTP-01 challenges, which come to port 80 of the public name, and send everybody else there to https; off: go by TLS-ALPN-01 on --listen-addr alone", Default: ":3081"},
		{Name: "acme-preflight", Usage: "with --acme, `MODE` on orders nothing for a name at which somebody else than this cluster answers, off orders all the same: for a proxy in front that ends TLS itself, or that lets through no other name", Default: "on", Values: []string{"on", "off"}},
		{Name: "proxy-protocol", Usage: "load balancers send PROXY headers (versions 1 and 2) to the public ports: `MODE` on lets those trusted send one, require demands it of them", Default: "off", Values: []string{"off", "on", "require"}},
		{Name: "trusted-proxies", Kind: cliapp.Strings, Usage: "believe PROXY headers from `NETWORK`, such as 10.0.0.0/24, and from nobody else"},
		{Name: "audit-policy", Usage: "while the cluster takes no audit events, `POLICY` spool lets requests go on and keeps their events on this replica's disk, strict refuses new requests", Default: "spool", Values: []string{"spool", "strict"}},
		{Name: "audit-max-age", Kind: cliapp.Duration, Usage: "delete what is older than `DURATION` from the audit log; 0 to keep it until --audit-max-size; the same on all replicas", Default: "0"},
		{Name: "audit-max-size", Kind: cliapp.Size, Usage: "delete the oldest part of the audit log when it takes more than `SIZE` on each replica's disk; the same on all replicas", Default: "4GiB"},
		{Name: "audit-segment-size", Kind: cliapp.Size, Usage: "begin a new file of the audit log after `SIZE` (and each day), which is also what is deleted at a time; the same on all replicas", Default: "64MiB"},
		{Name: "audit-spool-size", Kind: cliapp.Size, Usage: "keep up to `SIZE` of audit events on this replica's disk while the cluster takes none", Default: "256MiB"},
		{Name: "shutdown-delay", Kind: cliapp.Duration, Usage: "when told to stop, go on as before for `DURATION` but for /readyz, which says no, so that load balancers send nobody any more", Default: "0"},
		{Name: "drain-timeout", Kind: cliapp.Duration, Usage: "then accept nothing new, and let what is under way go on for `DURATION`", Default: "20s"},
		{Name: "max-stale", Kind: cliapp.Duration, Usage: "let sessions go on for `DURATION` on a replica that hears from no leader; 0 to be strict", Default: "15m"},
		{Name: "log-level", Usage: "log what is of `LEVEL` or above", Default: "info", Values: []string{"debug", "info", "warn", "error"}},
		{Name: "log-format", Usage: "log to standard error as `FORMAT`", Default: "text", Values: []string{"text", "json"}},
	}
	for i := range flags {
		flags[i].Env = envName(flags[i].Name)
	}
	return flags
}

func configFlag() cliapp.Flag {
	return cliapp.Flag{
		Name: "config", Env: envName("config"),
		Usage: "read settings from `FILE` (see 'sallyport configure'), which flags and environment go over; default: " + systemConfig +
			", or for others than root first sallyport/sallyport.yaml in the user's configuration directory (~/.config), if there is one",
	}
}

// envName is the environment variable of a flag: SALLYPORT_DATA_DIR for data-dir.
func envName(flag string) string {
	return "SALLYPORT_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// checked turns the flags of a replica into options that can work.
func checked(c *cliapp.Call, m machine) (server.Options, error) {
	opts, err := options(c, m)
	if err == nil {
		err = opts.Check()
	}
	return opts, err
}

// placed puts before an error about an option where its value is from.
func placed(c *cliapp.Call, err error) error {
	var wrong *server.OptionError
	if !errors.As(err, &wrong) {
		return err
	}
	switch source := c.Source(wrong.Flag); source {
	case "default", "--" + wrong.Flag:
		return err
	case envName(wrong.Flag):
		return api.Errorf(api.CodeOf(err), "environment variable %s: %w", source, wrong.Err)
	default:
		return api.Errorf(api.CodeOf(err), "%s: %s: %w", source, settings.Key(wrong.Flag), wrong.Err)
	}
}

// socketPlaced adds to an error about the admin socket that the environment named it:
// who has set the variable meant tctl, more often than not.
func socketPlaced(c *cliapp.Call, path string, err error) error {
	if err == nil || c.Source("socket") != envName("socket") || !strings.Contains(err.Error(), path) {
		return err
	}
	return api.Errorf(api.CodeOf(err), "%w; environment variable %s, which tctl goes by, too, names it: unset it, or choose another with --socket", err, envName("socket"))
}

// inFile says whether a flag's value is from the settings file.
func inFile(c *cliapp.Call, flag string) bool {
	return c.IsSet(flag) && !c.Typed(flag) && c.Source(flag) != envName(flag)
}

func optionErrorf(flag, format string, args ...any) error {
	return &server.OptionError{Flag: flag, Err: api.Errorf(api.CodeInvalid, format, args...)}
}

// options turns the flags of a replica into its options.
func options(c *cliapp.Call, m machine) (server.Options, error) {
	opts := optionsGiven(c)
	var err error
	if opts.KubeLabels, err = keyValues(c.Strings("kube-labels")); err != nil {
		return opts, &server.OptionError{Flag: "kube-labels", Err: err}
	}
	opts.InCluster = opts.Kubeconfig == "" && m.getenv("KUBERNETES_SERVICE_HOST") != ""
	if err := checkGiven(c, opts); err != nil {
		return opts, err
	}
	if opts.DataDir == "" {
		opts.DataDir = m.dataDir()
	}
	if opts.SocketPath == "" {
		opts.SocketPath = filepath.Join(opts.DataDir, client.AdminSocket)
	}
	if opts.ClusterName == "" {
		return opts, local(c, &opts)
	}
	return opts, nil
}

// checkGiven says what is wrong with any of the values that are given, without
// regard to what is given beside them.
func checkGiven(c *cliapp.Call, opts server.Options) error {
	if d := c.Duration("max-stale"); d < 0 {
		return optionErrorf("max-stale", "%s is less than nothing: write 0 to be strict, or a duration such as 15m", c.Text("max-stale"))
	}
	if d := c.Duration("drain-timeout"); d <= 0 {
		return optionErrorf("drain-timeout", "%s leaves no time to end anything: write a duration such as 20s", c.Text("drain-timeout"))
	}
	if c.IsSet("bootstrap-expect") && opts.BootstrapExpect == 0 && len(opts.Join) == 0 {
		return optionErrorf("bootstrap-expect", "0 replicas found no cluster: write how many shall, 1 for a replica alone, or leave it out")
	}
	for _, size := range []struct {
		flag     string
		min, max int64
	}{
		{"audit-segment-size", 1 << 20, 1 << 30},
		{"audit-max-size", 64 << 20, 1 << 50},
		{"audit-spool-size", 1 << 20, 1 << 40},
	} {
		if n := c.Size(size.flag); n < size.min || n > size.max {
			return optionErrorf(size.flag, "%s is not between %s and %s", c.Text(size.flag), cliapp.FormatSize(size.min), cliapp.FormatSize(size.max))
		}
	}
	if inFile(c, "data-dir") && !filepath.IsAbs(opts.DataDir) {
		return optionErrorf("data-dir", "%s depends on where sallyport is started: write a path that begins with /", opts.DataDir)
	}
	return opts.CheckEach()
}

// optionsGiven are the options as they are given, and as the flags' defaults are.
func optionsGiven(c *cliapp.Call) server.Options {
	maxStale := c.Duration("max-stale")
	if maxStale == 0 {
		maxStale = -1 // an explicit zero: everywhere below, zero means the default
	}
	return server.Options{
		ClusterName:      c.String("cluster-name"),
		DataDir:          c.String("data-dir"),
		PublicAddr:       c.String("public-addr"),
		PublicKubeAddr:   c.String("public-kube-addr"),
		ListenAddr:       c.String("listen-addr"),
		KubeListenAddr:   c.String("kube-listen-addr"),
		PeerAddr:         c.String("peer-addr"),
		PeerAdvertise:    c.String("peer-advertise"),
		GossipAddr:       c.String("gossip-addr"),
		DiagAddr:         c.String("diag-addr"),
		SocketPath:       c.String("socket"),
		BootstrapExpect:  c.Int("bootstrap-expect"),
		Join:             c.Strings("join"),
		Kubeconfig:       c.String("kubeconfig"),
		KubeContext:      c.String("kube-context"),
		KubeClusterName:  c.String("kube-cluster-name"),
		CertFile:         c.String("cert-file"),
		KeyFile:          c.String("key-file"),
		ACME:             c.Bool("acme"),
		ACMEEmail:        c.String("acme-email"),
		ACMEURI:          c.String("acme-uri"),
		ACMECAFile:       c.String("acme-ca-file"),
		ACMEHTTPAddr:     c.String("acme-http-addr"),
		ACMEPreflight:    c.String("acme-preflight"),
		ShutdownDelay:    c.Duration("shutdown-delay"),
		DrainTimeout:     c.Duration("drain-timeout"),
		ProxyProtocol:    c.String("proxy-protocol"),
		TrustedProxies:   c.Strings("trusted-proxies"),
		AuditPolicy:      c.String("audit-policy"),
		AuditMaxAge:      c.Duration("audit-max-age"),
		AuditMaxSize:     c.Size("audit-max-size"),
		AuditSegmentSize: c.Size("audit-segment-size"),
		AuditSpoolSize:   c.Size("audit-spool-size"),
		MaxStale:         maxStale,
		Version:          version,
	}
}

// local makes options for somebody who tries it out: a cluster without a name is
// for this machine alone, and nobody else can reach it unless they say so.
func local(c *cliapp.Call, opts *server.Options) error {
	for _, flag := range []string{"public-addr", "public-kube-addr", "peer-advertise", "bootstrap-expect", "join"} {
		if c.IsSet(flag) {
			return optionErrorf(flag, "the cluster then needs a name: --cluster-name=tele.example.com (the public DNS name that users will type)")
		}
	}
	if opts.ACME {
		return optionErrorf("acme", "the cluster then needs a name: --cluster-name=tele.example.com (a name that leads to it in the public DNS)")
	}
	opts.ClusterName = "localhost"
	for flag, addr := range map[string]*string{
		"listen-addr": &opts.ListenAddr, "kube-listen-addr": &opts.KubeListenAddr, "peer-addr": &opts.PeerAddr,
		"gossip-addr": &opts.GossipAddr, "diag-addr": &opts.DiagAddr,
	} {
		if !c.IsSet(flag) {
			*addr = "127.0.0.1" + *addr
		}
	}
	_, port, _ := net.SplitHostPort(opts.ListenAddr) // checked before
	opts.PublicAddr = net.JoinHostPort(opts.ClusterName, port)
	return nil
}

// alone says whether a replica is to be the only one, and may make its own secret.
func alone(opts server.Options) bool { return opts.BootstrapExpect <= 1 && len(opts.Join) == 0 }
