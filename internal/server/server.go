package server

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/sallyport-dev/sallyport/cluster"
	"github.com/sallyport-dev/sallyport/cluster/peer"
	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/acme"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/auth/authapi"
	"github.com/sallyport-dev/sallyport/internal/pki"
	"github.com/sallyport-dev/sallyport/internal/seal"
	"github.com/sallyport-dev/sallyport/proxy"
	"github.com/sallyport-dev/sallyport/proxy/tunnel"
)

// Server is one replica.
type Server struct {
	opts Options
	log  *slog.Logger

	secret   *seal.Secret
	journal  *audit.Journal
	records  *auditRecords // of the journal, in the store
	state    *fsm.Store
	port     *peer.Port
	node     *cluster.Node
	store    *store
	events   *audit.Emitter
	refusals *auth.Refusals
	auth     *auth.Service
	sso      *singleSignOn
	authAPI  *authapi.Handler
	proxy    *proxy.Handler
	metrics  *prometheus.Registry

	own         *ownKube        // the replica's own Kubernetes cluster; nil: it has none
	health      *kubeHealth     // of Kubernetes clusters
	tunnels     *tunnel.Tunnels // of agents
	joins       *joins          // of agents
	door        *agentDoor      // by which they come in
	handed      *handedListener // connections of agents that other replicas hand over
	born        atomic.Bool     // the cluster has what it has from birth: roles and CAs
	phase       atomic.Int32
	leaving     context.Context //nolint:containedctx // ends when this replica begins to stop, for answers that take long
	leave       context.CancelFunc
	verifying   chan struct{}             // a token while this replica's audit log is verified
	unlike      atomic.Pointer[string]    // that other replicas have another cluster secret; nil: not as far as is known
	lost        atomic.Pointer[lostLines] // what the leader waits for before it gives it up
	auditBounds auditBounds
	recovering  recoveries
	listeners   listeners
	trusted     trustedProxies
	proxied     *proxyTrace      // what became of PROXY headers
	web         *webCertificates // of the web name
	closers     []func() error   // undone in reverse, by New when it fails and by Run at the end
}

// listeners that answer from the start to the end.
type listeners struct {
	diag, socket net.Listener
}

// New opens the state and binds the ports. What it opened is closed again if it
// fails; otherwise Run closes it.
func New(opts Options) (_ *Server, err error) {
	opts, err = opts.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{opts: opts, log: opts.Logger, metrics: prometheus.NewRegistry(), verifying: make(chan struct{}, 1), auditBounds: newAuditBounds()}
	s.leaving, s.leave = context.WithCancel(context.Background())
	s.onClose(func() error { s.leave(); return nil })
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	s.web = newWebCertificates(opts, s.hostCertificate, s.leaving, s.log)
	cert, err := opts.openCertFile()
	if err != nil {
		return nil, err
	}
	s.setPublic(opts.trusted, cert)
	if err := opts.tryPorts(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(opts.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if s.secret, err = seal.ParseSecret(opts.Secret); err != nil {
		return nil, err
	}
	for _, open := range []func() error{s.openStore, s.openKube, s.openIdentity, s.openACME, s.openTunnels, s.openProxy, s.openAPI, s.registerMetrics, s.listen} {
		if err := open(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *Server) onClose(fn func() error) { s.closers = append(s.closers, fn) }

func (s *Server) close() error {
	var errs []error
	for i := len(s.closers) - 1; i >= 0; i-- {
		errs = append(errs, s.closers[i]())
	}
	s.closers = nil
	return errors.Join(errs...)
}

// openStore joins fsm and cluster: the state, its journal, and Raft around them.
func (s *Server) openStore() error {
	id, err := cluster.ServerID(s.opts.DataDir)
	if err != nil {
		return err
	}
	s.log = s.log.With("server", id)
	s.journal, err = audit.Open(s.logDir(), audit.JournalOptions{
		Logger: s.log, Manifest: func() (audit.Manifest, error) { return s.records.manifest() }, // which it asks for by and by, not here
	})
	if err != nil {
		return err
	}
	s.onClose(s.journal.Close)
	if room := s.auditRoom(); room > 0 && room < s.opts.AuditMaxSize {
		s.log.Warn("this replica's volume is too small for the audit log that is to be kept: give it a larger one; if too many are so small, the log's oldest part goes earlier",
			"dir", s.logDir(), "audit_max_size", api.FormatSize(s.opts.AuditMaxSize), "room", api.FormatSize(room))
	}
	s.state = fsm.New(fsm.Options{Journal: storeJournal{s.journal}, Clock: s.opts.Clock})
	s.records = newAuditRecords(s.state.View)
	s.port, err = peer.New(peer.Options{
		ServerID: id, Seeds: s.secret.Derive(seal.LabelPeerCA, 32), Listen: s.opts.PeerAddr, Advertise: s.opts.PeerAdvertise,
		Logger: s.log, Clock: s.opts.Clock,
	})
	if err != nil {
		return err
	}
	s.onClose(s.port.Close)
	s.node, err = cluster.New(cluster.Options{
		SM: stateMachine{Store: s.state, journal: s.journal}, EncodeEntry: fsm.EncodeEntry,
		Port: s.port, DataDir: s.opts.DataDir, BootstrapExpect: s.opts.BootstrapExpect,
		Gossip:  cluster.Gossip{Listen: s.opts.GossipAddr, Join: s.opts.Join, Keys: s.secret.Derive(seal.LabelGossip, 32)},
		Version: s.opts.Version, MaxStale: s.opts.MaxStale, Clock: s.opts.Clock, Logger: s.opts.Logger, // it names the server itself
	})
	if err != nil {
		return err
	}
	s.port.Handle(pathApplied, peer.Members, peer.JSON(s.serveApplied))
	s.handleAuditCalls()
	s.store = &store{state: s.state, log: s.node, origin: id}
	s.events, err = audit.NewEmitter(audit.EmitterOptions{
		Send: s.store.Emit, Source: audit.Source{ClusterName: s.opts.ClusterName, Clock: s.opts.Clock},
		SpoolPath: filepath.Join(s.logDir(), "spool"), SpoolBytes: s.opts.AuditSpoolSize,
		Strict: s.opts.AuditPolicy == api.AuditStrict, Rand: s.opts.Rand, Logger: s.log,
	})
	if err != nil {
		return err
	}
	s.refusals = auth.NewRefusals(auth.RefusalsOptions{Record: s.events.Record, ServerID: id})
	s.onClose(s.lastEvents)
	s.node.RunWhenLeader("audit retention", s.keepRetention)
	s.node.RunWhenLeader("audit floor", s.keepFloor)
	return nil
}

// flushEvents gives the last requests' events to the cluster while there is one;
// what it does not take stays in the spool.
func (s *Server) flushEvents() error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	s.refusals.Flush()
	if err := s.events.Close(ctx); err != nil {
		return fmt.Errorf("events of the last requests: %w", err)
	}
	return nil
}

// lastEvents is flushEvents, after a recovery has ended.
func (s *Server) lastEvents() error {
	if over := s.recovering.close(); over != nil {
		select {
		case <-over:
		case <-time.After(recoveryEnds):
			s.log.Error("a recovery does not end: what becomes of it will not be in the audit log")
		}
	}
	return s.flushEvents()
}

// openIdentity starts the identity service over the store.
func (s *Server) openIdentity() error {
	opts := auth.Options{
		DB: s.store, Secret: s.secret, ClusterName: s.opts.ClusterName, PublicAddr: s.opts.PublicAddr,
		EncodeEvent: audit.Encode, Rand: s.opts.Rand, Logger: s.log,
		KubeStatus: s.health.status, KubeServed: s.own.serves,
	}
	if s.own != nil {
		opts.TokenReview = tokenReview(s.own.up)
	}
	kinds := s.opts.ssoKinds
	if kinds == nil {
		spoken := newRealKinds(s.opts.Clock, s.log)
		s.onClose(func() error { spoken.CloseIdleConnections(); return nil })
		kinds = spoken
	}
	// The connectors are there when somebody logs in, and not before.
	providers := &ssoProviders{
		kinds: kinds, clock: s.opts.Clock, public: s.opts.PublicAddr,
		open: func(name string) (*auth.OpenConnector, error) { return s.auth.Connectors.Open(name) },
	}
	opts.Probe, opts.Preflight = kinds.Probe, providers.preflight
	var err error
	if s.auth, err = auth.New(opts); err != nil {
		return err
	}
	s.sso = newSingleSignOn(s.auth, providers, s.store, s.opts, s.log)
	if s.own != nil {
		s.own.kube = s.auth.KubeClusters
	}
	s.node.RunWhenLeader("identity", s.auth.Bootstrap)
	forwarders, err := s.auditForwarders()
	if err != nil {
		return err
	}
	s.node.RunWhenLeader("audit forwarders", forwarders.Run)
	s.node.RunWhenLeader("sweep", s.sweep)
	return nil
}

// openACME starts nothing: what it makes orders at the first handshake.
func (s *Server) openACME() error {
	storage := acme.NewStorage(acme.StorageOptions{
		DB: s.store, Sealer: s.auth.Sealer(), Owner: s.node.ID(), Clock: s.opts.Clock, Rand: s.opts.Rand, Logger: s.log,
	})
	switch {
	case !s.opts.ACME:
		s.web.proofs = acme.NewChallenges(storage, s.web.names)
		return nil
	case s.opts.public != nil:
		s.web.acme, s.web.proofs = s.opts.public, s.opts.public
		return nil
	}
	roots, rootsID, err := s.opts.acmeRoots()
	if err != nil {
		return err
	}
	certs, err := acme.New(acme.Options{
		Names: s.web.names, Email: s.opts.ACMEEmail, Directory: s.opts.ACMEURI, Roots: roots, RootsID: rootsID, HTTP01: s.opts.acmeHTTPAddr() != "",
		Storage: storage, DB: s.store, ServerID: s.node.ID(), LeadsHere: s.preflight(),
		Clock: s.opts.Clock, Rand: s.opts.Rand, Logger: s.log,
	})
	if err != nil {
		return err
	}
	s.web.acme, s.web.proofs = certs, certs
	return nil
}

// sweepEvery is how often the leader looks for expired records. Every entry
// sweeps; only a cluster that writes nothing needs the reminder.
const sweepEvery = 10 * time.Second

// sweep proposes an entry without items when something has expired and nobody
// else's write has removed it.
func (s *Server) sweep(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if !s.state.SweepDue() {
			continue
		}
		if err := s.node.Tick(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("could not remove expired records; trying again", "error", err)
		}
	}
}

func (s *Server) registerMetrics() error {
	s.proxied = newProxyTrace(s.log, s.opts.Clock)
	all := []prometheus.Collector{
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), s.proxy, s.node.Collector(), s.proxied.outcomes, s.joins.counts,
		s.tunnels.Collector(), s.health.collector(), s.sso.logins,
		s.auditCollector(), s.certificateCollector(),
	}
	if s.web.acme != nil {
		all = append(all, s.web.acme.Collector())
	}
	for _, c := range all {
		if err := s.metrics.Register(c); err != nil {
			return fmt.Errorf("metrics: %w", err)
		}
	}
	return nil
}

func (s *Server) handlers() (public, kubeOnly, socket http.Handler, err error) {
	ids := identities{
		clusterName: s.opts.ClusterName, verify: s.verifyUser, kube: s.auth.KubeClusters.Lookup,
	}
	web, err := s.webHandler()
	if err != nil {
		return nil, nil, nil, err
	}
	apiMux := http.NewServeMux()
	apiMux.Handle("/", s.caughtUp(s.settled(ofUsers, s.authAPI.Authenticated())))
	apiMux.HandleFunc("GET "+api.PathStatus, s.serveStatus)
	apiMux.HandleFunc("GET "+api.PathBackup, s.serveBackup)
	apiMux.Handle("POST "+api.PathACMERetry, s.caughtUp(http.HandlerFunc(s.serveACMERetry)))
	apiMux.HandleFunc("GET "+api.PathCAs, s.serveAuthorities)
	apiMux.Handle("GET "+api.PathAudit, s.auditHandler(api.VerbList, s.auditBounds.calls, s.serveAudit))
	apiMux.Handle("POST "+api.PathAuditVerify, s.auditHandler(api.VerbRead, s.auditBounds.verifies, s.serveAuditVerify))
	apiMux.Handle("GET "+api.PathAuditExport, s.auditHandler(api.VerbRead, s.auditBounds.exports, s.serveAuditExport))
	public = frontHandler{ids: ids, web: web, api: apiMux, kube: s.proxy, names: s.web.names, publicAddr: s.opts.PublicAddr, stale: s.stale, refused: s.refusals.Refused}
	kubeOnly = kubeOnlyHandler{ids: ids, kube: s.proxy, path: s.proxy.PathHandler()}

	socketMux := http.NewServeMux()
	socketMux.Handle("/", apiMux)
	socketMux.HandleFunc("POST "+api.PathRecover, s.serveRecover)
	socket = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		socketMux.ServeHTTP(w, r.WithContext(authapi.WithCaller(r.Context(), authapi.Caller{Admin: true})))
	})
	return public, kubeOnly, socket, nil
}

// verifyUser names the clock where it may be to blame.
func (s *Server) verifyUser(peer []*x509.Certificate) (pki.UserIdentity, error) {
	id, err := s.auth.Authorities.VerifyUser(peer)
	return id, s.blameClock(err)
}
