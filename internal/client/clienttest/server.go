package clienttest

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// Server is the stand-in. Its fields may be changed before the first request.
type Server struct {
	ClusterName string // tele.example.com
	PublicAddr  string // what ping gives as kube address; ClusterName:443
	Socket      string // path of the unix socket
	Addr        string // where TLS is served, 127.0.0.1:port
	HTTPSProxy  string // URL of a CONNECT proxy that leads every name to Addr
	CAFile      string // PEM of the authority of the web name
	Version     string // what ping gives; 0.1.0
	MinClient   string // what ping gives; 0.1.0

	web, host, users, agentCA *authority
	mu                        sync.Mutex
	docs                      map[string]map[string]json.RawMessage // by kind and name
	passwords                 map[string]string
	sessions                  map[string]api.Session
	kubes                     []api.KubeCluster
	agents                    map[string]api.Agent
	ssoUsers                  []api.SSOUser
	ssoTest                   api.SSOTestResult
	ssoPending                int // answers to come before it
	audit                     auditLog
	tokens                    int // made up so far
	logins                    int
	maxTTL                    time.Duration
	mode                      api.SecondFactor
	factors                   map[string]factors // by user
	consoles                  map[string]*console
	lastConsole               api.ConsoleLoginRequest
	lastCode                  string // of a console
	connectors                []api.PingConnector
	preferred                 string            // the default connector; "": local
	idpDown                   map[string]bool   // by connector
	idpWarning                map[string]string // of a start, by connector
	waitsFail                 int               // answers to come to questions about consoles that are failures
	old                       bool              // knows nothing of connectors, nor what became of consoles
	routes                    map[string]string // where CONNECT leads, by host
	webCert                   atomic.Pointer[tls.Certificate]
	revision                  uint64
	servers                   []*http.Server
	wg                        sync.WaitGroup
}

// Start serves tele.example.com until Close. Its files are in dir.
func Start(dir string) (*Server, error) { return StartAs(dir, "tele.example.com") }

// StartAs is Start under another name.
func StartAs(dir, name string) (*Server, error) {
	s := &Server{
		ClusterName: name, PublicAddr: name + ":443", Version: "0.1.0", MinClient: "0.1.0",
		mode: api.SecondFactorOptional, factors: map[string]factors{}, consoles: map[string]*console{}, idpDown: map[string]bool{}, idpWarning: map[string]string{}, routes: map[string]string{},
		Socket: filepath.Join(dir, "admin.sock"), CAFile: filepath.Join(dir, "ca.pem"),
		docs: map[string]map[string]json.RawMessage{api.KindUser: {}, api.KindRole: {}, api.KindAuthPreference: {}, api.KindToken: {}, api.KindKubeCluster: {}}, passwords: map[string]string{},
		sessions: map[string]api.Session{}, agents: map[string]api.Agent{}, revision: 10,
	}
	for _, kind := range append(api.ConnectorKinds(), api.KindAuditForwarder) {
		s.docs[kind] = map[string]json.RawMessage{}
	}
	s.setKube(api.KubeCluster{Name: name, Labels: map[string]string{"env": "test"}})
	var err error
	for name, ca := range map[string]**authority{"web": &s.web, "host": &s.host, "user": &s.users, "agent": &s.agentCA} {
		if *ca, err = newAuthority(name); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(s.CAFile, s.web.pem(), 0o600); err != nil {
		return nil, err
	}
	if err := s.listen(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Server) listen() error {
	if err := s.renewWeb(); err != nil {
		return err
	}
	apiCert, err := s.host.server(api.APIServerName(s.ClusterName), s.ClusterName, "*.kube."+s.ClusterName)
	if err != nil {
		return err
	}
	public := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.webCert.Load(), nil }}
	private := &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*apiCert},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: s.users.pool(), SessionTicketsDisabled: true,
	}
	byName := &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if hello.ServerName == api.APIServerName(s.ClusterName) || strings.HasSuffix(hello.ServerName, ".kube."+s.ClusterName) {
			return private, nil
		}
		return public, nil
	}}
	var lc net.ListenConfig
	ctx := context.Background() // listening does not wait
	unix, err := lc.Listen(ctx, "unix", s.Socket)
	if err != nil {
		return err
	}
	s.serve(unix, s.adminHandler())
	tcp, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.Addr = tcp.Addr().String()
	s.routes[s.ClusterName] = s.Addr
	s.serve(tls.NewListener(tcp, byName), s.publicHandler())
	connect, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.HTTPSProxy = "http://" + connect.Addr().String()
	s.serve(connect, http.HandlerFunc(s.tunnel))
	return nil
}

func (s *Server) serve(l net.Listener, h http.Handler) {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	s.servers = append(s.servers, srv)
	s.wg.Go(func() { _ = srv.Serve(l) })
}

// Close ends all.
func (s *Server) Close() {
	for _, srv := range s.servers {
		_ = srv.Close()
	}
	s.wg.Wait()
}

// tunnel answers CONNECT, so that a client finds tele.example.com:443 here.
func (s *Server) tunnel(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		http.Error(w, "CONNECT only", http.StatusMethodNotAllowed)
		return
	}
	host, _, _ := net.SplitHostPort(r.Host)
	s.mu.Lock()
	addr, ok := s.routes[host]
	s.mu.Unlock()
	if !ok {
		http.Error(w, "no such host", http.StatusBadGateway)
		return
	}
	up, err := new(net.Dialer).DialContext(r.Context(), "tcp", addr)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer func() { _ = up.Close() }()
	down, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer func() { _ = down.Close() }()
	_, _ = io.WriteString(down, "HTTP/1.1 200 OK\r\n\r\n")
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(up, down)
		_ = up.Close()
	}()
	_, _ = io.Copy(down, up)
	_ = down.Close()
	<-done
}

// SetPassword makes a user who can log in.
func (s *Server) SetPassword(user, password string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.passwords[user] = password
	if _, ok := s.docs[api.KindUser][user]; !ok {
		s.putUser(api.User{Header: api.Header{Kind: api.KindUser, Version: "v2", Metadata: api.Metadata{Name: user}}, Spec: api.UserSpec{
			Roles: []string{"access"}, Traits: map[string][]string{api.TraitKubeGroups: {"system:masters"}},
		}})
	}
}

// EndSessions ends every session, as a lock or a deleted user does.
func (s *Server) EndSessions() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.sessions)
}

// Sessions is the number of live sessions, Logins that of passwords taken so far.
func (s *Server) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

// Logins is the number of passwords accepted so far.
func (s *Server) Logins() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logins
}

func (s *Server) putUser(u api.User) {
	s.revision++
	u.Metadata.Revision = s.revision
	b, _ := json.Marshal(u) // a plain struct
	s.docs[api.KindUser][u.Metadata.Name] = b
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func handle[In any](s *Server, fn func(r *http.Request, in *In) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		in := new(In)
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, api.MaxRequestBody))
		if err == nil && len(body) > 0 {
			err = json.Unmarshal(body, in)
		}
		if err != nil {
			api.WriteError(w, api.Errorf(api.CodeInvalid, "bad request: %w", err))
			return
		}
		s.mu.Lock()
		out, err := fn(r, in)
		s.mu.Unlock()
		if err != nil {
			api.WriteError(w, err)
			return
		}
		answer(w, out)
	}
}

type none struct{}

func (s *Server) adminHandler() http.Handler {
	mux := http.NewServeMux()
	s.adminRoutes(mux, nil)
	mux.HandleFunc("GET "+api.PathPing, handle(s, s.ping))
	mux.HandleFunc("GET "+api.PathKube, handle(s, func(*http.Request, *none) (any, error) { return api.KubeClusters{Clusters: s.kubes}, nil }))
	mux.HandleFunc("POST "+api.PathRecover, handle(s, s.recover))
	return mux
}

func (s *Server) publicHandler() http.Handler {
	mux := http.NewServeMux()
	ping := handle(s, s.ping)
	s.adminRoutes(mux, s.mayAdminister)
	mux.HandleFunc("GET "+api.PathPing, ping)
	mux.HandleFunc("GET "+api.PathPing+"/{connector}", ping)
	mux.HandleFunc("GET "+api.PathFind, ping)
	mux.HandleFunc("GET /whoami", func(w http.ResponseWriter, r *http.Request) { // as a Kubernetes API server would be asked
		if len(r.TLS.PeerCertificates) == 1 {
			_, _ = fmt.Fprintf(w, "%s at %s\n", r.TLS.PeerCertificates[0].Subject.CommonName, r.TLS.ServerName)
		}
	})
	mux.HandleFunc("POST "+api.PathLogin, handle(s, s.login))
	s.consoleRoutes(mux)
	mux.HandleFunc("GET "+api.PathSession, handle(s, func(r *http.Request, _ *none) (any, error) { return s.session(r) }))
	mux.HandleFunc("DELETE "+api.PathSession, handle(s, func(r *http.Request, _ *none) (any, error) {
		session, err := s.session(r)
		delete(s.sessions, session.ID)
		return none{}, err
	}))
	mux.HandleFunc("GET "+api.PathKube, handle(s, func(r *http.Request, _ *none) (any, error) {
		if _, err := s.session(r); err != nil {
			return nil, err
		}
		return api.KubeClusters{Clusters: s.kubes}, nil
	}))
	return mux
}

func (s *Server) ping(r *http.Request, _ *none) (any, error) {
	p := api.Ping{ServerVersion: s.Version, MinClientVersion: s.MinClient, ClusterName: s.ClusterName}
	p.Auth.Type, p.Auth.SecondFactor, p.Auth.WebAuthn = "local", s.mode, &api.PingWebAuthn{RPID: s.ClusterName}
	p.Proxy.Kube.Enabled, p.Proxy.Kube.PublicAddr, p.Proxy.Kube.ListenAddr = true, s.PublicAddr, s.ClusterName+":3026"
	err := s.pingConnectors(&p, r.PathValue("connector"))
	return p, err
}

func (s *Server) session(r *http.Request) (api.Session, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) != 1 {
		return api.Session{}, api.Errorf(api.CodeUnauthenticated, "a client certificate is needed")
	}
	id := strings.TrimPrefix(r.TLS.PeerCertificates[0].URIs[0].Path, "/session/")
	session, ok := s.sessions[id]
	if !ok {
		return api.Session{}, api.Errorf(api.CodeUnauthenticated, "the session has ended; log in again: tsh login --proxy=%s --user=alice", s.PublicAddr)
	}
	return session, nil
}

func (s *Server) addUser(_ *http.Request, in *api.AddUserRequest) (any, error) {
	name := in.User.Metadata.Name
	if err := api.ValidateName("user", name); err != nil {
		return nil, err
	}
	if _, ok := s.docs[api.KindUser][name]; ok {
		return nil, api.Errorf(api.CodeExists, "user %q already exists", name)
	}
	ttl := in.InviteTTL
	if ttl == 0 {
		ttl = api.Duration(time.Hour)
	}
	if time.Duration(ttl) > 48*time.Hour {
		return nil, api.Errorf(api.CodeInvalid, "an invite lives 48h at most")
	}
	s.putUser(in.User)
	return api.AddUserResponse{
		User: in.User, InviteURL: "https://" + s.PublicAddr + "/web/invite/random-token-id-goes-here",
		TTL: ttl, Proxy: s.PublicAddr, Expires: time.Now().Add(time.Duration(ttl)),
	}, nil
}

func (s *Server) put(r *http.Request, in *json.RawMessage) (any, error) {
	var h api.Header
	if err := json.Unmarshal(*in, &h); err != nil {
		return nil, api.Errorf(api.CodeInvalid, "document: %w", err)
	}
	docs, ok := s.docs[h.Kind]
	if !ok {
		return nil, api.Errorf(api.CodeInvalid, "kind %q is unknown", h.Kind)
	}
	if h.Kind == api.KindToken {
		if err := s.hideToken(in, &h.Metadata.Name); err != nil {
			return nil, err
		}
	}
	old, exists := docs[h.Metadata.Name]
	if h.Kind == api.KindAuthPreference {
		h.Metadata.Name = api.AuthPreferenceName
		old, exists = docs[h.Metadata.Name]
	}
	if exists && r.URL.Query().Get("force") != "true" {
		return nil, api.Errorf(api.CodeExists, "%s %q already exists, replace it with --force", h.Kind, h.Metadata.Name)
	}
	if have := revisionOf(old); h.Metadata.Revision != 0 && h.Metadata.Revision != have {
		return nil, api.Errorf(api.CodeConflict, "%s %q was changed since you read it (revision %d, now %d): get it again", h.Kind, h.Metadata.Name, h.Metadata.Revision, have)
	}
	if strings.Contains(string(*in), "no-such-role") {
		return nil, api.Errorf(api.CodeInvalid, "%s %q: %w", h.Kind, h.Metadata.Name, &api.FieldError{Path: "spec.roles[0]", Reason: "there is no role \"no-such-role\""})
	}
	if h.Kind == api.KindAuditForwarder {
		kept, err := keepForwarderSecrets(*in, old)
		if err != nil {
			return nil, err
		}
		*in = kept
	}
	if slices.Contains(api.ConnectorKinds(), h.Kind) {
		kept, err := keepSecrets(*in, old)
		if err != nil {
			return nil, err
		}
		*in = kept
	}
	s.revision++
	stored, err := document(*in, s.revision)
	if err != nil {
		return nil, err
	}
	docs[h.Metadata.Name] = stored
	resp := api.PutResponse{Kind: h.Kind, Name: h.Metadata.Name, Created: !exists, Revision: s.revision}
	if h.Kind == api.KindAuthPreference && bytes.Contains(*in, []byte(`"second_factor":"webauthn"`)) { // as if people had none
		resp.Warnings = []string{"2 users can't log in"}
	}
	return resp, nil
}

func (s *Server) list(r *http.Request, _ *none) (any, error) {
	kind, name := r.PathValue("kind"), r.PathValue("name")
	docs, ok := s.docs[kind]
	if !ok {
		return nil, api.Errorf(api.CodeInvalid, "kind %q is unknown", kind)
	}
	var list api.ListResponse
	if kind == api.KindAuthPreference && len(docs) == 0 {
		b, err := json.Marshal(api.DefaultAuthPreference())
		list.Items = append(list.Items, b)
		return list, err
	}
	if name != "" {
		doc, ok := docs[name]
		if !ok {
			return nil, api.Errorf(api.CodeNotFound, "%s %q not found", kind, name)
		}
		seen, err := shown(r, doc)
		list.Items = append(list.Items, seen)
		if name == "conflict" { // somebody else writes it as soon as it is read
			s.revision++
			docs[name], err = document(doc, s.revision)
		}
		return list, err
	}
	var names []string
	for n := range docs {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		seen, err := shown(r, docs[n])
		if err != nil {
			return nil, err
		}
		list.Items = append(list.Items, seen)
	}
	return list, nil
}

func (s *Server) delete(r *http.Request, _ *none) (any, error) {
	kind, name := r.PathValue("kind"), r.PathValue("name")
	doc, ok := s.docs[kind][name]
	if i := slices.IndexFunc(s.ssoUsers, func(u api.SSOUser) bool { return u.Name == name }); kind == api.KindUser && i >= 0 {
		s.ssoUsers, ok = slices.Delete(s.ssoUsers, i, i+1), true
	}
	if !ok {
		return nil, api.Errorf(api.CodeNotFound, "%s %q not found", kind, name)
	}
	// As if somebody had a passkey for the name that the document gives.
	if kind == api.KindAuthPreference && bytes.Contains(doc, []byte("rp_id")) && r.URL.Query().Get("force") != "true" {
		return nil, api.Errorf(api.CodeConflict, "passkeys would be worth nothing: use --force (-f) if you mean it")
	}
	if err := s.connected(kind, name); err != nil && r.URL.Query().Get("force") != "true" {
		return nil, err
	}
	delete(s.docs[kind], name)
	if kind == api.KindUser {
		for id, session := range s.sessions {
			if session.User == name {
				delete(s.sessions, id)
			}
		}
	}
	return none{}, nil
}

func (s *Server) status() api.Status {
	expires := time.Date(2036, 1, 2, 0, 0, 0, 0, time.UTC)
	return api.Status{
		Audit:       s.audit.status,
		ClusterName: s.ClusterName, ClusterID: "c-1", Version: "1.0.0", ServerID: "id-0", State: "follower", LeaderID: "id-1",
		Ready: true, Term: 3, CommitIndex: 42, AppliedIdx: 42, Staleness: api.Duration(12 * time.Millisecond),
		Servers: []api.Server{
			{ID: "id-0", Addr: "replica-0:7443", Voter: true, Alive: true, Version: "1.0.0"},
			{ID: "id-1", Addr: "replica-1:7443", Voter: true, Alive: true, Leader: true, Version: "1.0.0"},
			{ID: "id-2", Addr: "replica-2:7443", Voter: true, Alive: false},
		},
		CAs: []api.CAState{
			{Type: "user", Pin: "sha256:u", Rotation: api.RotationStandby, Expires: expires},
			{Type: "host", Pin: "sha256:h", Rotation: api.RotationStandby, Expires: expires},
			{Type: "agent", Pin: "sha256:a", Rotation: api.RotationStandby, Expires: expires},
		},
	}
}

func (s *Server) recover(_ *http.Request, in *api.RecoverRequest) (any, error) {
	if !slices.Contains([]string{"c-1"}, in.ClusterID) {
		return nil, api.Errorf(api.CodeInvalid, "the cluster's id is c-1, not %q", in.ClusterID)
	}
	return api.RecoverResponse{ClusterID: "c-2", BackupFile: "/var/lib/sallyport/recover-c-1.snap", LastIndex: 42}, nil
}
