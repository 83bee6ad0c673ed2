package auth

import (
	"context"
	"encoding/json"
	"time"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// Connectors keeps the connectors: whom we believe who somebody is.
type Connectors struct {
	base   *base
	keys   *keys
	access *Authorizer
	probe  func(context.Context, api.Connector) (api.ConnectorFacts, error) // nil: no facts
}

// OpenConnector is a connector as whoever speaks with its identity provider needs
// it. Nothing of it may be changed.
type OpenConnector struct {
	Doc   api.Connector // with its secrets, and with what was left out filled in
	Facts api.ConnectorFacts
	// Revision and Created are those of the record: each change of the connector has
	// another revision, each life another time.
	Revision uint64
	Created  time.Time
}

// connectorRecord is a connector without its secrets, which are sealed apart.
type connectorRecord struct {
	Document json.RawMessage    `json:"document"`
	Sealed   []byte             `json:"sealed,omitempty"`
	Facts    api.ConnectorFacts `json:"facts,omitzero"`
}

// Put writes a connector: a new one, or over an old one of its name with force.
func (c *Connectors) Put(context.Context, Actor, api.Connector, bool) (api.PutResponse, error) {
	return api.PutResponse{}, api.Errorf(api.CodeUnavailable, "connectors can't be written yet")
}

// List returns all connectors of a kind as documents, by name.
func (c *Connectors) List(string, bool) ([]json.RawMessage, error) { return nil, nil }

// Get returns a connector as a document; its secrets are left out unless asked for.
func (c *Connectors) Get(kind, name string, _ bool) (json.RawMessage, error) {
	return nil, readError(kind, name, fsm.ErrNotFound)
}

// Delete removes a connector. The sessions that it made end with it.
func (c *Connectors) Delete(_ context.Context, _ Actor, kind, name string) error {
	return readError(kind, name, fsm.ErrNotFound)
}

// Public is what strangers are told of the connectors by which one can log in, by name.
func (c *Connectors) Public() []api.PingConnector { return nil }

// Default is the connector that tsh login uses unless told otherwise; nil: local.
func (c *Connectors) Default() *api.PingConnector { return nil }

// Open gives a connector for a login. One that holds what this version does not
// know, or would not save, is an error: it may be a restriction.
func (c *Connectors) Open(name string) (*OpenConnector, error) {
	return nil, readError("connector", name, fsm.ErrNotFound)
}

// pin gives the transaction by which a connector remembers the ids of GitHub
// organizations that a login has shown; it is empty if there is nothing to remember.
func (c *Connectors) pin(fsm.View, string, map[string]int64) (fsm.Txn, error) {
	return fsm.Txn{}, nil
}
