package clienttest

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// adminRole is the role whose holders may do everything here by certificate.
const adminRole = "admin"

// Login is what a login of tsh leaves on a client's disk.
type Login struct {
	User, SessionID       string
	CertPEM, KeyPEM, CAs  []byte
	ClusterName, KubeAddr string
	NotAfter              time.Time
}

// LogIn makes a user with these roles, and a session and certificate for it.
func (s *Server) LogIn(user string, ttl time.Duration, roles ...string) (*Login, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.putUser(api.User{
		Header: api.Header{Kind: api.KindUser, Version: api.UserVersion, Metadata: api.Metadata{Name: user}}, Spec: api.UserSpec{Roles: roles},
	})
	l := &Login{
		User: user, SessionID: fmt.Sprintf("login-%d", len(s.sessions)+1), ClusterName: s.ClusterName, KubeAddr: s.PublicAddr,
		KeyPEM: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), CAs: s.host.pem(),
		NotAfter: time.Now().Add(ttl).UTC().Truncate(time.Second),
	}
	l.CertPEM, err = s.users.user(user, s.ClusterName, l.SessionID, key.Public(), l.NotAfter)
	s.sessions[l.SessionID] = api.Session{ID: l.SessionID, Kind: api.SessionCLI, User: user, Created: time.Now().UTC(), Expires: l.NotAfter}
	return l, err
}

// AddSession makes a session that nobody holds a certificate or cookie of.
func (s *Server) AddSession(session api.Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions[session.ID] = session
}

// adminRoutes are the calls of administration. who answers for a verb on a kind
// when the caller came with a certificate; on the socket it is nil.
func (s *Server) adminRoutes(mux *http.ServeMux, who func(r *http.Request, verb, kind string) error) {
	may := func(verb, kind string, h http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if who != nil {
				s.mu.Lock()
				k := kind
				if k == "" {
					k = r.PathValue("kind")
				}
				err := who(r, verb, k)
				s.mu.Unlock()
				if err != nil {
					api.WriteError(w, err)
					return
				}
			}
			h(w, r)
		}
	}
	mux.HandleFunc("POST "+api.PathUsers, may(api.VerbCreate, api.KindUser, handle(s, s.addUser)))
	mux.HandleFunc("POST "+api.PathReset, may(api.VerbUpdate, api.KindUser, handle(s, s.resetUser)))
	mux.HandleFunc("PUT "+api.PathResources, may(api.VerbUpdate, "document", handle(s, s.put)))
	mux.HandleFunc("GET "+api.PathResources+"/{kind}", may(api.VerbList, "", handle(s, s.list)))
	mux.HandleFunc("GET "+api.PathResources+"/{kind}/{name}", may(api.VerbRead, "", handle(s, s.list)))
	mux.HandleFunc("DELETE "+api.PathResources+"/{kind}/{name}", may(api.VerbDelete, "", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("name") == "unsettled" {
			w.Header().Set(api.HeaderUnsettled, "id-2,id-3")
		}
		handle(s, s.delete)(w, r)
	}))
	mux.HandleFunc("POST "+api.PathSign, may(api.VerbImpersonate, api.KindUser, handle(s, s.sign)))
	mux.HandleFunc("POST "+api.PathACMERetry, may(api.VerbUpdate, api.KindCluster, handle(s, s.retryACME)))
	mux.HandleFunc("GET "+api.PathSessions, may(api.VerbList, api.KindSession, handle(s, s.listSessions)))
	mux.HandleFunc("DELETE "+api.PathSessions+"/{user}/{id}", may(api.VerbDelete, api.KindSession, handle(s, s.endSession)))
	mux.HandleFunc("GET "+api.PathStatus, may(api.VerbRead, api.KindCluster, handle(s, func(*http.Request, *none) (any, error) { return s.status(), nil })))
	mux.HandleFunc("GET "+api.PathCAs, handle(s, func(*http.Request, *none) (any, error) {
		return api.Authorities{Host: [][]byte{s.host.pem()}, User: [][]byte{s.users.pem()}, Agent: [][]byte{s.agentCA.pem()}}, nil
	}))
	s.agentRoutes(mux, may)
	s.connectorRoutes(mux, may)
	s.auditRoutes(mux, may)
	mux.HandleFunc("GET "+api.PathBackup, may(api.VerbCreate, api.KindCluster, s.backup))
}

// mayAdminister refuses with the words of internal/auth who does not hold adminRole.
func (s *Server) mayAdminister(r *http.Request, verb, kind string) error {
	session, err := s.session(r)
	if err != nil {
		return err
	}
	var u api.User
	if err := json.Unmarshal(s.docs[api.KindUser][session.User], &u); err != nil || !slices.Contains(u.Spec.Roles, adminRole) {
		return api.NotAllowed(session.User, verb, kind)
	}
	return nil
}

func (s *Server) backup(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/octet-stream")
	if r.Header.Get("User-Agent") == "tctl/leaderless" {
		w.Header().Set(api.HeaderBackupWarning, "no leader")
	}
	_, _ = io.WriteString(w, "SNAPSHOT")
	if r.Header.Get("User-Agent") == "tctl/broken" {
		panic(http.ErrAbortHandler)
	}
}

func (s *Server) resetUser(_ *http.Request, in *api.ResetUserRequest) (any, error) {
	if _, ok := s.docs[api.KindUser][in.User]; !ok {
		return nil, api.Errorf(api.CodeNotFound, "user %q not found", in.User)
	}
	ttl := in.TTL
	if ttl == 0 {
		ttl = api.Duration(8 * time.Hour)
	}
	if time.Duration(ttl) > 24*time.Hour {
		return nil, api.Errorf(api.CodeInvalid, "a reset link lives 24h at most")
	}
	delete(s.passwords, in.User)
	for id, session := range s.sessions {
		if session.User == in.User {
			delete(s.sessions, id)
		}
	}
	return api.ResetUserResponse{
		User: in.User, ResetURL: "https://" + s.PublicAddr + "/web/reset/random-token-id-goes-here",
		TTL: ttl, Proxy: s.PublicAddr, Expires: time.Now().Add(time.Duration(ttl)),
	}, nil
}

// sign makes a session of a user, with the groups that the user's document has.
func (s *Server) sign(_ *http.Request, in *api.SignRequest) (any, error) {
	var u api.User
	if err := json.Unmarshal(s.docs[api.KindUser][in.User], &u); err != nil {
		return nil, api.Errorf(api.CodeNotFound, "user %q not found: 'tctl users ls' lists all, 'tctl users add' makes one", in.User)
	}
	out, err := s.issue(in.User, in.TLSPubKey, time.Duration(in.TTL))
	if resp, ok := out.(api.LoginResponse); ok {
		resp.KubeGroups = u.Spec.Traits[api.TraitKubeGroups]
		out = resp
		session := s.sessions[resp.SessionID]
		session.Kind = api.SessionSigned
		s.sessions[resp.SessionID] = session
	}
	return out, err
}

// retryACME has a certificate for the cluster's name, none for a name of its own making,
// and is still at it for slow.
func (s *Server) retryACME(_ *http.Request, in *api.ACMERetryRequest) (any, error) {
	now := time.Date(2036, 1, 2, 0, 0, 0, 0, time.UTC)
	is := api.WebCertificate{Source: api.CertificateACME, State: api.CertificateValid, Names: []string{cmp.Or(in.Name, s.ClusterName)}, Issuer: "R11", NotAfter: now.AddDate(0, 0, 90), RenewAfter: now.AddDate(0, 0, 60)}
	switch in.Name {
	case "":
		return api.ACMERetryResponse{Outcome: api.ACMERetryIssued, Certificate: is}, nil
	case s.ClusterName:
		return api.ACMERetryResponse{Outcome: api.ACMERetryNotDue, Certificate: is}, nil
	case "slow.example.com":
		is.State, is.Issuer, is.NotAfter, is.RenewAfter = api.CertificateOrdering, "", time.Time{}, time.Time{}
		return api.ACMERetryResponse{Outcome: api.ACMERetryOrdering, Certificate: is}, nil
	}
	return nil, api.Errorf(api.CodeUnavailable, "%s does not resolve, so nothing is ordered", in.Name)
}

func (s *Server) listSessions(r *http.Request, _ *none) (any, error) {
	user := r.URL.Query().Get("user")
	list := api.Sessions{Sessions: []api.Session{}}
	for _, session := range s.sessions {
		if user == "" || session.User == user {
			list.Sessions = append(list.Sessions, session)
		}
	}
	slices.SortFunc(list.Sessions, func(a, b api.Session) int { return a.Created.Compare(b.Created) })
	return list, nil
}

func (s *Server) endSession(r *http.Request, _ *none) (any, error) {
	if id := r.PathValue("id"); s.sessions[id].User == r.PathValue("user") {
		delete(s.sessions, id)
	}
	return none{}, nil
}

// document is a stored document with its revision, as a replica gives it out.
func document(raw json.RawMessage, revision uint64) (json.RawMessage, error) {
	var doc struct {
		Kind     json.RawMessage `json:"kind"`
		Version  json.RawMessage `json:"version"`
		Metadata map[string]any  `json:"metadata"`
		Spec     json.RawMessage `json:"spec"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, err
	}
	if doc.Metadata == nil {
		doc.Metadata = map[string]any{"name": api.AuthPreferenceName} // the only kind that needs no name
	}
	doc.Metadata["revision"] = revision
	return json.Marshal(doc)
}

func revisionOf(doc json.RawMessage) uint64 {
	var h api.Header
	_ = json.Unmarshal(doc, &h) // ours
	return h.Metadata.Revision
}
