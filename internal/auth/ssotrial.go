package auth

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"time"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
)

const (
	// SSOTestTTL is how long a test of a connector waits for its login, and its result
	// for whoever began it.
	SSOTestTTL = 10 * time.Minute
	// maxSSOTests bounds what tests of connectors cost the store.
	maxSSOTests    = 100
	ssoTestIDBytes = 16
)

// SSOTests walks logins that log nobody in, to show what a connector would do.
type SSOTests struct {
	base       *base
	connectors *Connectors
}

// ssoTestRecord is a test, sealed as a whole: it holds a connector's secrets, and
// later what an identity provider says of somebody.
type ssoTestRecord struct {
	Sealed []byte `json:"sealed"`
}

// ssoTest is what is sealed.
type ssoTest struct {
	User     string             `json:"user"` // who began it, and alone sees the result
	Began    time.Time          `json:"began"`
	Expires  time.Time          `json:"expires"`
	Document json.RawMessage    `json:"document"` // with its secrets
	Facts    api.ConnectorFacts `json:"facts"`
	Warnings []string           `json:"warnings,omitempty"`
	Result   *api.SSOTestResult `json:"result,omitempty"`
}

// Start begins a test of a document, which is judged as if it were to be saved, or
// of a saved connector.
func (s *SSOTests) Start(ctx context.Context, by Actor, req api.SSOTestRequest) (*api.SSOTest, error) {
	t, err := s.prepare(ctx, by, req)
	if err != nil {
		return nil, err
	}
	id, err := s.base.random(ssoTestIDBytes)
	if err != nil {
		return nil, err
	}
	t.User = by.User
	_, err = s.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		count := 0
		for range ssoTests.List(v) {
			if count++; count >= maxSSOTests {
				return fsm.Txn{}, api.Errorf(api.CodeRateLimited, "%d tests of connectors are under way, which is the most there can be: each ends after %s", count, SSOTestTTL)
			}
		}
		t.Began, t.Expires = v.Now(), v.Now().Add(SSOTestTTL)
		op, err := s.put(v, id, t)
		return fsm.Txn{Checks: []fsm.Check{ssoTests.Absent(id)}, Ops: []fsm.Op{op}}, err
	})
	if err != nil {
		return nil, err
	}
	return &api.SSOTest{ID: id, URL: "https://" + s.base.publicAddr + "/web/sso/test/" + id, Expires: t.Expires}, nil
}

// prepare gives a test of what is asked for, without anything that is the store's to say.
func (s *SSOTests) prepare(ctx context.Context, by Actor, req api.SSOTestRequest) (*ssoTest, error) {
	v := s.base.db.View()
	var doc api.Connector
	next := &candidate{}
	switch {
	case (len(req.Document) > 0) == (req.Name != ""):
		return nil, errSSOTestOfWhat()
	case req.Name != "":
		open, err := s.connectors.open(v, req.Name)
		if err != nil {
			return nil, err
		}
		doc, next.doc, next.kept, next.had = open.Doc, open.Doc, open.Doc, open.Facts
	default:
		var err error
		if next, err = s.given(v, by, req.Document); err != nil {
			return nil, err
		}
		doc = next.doc
	}
	found, warned, err := s.connectors.ask(ctx, doc)
	if err != nil {
		return nil, err
	}
	facts, warnings := next.keep(found, warned)
	raw, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	if len(raw) > maxConnectorSize {
		return nil, api.Errorf(api.CodeTooLarge, "the connector has %d bytes, at most %d are allowed", len(raw), maxConnectorSize)
	}
	return &ssoTest{Document: raw, Facts: facts, Warnings: warnings}, nil
}

// given judges a document that is to be tried. As replicas go where it says, it takes
// what saving it takes; and where it is tried with a secret that is stored already,
// what trying the stored connector takes.
func (s *SSOTests) given(v fsm.View, by Actor, raw []byte) (*candidate, error) {
	if err := s.connectors.mayWrite(v, by); err != nil {
		return nil, err
	}
	doc, err := readConnector(raw)
	if err != nil {
		return nil, err
	}
	next, err := s.connectors.complete(v, doc)
	if err != nil || by.User == SocketUser || !next.borrowed && !next.keepsMadeKey() {
		return next, err
	}
	p, err := s.connectors.access.Session(v, by.Session)
	if err == nil {
		err = p.Can(api.VerbUpdate, doc.ConnectorKind())
	}
	return next, err
}

// Kind is the kind of the connector that a request is about: what may be done with
// it depends on that.
func (s *SSOTests) Kind(req api.SSOTestRequest) (string, error) {
	switch {
	case (len(req.Document) > 0) == (req.Name != ""):
		return "", errSSOTestOfWhat()
	case req.Name != "":
		p, err := s.connectors.Named(req.Name)
		if err != nil {
			return "", err
		}
		return p.Kind, nil
	}
	var head struct {
		Kind string `json:"kind"`
	}
	if err := json.Unmarshal(req.Document, &head); err == nil && api.NewConnector(head.Kind) != nil {
		return head.Kind, nil
	}
	_, err := readConnector(req.Document) // says what is wrong with it
	if err == nil {
		err = errSSOTestOfWhat()
	}
	return "", err
}

func (s *SSOTests) put(v fsm.View, id string, t *ssoTest) (fsm.Op, error) {
	plain, err := json.Marshal(t)
	if err != nil {
		return fsm.Op{}, err
	}
	ring, err := s.connectors.keys.ring(v)
	if err != nil {
		return fsm.Op{}, err
	}
	sealed, err := ring.Seal(ssoTests.Key(id), plain)
	if err != nil {
		return fsm.Op{}, err
	}
	return ssoTests.Put(id, &ssoTestRecord{Sealed: sealed}, t.Expires.Sub(v.Now()))
}

// get reads a test; the channel is of its record, also where there is none.
func (s *SSOTests) get(v fsm.View, id string) (*ssoTest, *fsm.Record, <-chan struct{}, error) {
	if b, err := hex.DecodeString(id); err != nil || len(b) != ssoTestIDBytes {
		return nil, nil, nil, errNoSSOTest()
	}
	stored, rec, changed, err := ssoTests.Watch(v, id)
	if err != nil {
		return nil, rec, changed, errNoSSOTest()
	}
	ring, err := s.connectors.keys.ring(v)
	if err != nil {
		return nil, rec, changed, err
	}
	plain, err := ring.Open(ssoTests.Key(id), stored.Sealed)
	if err != nil {
		return nil, rec, changed, errNoSSOTest()
	}
	var t ssoTest
	if err := json.Unmarshal(plain, &t); err != nil || !v.Now().Before(t.Expires) {
		return nil, rec, changed, errNoSSOTest()
	}
	return &t, rec, changed, nil
}

// fresh is get, from the leader if this replica does not know the test: it may have
// been begun on another one a moment ago.
func (s *SSOTests) fresh(ctx context.Context, id string) (*ssoTest, *fsm.Record, error) {
	t, rec, changed, err := s.get(s.base.db.View(), id)
	if err == nil || rec != nil || changed == nil {
		return t, rec, err
	}
	if err := s.base.db.Linearize(ctx); err != nil {
		return nil, nil, err
	}
	t, rec, _, err = s.get(s.base.db.View(), id)
	return t, rec, err
}

// Open gives the connector of a test that waits for its login.
func (s *SSOTests) Open(ctx context.Context, id string) (*OpenConnector, error) {
	t, rec, err := s.fresh(ctx, id)
	if err != nil {
		return nil, err
	}
	if t.Result != nil {
		return nil, errSSOTestDone()
	}
	return s.open(t, rec)
}

func (s *SSOTests) open(t *ssoTest, rec *fsm.Record) (*OpenConnector, error) {
	doc, err := readConnector(t.Document)
	if err != nil {
		return nil, err
	}
	s.base.fill(doc)
	return &OpenConnector{Doc: doc, Facts: t.Facts, Revision: rec.Revision, Created: rec.Created}, nil
}

// Finish writes what came of a test, once: an identity, which is judged and mapped
// here, or an error. Nobody is logged in.
func (s *SSOTests) Finish(ctx context.Context, id string, r api.SSOTestResult) error {
	if _, _, err := s.fresh(ctx, id); err != nil {
		return err
	}
	_, err := s.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		t, rec, _, err := s.get(v, id)
		if err != nil {
			return fsm.Txn{}, err
		}
		if t.Result != nil {
			return fsm.Txn{}, errSSOTestDone()
		}
		open, err := s.open(t, rec)
		if err != nil {
			return fsm.Txn{}, err
		}
		t.Result = judgeTest(open, r, t.Warnings)
		op, err := s.put(v, id, t)
		if err != nil {
			return fsm.Txn{}, err
		}
		line, err := s.event(ctx, v, t, open.Doc)
		return fsm.Txn{Checks: []fsm.Check{ssoTests.Unchanged(rec)}, Ops: []fsm.Op{op}, Events: [][]byte{line}}, err
	})
	return err
}

// judgeTest says what a login would have come to.
func judgeTest(open *OpenConnector, r api.SSOTestResult, warnings []string) *api.SSOTestResult {
	r.Done, r.Mapping, r.Warnings = true, nil, warnings
	if r.Error != "" {
		return &r
	}
	if r.Identity == nil {
		r.Error = "the login ended without an identity: try again"
		return &r
	}
	err := checkIdentity(open.Doc.Head().Metadata.Name, r.Identity)
	if err == nil {
		var m api.SSOMapping
		if m, _, err = Map(open.Doc, open.Facts, r.Identity); err == nil {
			r.Mapping = &m
		}
	}
	if err != nil {
		r.Error = err.Error()
	}
	return &r
}

func (s *SSOTests) event(ctx context.Context, v fsm.View, t *ssoTest, doc api.Connector) ([]byte, error) {
	fields := map[string]any{"connector": doc.Head().Metadata.Name, "method": doc.ConnectorKind(), "success": t.Result.Error == ""}
	if t.Result.Error != "" {
		fields["error"] = t.Result.Error
	}
	if id := t.Result.Identity; id != nil {
		fields["name"] = id.Username
	}
	if m := t.Result.Mapping; m != nil {
		fields["roles"] = m.Roles
	}
	return s.base.event(ctx, v, api.EventSSOTest, api.EventCodeSSOTest, Actor{User: t.User}, fields)
}

// Wait returns the result of a test to who began it; after 20 s, or as soon as the
// context ends, that there is none yet.
func (s *SSOTests) Wait(ctx context.Context, by Actor, id string) (*api.SSOTestResult, error) {
	if _, _, err := s.fresh(ctx, id); err != nil {
		return nil, err
	}
	return longPoll(ctx, s.base.db, func(v fsm.View) (glance[api.SSOTestResult], error) {
		t, _, changed, err := s.get(v, id)
		if err == nil && (by.User == "" || t.User != by.User) {
			err = errNoSSOTest()
		}
		if err != nil {
			return glance[api.SSOTestResult]{}, err
		}
		if t.Result != nil {
			return glance[api.SSOTestResult]{answer: t.Result, final: true}, nil
		}
		return glance[api.SSOTestResult]{answer: &api.SSOTestResult{Warnings: t.Warnings}, changed: changed, expires: t.Expires}, nil
	})
}

func errSSOTestOfWhat() error {
	return api.Errorf(api.CodeInvalid, "want a document or the name of a connector")
}

func errNoSSOTest() error {
	return api.Errorf(api.CodeNotFound, "there is no such test of a connector, or its 10 minutes are over: begin again with 'tctl sso test'")
}

func errSSOTestDone() error {
	return api.Errorf(api.CodeConflict, "this test of a connector is done: its result is where it was begun; for another one, begin again with 'tctl sso test'")
}
