package testbed

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Share is the path of something that Build leaves behind and is no binary.
func Share(name string) string { return filepath.Join(Home(), "share", name) }

// passwordHash is bcrypt's of "password", which all people of Dex have: it is slow on purpose.
const passwordHash = "$2a$10$3o9dTXtdbmhNz7X9NSNc3OGs34xZXGNa4AECCOo1CepvFuFuLX1Xe"

// dex writes Dex's configuration (JSON, which is YAML). Passwords bring no groups in
// Dex; whom a proxy in front names (asProxied) has them, and the mock connector's user "authors".
func (p *IDP) dex() error {
	for _, file := range []string{Bin("dex"), Share("dex-web")} {
		if _, err := os.Stat(file); err != nil {
			return errors.New("dex is not built: run e2e/testbed/build.sh dex")
		}
	}
	p.Issuer, p.ready = p.URL+"/dex", "/dex/.well-known/openid-configuration"
	type object = map[string]any
	connectors := []object{{"type": "mockCallback", "id": "mock", "name": "Mock"}}
	var passwords []object
	for _, who := range p.people {
		if who.Password != "password" {
			return fmt.Errorf("the password of %s in Dex must be %q", who.Name, "password")
		}
		connectors = append(connectors, object{"type": "authproxy", "id": who.Name, "name": who.Name, "config": object{}})
		passwords = append(passwords, object{"email": who.Email, "username": who.Name, "userID": "local-" + who.Name, "hash": passwordHash})
	}
	b, err := json.Marshal(object{
		"issuer":   p.Issuer,
		"storage":  object{"type": "sqlite3", "config": object{"file": filepath.Join(p.Dir, "dex.db")}},
		"web":      object{"http": "127.0.0.1:" + strconv.Itoa(p.backend)},
		"frontend": object{"dir": Share("dex-web")},
		"oauth2":   object{"skipApprovalScreen": true, "passwordConnector": "local"},
		"staticClients": []object{{
			"id": p.ClientID, "secret": p.ClientSecret, "name": "Sallyport", "redirectURIs": p.o.Redirects,
		}},
		"connectors":       connectors,
		"enablePasswordDB": true,
		"staticPasswords":  passwords,
	})
	if err != nil {
		return err
	}
	file := filepath.Join(p.Dir, "dex.json")
	p.command = Command{Name: "dex", Args: []string{Bin("dex"), "serve", file}, Dir: p.Dir, Log: p.log()}
	return os.WriteFile(file, b, 0o600)
}

// asProxied is what a proxy that has asked who somebody is tells Dex: at
// /dex/callback/NAME it is NAME.
func (p *IDP) asProxied(r *http.Request) {
	for name := range r.Header {
		if strings.HasPrefix(name, "X-Remote-") {
			r.Header.Del(name)
		}
	}
	p.peopleMu.Lock()
	defer p.peopleMu.Unlock()
	dir, name := path.Split(r.URL.Path)
	i := slices.IndexFunc(p.people, func(who Person) bool { return who.Name == name })
	if dir != "/dex/callback/" || i < 0 {
		return
	}
	r.Header.Set("X-Remote-User", name)
	r.Header.Set("X-Remote-User-Id", "proxy-"+name)
	r.Header.Set("X-Remote-User-Email", p.people[i].Email)
	if groups := p.people[i].Groups; len(groups) > 0 {
		r.Header.Set("X-Remote-Group", strings.Join(groups, ","))
	}
}

// oidcProvider runs idp/oidc-provider/provider.mjs.
func (p *IDP) oidcProvider() error {
	program := Share("oidc-provider/provider.mjs")
	if _, err := os.Stat(program); err != nil {
		return errors.New("oidc-provider is not built: run e2e/testbed/build.sh oidc-provider")
	}
	p.Issuer, p.ready = p.URL, "/.well-known/openid-configuration"
	if err := p.write("people.json", p.people); err != nil {
		return err
	}
	if err := p.write("provider.json", map[string]any{
		"issuer": p.Issuer, "port": p.backend, "client_id": p.ClientID, "client_secret": p.ClientSecret, "redirect_uris": p.o.Redirects,
		"claims_in_id_token": p.o.ClaimsInIDToken,
	}); err != nil {
		return err
	}
	p.command = Command{Name: "oidc-provider", Args: []string{"node", program, p.Dir}, Dir: p.Dir, Log: p.log()}
	return nil
}

// samlSources is where Debian puts SimpleSAMLphp.
const samlSources = "/usr/share/simplesamlphp/www"

// simpleSAMLphp runs Debian's SimpleSAMLphp under PHP's own server; idp/simplesamlphp
// is its configuration.
func (p *IDP) simpleSAMLphp() error {
	if _, err := os.Stat(samlSources); err != nil {
		return errors.New("simplesamlphp is not installed: run e2e/testbed/build.sh test-packages (Debian: apt-get install simplesamlphp php-cli php-xml php-mbstring php-curl)")
	}
	source, err := p.source("simplesamlphp")
	if err != nil {
		return err
	}
	p.Issuer, p.Metadata, p.ready = p.URL+"/idp", p.URL+"/saml2/idp/metadata.php", "/saml2/idp/metadata.php"
	for _, dir := range []string{"cert", "log", "data", "tmp", "sessions"} {
		if err := os.Mkdir(filepath.Join(p.Dir, dir), 0o700); err != nil {
			return err
		}
	}
	if err := samlKey(filepath.Join(p.Dir, "cert")); err != nil {
		return err
	}
	if err := errors.Join(p.write("people.json", p.people), p.SetServiceProvider(p.o.SP)); err != nil {
		return err
	}
	p.command = Command{
		Name: "simplesamlphp",
		Args: []string{
			"php", "-d", "session.save_path=" + filepath.Join(p.Dir, "sessions"),
			// Who asks speaks TLS with the front.
			"-d", "auto_prepend_file=" + filepath.Join(source, "https.php"),
			"-S", "127.0.0.1:" + strconv.Itoa(p.backend), "-t", samlSources,
		},
		// One worker would keep a browser's second connection waiting for its first.
		Env: append(os.Environ(), "PHP_CLI_SERVER_WORKERS=4", "SSP_DIR="+p.Dir, "SSP_URL="+p.URL, "SSP_FILES="+source,
			"SIMPLESAMLPHP_CONFIG_DIR="+filepath.Join(source, "config")),
		Dir: p.Dir, Log: p.log(),
	}
	return nil
}

// samlKey makes what assertions are signed with: RSA, which all of SAML understands.
func samlKey(dir string) error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	t, err := certificateTemplate("simplesamlphp")
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "idp.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(filepath.Join(dir, "idp.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
}
