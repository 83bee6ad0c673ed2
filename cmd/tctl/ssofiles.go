package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"os"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/api/yamldoc"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

// mapped is a row of a mapping: whom it is about, and what they get.
type mapped struct {
	name, value string // organization and team; claim and its value
	gives       []string
}

// rowsOf reads a flag of rows. Values may hold = and commas, as distinguished names
// do; roles hold neither. Teleport's NAME,VALUE,ROLE[,ROLE] is read, too.
func rowsOf(c *cliapp.Call, flag string) ([]mapped, error) {
	var rows []mapped
	for _, text := range c.Raw(flag) {
		row, ok := parseRow(text, strings.HasPrefix(flag, "teams"))
		if !ok {
			want := "NAME=VALUE=ROLE,ROLE"
			switch flag {
			case "claims-to-roles":
				want = "CLAIM=VALUE=ROLE,ROLE"
			case "teams-to-roles":
				want = "ORG/TEAM=ROLE,ROLE"
			case "teams-to-groups":
				want = "ORG/TEAM=GROUP,GROUP"
			}
			return nil, api.Errorf(api.CodeInvalid, "--%s: %q is not %s", flag, text, want)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func parseRow(text string, team bool) (row mapped, ok bool) {
	var gives string
	switch first, last := strings.Index(text, "="), strings.LastIndex(text, "="); {
	case first < 0: // Teleport's
		parts := strings.SplitN(text, ",", 3)
		if len(parts) < 3 {
			return row, false
		}
		row.name, row.value, gives = parts[0], parts[1], parts[2]
	case team:
		row.name, row.value, _ = strings.Cut(text[:first], "/")
		gives = text[first+1:]
	case first == last:
		return row, false
	default:
		row.name, row.value, gives = text[:first], text[first+1:last], text[last+1:]
	}
	row.name, row.value = strings.TrimSpace(row.name), strings.TrimSpace(row.value)
	for give := range strings.SplitSeq(gives, ",") {
		if give = strings.TrimSpace(give); give == "" {
			return row, false
		}
		row.gives = append(row.gives, give)
	}
	return row, row.name != "" && row.value != ""
}

// rows writes a list of rows under the names that its fields have.
func (s *sheet) rows(list, name, value, gives string, rows []mapped) {
	s.line(1, "%s:", list)
	for _, r := range rows {
		s.line(1, "- %s: %s", name, scalar(r.name))
		s.line(2, "%s: %s", value, scalar(r.value))
		s.line(2, "%s: %s", gives, flow(r.gives))
	}
}

func githubFile(ctx context.Context, c *cliapp.Call, s *sheet) error {
	roles, err := rowsOf(c, "teams-to-roles")
	if err != nil {
		return err
	}
	groups, err := rowsOf(c, "teams-to-groups")
	if err != nil {
		return err
	}
	if len(roles)+len(groups) == 0 {
		s.examples = append(s.examples, "spec.teams_to_logins")
		groups = []mapped{{"octocats", "devs", []string{"developers"}}}
	}
	s.begin(c, api.KindGithub, api.GithubVersion, "Members of teams of GitHub organizations log in with an OAuth app.")
	s.field("client_id", s.given("spec.client_id", c.String("id"), "client-id"), "client ID of the OAuth app: the organization's Settings, Developer settings, OAuth apps")
	if err := s.secret(ctx, c, "client secret of the OAuth app"); err != nil {
		return err
	}
	s.field("display", cmp.Or(c.String("display"), "GitHub"), "what the button on the login page says")
	s.answers(c, api.KindGithub, "the app's authorization callback URL")
	if len(groups) > 0 {
		s.line(1, "# organization, team (as its address has it) and the Kubernetes groups of its members")
		s.rows("teams_to_logins", "organization", "team", "kubernetes_groups", groups)
	}
	if len(roles) > 0 {
		s.line(1, "# organization, team (as its address has it) and the roles of its members; all rows that match count")
		s.rows("teams_to_roles", "organization", "team", "roles", roles)
	}
	if c.String("endpoint-url")+c.String("api-endpoint-url") == "" {
		s.line(1, "# GitHub Enterprise Server has addresses of its own:")
		s.line(1, "# endpoint_url: https://github.example.com")
		s.line(1, "# api_endpoint_url: https://github.example.com/api/v3")
		return nil
	}
	base := strings.TrimSuffix(c.String("endpoint-url"), "/")
	s.field("endpoint_url", s.given("spec.endpoint_url", base, "https://github.example.com"), "GitHub Enterprise Server")
	s.field("api_endpoint_url", cmp.Or(c.String("api-endpoint-url"), base+"/api/v3"), "its API")
	return nil
}

func oidcFile(ctx context.Context, c *cliapp.Call, s *sheet) error {
	rows, err := rowsOf(c, "claims-to-roles")
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		s.examples = append(s.examples, "spec.claims_to_roles")
		rows = []mapped{{"groups", "developers", []string{"access"}}}
	}
	s.begin(c, api.KindOIDC, api.OIDCVersion, "People log in at a provider of OpenID Connect.")
	s.field("issuer_url", s.given("spec.issuer_url", c.String("issuer-url"), "https://idp.example.com"), "the issuer; /.well-known/openid-configuration must answer below it")
	s.field("client_id", s.given("spec.client_id", c.String("id"), "client-id"), "client ID at the provider")
	if err := s.secret(ctx, c, "client secret at the provider"); err != nil {
		return err
	}
	s.field("display", cmp.Or(c.String("display"), c.String("name")), "what the button on the login page says")
	s.answers(c, api.KindOIDC, "the redirect URI that the provider must allow")
	scope := strings.Fields(strings.Join(c.Strings("scope"), " ")) // OpenID Connect separates them by blanks
	if len(scope) == 0 {
		scope = api.DefaultScope()
	}
	s.line(1, "# what to ask for beside openid; many providers send groups for the scope groups alone")
	s.line(1, "scope: %s", flow(scope))
	if claim := c.String("username-claim"); claim != "" {
		s.field("username_claim", claim, "the claim that names the user here")
	} else {
		s.line(1, "# the claim that names the user here, if not email (verified), else preferred_username")
		s.line(1, "# username_claim: preferred_username")
	}
	s.line(1, "# claim, value (* is any text, ^...$ a regular expression) and roles; all rows that match count")
	s.rows("claims_to_roles", "claim", "value", "roles", rows)
	return nil
}

func samlFile(_ context.Context, c *cliapp.Call, s *sheet) error {
	rows, err := rowsOf(c, "attributes-to-roles")
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		s.examples = append(s.examples, "spec.attributes_to_roles")
		rows = []mapped{{"groups", "developers", []string{"access"}}}
	}
	s.begin(c, api.KindSAML, api.SAMLVersion, "People log in at an identity provider of SAML 2.0.")
	s.field("display", cmp.Or(c.String("display"), c.String("name")), "what the button on the login page says")
	s.answers(c, api.KindSAML, "assertion consumer service: ACS, single sign-on or reply URL, and audience, at the provider")
	if attribute := c.String("username-attribute"); attribute != "" {
		s.field("username_attribute", attribute, "the attribute that names the user here")
	} else {
		s.line(1, "# the attribute that names the user here, if not the NameID")
		s.line(1, "# username_attribute: email")
	}
	s.line(1, "# attribute, value (* is any text, ^...$ a regular expression) and roles; all rows that match count")
	s.rows("attributes_to_roles", "name", "value", "roles", rows)
	s.line(1, "# Keys that sign our requests are made by the cluster; assertion_key_pair would open encrypted assertions.")
	return s.metadata(c.String("entity-descriptor"))
}

// metadata writes the identity provider's, or where it is.
func (s *sheet) metadata(from string) error {
	if from == "" || strings.Contains(from, "://") {
		s.field("entity_descriptor_url", s.given("spec.entity_descriptor_url", from, "https://idp.example.com/metadata"), "the identity provider's metadata; entity_descriptor takes the XML itself")
		return nil
	}
	text, err := os.ReadFile(from) //nolint:gosec // the admin's own file, named by the admin
	if err != nil {
		return api.Errorf(api.CodeInvalid, "--entity-descriptor: %w", err)
	}
	if text = bytes.TrimPrefix(text, []byte("\ufeff")); !bytes.HasPrefix(bytes.TrimSpace(text), []byte("<")) {
		return api.Errorf(api.CodeInvalid, "--entity-descriptor: %s is not XML", from)
	}
	raw, err := json.Marshal(map[string]string{"entity_descriptor": string(bytes.TrimLeft(text, " \r\n\t"))})
	if err != nil {
		return err
	}
	block, err := yamldoc.Encode([]json.RawMessage{raw})
	if err != nil {
		return err
	}
	s.line(1, "# the identity provider's metadata")
	for _, l := range slices.Collect(strings.Lines(string(block))) {
		if strings.TrimSpace(l) == "" {
			s.b.WriteString("\n")
			continue
		}
		s.b.WriteString("  " + l)
	}
	return nil
}
