package agent

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/wire"
)

// record is what the cluster knows of an agent.
type record struct {
	generation uint64
	key        string // sum of it
	pending    string // sum of the key for generation + 1
	locked     bool
	clusters   []string
}

// fake is a Sallyport cluster: replicas that share their records.
type fake struct {
	t        testing.TB
	hostCA   *authority
	webCA    *authority // of the web name; hostCA unless set
	joinCA   *authority // of the name to join by; hostCA unless set
	shown    *authority // beside the certificate to join by; nil: the one that signed it
	webShown *authority // the same, of the web name's
	older    bool       // than names to join by: shows the web name's certificate, and serves all
	agentCA  *authority
	lifetime time.Duration // of agents' certificates

	// shaped by tests, before anything runs or under mu
	mu       sync.Mutex
	replicas []*replica
	records  map[string]*record
	uses     int                          // of the token; < 0: no end
	route    func() *replica              // where the load balancer sends a connection
	dialErr  error                        // of the network
	onHello  func(*replica) *wire.Refused // before admission
	onRenew  func(id string, req []byte)  // before it is answered
	mute     bool                         // Renew is not answered
	lagging  bool                         // members are also those that are down
	dials    int
	hellos   []string // "gen/replica" of each that was admitted
	locks    int
	told     []byte   // what connections other than tunnels brought after the handshake
	served   []string // "audience path" of each request that came by them
	joins    []api.JoinRequest
	ping     func(http.ResponseWriter)
	conns    map[net.Conn]bool
	certs    map[string]tls.Certificate
	wg       sync.WaitGroup
	wire     wire.Options
	skewDate time.Duration // of the Date that it sends
}

// replica is one of them.
type replica struct {
	*fake
	id      string
	tunnels []*fakeTunnel
	down    bool
}

// fakeTunnel is a replica's end.
type fakeTunnel struct {
	replica *replica
	agent   string
	gen     uint64
	spliced bool
	sess    *wire.Session
	control net.Conn
	hello   wire.Hello
	conn    *memConn
	status  []wire.Status
	closed  bool
	wmu     sync.Mutex
}

func newFake(t testing.TB, ids ...string) *fake {
	f := &fake{
		t: t, hostCA: newAuthority(t, "host CA"), agentCA: newAuthority(t, "agent CA"), lifetime: 7 * 24 * time.Hour,
		records: map[string]*record{}, uses: -1, conns: map[net.Conn]bool{}, certs: map[string]tls.Certificate{},
	}
	f.webCA, f.joinCA = f.hostCA, f.hostCA
	for _, id := range ids {
		f.replicas = append(f.replicas, &replica{fake: f, id: id})
	}
	n := 0
	f.route = func() *replica { // round robin over those that are up
		for range f.replicas {
			n++
			if r := f.replicas[n%len(f.replicas)]; !r.down {
				return r
			}
		}
		return nil
	}
	return f
}

func (f *fake) replica(id string) *replica {
	for _, r := range f.replicas {
		if r.id == id {
			return r
		}
	}
	return nil
}

func (f *fake) members() []string {
	var out []string
	for _, r := range f.replicas {
		if !r.down || f.lagging {
			out = append(out, r.id)
		}
	}
	return out
}

// dial is the network: whatever is dialled is the load balancer.
func (f *fake) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dials++
	if f.dialErr != nil {
		return nil, f.dialErr
	}
	if addr != testAddr {
		return nil, fmt.Errorf("dialled %s", addr)
	}
	r := f.route()
	if r == nil {
		return nil, errors.New("connection refused")
	}
	client, server := memPipe()
	f.conns[server] = true
	f.wg.Go(func() {
		r.handle(server)
		server.Close()
		f.mu.Lock()
		delete(f.conns, server)
		f.mu.Unlock()
	})
	return client, ctx.Err()
}

func (f *fake) dialled() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dials
}

// locked is how often an identity was locked.
func (f *fake) locked() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.locks
}

// joined is how often an agent asked to join.
func (f *fake) joined() int { return len(f.joinedAs()) }

func (f *fake) joinedAs() []api.JoinRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.joins)
}

// known is how many identities there are.
func (f *fake) known() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.records)
}

func (f *fake) admitted() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.hellos)
}

// heard is what came by connections other than tunnels: all bytes, and the requests.
func (f *fake) heard() (told string, served []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return string(f.told), slices.Clone(f.served)
}

func (f *fake) close() {
	f.mu.Lock()
	for c := range f.conns {
		c.Close()
	}
	f.mu.Unlock()
	f.wg.Wait()
}

func (f *fake) cert(ca *authority, name string) tls.Certificate {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := name + ca.cert.Subject.CommonName
	if c, ok := f.certs[key]; ok {
		return c
	}
	c := ca.host(f.t, name)
	f.certs[key] = c
	return c
}

func (r *replica) handle(raw *memConn) {
	to := r
	conn := tls.Server(raw, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		if slices.Contains(h.SupportedProtos, wire.Protocol) {
			if audience, id := api.ParseServerName(h.ServerName, testName); audience != api.AudienceTunnel {
				return nil, fmt.Errorf("a tunnel for %s", h.ServerName)
			} else if id != "" {
				if to = r.replica(id); to == nil || to.down {
					return nil, errors.New("no such replica")
				}
			}
			return &tls.Config{
				Certificates: []tls.Certificate{r.cert(r.hostCA, h.ServerName)}, NextProtos: []string{wire.Protocol}, MinVersion: tls.VersionTLS13,
				ClientAuth: tls.RequireAnyClientCert, SessionTicketsDisabled: true,
			}, nil
		}
		web := r.cert(r.webCA, testName)
		if r.webShown != nil {
			web.Certificate = append(web.Certificate[:1:1], r.webShown.cert.Raw)
		}
		if r.byJoinName(h.ServerName) {
			web = r.cert(r.joinCA, h.ServerName)
			if r.shown != nil {
				web.Certificate = append(web.Certificate[:1:1], r.shown.cert.Raw)
			}
		}
		return &tls.Config{Certificates: []tls.Certificate{web}, NextProtos: []string{"http/1.1"}}, nil
	}})
	if conn.HandshakeContext(context.Background()) != nil {
		return
	}
	if conn.ConnectionState().NegotiatedProtocol == wire.Protocol {
		to.tunnel(conn, raw, to != r)
		return
	}
	r.web(conn, r.byJoinName(conn.ConnectionState().ServerName))
}

// byJoinName says whether a server name is for joins alone.
func (f *fake) byJoinName(name string) bool {
	to, _ := api.ParseServerName(name, testName)
	return to == api.AudienceJoin && !f.older
}

// web serves pings, and joins.
func (r *replica) web(conn net.Conn, joinsAlone bool) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+api.PathPing, func(w http.ResponseWriter, _ *http.Request) {
		if r.skewDate != 0 {
			w.Header().Set("Date", time.Now().Add(r.skewDate).UTC().Format(http.TimeFormat))
		}
		r.mu.Lock()
		ping := r.ping
		r.mu.Unlock()
		if ping != nil {
			ping(w)
			return
		}
		json.NewEncoder(w).Encode(api.Ping{ClusterName: testName})
	})
	mux.HandleFunc("POST "+api.PathJoin, func(w http.ResponseWriter, req *http.Request) {
		var in api.JoinRequest
		if err := json.NewDecoder(req.Body).Decode(&in); err != nil {
			r.t.Error(err)
		}
		res, err := r.join(in)
		if err != nil {
			api.WriteError(w, err)
			return
		}
		json.NewEncoder(w).Encode(res)
	})
	done := make(chan struct{})
	l := newStreams()
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		name := "web"
		if joinsAlone {
			name = "join"
		}
		r.mu.Lock()
		r.served = append(r.served, name+" "+req.URL.Path)
		r.mu.Unlock()
		if joinsAlone && req.URL.Path != api.PathJoin {
			http.NotFound(w, req)
			return
		}
		mux.ServeHTTP(w, req)
	}), ConnState: func(_ net.Conn, s http.ConnState) {
		if s == http.StateClosed {
			close(done)
		}
	}}
	r.wg.Go(func() { srv.Serve(l) })
	l.push(&countConn{conn, r.fake})
	<-done
	srv.Close()
}

// countConn keeps what a client says.
type countConn struct {
	net.Conn
	f *fake
}

func (c *countConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.f.mu.Lock()
	c.f.told = append(c.f.told, b[:n]...)
	c.f.mu.Unlock()
	return n, err
}

func (f *fake) join(in api.JoinRequest) (*api.JoinResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.joins = append(f.joins, in)
	if in.Token != testToken || f.uses == 0 {
		return nil, api.Errorf(api.CodeUnauthenticated, "the token is unknown, used up or expired")
	}
	f.uses--
	id := make([]byte, 16)
	rand.Read(id)
	sum := sha256.Sum256(in.PublicKey)
	rec := &record{generation: 1, key: hex.EncodeToString(sum[:]), clusters: in.KubeClusters}
	name := hex.EncodeToString(id)
	f.records[name] = rec
	return f.certificate(name, 1, in.PublicKey)
}

func (f *fake) certificate(id string, gen uint64, public []byte) (*api.JoinResponse, error) {
	pub, err := x509.ParsePKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	cert := f.agentCA.issue(f.t, &x509.Certificate{
		Subject:   pkix.Name{CommonName: fmt.Sprintf("%s/%d", id, gen)},
		NotBefore: time.Now().Add(-5 * time.Minute), NotAfter: time.Now().Add(f.lifetime), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, pub)
	return &api.JoinResponse{
		AgentID: id, Generation: gen, Expires: cert.NotAfter, ClusterName: testName,
		Cert:        pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}),
		HostSigners: []api.HostSigner{{DomainName: testName, TLSCerts: [][]byte{f.hostCA.pem()}}},
	}, nil
}

func keySum(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// admit is what a replica makes of a Hello, in short. TestGenerationsOfCertificates and
// TestAgentsAfterTheStoreWasPutBack of internal/auth hold the real rule: what changes
// there is to change here. A generation that the record does not know yet is adopted,
// because the store may have been put back.
func (f *fake) admit(id string, gen uint64, key string, hello wire.Hello) *wire.Refused {
	rec := f.records[id]
	switch {
	case rec == nil:
		return &wire.Refused{Code: api.CodeUnauthenticated, Message: "no such agent"}
	case rec.locked:
		return &wire.Refused{Code: api.CodeForbidden, Message: "the agent is locked"}
	case gen == rec.generation && key == rec.key:
	case gen == rec.generation+1 && rec.pending != "" && key == rec.pending, // promoted
		gen > rec.generation+1, gen == rec.generation+1 && rec.pending == "": // adopted
		rec.generation, rec.key, rec.pending = gen, key, ""
	default:
		rec.locked = true
		f.locks++
		return &wire.Refused{Code: api.CodeForbidden, Message: "the agent is locked now"}
	}
	for _, c := range hello.Clusters {
		if !slices.Contains(rec.clusters, c.Name) {
			return &wire.Refused{Code: api.CodeForbidden, Message: "not its cluster"}
		}
	}
	return nil
}

// renew is a replica's answer to Renew.
func (f *fake) renew(id string, gen uint64, public []byte) *wire.Renewed {
	rec := f.records[id]
	if rec == nil || rec.locked || gen != rec.generation {
		return &wire.Renewed{Refused: &wire.Refused{Code: api.CodeForbidden, Message: "not with that certificate"}}
	}
	sum := sha256.Sum256(public)
	rec.pending = hex.EncodeToString(sum[:])
	res, err := f.certificate(id, gen+1, public)
	if err != nil {
		f.t.Error(err)
	}
	return &wire.Renewed{Cert: res.Cert, Generation: res.Generation, Expires: res.Expires, HostSigners: res.HostSigners}
}

func (r *replica) tunnel(conn *tls.Conn, raw *memConn, spliced bool) {
	sess, err := wire.Server(conn, r.wire)
	if err != nil {
		r.t.Error(err)
		return
	}
	defer sess.Close()
	control, err := sess.Accept()
	if err != nil {
		return
	}
	m, err := wire.ReadMessage(control)
	if err != nil || m.Hello == nil {
		return
	}
	cert := conn.ConnectionState().PeerCertificates[0]
	t := &fakeTunnel{replica: r, sess: sess, control: control, hello: *m.Hello, conn: raw, spliced: spliced}
	id, gen, _ := strings.Cut(cert.Subject.CommonName, "/")
	t.agent = id
	fmt.Sscan(gen, &t.gen)
	r.mu.Lock()
	var refused *wire.Refused
	if hook := r.onHello; hook != nil {
		r.mu.Unlock()
		refused = hook(r)
		r.mu.Lock()
	}
	if err := cert.CheckSignatureFrom(r.agentCA.cert); err != nil {
		refused = &wire.Refused{Code: api.CodeUnauthenticated, Message: "not of our agent CA"}
	}
	if refused == nil {
		refused = r.admit(id, t.gen, keySum(cert), *m.Hello)
	}
	if refused != nil {
		r.mu.Unlock()
		wire.WriteMessage(control, wire.Message{Refused: refused})
		<-sess.Done() // the agent closes, having read it
		return
	}
	r.tunnels = append(r.tunnels, t)
	r.hellos = append(r.hellos, fmt.Sprintf("%d/%s", t.gen, r.id))
	welcome := &wire.Welcome{ServerID: r.id, Members: r.members(), Generation: t.gen}
	r.mu.Unlock()
	t.say(wire.Message{Welcome: welcome})
	for {
		m, err := wire.ReadMessage(control)
		if err != nil {
			break
		}
		r.mu.Lock()
		switch {
		case m.Status != nil:
			t.status = append(t.status, *m.Status)
		case m.Renew != nil && !r.mute:
			if hook := r.onRenew; hook != nil {
				r.mu.Unlock()
				hook(id, m.Renew.PublicKey)
				r.mu.Lock()
			}
			answer := r.renew(id, t.gen, m.Renew.PublicKey)
			r.mu.Unlock()
			t.say(wire.Message{Renewed: answer})
			r.mu.Lock()
		}
		r.mu.Unlock()
	}
	r.mu.Lock()
	t.closed = true
	r.tunnels = slices.DeleteFunc(r.tunnels, func(o *fakeTunnel) bool { return o == t })
	r.mu.Unlock()
}

func (t *fakeTunnel) say(m wire.Message) {
	t.wmu.Lock()
	defer t.wmu.Unlock()
	wire.WriteMessage(t.control, m)
}

// client sends requests through the tunnel.
func (t *fakeTunnel) client() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return t.sess.Open(ctx) }}}
}

// up are the tunnels that are open, by server id, sorted.
func (f *fake) up() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := []string{}
	for _, r := range f.replicas {
		for range r.tunnels {
			out = append(out, r.id)
		}
	}
	slices.Sort(out)
	return out
}

func (f *fake) open() []*fakeTunnel {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []*fakeTunnel
	for _, r := range f.replicas {
		out = append(out, r.tunnels...)
	}
	return out
}

// kill ends a replica at once; start brings it back.
func (f *fake) kill(id string) {
	f.mu.Lock()
	r := f.replica(id)
	r.down = true
	tunnels := slices.Clone(r.tunnels)
	f.mu.Unlock()
	for _, t := range tunnels {
		t.conn.Close()
	}
}
