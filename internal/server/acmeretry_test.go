package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/acme"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/testport"
)

// R1: an operator who has mended what was in the way doesn't wait.
func TestAnOperatorHasTheCertificateOrderedNow(t *testing.T) {
	t.Parallel()
	f, asked := &fakeACME{}, ""
	r := startReplicas(t, 1, func(_ int, o *Options) {
		o.ACME, o.ACMEHTTPAddr, o.public = true, fmt.Sprintf("127.0.0.1:%d", testport.Reserve(t, 1)[0]), f
	})
	admin, events := r.admin(0), 0
	for name, c := range map[string]struct {
		ask    string
		issued bool
		err    error
		want   string // the outcome; "": an error
		says   string
		code   api.Code
	}{
		"issued":      {issued: true, want: api.ACMERetryIssued},
		"not due":     {want: api.ACMERetryNotDue},
		"still at it": {err: acme.ErrOrdering, want: api.ACMERetryOrdering},
		"in capitals": {ask: strings.ToUpper(testCluster) + ".", issued: true, want: api.ACMERetryIssued},
		"refused":     {err: &acme.RefusedError{Reason: errors.New("it does not resolve, so nothing is ordered")}, says: "it does not resolve, so", code: api.CodeUnavailable},
		"failed":      {err: errors.New("the authority says: no"), says: "no certificate was issued: the authority says: no", code: api.CodeInternal},
		"no leader":   {err: api.Errorf(api.CodeUnavailable, "no leader is known"), says: "no leader is known", code: api.CodeUnavailable},
		"other name":  {ask: "other.example.net", says: "no certificate is ordered for", code: api.CodeNotFound},
	} {
		f.retry = func(_ context.Context, name string) (bool, error) {
			asked = name
			events++
			return c.issued, c.err
		}
		out, err := admin.RetryACME(t.Context(), c.ask)
		switch {
		case c.want == "" && (api.CodeOf(err) != c.code || !strings.HasPrefix(err.Error(), c.says)):
			t.Errorf("%s: %+v, %v", name, out, err)
		case c.want != "" && (err != nil || out.Outcome != c.want):
			t.Errorf("%s: %+v, %v", name, out, err)
		case c.want != "" && (asked != testCluster || out.Certificate.Names[0] != asked):
			t.Errorf("%s: for %s: %+v", name, asked, out.Certificate)
		}
	}
	if page, err := admin.Audit(t.Context(), api.AuditQuery{Types: []string{api.EventACMERetry}}); err != nil || len(page.Events) != events {
		t.Errorf("%d events of %d, %v", len(page.Events), events, err)
	}
}

func TestNothingIsOrderedWithoutACME(t *testing.T) {
	t.Parallel()
	r := startReplicas(t, 1, nil)
	if _, err := r.admin(0).RetryACME(t.Context(), ""); !api.IsCode(err, api.CodeInvalid) || !strings.Contains(err.Error(), "without --acme") {
		t.Errorf("got %v", err)
	}
}
