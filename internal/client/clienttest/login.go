package clienttest

import (
	"crypto/x509"
	"fmt"
	"net/http"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// factors are a user's second factors.
type factors struct {
	code    string // what the authenticator app shows; "": none
	passkey bool
}

// SetTOTP gives a user an authenticator app that always shows the same code.
func (s *Server) SetTOTP(user, code string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.factors[user]
	f.code = code
	s.factors[user] = f
}

// SetPasskey gives a user a passkey.
func (s *Server) SetPasskey(user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.factors[user]
	f.passkey = true
	s.factors[user] = f
}

// SetSecondFactor sets what ping says of second factors.
func (s *Server) SetSecondFactor(mode api.SecondFactor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mode = mode
}

// SetMaxTTL sets how long sessions last at most, as roles do; 0: as long as asked for.
func (s *Server) SetMaxTTL(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.maxTTL = d
}

// SetVersions sets what ping says of versions.
func (s *Server) SetVersions(server, minClient string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Version, s.MinClient = server, minClient
}

// LeadTo makes the CONNECT proxy of s lead to the other server, by its name.
func (s *Server) LeadTo(other *Server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.routes[other.ClusterName] = other.Addr
}

// CAPin is the pin of the authority of the web name.
func (s *Server) CAPin() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return api.Pin(s.web.cert)
}

// ChangeAuthority makes another authority sign the certificate of the web name:
// somebody in between, or a cluster set up anew.
func (s *Server) ChangeAuthority() error {
	ca, err := newAuthority("another")
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.web = ca
	s.mu.Unlock()
	return s.renewWeb()
}

// HideAuthority makes the web name show its own certificate alone.
func (s *Server) HideAuthority() {
	cert := *s.webCert.Load()
	cert.Certificate = cert.Certificate[:1]
	s.webCert.Store(&cert)
}

func (s *Server) renewWeb() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	cert, err := s.web.server(s.ClusterName)
	if err != nil {
		return err
	}
	s.webCert.Store(cert)
	return nil
}

func (s *Server) login(_ *http.Request, in *api.LoginRequest) (any, error) {
	if want, ok := s.passwords[in.User]; !ok || want != in.Password {
		return nil, api.Errorf(api.CodeUnauthenticated, "invalid user name or password")
	}
	f := s.factors[in.User]
	var kinds []string
	if f.code != "" {
		kinds = append(kinds, api.FactorTOTP)
	}
	if f.passkey {
		kinds = append(kinds, api.FactorWebAuthn)
	}
	switch {
	case len(kinds) == 0 || s.mode == api.SecondFactorOff:
	case in.OTPToken == "":
		err := api.Errorf(api.CodeSecondFactor, "a second factor is needed")
		err.SecondFactors = kinds
		return nil, err
	case in.OTPToken != f.code:
		err := api.Errorf(api.CodeSecondFactor, "the code is wrong: type the one that the app shows now")
		err.SecondFactors = kinds
		return nil, err
	}
	return s.issue(in.User, in.TLSPubKey, in.TTL)
}

func (s *Server) issue(user string, key []byte, ttl time.Duration) (any, error) {
	public, err := x509.ParsePKIXPublicKey(key)
	if err != nil {
		return nil, api.Errorf(api.CodeInvalid, "tls_pub_key: %w", err)
	}
	if ttl == 0 {
		ttl = 12 * time.Hour
	}
	if s.maxTTL > 0 {
		ttl = min(ttl, s.maxTTL)
	}
	s.logins++
	id := fmt.Sprintf("s%d", s.logins)
	expires := time.Now().Add(ttl).UTC().Truncate(time.Second)
	cert, err := s.users.user(user, s.ClusterName, id, public, expires)
	if err != nil {
		return nil, err
	}
	s.sessions[id] = api.Session{ID: id, Kind: api.SessionCLI, User: user, Expires: expires}
	return api.LoginResponse{
		Username: user, TLSCert: cert, ClusterName: s.ClusterName, SessionID: id, Expires: expires,
		HostSigners: []api.HostSigner{{DomainName: s.ClusterName, TLSCerts: [][]byte{s.host.pem()}}},
		Roles:       []string{"access"}, KubeGroups: []string{"system:masters"},
	}, nil
}
