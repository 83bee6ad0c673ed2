package auth

import "github.com/sallyport-dev/sallyport/internal/api"

// Map says what a connector makes of an identity: every row that matches counts,
// and the roles of all are united in the order of the rows. CodeForbidden: there is
// none. pins are ids of organizations that the login's transaction is to remember
// (see Connectors.pin).
func Map(doc api.Connector, _ api.ConnectorFacts, id *api.SSOIdentity) (m api.SSOMapping, pins map[string]int64, err error) {
	return m, nil, api.Errorf(api.CodeForbidden, "user %q has no roles by connector %q", id.Username, doc.Head().Metadata.Name)
}
