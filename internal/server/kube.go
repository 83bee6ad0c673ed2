package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/pki"
	"github.com/sallyport-dev/sallyport/internal/upstream"
	"github.com/sallyport-dev/sallyport/proxy"
)

// openKube finds the way to the replica's own Kubernetes cluster, if it has one.
func (s *Server) openKube() error {
	cfg, err := s.kubeConfig()
	if err != nil {
		return err
	}
	var up *upstream.Upstream
	if cfg != nil {
		targets, err := proxy.ConfigTargets(s.opts.KubeClusterName, cfg)
		if err != nil {
			return err
		}
		s.own = &ownKube{name: s.opts.KubeClusterName, labels: s.opts.KubeLabels, up: targets[s.opts.KubeClusterName], log: s.log}
		up = &s.own.up
	}
	s.health = newKubeHealth(s.opts.KubeClusterName, up, s.log, s.opts.Clock)
	s.health.notServed = s.own.notServed
	return nil
}

// openProxy builds the kubectl path over identities and the ways to clusters: the
// replica's own first, as long as its name is the replicas'.
func (s *Server) openProxy() error {
	targets := proxy.FirstOf{s.tunnels}
	if s.own != nil {
		targets = proxy.FirstOf{s.own, s.tunnels}
	}
	var err error
	s.proxy, err = proxy.New(proxy.Options{
		Authorizer: kubeAuthorizer{access: s.auth.Access, identity: s.identity, blame: s.blameClock}, Targets: targets, Recorder: s.events,
		ClusterName: s.opts.ClusterName, ServerID: s.node.ID(), PublicAddr: s.opts.PublicAddr,
		Stale: s.stale, Admit: s.auditAdmission(), Refused: s.refusals.Add, Visible: s.visible, Clock: s.opts.Clock, Logger: s.log,
	})
	if err == nil {
		s.onClose(s.proxy.Close)
	}
	return err
}

// kubeConfig says how to reach the replica's own Kubernetes cluster; nil if it
// has none.
func (s *Server) kubeConfig() (*rest.Config, error) { return s.opts.kubeConfig() }

func (o *Options) kubeConfig() (*rest.Config, error) {
	if o.Kubeconfig == "" {
		if !o.InCluster {
			return nil, nil //nolint:nilnil // no cluster of its own is a proper answer
		}
		cfg, err := upstream.InCluster()
		if err != nil {
			return nil, api.Errorf(api.CodeInvalid, "the pod's service account: %w", err)
		}
		return cfg, nil
	}
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		&clientcmd.ClientConfigLoadingRules{ExplicitPath: o.Kubeconfig},
		&clientcmd.ConfigOverrides{CurrentContext: o.KubeContext},
	).ClientConfig()
	if err != nil {
		return nil, optionErrorf("kubeconfig", "%s: %w", o.Kubeconfig, err)
	}
	return cfg, nil
}

// stale closes the proxy when this replica has not heard from a leader for so
// long that a removal elsewhere may have passed it by.
func (s *Server) stale() error {
	if age, limit, stale := s.node.Stale(); stale {
		return api.Errorf(api.CodeUnavailable,
			"this replica has heard from no leader for %s, longer than --max-stale=%s: it can't know who was locked out meanwhile; try another replica",
			age.Round(time.Second), limit)
	}
	return nil
}

// visible are the names of the clusters a session may reach, to suggest one.
func (s *Server) visible(_ context.Context, id proxy.Identity) []string {
	v := s.store.View()
	p, err := s.auth.Access.Certificate(v, s.identity(id))
	if err != nil {
		return nil
	}
	var names []string
	for _, k := range s.auth.Access.KubeClusters(v, p) {
		names = append(names, k.Name)
	}
	return names
}

func (s *Server) identity(id proxy.Identity) pki.UserIdentity {
	return pki.UserIdentity{User: id.User, SessionID: id.SessionID, ClusterName: s.opts.ClusterName}
}

// kubeAuthorizer is auth's Authorizer as the proxy asks for one.
type kubeAuthorizer struct {
	access   *auth.Authorizer
	identity func(proxy.Identity) pki.UserIdentity
	blame    func(error) error
}

func (a kubeAuthorizer) Kube(_ context.Context, id proxy.Identity, kube, asUser string, asGroups []string) (proxy.Decision, error) {
	d, err := a.access.Kube(a.identity(id), kube, auth.KubeRequest{AsUser: asUser, AsGroups: asGroups})
	if err != nil {
		return proxy.Decision{}, a.blame(err)
	}
	return proxy.Decision{
		ImpersonateUser: d.ImpersonateUser, ImpersonateGroups: d.ImpersonateGroups,
		KubeLabels: d.KubeLabels, Expires: d.Expires, Right: d,
	}, nil
}

// clockTolerance is how far a clock may be off before it is named as a reason.
const clockTolerance = 10 * time.Second

// clockError says that this replica's clock is too wrong to judge by, or nil.
func (s *Server) clockError() error {
	off, split := s.node.Clocks()
	switch {
	case off.Abs() <= clockTolerance:
	case split > 0:
		return api.Errorf(api.CodeUnavailable,
			"the clocks of this replica and of others differ by %s, so nobody can judge what is still valid: have their administrator set the clocks",
			split.Round(time.Second))
	default:
		return api.Errorf(api.CodeUnavailable,
			"the clock of this replica is off by %s, so it can't judge what is still valid: use another replica, and have its administrator set the clock",
			off.Round(time.Second))
	}
	return nil
}

// blameClock turns "your session has ended" into the truth where it is this
// replica's clock that ended it: logging in again would not help, another
// replica would.
func (s *Server) blameClock(err error) error {
	if api.IsCode(err, api.CodeUnauthenticated) {
		if why := s.clockError(); why != nil {
			return why
		}
	}
	return err
}

// kubeOnlyHandler serves port 3026.
type kubeOnlyHandler struct {
	ids        identities
	kube, path http.Handler
}

func (h kubeOnlyHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.ids.conn(r) // fills in who it is; without an identity the proxy refuses
	if r.TLS != nil {
		if to, _ := api.ParseServerName(r.TLS.ServerName, h.ids.clusterName); to == api.AudienceKube {
			h.kube.ServeHTTP(w, r)
			return
		}
	}
	h.path.ServeHTTP(w, r)
}

// hostCertificate is the host CA's certificate for a server name. A client that
// dials an address sends no name, and gets the public address's.
func (s *Server) hostCertificate(serverName string) (*tls.Certificate, error) {
	if serverName != "" {
		if cert, err := s.auth.Authorities.HostCertificate(serverName); err == nil || !api.IsCode(err, api.CodeNotFound) {
			return cert, err
		}
	}
	host, _, err := splitHostPort(s.opts.PublicAddr)
	if err != nil {
		return nil, err
	}
	return s.auth.Authorities.HostCertificate(host)
}

func poolOf(cas []*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, ca := range cas {
		pool.AddCert(ca)
	}
	return pool
}
