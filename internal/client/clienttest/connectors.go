package clienttest

import (
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// AddSSOUser makes somebody who has logged in through a connector.
func (s *Server) AddSSOUser(u api.SSOUser) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ssoUsers = append(s.ssoUsers, u)
}

// SetSSOTest says what comes of the next tests of connectors, after so many answers
// that nothing has come yet.
func (s *Server) SetSSOTest(pending int, result api.SSOTestResult) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ssoTest, s.ssoPending = result, pending
}

// connectorRoutes are the calls about connectors, beside those of documents.
func (s *Server) connectorRoutes(mux *http.ServeMux, may func(verb, kind string, h http.HandlerFunc) http.HandlerFunc) {
	mux.HandleFunc("GET "+api.PathSSOUsers, may(api.VerbList, api.KindUser, handle(s, func(*http.Request, *none) (any, error) {
		return api.SSOUsers{Users: s.ssoUsers}, nil
	})))
	mux.HandleFunc("POST "+api.PathSSOTests, may(api.VerbCreate, "connector", handle(s, s.startSSOTest)))
	mux.HandleFunc("GET "+api.PathSSOTests+"/{id}", may(api.VerbCreate, "connector", handle(s, func(r *http.Request, _ *none) (any, error) {
		if r.PathValue("id") != ssoTestID || s.ssoTest.Error == "expired" {
			return nil, api.Errorf(api.CodeNotFound, "there is no such test")
		}
		if s.ssoPending > 0 {
			s.ssoPending--
			return api.SSOTestResult{}, nil
		}
		return s.ssoTest, nil
	})))
}

const ssoTestID = "a1b2c3d4"

func (s *Server) startSSOTest(_ *http.Request, in *api.SSOTestRequest) (any, error) {
	doc := in.Document
	if in.Name != "" {
		for _, kind := range api.ConnectorKinds() {
			if stored, ok := s.docs[kind][in.Name]; ok {
				doc = stored
			}
		}
	}
	if len(doc) == 0 {
		return nil, api.Errorf(api.CodeNotFound, "connector %q not found", in.Name)
	}
	if _, err := decodeConnector(doc); err != nil {
		return nil, err
	}
	return api.SSOTest{
		ID: ssoTestID, URL: "https://" + s.PublicAddr + "/web/sso/test/" + ssoTestID, Expires: time.Now().Add(10 * time.Minute),
	}, nil
}

func decodeConnector(doc json.RawMessage) (api.Connector, error) {
	value, err := api.DecodeDocument(doc)
	if err != nil {
		return nil, err
	}
	c, ok := value.(api.Connector)
	if !ok {
		return nil, api.Errorf(api.CodeInvalid, "this is no connector")
	}
	return c, nil
}

// keepSecrets puts what a connector's document leaves out there from the stored one.
func keepSecrets(doc, stored json.RawMessage) (json.RawMessage, error) {
	c, err := decodeConnector(doc)
	if err != nil {
		return nil, err
	}
	had := map[string]*string{}
	if len(stored) > 0 {
		old, err := decodeConnector(stored)
		if err != nil {
			return nil, err
		}
		had = old.Secrets()
	}
	for path, secret := range c.Secrets() {
		switch old := had[path]; {
		case *secret != "":
		case old != nil:
			*secret = *old
		default:
			return nil, api.Errorf(api.CodeInvalid, "%s %q: %w", c.ConnectorKind(), c.Head().Metadata.Name, &api.FieldError{Path: path, Reason: "is missing"})
		}
	}
	return json.Marshal(c)
}

// shown is a document as a replica gives it out: secrets are left out unless they
// are asked for.
func shown(r *http.Request, doc json.RawMessage) (json.RawMessage, error) {
	var h api.Header
	if err := json.Unmarshal(doc, &h); err == nil && h.Kind == api.KindAuditForwarder && r.URL.Query().Get("secrets") != "true" {
		var f api.AuditForwarder
		if err := json.Unmarshal(doc, &f); err != nil {
			return nil, err
		}
		f.TakeSecrets()
		return json.Marshal(f)
	} else if err != nil || !slices.Contains(api.ConnectorKinds(), h.Kind) || r.URL.Query().Get("secrets") == "true" {
		return doc, err
	}
	c, err := decodeConnector(doc)
	if err != nil {
		return nil, err
	}
	for _, secret := range c.Secrets() {
		*secret = ""
	}
	return json.Marshal(c)
}
