package server

import (
	"cmp"
	"crypto/rand"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// Options say what a replica is. The zero value of a field means its default;
// ClusterName, DataDir and Secret have none.
type Options struct {
	ClusterName string // the public DNS name; part of every SNI name and certificate
	DataDir     string // state, 0700; made if absent
	Secret      []byte // the cluster secret: lines of id:base64

	PublicAddr     string // host:port that users type; ClusterName:443
	PublicKubeAddr string // host:port of the kube-only port as users reach it; host of PublicAddr, port of KubeListenAddr
	ListenAddr     string // web, API, kube and tunnels by SNI and ALPN; :3080
	KubeListenAddr string // kube only, always asks for a certificate; :3026
	PeerAddr       string // peer mTLS; :7443
	PeerAdvertise  string // stable DNS name:port by which peers reach PeerAddr
	GossipAddr     string // :7946
	DiagAddr       string // /healthz, /readyz, /metrics; :3000
	SocketPath     string // admin socket; DataDir/admin.sock

	// BootstrapExpect is how many replicas found the cluster together. 0: with Join
	// this replica only ever joins; without, it founds a cluster alone.
	BootstrapExpect int
	Join            []string // gossip addresses of others

	Kubeconfig      string // reach this replica's own Kubernetes cluster by this file; "" with InCluster false: none
	KubeContext     string // context in Kubeconfig; its current one
	InCluster       bool   // reach it with the pod's service account
	KubeClusterName string // how users call it; ClusterName

	CertFile, KeyFile string // certificate of the web name; "" : signed by our own host CA

	ProxyProtocol  string   // off, on or require; off
	TrustedProxies []string // networks whose PROXY headers are believed
	trusted        []netip.Prefix

	MaxStale time.Duration // how long sessions go on without a leader; cluster.DefaultMaxStale. Negative: strict
	Version  string

	// Serving, if set, is called once: when the public ports are open.
	Serving func()

	Logger *slog.Logger
	Clock  func() time.Time
	Rand   io.Reader
}

// withDefaults fills what is empty and refuses what can't work.
func (o Options) withDefaults() (Options, error) {
	if err := api.ValidateClusterName(o.ClusterName); err != nil {
		return o, err
	}
	if o.DataDir == "" {
		return o, api.Errorf(api.CodeInvalid, "a data directory is needed: --data-dir")
	}
	o.PublicAddr = cmp.Or(o.PublicAddr, net.JoinHostPort(o.ClusterName, "443"))
	host, _, err := splitHostPort("public address", o.PublicAddr)
	if err != nil {
		return o, err
	}
	o.ListenAddr = cmp.Or(o.ListenAddr, ":3080")
	o.KubeListenAddr = cmp.Or(o.KubeListenAddr, ":3026")
	if o.PublicKubeAddr == "" {
		_, port, _ := net.SplitHostPort(o.KubeListenAddr) // checked below
		o.PublicKubeAddr = net.JoinHostPort(host, port)
	}
	o.PeerAddr = cmp.Or(o.PeerAddr, ":7443")
	o.GossipAddr = cmp.Or(o.GossipAddr, ":7946")
	o.DiagAddr = cmp.Or(o.DiagAddr, ":3000")
	o.SocketPath = cmp.Or(o.SocketPath, o.DataDir+"/admin.sock")
	switch {
	case o.BootstrapExpect < 0:
		return o, api.Errorf(api.CodeInvalid, "--bootstrap-expect=%d: a number of replicas is needed", o.BootstrapExpect)
	case len(o.Join) == 0 && o.BootstrapExpect == 0:
		o.BootstrapExpect = 1
	case len(o.Join) > 0 && o.BootstrapExpect == 1:
		// It would found a cluster of its own before it has found the others.
		return o, api.Errorf(api.CodeInvalid, "--bootstrap-expect=1 and --join contradict each other: to join a cluster leave --bootstrap-expect out, to found one with N replicas say --bootstrap-expect=N on each")
	}
	o.KubeClusterName = cmp.Or(o.KubeClusterName, o.ClusterName)
	if err := api.ValidateKubeName(o.KubeClusterName); err != nil {
		return o, err
	}
	for what, addr := range map[string]string{
		"listen address": o.ListenAddr, "kube listen address": o.KubeListenAddr, "peer address": o.PeerAddr,
		"gossip address": o.GossipAddr, "diagnostics address": o.DiagAddr, "public kube address": o.PublicKubeAddr,
	} {
		if _, _, err := splitHostPort(what, addr); err != nil {
			return o, err
		}
	}
	if o.PeerAdvertise == "" {
		host, port, _ := net.SplitHostPort(o.PeerAddr)
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			if o.BootstrapExpect > 1 || len(o.Join) > 0 {
				return o, api.Errorf(api.CodeInvalid, "other replicas can't find %s: give --peer-advertise NAME:PORT, a name that stays when the address changes", o.PeerAddr)
			}
			host = "127.0.0.1"
		}
		o.PeerAdvertise = net.JoinHostPort(host, port)
	}
	o.ProxyProtocol = cmp.Or(o.ProxyProtocol, ProxyProtocolOff)
	if err := o.checkPublic(); err != nil {
		return o, err
	}
	o.Version = cmp.Or(o.Version, "0.0.0-dev")
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	return o, nil
}

// checkPublic looks at what Reload may change too.
func (o *Options) checkPublic() (err error) {
	if (o.CertFile == "") != (o.KeyFile == "") {
		return api.Errorf(api.CodeInvalid, "a certificate needs its key, and the other way round: --cert-file and --key-file go together")
	}
	if o.trusted, err = parseTrustedProxies(o.TrustedProxies); err != nil {
		return err
	}
	switch o.ProxyProtocol {
	case ProxyProtocolOff:
	case ProxyProtocolOn, ProxyProtocolRequire:
		if len(o.trusted) == 0 {
			return api.Errorf(api.CodeInvalid, "--proxy-protocol=%s without --trusted-proxies believes nobody: give the networks of your load balancers, such as --trusted-proxies=10.0.0.0/24", o.ProxyProtocol)
		}
	default:
		return api.Errorf(api.CodeInvalid, "--proxy-protocol=%s: it is off, on or require", o.ProxyProtocol)
	}
	return nil
}

// Check says what is wrong with the options, as far as it can be told without
// opening anything but the certificate.
func (o Options) Check() error {
	o, err := o.withDefaults()
	if err == nil {
		_, err = o.openCertFile()
	}
	return err
}

func splitHostPort(what, addr string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(addr)
	if err == nil {
		port, err = strconv.Atoi(p)
	}
	if err != nil || port < 0 || port > 65535 {
		return "", 0, api.Errorf(api.CodeInvalid, "%s %q: write host:port, such as 127.0.0.1:3080", what, addr)
	}
	return host, port, nil
}
