package server

import (
	"cmp"
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/sallyport-dev/sallyport/cluster"
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

	Kubeconfig      string            // reach this replica's own Kubernetes cluster by this file; "" with InCluster false: none
	KubeContext     string            // context in Kubeconfig; its current one
	InCluster       bool              // reach it with the pod's service account
	KubeClusterName string            // how users call it; ClusterName
	KubeLabels      map[string]string // of it, by which roles choose

	CertFile, KeyFile string // certificate of the web name; "" : ACME, else signed by our own host CA

	ACME         bool   // get the certificate of the web name from an ACME authority
	ACMEEmail    string // whom the authority writes to
	ACMEURI      string // its directory; CertMagic's default: Let's Encrypt
	ACMECAFile   string // PEM: roots that its own certificate is trusted by, beside the machine's
	ACMEHTTPAddr string // answers HTTP-01 and sends people to https; "" or ACMEHTTPOff: TLS-ALPN-01 alone
	// ACMEPreflight says whether to see first that a name leads to this cluster: on or
	// ACMEPreflightOff; on.
	ACMEPreflight string

	ProxyProtocol  string   // off, on or require; off
	TrustedProxies []string // networks whose PROXY headers are believed
	trusted        []netip.Prefix

	AuditPolicy      string        // what becomes of requests whose events can't reach the cluster: api.AuditSpool or api.AuditStrict; AuditSpool
	AuditMaxAge      time.Duration // sealed segments of the audit log are deleted when they are older; 0: never
	AuditMaxSize     int64         // or when the log is larger than so many bytes; 4 GiB
	AuditSegmentSize int64         // a segment is sealed when it has so many bytes; 64 MiB
	AuditSpoolSize   int64         // bound of what waits on this replica's disk for a cluster that takes no events; 256 MiB

	ShutdownDelay time.Duration // from the request to stop until nothing new is accepted
	DrainTimeout  time.Duration // how long streams may go on after that; 20 s

	MaxStale time.Duration // how long sessions go on without a leader; cluster.DefaultMaxStale. Negative: strict
	Version  string

	// Serving, if set, is called once: when the public ports are open. It is told
	// whether there is any user.
	Serving func(users bool)

	Logger *slog.Logger
	Clock  func() time.Time
	Rand   io.Reader

	ssoKinds  ssoKinds // nil: realKinds
	auditPace auditPace
	volumeOf  func(dir string) volume // nil: measureVolume
	public    publicCertificates      // with ACME; nil: an acme.Certificates
	// secretFirst is when to look first whether others have another cluster secret.
	secretFirst time.Duration
	// recoverWithin bounds a recovery; two minutes.
	recoverWithin time.Duration
	recoverBy     func(context.Context, cluster.Backup) (cluster.Recovery, error) // nil: the node's
	after         func(time.Duration) <-chan time.Time                            // nil: time.After
}

// OptionError says which option is wrong.
type OptionError struct {
	Flag string // the option's name on the command line, without dashes
	Err  error  // does not name it
}

func (e *OptionError) Error() string { return "--" + e.Flag + ": " + e.Err.Error() }

// Unwrap gives errors.As the code.
func (e *OptionError) Unwrap() error { return e.Err }

func optionErrorf(flag, format string, args ...any) error {
	return &OptionError{flag, api.Errorf(api.CodeInvalid, format, args...)}
}

// withDefaults fills what is empty and refuses what can't work.
func (o Options) withDefaults() (Options, error) {
	if o.ClusterName == "" {
		return o, optionErrorf("cluster-name", "give the public DNS name that users will type, such as tele.example.com")
	}
	if o.DataDir == "" {
		return o, optionErrorf("data-dir", "a data directory is needed")
	}
	if err := o.CheckEach(); err != nil {
		return o, err
	}
	o.PublicAddr = cmp.Or(o.PublicAddr, net.JoinHostPort(o.ClusterName, "443"))
	host, _, _ := net.SplitHostPort(o.PublicAddr) // checked above
	o.ListenAddr = cmp.Or(o.ListenAddr, ":3080")
	o.KubeListenAddr = cmp.Or(o.KubeListenAddr, ":3026")
	if o.PublicKubeAddr == "" {
		_, port, _ := net.SplitHostPort(o.KubeListenAddr)
		o.PublicKubeAddr = net.JoinHostPort(host, port)
	}
	o.PeerAddr = cmp.Or(o.PeerAddr, ":7443")
	o.GossipAddr = cmp.Or(o.GossipAddr, ":7946")
	o.DiagAddr = cmp.Or(o.DiagAddr, ":3000")
	o.SocketPath = cmp.Or(o.SocketPath, o.DataDir+"/admin.sock")
	switch {
	case len(o.Join) == 0 && o.BootstrapExpect == 0:
		o.BootstrapExpect = 1
	case len(o.Join) > 0 && o.BootstrapExpect == 1:
		// It would found a cluster of its own before it has found the others.
		return o, optionErrorf("bootstrap-expect", "1 and --join contradict each other: to join a cluster leave --bootstrap-expect out, to found one with N replicas say --bootstrap-expect=N on each")
	}
	o.KubeClusterName = cmp.Or(o.KubeClusterName, o.ClusterName)
	if err := o.checkListeners(); err != nil {
		return o, err
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
	if err := o.checkPublic(); err != nil {
		return o, err
	}
	if err := o.checkACMENames(); err != nil {
		return o, err
	}
	o.ProxyProtocol = cmp.Or(o.ProxyProtocol, ProxyProtocolOff)
	o.DrainTimeout = cmp.Or(o.DrainTimeout, drainFor)
	o.Version = cmp.Or(o.Version, "0.0.0-dev")
	if err := o.defaultAudit(); err != nil {
		return o, err
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	o.secretFirst = cmp.Or(o.secretFirst, secretFirst)
	if o.after == nil {
		o.after = time.After
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	return o, nil
}

// CheckEach says what is wrong with any of the options that are given, without
// regard to the others.
func (o Options) CheckEach() error {
	if o.ClusterName != "" {
		if err := api.ValidateClusterName(o.ClusterName); err != nil {
			return &OptionError{"cluster-name", err}
		}
	}
	if o.KubeClusterName != "" {
		if err := api.ValidateKubeName(o.KubeClusterName); err != nil {
			return &OptionError{"kube-cluster-name", err}
		}
	}
	if err := api.ValidateLabels(o.KubeLabels); err != nil {
		return &OptionError{"kube-labels", err}
	}
	for _, a := range []struct {
		flag, addr string
		reached    bool // by others, who need a host
	}{
		{"public-addr", o.PublicAddr, true},
		{"public-kube-addr", o.PublicKubeAddr, true},
		{"peer-advertise", o.PeerAdvertise, true},
		{"listen-addr", o.ListenAddr, false},
		{"kube-listen-addr", o.KubeListenAddr, false},
		{"peer-addr", o.PeerAddr, false},
		{"gossip-addr", o.GossipAddr, false},
		{"diag-addr", o.DiagAddr, false},
	} {
		if a.addr == "" {
			continue
		}
		host, _, err := splitHostPort(a.addr)
		if err != nil {
			return &OptionError{a.flag, err}
		}
		if a.reached && host == "" {
			return optionErrorf(a.flag, "%q has no host: write host:port, such as tele.example.com%s", a.addr, a.addr)
		}
	}
	if o.BootstrapExpect < 0 {
		return optionErrorf("bootstrap-expect", "%d is no number of replicas", o.BootstrapExpect)
	}
	switch o.ProxyProtocol {
	case "", ProxyProtocolOff, ProxyProtocolOn, ProxyProtocolRequire:
	default:
		return optionErrorf("proxy-protocol", "%q is none of off, on, require", o.ProxyProtocol)
	}
	if err := o.checkAudit(); err != nil {
		return err
	}
	if err := o.checkACME(); err != nil {
		return err
	}
	_, err := parseTrustedProxies(o.TrustedProxies)
	return err
}

// checkListeners refuses what would fail only when the ports are opened, one by one.
func (o *Options) checkListeners() error {
	type listener struct{ flag, addr string }
	all := []listener{
		{"listen-addr", o.ListenAddr},
		{"kube-listen-addr", o.KubeListenAddr},
		{"peer-addr", o.PeerAddr},
		{"gossip-addr", o.GossipAddr},
		{"diag-addr", o.DiagAddr},
	}
	if addr := o.acmeHTTPAddr(); o.ACME && addr != "" {
		all = append(all, listener{"acme-http-addr", addr})
	}
	everywhere := func(host string) bool {
		ip := net.ParseIP(host)
		return host == "" || ip != nil && ip.IsUnspecified()
	}
	for i, a := range all {
		host, port, _ := splitHostPort(a.addr) // checked before
		for _, b := range all[:i] {
			other, otherPort, _ := splitHostPort(b.addr)
			if port == otherPort && port != 0 && (host == other || everywhere(host) || everywhere(other)) {
				return optionErrorf(a.flag, "%s is taken by --%s (%s): each needs a port of its own", a.addr, b.flag, b.addr)
			}
		}
	}
	return nil
}

// checkPublic looks at what Reload may change too.
func (o *Options) checkPublic() (err error) {
	const together = "--cert-file and --key-file go together"
	switch {
	case o.CertFile != "" && o.KeyFile == "":
		return optionErrorf("cert-file", "a certificate needs its key: %s", together)
	case o.CertFile == "" && o.KeyFile != "":
		return optionErrorf("key-file", "a key needs its certificate: %s", together)
	case o.CertFile != "" && o.ACME:
		return optionErrorf("cert-file", "the certificate is either in a file or from an ACME authority: leave out --cert-file and --key-file, or --acme")
	}
	if o.trusted, err = parseTrustedProxies(o.TrustedProxies); err != nil {
		return err
	}
	if (o.ProxyProtocol == ProxyProtocolOn || o.ProxyProtocol == ProxyProtocolRequire) && len(o.trusted) == 0 {
		return optionErrorf("proxy-protocol", "%q without --trusted-proxies believes nobody: give the networks of your load balancers, such as --trusted-proxies=10.0.0.0/24", o.ProxyProtocol)
	}
	return nil
}

// Check says what is wrong with the options, as far as it can be told without
// opening anything but the certificate and the kubeconfig.
func (o Options) Check() error {
	o, err := o.withDefaults()
	if err != nil {
		return err
	}
	if _, err := o.openCertFile(); err != nil {
		return &OptionError{"cert-file", err}
	}
	if _, _, err := o.acmeRoots(); err != nil {
		return err
	}
	_, err = o.kubeConfig()
	return err
}

func splitHostPort(addr string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(addr)
	if err == nil {
		port, err = strconv.Atoi(p)
	}
	if err != nil || port < 0 || port > 65535 {
		return "", 0, api.Errorf(api.CodeInvalid, "%q is no address: write host:port, such as 127.0.0.1:3080", addr)
	}
	return host, port, nil
}
