package api

import (
	"fmt"
	"slices"
	"strings"
)

// ConnectorKind implements Connector.
func (c *GithubConnector) ConnectorKind() string { return KindGithub }

// ConnectorKind implements Connector.
func (c *OIDCConnector) ConnectorKind() string { return KindOIDC }

// ConnectorKind implements Connector.
func (c *SAMLConnector) ConnectorKind() string { return KindSAML }

// Head implements Connector.
func (c *GithubConnector) Head() *Header { return &c.Header }

// Head implements Connector.
func (c *OIDCConnector) Head() *Header { return &c.Header }

// Head implements Connector.
func (c *SAMLConnector) Head() *Header { return &c.Header }

// Display implements Connector.
func (c *GithubConnector) Display() string { return displayed(c.Spec.Display, &c.Header) }

// Display implements Connector.
func (c *OIDCConnector) Display() string { return displayed(c.Spec.Display, &c.Header) }

// Display implements Connector.
func (c *SAMLConnector) Display() string { return displayed(c.Spec.Display, &c.Header) }

func displayed(display string, h *Header) string {
	if display == "" {
		return h.Metadata.Name
	}
	return display
}

// Secrets implements Connector.
func (c *GithubConnector) Secrets() map[string]*string {
	return map[string]*string{"spec.client_secret": &c.Spec.ClientSecret}
}

// Secrets implements Connector.
func (c *OIDCConnector) Secrets() map[string]*string {
	return map[string]*string{"spec.client_secret": &c.Spec.ClientSecret}
}

// Secrets implements Connector.
func (c *SAMLConnector) Secrets() map[string]*string {
	out := map[string]*string{}
	if c.Spec.SigningKeyPair != nil {
		out["spec.signing_key_pair.private_key"] = &c.Spec.SigningKeyPair.PrivateKey
	}
	if c.Spec.AssertionKeyPair != nil {
		out["spec.assertion_key_pair.private_key"] = &c.Spec.AssertionKeyPair.PrivateKey
	}
	return out
}

// Organizations are those that the rows name, in lower case, each once, sorted.
func (c *GithubConnector) Organizations() []string {
	names := make([]string, 0, len(c.Spec.TeamsToLogins)+len(c.Spec.TeamsToRoles))
	for _, row := range c.Spec.TeamsToLogins {
		names = append(names, strings.ToLower(row.Organization))
	}
	for _, row := range c.Spec.TeamsToRoles {
		names = append(names, strings.ToLower(row.Organization))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (c *GithubConnector) setDefaults() {}

func (c *OIDCConnector) setDefaults() {
	if len(c.Spec.Scope) == 0 {
		c.Spec.Scope = []string{"email", "profile"}
	}
}

func (c *SAMLConnector) setDefaults() {}

// Validate says what is wrong with the connector as a document.
func (c *GithubConnector) Validate() error { return checkConnector(c) }

// Validate says what is wrong with the connector as a document.
func (c *OIDCConnector) Validate() error { return checkConnector(c) }

// Validate says what is wrong with the connector as a document; the metadata of the
// identity provider is for sso/saml to judge.
func (c *SAMLConnector) Validate() error { return checkConnector(c) }

func checkConnector(c Connector) error {
	kind, head := c.ConnectorKind(), c.Head()
	err := head.check(kind)
	if err == nil && slices.Contains(reservedConnectors(), strings.ToLower(head.Metadata.Name)) {
		err = &FieldError{"metadata.name", fmt.Sprintf("%q means something else to tsh login --auth: choose another name", head.Metadata.Name)}
	}
	if err == nil {
		switch c := c.(type) {
		case *GithubConnector:
			err = c.Spec.check()
		case *OIDCConnector:
			err = c.Spec.check()
		case *SAMLConnector:
			err = c.Spec.check()
		}
	}
	if err != nil {
		return documentError(kind, head.Metadata.Name, asInvalid(err))
	}
	return nil
}

// reservedConnectors are values of tsh login --auth that mean something else.
func reservedConnectors() []string { return []string{AuthLocal, "headless", "passwordless"} }
