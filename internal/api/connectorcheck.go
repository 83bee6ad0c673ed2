package api

import (
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Bounds of connectors.
const (
	maxConnectorRows  = 500
	maxConnectorRoles = 500 // different ones, in all rows
	maxURL            = 2048
	maxClientSecret   = 1024
	maxPEM            = 16 << 10
	maxDisplay        = 100
	maxGithubName     = 100
	// MaxEntityDescriptor bounds the metadata of a SAML identity provider, in bytes:
	// written as JSON with every < escaped it must still fit into a transaction.
	MaxEntityDescriptor = 128 << 10
)

// PKCEEnabled is the one mode of PKCE there is.
const PKCEEnabled = "enabled"

func checkConnector(c Connector) error {
	kind, head := c.ConnectorKind(), c.Head()
	err := head.check(kind)
	if err == nil && slices.Contains(reservedConnectors(), strings.ToLower(head.Metadata.Name)) {
		err = &FieldError{"metadata.name", fmt.Sprintf("%q means something else to tsh login --auth: choose another name", head.Metadata.Name)}
	}
	if err == nil {
		err = c.check()
	}
	if err != nil {
		return documentError(kind, head.Metadata.Name, asInvalid(err))
	}
	return nil
}

// reservedConnectors are values of tsh login --auth that mean something else.
func reservedConnectors() []string { return []string{AuthLocal, "headless", "passwordless"} }

func (c *GithubConnector) check() error {
	s := &c.Spec
	if err := firstError(
		func() error { return checkClient(s.ClientID, s.ClientSecret) },
		func() error { return checkHTTPS("spec.redirect_url", s.RedirectURL, false) },
		func() error { return checkDisplay(s.Display) },
		func() error { return checkHTTPS("spec.endpoint_url", s.EndpointURL, false) },
		func() error { return checkHTTPS("spec.api_endpoint_url", s.APIEndpointURL, false) },
	); err != nil {
		return err
	}
	// With one of them alone, what one GitHub says would be asked of the other.
	switch {
	case s.EndpointURL != "" && s.APIEndpointURL == "":
		return &FieldError{"spec.api_endpoint_url", "is missing beside spec.endpoint_url: https://HOST/api/v3 of GitHub Enterprise Server, https://api.NAME.ghe.com of https://NAME.ghe.com"}
	case s.EndpointURL == "" && s.APIEndpointURL != "":
		return &FieldError{"spec.endpoint_url", "is missing beside spec.api_endpoint_url: write both for GitHub Enterprise Server and NAME.ghe.com, neither for github.com"}
	case len(s.TeamsToLogins)+len(s.TeamsToRoles) == 0:
		return &FieldError{"spec.teams_to_roles", "is missing, as is spec.teams_to_logins: without a team nobody can log in"}
	case len(s.TeamsToLogins)+len(s.TeamsToRoles) > maxConnectorRows:
		return &FieldError{"spec", fmt.Sprintf("more than %d teams", maxConnectorRows)}
	}
	groups, users := map[string]bool{}, map[string]bool{}
	for i := range s.TeamsToLogins {
		row, path := &s.TeamsToLogins[i], fmt.Sprintf("spec.teams_to_logins[%d]", i)
		if err := checkTeam(path, row.Organization, row.Team); err != nil {
			return err
		}
		if err := row.check(path, groups, users); err != nil {
			return err
		}
	}
	different := map[string]bool{}
	for i, row := range s.TeamsToRoles {
		path := fmt.Sprintf("spec.teams_to_roles[%d]", i)
		if err := checkTeam(path, row.Organization, row.Team); err != nil {
			return err
		}
		if err := checkRowRoles(path, row.Roles, different); err != nil {
			return err
		}
	}
	return nil
}

// checkTeam takes what GitHub gives out, which is ASCII: so no name here looks like
// another one.
func checkTeam(path, organization, team string) error {
	for _, f := range []struct{ name, value, hint string }{
		{"organization", organization, "want the organization's name as in its address, https://github.com/NAME"},
		{"team", team, "want the team's name as in its address, such as my-team for My Team; patterns are not supported here"},
	} {
		at := path + "." + f.name
		if f.value == "" {
			return &FieldError{at, "is missing: " + f.hint}
		}
		if len(f.value) > maxGithubName || strings.IndexFunc(f.value, func(r rune) bool {
			return r >= 0x80 || !isAlnum(byte(r)) && r != '-' && r != '_' && r != '.' //nolint:gosec // below 0x80
		}) >= 0 {
			return &FieldError{at, fmt.Sprintf("%q: %s", clip(f.value), f.hint)}
		}
	}
	return nil
}

// check judges what a team is given; groups and users gather it over all rows.
func (t *TeamToLogins) check(path string, groups, users map[string]bool) error {
	if len(t.Logins) > maxListEntries {
		return &FieldError{path + ".logins", fmt.Sprintf("more than %d", maxListEntries)}
	}
	for i, v := range t.Logins {
		if err := checkText(v, maxValueLen); err != nil {
			return &FieldError{fmt.Sprintf("%s.logins[%d]", path, i), err.Error()}
		}
	}
	for _, list := range []struct {
		name   string
		values []string
		seen   map[string]bool
	}{
		{TraitKubeGroups, t.KubernetesGroups, groups}, {TraitKubeUsers, t.KubernetesUsers, users},
	} {
		for i, v := range list.values {
			at := fmt.Sprintf("%s.%s[%d]", path, list.name, i)
			if strings.Contains(v, "{{") || strings.Contains(v, "}}") {
				return &FieldError{at, fmt.Sprintf("%q: templates are filled in in roles, not here: write a role with it, and name the role in spec.teams_to_roles", clip(v))}
			}
			if err := ValidateGroup(strings.TrimSuffix(list.name, "s"), v); err != nil {
				return &FieldError{at, err.Error()}
			}
			if list.seen[v] = true; len(list.seen) > maxTraitValues {
				return &FieldError{at, fmt.Sprintf("more than %d different ones in all", maxTraitValues)}
			}
		}
	}
	return nil
}

func (c *OIDCConnector) check() error {
	s := &c.Spec
	if s.IssuerURL == "" {
		return &FieldError{"spec.issuer_url", "is missing: want the https address of the identity provider, as its /.well-known/openid-configuration says it"}
	}
	const wellKnown = "/.well-known/openid-configuration"
	if issuer, ok := strings.CutSuffix(strings.TrimRight(s.IssuerURL, "/"), wellKnown); ok {
		return &FieldError{"spec.issuer_url", fmt.Sprintf("leave off %s: it is added; the document there says how the issuer is written, such as %s", wellKnown, clip(issuer))}
	}
	if err := firstError(
		func() error { return checkHTTPS("spec.issuer_url", s.IssuerURL, false) },
		func() error { return checkClient(s.ClientID, s.ClientSecret) },
		func() error { return checkDisplay(s.Display) },
	); err != nil {
		return err
	}
	if len(s.RedirectURL) > 1 {
		return &FieldError{"spec.redirect_url", "want one, which is that of the public address: all replicas answer there"}
	}
	for _, v := range s.RedirectURL {
		if v == "" {
			return &FieldError{"spec.redirect_url", "is empty: leave it out, or write an https address"}
		}
		if err := checkHTTPS("spec.redirect_url", v, false); err != nil {
			return err
		}
	}
	if err := s.checkRequest(); err != nil {
		return err
	}
	if len(s.ClaimsToRoles) == 0 {
		return &FieldError{"spec.claims_to_roles", "is missing: without a row nobody can log in"}
	}
	return checkRows("claim", c.Rows())
}

// checkRequest judges what is asked of the identity provider.
func (s *OIDCSpec) checkRequest() error {
	if len(s.Scope) > maxListEntries {
		return &FieldError{"spec.scope", fmt.Sprintf("more than %d", maxListEntries)}
	}
	for i, v := range s.Scope {
		if v == "" || len(v) > maxValueLen || !isVisible(v) || strings.ContainsAny(v, ` "\`) { // RFC 6749, section 3.3
			return &FieldError{fmt.Sprintf("spec.scope[%d]", i), fmt.Sprintf("%q is no scope: want one a line, such as groups", clip(v))}
		}
	}
	prompts := []string{"none", "login", "consent", "select_account"}
	words := strings.Fields(s.Prompt)
	for _, v := range words {
		if !slices.Contains(prompts, v) {
			return &FieldError{"spec.prompt", notKnown(v, "some", prompts)}
		}
	}
	if slices.Contains(words, "none") && len(words) > 1 {
		return &FieldError{"spec.prompt", "none can't stand with others"}
	}
	if len(s.ACRValues) > maxValueLen || !isVisible(s.ACRValues) {
		return &FieldError{"spec.acr_values", fmt.Sprintf("want at most %d characters of ASCII", maxValueLen)}
	}
	if d := time.Duration(s.MaxAge); d < 0 || d%time.Second != 0 {
		return &FieldError{"spec.max_age", "want whole seconds, such as 1h"}
	}
	if err := checkText(s.UsernameClaim, maxValueLen); err != nil {
		return &FieldError{"spec.username_claim", err.Error()}
	}
	if s.PKCEMode != "" && s.PKCEMode != PKCEEnabled {
		return &FieldError{"spec.pkce_mode", fmt.Sprintf("%q: PKCE can't be switched off, as without it a stolen code would be enough: write %s or leave it out", clip(s.PKCEMode), PKCEEnabled)}
	}
	return nil
}

func (c *SAMLConnector) check() error {
	s := &c.Spec
	if err := firstError(
		func() error { return checkHTTPS("spec.acs", s.ACS, false) },
		func() error { return checkURI("spec.audience", s.Audience) },
		func() error { return checkURI("spec.service_provider_issuer", s.ServiceProviderIssuer) },
		func() error { return checkDisplay(s.Display) },
		s.checkMetadata,
		func() error { return s.SigningKeyPair.check("spec.signing_key_pair") },
		func() error { return s.AssertionKeyPair.check("spec.assertion_key_pair") },
	); err != nil {
		return err
	}
	if err := checkText(s.UsernameAttribute, maxValueLen); err != nil {
		return &FieldError{"spec.username_attribute", err.Error()}
	}
	if len(s.AttributesToRoles) == 0 {
		return &FieldError{"spec.attributes_to_roles", "is missing: without a row nobody can log in"}
	}
	return checkRows("name", c.Rows())
}

// checkMetadata wants one source of who the identity provider is: of two, one would
// be ignored, and nobody would know which key is trusted.
func (s *SAMLSpec) checkMetadata() error {
	byHand := s.Issuer != "" || s.SSO != "" || s.Cert != ""
	var given []string
	for _, source := range []struct {
		name  string
		given bool
	}{
		{"spec.entity_descriptor", s.EntityDescriptor != ""}, {"spec.entity_descriptor_url", s.EntityDescriptorURL != ""},
		{"spec.issuer, spec.sso and spec.cert", byHand},
	} {
		if source.given {
			given = append(given, source.name)
		}
	}
	switch {
	case len(given) == 0:
		return &FieldError{"spec.entity_descriptor", "is missing: paste the identity provider's metadata (XML) here, or write its address into spec.entity_descriptor_url, or write spec.issuer, spec.sso and spec.cert"}
	case len(given) > 1:
		return &FieldError{"spec.entity_descriptor", "want one source of metadata, not " + strings.Join(given, " beside ")}
	case byHand:
		return s.checkByHand()
	case s.EntityDescriptorURL != "":
		return checkHTTPS("spec.entity_descriptor_url", s.EntityDescriptorURL, true)
	case len(s.EntityDescriptor) > MaxEntityDescriptor:
		return &FieldError{"spec.entity_descriptor", fmt.Sprintf("more than %d bytes: want the metadata of one identity provider, not of a federation", MaxEntityDescriptor)}
	case !strings.HasPrefix(strings.TrimSpace(strings.TrimPrefix(s.EntityDescriptor, "\ufeff")), "<"):
		return &FieldError{"spec.entity_descriptor", "does not begin with <: want the identity provider's metadata (XML), written below 'entity_descriptor: |' with all its lines shifted by four spaces"}
	}
	return nil
}

func (s *SAMLSpec) checkByHand() error {
	for _, f := range []struct{ path, value, hint string }{
		{"spec.issuer", s.Issuer, "the identity provider's entity id"},
		{"spec.sso", s.SSO, "the https address where it logs people in"},
		{"spec.cert", s.Cert, "the certificate (PEM) that it signs with: without it anybody could claim to be anyone"},
	} {
		if f.value == "" {
			return &FieldError{f.path, "is missing: want " + f.hint}
		}
	}
	if err := checkURI("spec.issuer", s.Issuer); err != nil {
		return err
	}
	if err := checkHTTPS("spec.sso", s.SSO, true); err != nil {
		return err
	}
	return checkPEM("spec.cert", s.Cert, "CERTIFICATE")
}

func (k *KeyPair) check(path string) error {
	if k == nil {
		return nil
	}
	if k.Cert == "" {
		return &FieldError{path + ".cert", "is missing"}
	}
	if err := checkPEM(path+".cert", k.Cert, "CERTIFICATE"); err != nil || k.PrivateKey == "" {
		return err
	}
	return checkPEM(path+".private_key", k.PrivateKey, "PRIVATE KEY")
}

// checkPEM never repeats the text: it may be a key.
func checkPEM(path, text, typ string) error {
	if len(text) > maxPEM {
		return &FieldError{path, fmt.Sprintf("more than %d bytes", maxPEM)}
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil || !strings.HasSuffix(block.Type, typ) {
		return &FieldError{path, fmt.Sprintf("want PEM: a text that begins with -----BEGIN %s-----, with its lines as they are", typ)}
	}
	if strings.HasPrefix(block.Type, "ENCRYPTED") || block.Headers["DEK-Info"] != "" {
		return &FieldError{path, "is encrypted: want it without a passphrase, it is sealed at rest"}
	}
	return nil
}

// checkRows judges rows of a claim or attribute, of which field is the name.
func checkRows(field string, rows []ConnectorRow) error {
	if len(rows) > maxConnectorRows {
		return &FieldError{rows[0].List(), fmt.Sprintf("more than %d rows", maxConnectorRows)}
	}
	different := map[string]bool{}
	for _, row := range rows {
		at := row.Path
		for _, f := range []struct{ path, value, hint string }{
			{at + "." + field, row.Name, "is missing: want what the identity provider calls it, such as groups"},
			{at + ".value", row.Value, `is missing: want a value, a pattern such as dev-*, or "*" for any`},
		} {
			if f.value == "" {
				return &FieldError{f.path, f.hint}
			}
			if err := checkText(f.value, maxValueLen); err != nil {
				return &FieldError{f.path, err.Error()}
			}
		}
		if _, err := CompilePattern(row.Value); err != nil {
			return &FieldError{at + ".value", fmt.Sprintf("%q is no pattern: %v", clip(row.Value), err)}
		}
		if err := checkRowRoles(at, row.Roles, different); err != nil {
			return err
		}
	}
	return nil
}

func checkRowRoles(path string, roles []string, different map[string]bool) error {
	if len(roles) == 0 {
		return &FieldError{path + ".roles", "is missing: want one role at least"}
	}
	if err := checkRoleNames(path+".roles", roles); err != nil {
		return err
	}
	for _, r := range roles {
		if different[r] = true; len(different) > maxConnectorRoles {
			return &FieldError{path + ".roles", fmt.Sprintf("more than %d different ones in all", maxConnectorRoles)}
		}
	}
	return nil
}

// checkClient judges what names us to the identity provider. A secret may be left
// out of a document: see internal/auth for when it must be there. It is never
// repeated.
func checkClient(id, secret string) error {
	const copied = "want printable ASCII without spaces or line breaks at its ends: was more copied than there should be?"
	switch {
	case id == "":
		return &FieldError{"spec.client_id", "is missing: want what the identity provider calls us"}
	case len(id) > maxClientSecret || !isVisible(id) || strings.TrimSpace(id) != id:
		return &FieldError{"spec.client_id", copied}
	case len(secret) > maxClientSecret || !isVisible(secret) || strings.TrimSpace(secret) != secret:
		return &FieldError{"spec.client_secret", copied}
	}
	return nil
}

// checkDisplay: the text of a button must read as what it is.
func checkDisplay(s string) error {
	if CleanText(s, maxDisplay) != s {
		return &FieldError{"spec.display", fmt.Sprintf("want at most %d bytes of characters that can be seen, without spaces at its ends", maxDisplay)}
	}
	return nil
}

// checkHTTPS takes "" or what HTTPSURL does.
func checkHTTPS(path, s string, query bool) error {
	if s == "" {
		return nil
	}
	if _, err := HTTPSURL(s, query); err != nil {
		return &FieldError{path, err.Error()}
	}
	return nil
}

// checkURI takes "" or what may be the name of one side.
func checkURI(path, s string) error {
	if err := uri(s); err != nil {
		return &FieldError{path, err.Error()}
	}
	return nil
}

// isVisible says whether s is printable ASCII (RFC 6749, appendix A: VSCHAR).
func isVisible(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

// firstError runs checks until one fails.
func firstError(checks ...func() error) error {
	for _, check := range checks {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}
