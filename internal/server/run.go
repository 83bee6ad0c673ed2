package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/wire"
)

// drainFor is how long streams may go on after a stop, unless it is said. Kubernetes
// gives a pod 30 s by default; what follows the drain needs a few of them.
const drainFor = 20 * time.Second

// orderPatience is how long a stop waits for a certificate that was issued to be stored,
// which takes longer only without a leader: see drainFor.
const orderPatience = 8 * time.Second

// Run serves until ctx ends, then stops in order, and returns nil; or returns
// what made going on impossible. It can be called once.
func (s *Server) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, s.close()) }()
	public, kubeOnly, socket, err := s.handlers()
	if err != nil {
		return err
	}
	// The node outlives ctx: while streams drain, their rights are still judged
	// by a state that follows the cluster.
	nodeCtx, stopNode := context.WithCancel(context.WithoutCancel(ctx))
	defer stopNode()
	work, fatal := errgroup.WithContext(context.WithoutCancel(ctx))
	work.Go(func() error {
		if err := s.node.Run(nodeCtx); err != nil {
			return fmt.Errorf("cluster: %w", err)
		}
		return nil
	})

	// What agents and peers need outlives ctx too, because their streams drain.
	besideCtx, stopBeside := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBeside()
	beside := func(run func(context.Context)) {
		work.Go(func() error { run(besideCtx); return nil })
	}
	beside(s.health.probe)
	beside(s.health.watch)
	beside(s.records.watch)
	beside(s.keepJournal)
	beside(s.refusals.Run)
	beside(s.keepSealed)

	certs := s.certificates()
	diag := diagServer(diagHandler(s.metrics, s.routable))
	sock := socketServer(socket)
	pub := httpServer(s.moving(public), tlsConfig(s.opts.ClusterName, certs, false, s.door), s.log)
	pub.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){wire.Protocol: s.door.serve}
	kube := httpServer(s.moving(kubeOnly), tlsConfig(s.opts.ClusterName, certs, true, nil), s.log)
	srv := servers{pub: pub, kube: kube, sock: sock, diag: diag}
	if s.web.acme != nil && s.opts.acmeHTTPAddr() != "" {
		srv.plain = plainServer(s.web.acme.HTTPHandler(redirectHandler(s.web.names, s.opts.PublicAddr)), s.log)
	}
	// Diagnostics and the admin socket answer at once: they are how one finds out
	// why a replica does not get ready.
	serve(work, diag, s.listeners.diag, false)
	serve(work, sock, s.listeners.socket, false)
	s.log.Info("replica started", "version", s.opts.Version, "cluster", s.opts.ClusterName,
		"public", s.opts.PublicAddr, "listen", s.opts.ListenAddr, "kube", s.opts.KubeListenAddr,
		"peer", s.port.Addr(), "diag", s.listeners.diag.Addr(), "socket", s.opts.SocketPath)
	waiting, caughtUp := context.WithCancel(besideCtx)
	work.Go(func() error { return s.checkSecret(waiting) })
	work.Go(func() error {
		defer caughtUp()
		ready, err := s.awaitAuthorities(ctx, fatal)
		if !ready {
			return err
		}
		// Not before there are CAs, because a handshake would fail in a way that no
		// client explains; and not before this replica has caught up once, because
		// what it remembers may hold users who were removed while it was down.
		if !s.awaitReady(ctx, fatal) {
			return nil
		}
		caughtUp()
		// Links to the other replicas first, so that requests find the tunnels that
		// those have; and not before, because tunnels take it that what is missing soon
		// after will come.
		beside(s.runTunnels)
		if s.own != nil {
			s.own.first(ctx)
			beside(s.own.keep)
		}
		if s.web.acme != nil {
			s.web.acme.Load(ctx)
			beside(s.runACME)
		}
		if err := s.openFronts(work, srv); err != nil {
			return err
		}
		s.phase.CompareAndSwap(starting, serving)
		s.log.Info("serving", "address", "https://"+s.opts.PublicAddr)
		if s.opts.Serving != nil {
			s.opts.Serving(s.auth.Users.Any())
		}
		return nil
	})

	select {
	case <-ctx.Done():
	case <-fatal.Done():
	}
	s.linger(fatal, s.phase.Swap(stopping) == serving)
	s.log.Info("stopping")
	s.shutdown(srv, stopBeside, stopNode)
	return work.Wait()
}

// servers are those of a replica.
type servers struct {
	pub, kube, sock, diag *http.Server
	plain                 *http.Server // of --acme-http-addr; nil: none
}

// openFronts opens what users, agents and authorities come to.
func (s *Server) openFronts(work *errgroup.Group, srv servers) error {
	strangers := newAdmission()
	for _, front := range []struct {
		srv  *http.Server
		port port
	}{
		{srv.pub, port{"listen-addr", s.opts.ListenAddr}},
		{srv.kube, port{"kube-listen-addr", s.opts.KubeListenAddr}},
		{srv.plain, port{"acme-http-addr", s.opts.acmeHTTPAddr()}},
	} {
		if front.srv == nil {
			continue
		}
		l, err := s.listenPublic(front.port, strangers)
		if err != nil {
			return err
		}
		if front.srv == srv.pub {
			l = hellos{Listener: l}
		}
		serve(work, front.srv, l, front.srv != srv.plain)
	}
	// What other replicas send here is an agent's first bytes, as if it had come by
	// itself; its address is the agent's.
	serve(work, srv.pub, hellos{Listener: strangers.listener(s.handed), spliced: true}, true)
	return nil
}

// linger goes on as before for --shutdown-delay, but that /readyz says no: until they
// have seen that, load balancers send new connections here, which must find somebody.
func (s *Server) linger(fatal context.Context, served bool) {
	if !served || s.opts.ShutdownDelay == 0 {
		return // nobody was ever sent here
	}
	s.log.Info("told to stop; going on until load balancers have noticed", "shutdown_delay", s.opts.ShutdownDelay)
	select {
	case <-s.opts.after(s.opts.ShutdownDelay):
	case <-fatal.Done():
	}
}

// moving tells clients that come by HTTP/1.1 while this replica lingers to come back by
// another connection, which a load balancer leads elsewhere: of one that is kept, and
// closed at the wrong moment, a request would be lost. HTTP/2 needs none of that: it
// has GOAWAY, which says what was not taken any more.
func (s *Server) moving(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 1 && r.Header.Get("Upgrade") == "" && s.phase.Load() == stopping {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

// runACME keeps the certificate of the web name until ctx ends.
func (s *Server) runACME(ctx context.Context) {
	select {
	case s.web.running <- struct{}{}:
		defer func() { <-s.web.running }()
	case <-ctx.Done():
		return
	}
	if err := s.web.acme.Run(ctx); err != nil && ctx.Err() == nil {
		s.log.Error("the certificate of the web name is not renewed any more", "error", err)
	}
}

// shutdown is the graceful end, after linger. Each line stands where it stands for a reason.
func (s *Server) shutdown(srv servers, stopBeside, stopNode func()) {
	ctx, cancel := context.WithTimeout(context.Background(), s.opts.DrainTimeout)
	defer cancel()
	// 1. Tell agents to open a tunnel elsewhere, while all still works: whoever sends
	//    a request to their clusters meanwhile, here or through a peer, goes on using
	//    those that are here.
	s.tunnels.Move(ctx)
	// 2. Accept nothing new, and tell clients to move: Shutdown closes the
	//    listeners and sends GOAWAY on HTTP/2, so the next request of a kept
	//    connection goes to another replica without an error in between.
	var fronts errgroup.Group
	fronts.Go(func() error { return srv.pub.Shutdown(ctx) })
	fronts.Go(func() error { return srv.kube.Shutdown(ctx) })
	if srv.plain != nil {
		fronts.Go(func() error { return srv.plain.Shutdown(ctx) })
	}
	//    Who waits for news of the audit log, or reads all of it, goes on elsewhere.
	s.leave()
	//    Who waits for a person to approve a login goes on waiting elsewhere.
	s.authAPI.Stop()
	// 3. Hand leadership over now, while streams drain: writers elsewhere should
	//    not wait for our users' shells to end.
	transfer, done := context.WithTimeout(ctx, 2*time.Second)
	if err := s.node.TransferLeadership(transfer); err != nil && !api.IsCode(err, api.CodeInvalid) {
		s.log.Debug("leadership was not handed over", "reason", err)
	}
	done()
	// 4. Let streams end by themselves: our users' first, then what agents carry for
	//    users of peers. An agent leaves when it has another tunnel and nothing is
	//    under way here, unless there is nobody to go to.
	if err := s.proxy.Drain(ctx); err != nil {
		s.log.Warn("cut streams that had not ended", "after", s.opts.DrainTimeout)
	}
	if err := s.awaitAgentsGone(ctx); err != nil {
		s.log.Info("cut tunnels that agents had not left", "reason", err)
	}
	// 5. Cut what is left. What goes through here to another replica unread is cut with
	//    it: agents that do so have a tunnel elsewhere by now.
	s.door.close()
	if err := s.tunnels.Close(); err != nil {
		s.log.Debug("tunnels ended badly", "error", err)
	}
	stopBeside()
	if err := fronts.Wait(); err != nil {
		_, _ = srv.pub.Close(), srv.kube.Close() // their time is over
		if srv.plain != nil {
			_ = srv.plain.Close()
		}
	}
	//    What an authority has issued is stored while there is a cluster to take it.
	select {
	case s.web.running <- struct{}{}:
	case <-time.After(orderPatience):
		s.log.Warn("an order of a certificate had not ended", "after", orderPatience)
	}
	// 6. The last requests' events leave while there is a cluster to take them;
	//    what it does not take stays in the spool. But what becomes of a recovery is an
	//    event, and the node ends it: then they leave at the very end.
	if s.recovering.close() == nil {
		if err := s.flushEvents(); err != nil {
			s.log.Warn("lost while stopping", "error", err)
		}
	}
	// 7. Raft last of all that matters: until here it replicated.
	stopNode()
	_, _ = srv.sock.Close(), srv.diag.Close() // nobody waits for an answer here
}

// runTunnels keeps links to the other replicas until ctx ends.
func (s *Server) runTunnels(ctx context.Context) {
	if err := s.tunnels.Run(ctx); err != nil && s.phase.Load() != stopping {
		s.log.Error("links to other replicas ended", "error", err)
	}
}

// awaitAuthorities waits until the cluster has its CAs; false if the end came
// first. A cluster secret that can't open them is an error: this replica could
// neither sign nor verify, and must not look as if it could. But a state of the past
// is not judged: a replica that starts goes through all that its snapshot and its log
// hold, and before the secret was rotated that was sealed under a line which is gone.
func (s *Server) awaitAuthorities(ctx, fatal context.Context) (bool, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(fatal, cancel)()
	caughtUp, told := false, false
	for ctx.Err() == nil {
		changed := s.auth.Authorities.Watch()
		_, err := s.auth.Authorities.States()
		switch {
		case err == nil:
			s.born.Store(true)
			return true, nil
		case api.IsCode(err, api.CodeUnavailable):
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		case caughtUp:
			return false, sealedUnder(err)
		}
		// Not the time until it is ready: it may have to wait for a vote.
		behind := s.node.Linearize(ctx)
		if caughtUp = behind == nil; caughtUp {
			continue
		}
		if !told && ctx.Err() == nil {
			told = true
			s.log.Warn("the state that this replica remembers does not open; it waits for a leader, to see whether the cluster's does",
				"reason", err, "waiting", behind)
		}
		pauseFor(ctx, readyPoll) // some answers come at once
	}
	return false, nil
}

// readyPoll is how often readiness is looked at while somebody waits for it.
const readyPoll = 50 * time.Millisecond

// ready says whether this replica has caught up with a cluster that has all it
// needs, and if not, why.
func (s *Server) ready() (bool, string) {
	ok, reason := s.node.Ready()
	if ok && !s.born.Load() {
		return false, "the cluster is new: its leader has not made the certificate authorities yet"
	}
	if why := s.unlike.Load(); !ok && why != nil {
		return false, reason + "; " + *why
	}
	return ok, reason
}

// The phases of a replica's life: it opens its public ports when it is ready, and
// sends clients elsewhere long before its node stops, while streams drain.
const (
	starting int32 = iota
	serving
	stopping
)

// routable says whether a load balancer should send clients here.
func (s *Server) routable() (bool, string) {
	phase := s.phase.Load()
	if phase == stopping {
		return false, "shutting down"
	}
	ok, reason := s.ready()
	if ok && phase == starting {
		return false, "about to listen"
	}
	return ok, reason
}

// awaitReady waits until this replica is ready; false if one of the contexts
// ended first.
func (s *Server) awaitReady(ctx, or context.Context) bool {
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		if ok, _ := s.ready(); ok {
			return true
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		case <-or.Done():
			return false
		}
	}
}

// catchUpFor is how long a call on the admin socket waits for a replica that has
// just started.
const catchUpFor = 5 * time.Second

// caughtUp keeps calls from a state that this replica remembers from before it
// went down: a user added since would be "not found".
func (s *Server) caughtUp(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), catchUpFor)
		defer cancel()
		if !s.awaitReady(ctx, ctx) {
			_, reason := s.ready()
			api.WriteError(w, api.Errorf(api.CodeUnavailable, "this replica is not ready: %s; see 'tctl status'", reason))
			return
		}
		next.ServeHTTP(w, r)
	})
}

func serve(work *errgroup.Group, srv *http.Server, l net.Listener, overTLS bool) {
	work.Go(func() error {
		var err error
		if overTLS {
			err = srv.ServeTLS(l, "", "")
		} else {
			err = srv.Serve(l)
		}
		if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
			return nil
		}
		return err
	})
}
