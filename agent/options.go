package agent

import (
	"context"
	"crypto/x509"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpproxy"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/upstream"
	"github.com/sallyport-dev/sallyport/internal/wire"
)

// Options say what an agent serves and whom. Proxy and Clusters must be given.
type Options struct {
	Proxy string // HOST:PORT that users type; ":443" is added if the port is missing

	// Token is the secret, or with JoinMethodKubernetes the name of the token.
	// TokenFile, if set, is read for it at each join. Neither: an agent that has an
	// identity goes on with it, and can't get another.
	Token, TokenFile string
	JoinMethod       string // "": api.JoinMethodToken
	// JWTFile holds the service account's token for JoinMethodKubernetes. Where it is
	// not there, JWT asks for one that is meant for an audience; nil: nobody can.
	JWTFile string
	JWT     func(ctx context.Context, audience string) (string, error)

	CAPins   []string       // whom to believe at a join, as api.Pin; none: Roots
	Roots    *x509.CertPool // nil: the machine's (SSL_CERT_FILE)
	Insecure bool           // join whoever answers

	Clusters           []Cluster
	Labels             map[string]string // of all clusters
	LabelCommands      []LabelCommand
	LabelCommandPeriod time.Duration // 1 m

	DrainTimeout time.Duration // how long what is open may take when Run is told to end; 25 s, below the 30 s that Kubernetes gives a pod

	Store    Store  // nil: in memory
	DiagAddr string // "": no diagnostics
	Name     string // of pod or host, for people
	Version  string

	// ProxyFunc says through which HTTP proxy an address is reached; nil: as
	// HTTPS_PROXY and NO_PROXY say. Dial makes the connections; nil: TCP.
	ProxyFunc func(*url.URL) (*url.URL, error)
	Dial      func(ctx context.Context, network, addr string) (net.Conn, error)
	Wire      wire.Options

	Clock  func() time.Time // time.Now
	Rand   func() float64   // in [0,1), for jitter
	Logger *slog.Logger     // nil: none
}

// Cluster is a Kubernetes cluster that the agent serves.
type Cluster struct {
	Name     string
	Upstream upstream.Upstream
	CAs      []string // of its API server, as wire.Cluster has them; none: not known
	// Handler answers instead of Upstream, for tests of load. What it gets has passed
	// all checks.
	Handler http.Handler
	// Probe asks how the cluster does. Nil: Upstream.Probe; with a Handler nobody
	// asks, and it is healthy.
	Probe func(context.Context) upstream.ProbeResult
}

// LabelCommand is a label whose value a command prints.
type LabelCommand struct {
	Key     string
	Command []string // program and arguments; no shell looks at them
}

const (
	defaultPort        = "443"
	defaultLabelPeriod = time.Minute
	defaultDrain       = 25 * time.Second
)

func (o Options) withDefaults() Options {
	if _, _, err := net.SplitHostPort(o.Proxy); err != nil && o.Proxy != "" && !strings.Contains(o.Proxy, ":") {
		o.Proxy = net.JoinHostPort(o.Proxy, defaultPort)
	}
	if o.JoinMethod == "" {
		o.JoinMethod = api.JoinMethodToken
	}
	if o.LabelCommandPeriod <= 0 {
		o.LabelCommandPeriod = defaultLabelPeriod
	}
	if o.DrainTimeout <= 0 {
		o.DrainTimeout = defaultDrain
	}
	if o.Store == nil {
		o.Store = &MemoryStore{}
	}
	if o.ProxyFunc == nil {
		o.ProxyFunc = httpproxy.FromEnvironment().ProxyFunc()
	}
	if o.Dial == nil {
		o.Dial = spreadDialer{}.DialContext
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Float64
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Check says what is wrong with the options, by the flag that sets them.
func (o Options) Check() error {
	o = o.withDefaults()
	host, port, err := net.SplitHostPort(o.Proxy)
	if err != nil || host == "" || port == "" || strings.ContainsAny(o.Proxy, "/@ ") {
		return optionErrorf("proxy", "%q is no address: give the HOST:PORT that users type, such as tele.example.com:443", o.Proxy)
	}
	for _, pin := range o.CAPins {
		if _, err := api.ParsePin(pin); err != nil {
			return &OptionError{"ca-pin", err}
		}
	}
	if o.Insecure && len(o.CAPins) > 0 {
		return optionErrorf("insecure", "checks nothing, so --ca-pin would mean nothing: give one of them")
	}
	methods := []string{api.JoinMethodToken, api.JoinMethodKubernetes}
	switch {
	case !slices.Contains(methods, o.JoinMethod):
		return optionErrorf("join-method", "%q is none of %s", o.JoinMethod, strings.Join(methods, ", "))
	case o.JoinMethod == api.JoinMethodKubernetes && o.Token == "" && o.TokenFile == "":
		return optionErrorf("join-method", "kubernetes wants the name of the token, as 'tctl tokens ls' lists it: --token=NAME")
	}
	if len(o.Clusters) == 0 {
		return optionErrorf("kube-cluster-name", "there is no Kubernetes cluster to serve: run it in a pod, or give --kubeconfig")
	}
	if len(o.Clusters) > api.MaxAgentClusters {
		return optionErrorf("kube-contexts", "%d clusters are too many for one agent: at most %d", len(o.Clusters), api.MaxAgentClusters)
	}
	seen := map[string]bool{}
	for _, c := range o.Clusters {
		if err := CheckClusterName(c.Name); err != nil {
			return err
		}
		label := api.KubeLabel(c.Name)
		if seen[label] {
			return optionErrorf("kube-cluster-name", "there are two clusters called %q", c.Name)
		}
		seen[label] = true
		if err := (&api.KubeCluster{Name: c.Name, Labels: o.Labels}).Validate(); err != nil {
			return &OptionError{"labels", err}
		}
	}
	for _, c := range o.LabelCommands {
		if err := (&api.KubeCluster{Name: o.Clusters[0].Name, Labels: map[string]string{c.Key: "x"}}).Validate(); err != nil {
			return &OptionError{"label-commands", err}
		}
		if len(c.Command) == 0 || c.Command[0] == "" {
			return optionErrorf("label-commands", "%s: there is no command", c.Key)
		}
	}
	return nil
}

// CheckClusterName refuses what can't be the name of a Kubernetes cluster.
func CheckClusterName(name string) error {
	// A shell variable without its $, as in {CLUSTER?}, is a typo people make from guides.
	if strings.ContainsAny(name, "{}$") {
		return optionErrorf("kube-cluster-name", "%q is a shell variable that no shell has filled in: write ${CLUSTER?} with the $ in front and set CLUSTER, or write the name itself", name)
	}
	if err := api.ValidateKubeName(name); err != nil {
		return &OptionError{"kube-cluster-name", err}
	}
	return nil
}

// OptionError is about one option.
type OptionError struct {
	Flag string // its name, without dashes
	Err  error
}

func (e *OptionError) Error() string { return "--" + e.Flag + ": " + e.Err.Error() }
func (e *OptionError) Unwrap() error { return e.Err }

func optionErrorf(flag, format string, args ...any) error {
	return &OptionError{flag, api.Errorf(api.CodeInvalid, format, args...)}
}
