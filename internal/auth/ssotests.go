package auth

import (
	"context"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// SSOTests walks logins that log nobody in, to show what a connector would do.
type SSOTests struct {
	base       *base
	connectors *Connectors
}

// ssoTestRecord is a test, sealed as a whole: it holds a connector's secrets.
type ssoTestRecord struct {
	Sealed []byte `json:"sealed"`
}

// Start begins a test of a document or of a saved connector.
func (s *SSOTests) Start(context.Context, Actor, api.SSOTestRequest) (*api.SSOTest, error) {
	return nil, api.Errorf(api.CodeUnavailable, "connectors can't be tested yet")
}

// Open gives the connector of a test that waits for its login.
func (s *SSOTests) Open(context.Context, string) (*OpenConnector, error) { return nil, errNoSSOTest() }

// Finish writes what came of a test, and maps the identity.
func (s *SSOTests) Finish(context.Context, string, api.SSOTestResult) error { return errNoSSOTest() }

// Wait returns the result of a test to who began it, or after 20 s that there is none yet.
func (s *SSOTests) Wait(context.Context, Actor, string) (*api.SSOTestResult, error) {
	return nil, errNoSSOTest()
}

func errNoSSOTest() error {
	return api.Errorf(api.CodeNotFound, "there is no such test of a connector, or its 10 minutes are over: begin again with 'tctl sso test'")
}
