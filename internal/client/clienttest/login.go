package clienttest

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// factors are a user's second factors.
type factors struct {
	code    string // what the authenticator app shows; "": none
	passkey bool
}

// console is a login in a browser.
type console struct {
	req  api.ConsoleLoginRequest
	code string // "" until approved
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

// ConsolePage is the page of a login in a browser that waits for approval, or "".
func (s *Server) ConsolePage() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, c := range s.consoles {
		if c.code == "" {
			return "https://" + s.PublicAddr + "/web/cli/" + id
		}
	}
	return ""
}

// consoleRoutes are logins in a browser. GET of the page stands for a person who
// logs in as ?user= and approves, or with ?deny=1 refuses.
func (s *Server) consoleRoutes(mux *http.ServeMux) {
	mux.HandleFunc("POST "+api.PathConsoleLogin, handle(s, func(_ *http.Request, in *api.ConsoleLoginRequest) (any, error) {
		if !strings.HasPrefix(in.RedirectURL, "http://127.0.0.1:") || !strings.HasSuffix(in.RedirectURL, "/callback") {
			return nil, api.Errorf(api.CodeInvalid, "redirect_url: %q", in.RedirectURL)
		}
		id := rand.Text()
		s.consoles[id] = &console{req: *in}
		return api.ConsoleLoginResponse{ID: id, RedirectURL: "https://" + s.PublicAddr + "/web/cli/" + id, Expires: time.Now().Add(10 * time.Minute)}, nil
	}))
	mux.HandleFunc("GET /web/cli/{id}", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		c, ok := s.consoles[r.PathValue("id")]
		if !ok {
			http.NotFound(w, r)
			return
		}
		answer := url.Values{"id": {r.PathValue("id")}}
		if r.URL.Query().Has("deny") {
			answer.Set("error", "denied")
			delete(s.consoles, r.PathValue("id"))
		} else {
			c.code = rand.Text()
			if user := r.URL.Query().Get("user"); user != "" {
				c.req.User = user
			}
			answer.Set("code", c.code)
		}
		w.Header().Set("Match-Code", api.MatchCode(c.req.TLSPubKey))
		http.Redirect(w, r, c.req.RedirectURL+"?"+answer.Encode(), http.StatusSeeOther)
	})
	mux.HandleFunc("POST "+api.PathConsoleRedeem, handle(s, func(_ *http.Request, in *api.ConsoleRedeemRequest) (any, error) {
		c := s.consoles[in.ID]
		sum := sha256.Sum256([]byte(in.CodeVerifier))
		if c == nil || c.code == "" || in.Code != c.code || base64.RawURLEncoding.EncodeToString(sum[:]) != c.req.CodeChallenge {
			return nil, api.Errorf(api.CodeUnauthenticated, "the login was not approved with this code: run tsh login again")
		}
		delete(s.consoles, in.ID)
		return s.issue(c.req.User, c.req.TLSPubKey, c.req.CertTTL)
	}))
}
