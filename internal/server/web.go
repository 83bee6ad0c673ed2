package server

import (
	"net/http"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth/authapi"
	"github.com/sallyport-dev/sallyport/proxy/web"
)

// minClientVersion is the oldest tsh and tctl that this version answers.
const minClientVersion = "0.1.0"

// openAPI builds the JSON calls.
func (s *Server) openAPI() error {
	ping := api.Ping{ServerVersion: s.opts.Version, MinClientVersion: minClientVersion, ClusterName: s.opts.ClusterName}
	ping.Proxy.Kube.Enabled = true
	ping.Proxy.Kube.PublicAddr = s.opts.PublicAddr
	ping.Proxy.Kube.ListenAddr = s.opts.PublicKubeAddr
	ping.Proxy.TLSRoutingEnabled = true
	s.joins = newJoins(s.log, s.opts.Clock, s.auth.Agents.Get)
	s.authAPI = authapi.New(authapi.Options{
		Auth: s.auth, DB: s.store, Ping: ping, Logger: s.log, Replicas: s.tunnels.Replicas, Duplicates: s.tunnels.Duplicates, Joined: s.joins.joined, Refused: s.refusals.Refused,
	})
	return nil
}

func (s *Server) webAccounts() webAccounts {
	return webAccounts{auth: s.auth, store: s.store, name: s.opts.ClusterName, stale: s.stale, blame: s.blameClock, misses: &cookieMisses{}}
}

// webHandler serves the web name: calls below /webapi and /v1/webapi, pages
// everywhere else, those of single sign-on among them.
func (s *Server) webHandler() (http.Handler, error) {
	pages, err := web.New(web.Options{
		PublicAddr: s.opts.PublicAddr, ClusterName: s.opts.ClusterName, Version: s.opts.Version,
		Invites: s.auth.Invites, Accounts: s.webAccounts(), SSO: s.sso, Audit: webAudit{s},
		Clock: s.opts.Clock, ClockError: s.clockError, Rand: s.opts.Rand, Logger: s.log,
	})
	if err != nil {
		return nil, err
	}
	calls := s.authAPI.Public()
	// Settled, because behind a load balancer the certificate of a login is shown
	// to another replica at once, and a new password ends the sessions of the old.
	return s.settled(ofStrangers, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !web.IsPage(r.URL.Path) && (strings.HasPrefix(r.URL.Path, "/webapi/") || strings.HasPrefix(r.URL.Path, "/v1/")) {
			// As the pages: a login would get times that nobody else accepts.
			if err := s.clockError(); err != nil && r.Method != http.MethodGet {
				api.WriteError(w, err)
				return
			}
			calls.ServeHTTP(w, r)
			return
		}
		if r.Method == http.MethodGet {
			out := newPieces(w, s.opts.auditPace.read) // pages of the audit log are large
			defer out.begin()
			w = out
		}
		pages.ServeHTTP(w, r)
	})), nil
}
