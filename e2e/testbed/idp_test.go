package testbed

import (
	"bytes"
	"compress/flate"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	callback = "https://localhost:1/v1/webapi/oidc/callback"
	acs      = "https://localhost:1/v1/webapi/saml/acs"
	verifier = "0123456789012345678901234567890123456789012345678901234567890123"
)

// visitor is a browser without a screen: it keeps cookies and follows redirects, but
// not to where nobody listens.
type visitor struct {
	t      *testing.T
	client *http.Client
}

func visit(t *testing.T, a *Authority) *visitor {
	t.Helper()
	client := a.Client()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client.Jar, client.Timeout = jar, Patience
	client.CheckRedirect = func(req *http.Request, _ []*http.Request) error {
		if strings.HasPrefix(req.URL.String(), "https://localhost:1/") {
			return http.ErrUseLastResponse
		}
		return nil
	}
	return &visitor{t, client}
}

// page is what came, or the address that the browser was sent to in the end.
type page struct {
	url  *url.URL
	body string
	sent *url.URL
}

func (v *visitor) read(resp *http.Response, err error) page {
	v.t.Helper()
	if err != nil {
		v.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		v.t.Fatal(err)
	}
	p := page{url: resp.Request.URL, body: string(b)}
	if to, err := resp.Location(); err == nil {
		p.sent = to
	} else if resp.StatusCode != http.StatusOK {
		v.t.Fatalf("%s: %s\n%s", p.url, resp.Status, b)
	}
	return p
}

func (v *visitor) open(address string) page {
	v.t.Helper()
	return v.read(v.client.Get(address))
}

var (
	formAction = regexp.MustCompile(`(?s)<form[^>]*?(?:action="([^"]*)")?[^>]*>`)
	hidden     = regexp.MustCompile(`<input[^>]*type="hidden"[^>]*name="([^"]+)"[^>]*value="([^"]*)"`)
)

// submit fills the page's form in.
func (v *visitor) submit(p page, fields url.Values) page {
	v.t.Helper()
	form := formAction.FindStringSubmatch(p.body)
	if form == nil {
		v.t.Fatalf("no form at %s:\n%s", p.url, p.body)
	}
	for _, in := range hidden.FindAllStringSubmatch(p.body, -1) {
		fields.Set(in[1], html.UnescapeString(in[2]))
	}
	action, err := p.url.Parse(html.UnescapeString(form[1]))
	if err != nil {
		v.t.Fatal(err)
	}
	return v.read(v.client.PostForm(action.String(), fields))
}

// authorize is the address that a login by OpenID Connect begins at.
func authorize(p *IDP, endpoint string, more url.Values) string {
	sum := sha256.Sum256([]byte(verifier))
	q := url.Values{
		"client_id": {p.ClientID}, "redirect_uri": {callback}, "response_type": {"code"}, "scope": {"openid email profile groups"},
		"state": {"s"}, "nonce": {"n"}, "code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"},
	}
	for name, values := range more {
		q[name] = values
	}
	return endpoint + "?" + q.Encode()
}

// claims redeems the code that the browser was sent away with.
func (v *visitor) claims(p *IDP, endpoint string, sent *url.URL) map[string]any {
	v.t.Helper()
	if sent == nil || sent.Query().Get("code") == "" || sent.Query().Get("state") != "s" {
		v.t.Fatalf("the browser was sent to %v, want a code", sent)
	}
	form := url.Values{"grant_type": {"authorization_code"}, "code": {sent.Query().Get("code")}, "redirect_uri": {callback}, "code_verifier": {verifier}}
	req, err := http.NewRequestWithContext(v.t.Context(), http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		v.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(p.ClientID, p.ClientSecret)
	var answer struct {
		IDToken     string `json:"id_token"`
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal([]byte(v.read(v.client.Do(req)).body), &answer); err != nil {
		v.t.Fatal(err)
	}
	parts := strings.Split(answer.IDToken, ".")
	if len(parts) != 3 {
		v.t.Fatalf("ID token %q", answer.IDToken)
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		v.t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(b, &claims); err != nil {
		v.t.Fatal(err)
	}
	claims["access_token"] = answer.AccessToken
	return claims
}

func authority(t *testing.T) *Authority {
	t.Helper()
	a, err := NewAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestDexLogsInByPasswordAndByWhomAProxyNames(t *testing.T) {
	a := authority(t)
	p := StartDex(t, IDPOptions{Authority: a, Redirects: []string{callback}})
	v := visit(t, a)
	login := v.open(authorize(p, p.Issuer+"/auth", url.Values{"connector_id": {"local"}}))
	done := v.submit(login, url.Values{"login": {"alice@example.com"}, "password": {"password"}})
	claims := v.claims(p, p.Issuer+"/token", done.sent)
	if claims["email"] != "alice@example.com" || claims["groups"] != nil || claims["iss"] != p.Issuer {
		t.Errorf("by password: %v", claims)
	}
	proxied := func() map[string]any {
		return v.claims(p, p.Issuer+"/token", visit(t, a).open(authorize(p, p.Issuer+"/auth", url.Values{"connector_id": {"alice"}})).sent)
	}
	claims = proxied()
	if fmt.Sprint(claims["groups"]) != "[devs admins]" || claims["email"] != "alice@example.com" {
		t.Errorf("by proxy: %v", claims)
	}
	if err := p.SetGroups("alice", "ops"); err != nil {
		t.Fatal(err)
	}
	if again := proxied(); fmt.Sprint(again["groups"]) != "[ops]" || again["sub"] != claims["sub"] {
		t.Errorf("in other groups: %v", again)
	}
}

func TestOIDCProviderLogsIn(t *testing.T) {
	a := authority(t)
	p := StartOIDCProvider(t, IDPOptions{Authority: a, Redirects: []string{callback}})
	v := visit(t, a)
	login := v.open(authorize(p, p.Issuer+"/auth", nil))
	if wrong := v.submit(login, url.Values{"user": {"bob"}, "password": {"wrong"}}); !strings.Contains(wrong.body, "Wrong user or password") {
		t.Errorf("wrong password: %s", wrong.body)
	}
	done := v.submit(login, url.Values{"user": {"bob"}, "password": {"password"}})
	claims := v.claims(p, p.Issuer+"/token", done.sent)
	if claims["sub"] != "id-bob" || claims["nonce"] != "n" || claims["groups"] != nil {
		t.Errorf("ID token: %v", claims)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.Issuer+"/me", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+claims["access_token"].(string))
	if info := v.read(v.client.Do(req)).body; !strings.Contains(info, `"groups":["devs"]`) || !strings.Contains(info, `"email":"bob@example.com"`) {
		t.Errorf("userinfo: %s", info)
	}
	cancelled := visit(t, a)
	if end := cancelled.submit(cancelled.open(authorize(p, p.Issuer+"/auth", nil)), url.Values{"cancel": {"1"}}); end.sent == nil || end.sent.Query().Get("error") != "access_denied" {
		t.Errorf("cancelled: sent to %v", end.sent)
	}
}

func TestIdentityProvidersFailAsTold(t *testing.T) {
	a := authority(t)
	p := StartOIDCProvider(t, IDPOptions{Authority: a, Redirects: []string{callback}, ClaimsInIDToken: true})
	client := a.Client()
	defer client.CloseIdleConnections()
	ask := func(ctx context.Context) (int, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL+p.ready, http.NoBody)
		if err != nil {
			return 0, err
		}
		resp, err := client.Do(req)
		if err != nil {
			return 0, err
		}
		return resp.StatusCode, resp.Body.Close()
	}
	if status, err := ask(t.Context()); err != nil || status != http.StatusOK {
		t.Fatalf("well: %d, %v", status, err)
	}
	if err := p.SetFault(Fault{Kind: FaultError}); err != nil {
		t.Fatal(err)
	}
	if status, err := ask(t.Context()); err != nil || status != http.StatusInternalServerError {
		t.Errorf("500: %d, %v", status, err)
	}
	if err := p.SetFault(Fault{Kind: FaultHang}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if status, err := ask(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("hang: %d, %v", status, err)
	}
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	if status, err := ask(t.Context()); err == nil {
		t.Errorf("down: %d", status)
	}
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	v := visit(t, a)
	done := v.submit(v.open(authorize(p, p.Issuer+"/auth", nil)), url.Values{"user": {"alice"}, "password": {"password"}})
	if claims := v.claims(p, p.Issuer+"/token", done.sent); fmt.Sprint(claims["groups"]) != "[devs admins]" {
		t.Errorf("after the restart: %v", claims)
	}
	if got := p.Requests(); !slices.Contains(got, "POST /token") {
		t.Errorf("requests: %q", got)
	}
}

// authnRequest is the least that SAML 2.0 asks for, in the redirect binding.
func authnRequest(t *testing.T, p *IDP) string {
	t.Helper()
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.DefaultCompression)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(w, `<samlp:AuthnRequest xmlns:samlp="urn:oasis:names:tc:SAML:2.0:protocol" xmlns:saml="urn:oasis:names:tc:SAML:2.0:assertion" ID="_1" Version="2.0" IssueInstant=%q Destination="%s/saml2/idp/SSOService.php" AssertionConsumerServiceURL=%q><saml:Issuer>%s</saml:Issuer></samlp:AuthnRequest>`,
		time.Now().UTC().Format(time.RFC3339), p.URL, acs, acs)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return p.URL + "/saml2/idp/SSOService.php?" + url.Values{"SAMLRequest": {base64.StdEncoding.EncodeToString(b.Bytes())}, "RelayState": {"r"}}.Encode()
}

var samlResponse = regexp.MustCompile(`name="SAMLResponse" value="([^"]+)"`)

func TestSimpleSAMLphpLogsIn(t *testing.T) {
	if _, err := os.Stat(samlSources); err != nil {
		t.Skip("simplesamlphp is not installed (Debian: apt-get install simplesamlphp php-cli php-xml php-mbstring php-curl)")
	}
	a := authority(t)
	sp := ServiceProvider{EntityID: acs, ACS: acs}
	p := StartSimpleSAMLphp(t, IDPOptions{Authority: a, SP: sp})
	login := func() string {
		v := visit(t, a)
		done := v.submit(v.open(authnRequest(t, p)), url.Values{"username": {"alice"}, "password": {"password"}})
		m := samlResponse.FindStringSubmatch(done.body)
		if m == nil || !strings.Contains(done.body, `action="`+acs+`"`) {
			t.Fatalf("no response at %s:\n%s", done.url, done.body)
		}
		b, err := base64.StdEncoding.DecodeString(html.UnescapeString(m[1]))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	got := login()
	for _, want := range []string{`Destination="` + acs, `nameid-format:persistent`, `>admins<`, `InResponseTo="_1"`, p.Issuer} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	if n := strings.Count(got, "<ds:SignatureValue>"); n != 1 {
		t.Errorf("%d signatures, want the assertion's", n)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: rsaCertificate(t)})
	sp.SignResponse, sp.EncryptTo, sp.NameID = true, string(cert), "emailAddress"
	if err := p.SetServiceProvider(sp); err != nil {
		t.Fatal(err)
	}
	if got := login(); !strings.Contains(got, "EncryptedAssertion") || strings.Contains(got, "alice") || !strings.Contains(got, "<ds:SignatureValue>") {
		t.Errorf("encrypted, in a signed response:\n%s", got)
	}
	sp.SignResponse, sp.EncryptTo = false, ""
	if err := errors.Join(p.SetServiceProvider(sp), p.SetGroups("alice", "night-shift")); err != nil {
		t.Fatal(err)
	}
	if got := login(); !strings.Contains(got, "night-shift") || strings.Contains(got, ">admins<") || !strings.Contains(got, "alice@example.com</saml:NameID>") {
		t.Errorf("in other groups, by e-mail:\n%s", got)
	}
}

// rsaCertificate is one of its own, in DER.
func rsaCertificate(t *testing.T) []byte {
	t.Helper()
	dir := t.TempDir()
	if err := samlKey(dir); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(dir + "/idp.crt")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	return block.Bytes
}
