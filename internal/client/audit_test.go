package client_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/client"
)

func TestAuditPagesAreAskedFor(t *testing.T) {
	srv := start(t)
	cl := client.NewUnix(srv.Socket, "test")
	defer cl.Close()
	for _, user := range []string{"alice", "bob&user=alice", "alice"} {
		srv.AddAudit(1, []byte(`{"event":"user.login","code":"T1000I","time":"2026-11-23T12:00:00Z","user":"`+user+`"}`))
	}
	q := api.AuditQuery{User: "bob&user=*", Types: []string{"user.*", "T9"}, Grep: `\+|&`, Since: time.Date(2026, 11, 23, 13, 0, 0, 0, time.FixedZone("", 3600)), Limit: 5}
	page, err := cl.Audit(t.Context(), q)
	if err != nil || len(page.Events) != 1 || page.Next != 3 || !page.Done || page.Last != 3 {
		t.Fatalf("%+v, %v", page, err)
	}
	if line := string(page.Events[0]); !strings.Contains(line, `"bob&user=alice"`) {
		t.Errorf("the line came as %s", line)
	}
	asked := srv.AuditQueries()[0]
	if diff := cmp.Diff(q, asked, cmp.Comparer(time.Time.Equal)); diff != "" {
		t.Error(diff)
	}
	if _, err := cl.Audit(t.Context(), api.AuditQuery{Grep: "("}); !api.IsCode(err, api.CodeInvalid) {
		t.Error(err)
	}
}

func TestAuditVerifyTellsOfEachReplica(t *testing.T) {
	srv := start(t)
	cl := client.NewUnix(srv.Socket, "test")
	defer cl.Close()
	good := api.AuditVerified{ServerID: "a", Done: true, OK: true, First: 1, Number: 10, Last: 10, Hash: "00"}
	bad := api.AuditVerified{ServerID: "b", Done: true, Number: 6, Last: 10, Problem: &api.AuditProblem{Line: 3, Text: strings.Repeat("\x01", 40<<10)}}
	for name, tc := range map[string]struct {
		server   string
		answers  []api.AuditVerified
		want     []api.AuditVerified
		progress []uint64
		code     api.Code
	}{
		"one":            {"", []api.AuditVerified{good, bad}, []api.AuditVerified{good}, []uint64{5}, ""},
		"all":            {api.AllServers, []api.AuditVerified{good, bad}, []api.AuditVerified{good, bad}, []uint64{5, 3}, ""},
		"nothing":        {"", nil, nil, nil, api.CodeUnavailable},
		"it breaks off":  {api.AllServers, []api.AuditVerified{good, {ServerID: "b"}}, []api.AuditVerified{good}, []uint64{5, 0}, api.CodeUnavailable},
		"of one, at all": {"", []api.AuditVerified{{ServerID: "b"}}, nil, []uint64{0}, api.CodeUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			srv.SetAuditVerified(tc.answers...)
			var progress []uint64
			got, err := cl.AuditVerify(t.Context(), tc.server, func(v api.AuditVerified) { progress = append(progress, v.Number) })
			if api.CodeOf(err) != tc.code {
				t.Errorf("%v, want code %q", err, tc.code)
			}
			if diff := cmp.Diff(tc.want, got) + cmp.Diff(tc.progress, progress); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAuditExportIsWholeOrFails(t *testing.T) {
	srv := start(t)
	cl := client.NewUnix(srv.Socket, "test")
	defer cl.Close()
	srv.AddAudit(1, []byte(`{"a":"x&y"}`), []byte(`{"b":2}`), []byte(`{"c":3}`))
	for name, tc := range map[string]struct {
		from, to uint64
		want     string
	}{
		"all":    {0, 0, "{\"a\":\"x&y\"}\n{\"b\":2}\n{\"c\":3}\n"},
		"a part": {2, 2, "{\"b\":2}\n"},
		"to":     {0, 1, "{\"a\":\"x&y\"}\n"},
	} {
		var out bytes.Buffer
		n, err := cl.AuditExport(t.Context(), tc.from, tc.to, &out)
		if out.String() != tc.want || err != nil || n != int64(len(tc.want)) {
			t.Errorf("%s: %q, %d, %v", name, out.String(), n, err)
		}
	}
	if _, err := cl.AuditExport(t.Context(), 9, 0, &bytes.Buffer{}); !api.IsCode(err, api.CodeInvalid) {
		t.Error(err)
	}
	srv.CutAuditExports(1)
	if n, err := cl.AuditExport(t.Context(), 0, 0, &bytes.Buffer{}); !api.IsCode(err, api.CodeUnavailable) || !strings.Contains(err.Error(), "broke") {
		t.Errorf("%d bytes, %v", n, err)
	}
	full := errors.New("disk full")
	if _, err := cl.AuditExport(t.Context(), 0, 0, failing{full}); !errors.Is(err, full) {
		t.Error(err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestAuditNeedsTheRight(t *testing.T) {
	srv := start(t)
	login, err := srv.LogIn("bob", time.Hour, "access")
	if err != nil {
		t.Fatal(err)
	}
	cl, err := client.NewAPI(srv.Addr, client.APIOptions{ClusterName: login.ClusterName, CertPEM: login.CertPEM, KeyPEM: login.KeyPEM, HostCAs: login.CAs})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	_, listed := cl.Audit(t.Context(), api.AuditQuery{})
	_, verified := cl.AuditVerify(t.Context(), "", nil)
	_, exported := cl.AuditExport(t.Context(), 0, 0, &bytes.Buffer{})
	for _, err := range []error{listed, verified, exported} {
		if !api.IsCode(err, api.CodeForbidden) {
			t.Error(err)
		}
	}
}
