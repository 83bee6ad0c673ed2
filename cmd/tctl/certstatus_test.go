package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
)

func TestStatusSaysWhatIsWithTheCertificate(t *testing.T) {
	now := time.Date(2036, 1, 2, 3, 4, 5, 0, time.UTC)
	later := func(d time.Duration) time.Time { return now.Add(d) }
	const day = 24 * time.Hour
	names := []string{"tele.example.com"}
	const (
		again    = "What to do  mend that, then run 'tctl acme retry'"
		hostCA   = "; until then the host CA's certificate is shown"
		next     = "Next try    the next TLS connection for tele.example.com tries again"
		problem  = "the authority says: HTTP 400 urn:ietf:params:acme:error:"
		noneHere = "Certificate none: it could not be had for tele.example.com"
	)
	for name, c := range map[string]struct {
		is   *api.WebCertificate
		want []string
	}{
		"an older replica": {nil, nil},
		"the host CA's": {
			&api.WebCertificate{Source: api.CertificateHostCA, State: api.CertificateValid, NotAfter: later(day)},
			[]string{"Certificate the cluster's own host CA signs it: browsers don't know that, tsh asks once for the CA pin"},
		},
		"a file": {
			&api.WebCertificate{Source: api.CertificateFile, State: api.CertificateValid, NotAfter: later(30 * day), Issuer: "Corp CA", Names: names},
			[]string{"Certificate valid until 2036-02-01, signed by Corp CA, from a file"},
		},
		"a file that is over": {
			&api.WebCertificate{Source: api.CertificateFile, State: api.CertificateExpired, NotAfter: later(-day), Issuer: "Corp CA"},
			[]string{"Certificate EXPIRED on 2036-01-01, signed by Corp CA"},
		},
		"a file whose renewal can't be read": {
			&api.WebCertificate{Source: api.CertificateFile, State: api.CertificateValid, NotAfter: later(day), LastError: "no PEM", LastErrorAt: later(-time.Minute)},
			[]string{
				"Certificate valid until 2036-01-03, from a file", "Cert fault  no PEM (1m ago)",
				"What to do  write a certificate and the key that goes with it: both are read again within 10 s",
			},
		},
		"nobody has come yet": {
			&api.WebCertificate{Source: api.CertificateACME, State: api.CertificateNone, Names: names, Directory: "https://acme.example.com/dir"},
			[]string{"Certificate none yet: the first TLS connection for tele.example.com orders it, from https://acme.example.com/dir"},
		},
		"an order": {
			&api.WebCertificate{Source: api.CertificateACME, State: api.CertificateOrdering, Names: names},
			[]string{"Certificate being ordered for tele.example.com"},
		},
		"ordered": {
			&api.WebCertificate{Source: api.CertificateACME, State: api.CertificateValid, Names: names, Issuer: "R11", NotAfter: later(60 * day), RenewAfter: later(30 * day)},
			[]string{"Certificate valid until 2036-03-02, signed by R11, renewed from 2036-02-01 on"},
		},
		"failing": {
			&api.WebCertificate{
				Source: api.CertificateACME, State: api.CertificateFailing, Names: names, LastError: "no \x1b[31mroute", LastErrorAt: later(-time.Hour), Failures: 3, NextTry: later(4 * time.Minute),
			},
			[]string{
				"Certificate none: it could not be had for tele.example.com", `Cert fault  no \u001b[31mroute (1h ago); 3 failures in a row`,
				"Next try    in 4m, or sooner if the name's addresses change" + hostCA, again,
			},
		},
		"a renewal that fails": {
			&api.WebCertificate{Source: api.CertificateACME, State: api.CertificateFailing, Names: names, NotAfter: later(5 * day), LastError: "no", Failures: 1},
			[]string{
				"Certificate valid until 2036-01-07", "Cert fault  no",
				next + "; until then the one there is stays in use", again,
			},
		},
		// R3: the fault says what to do already.
		"the preflight refuses": {
			&api.WebCertificate{Source: api.CertificateACME, State: api.CertificateFailing, Names: names, LastError: "create a DNS record: no urn:ietf:params:acme:error:dns", Refused: true},
			[]string{noneHere, "Cert fault  create a DNS record: no urn:ietf:params:acme:error:dns", next + hostCA, again},
		},
		"nobody reaches us": {
			&api.WebCertificate{Source: api.CertificateACME, State: api.CertificateFailing, Names: names, LastError: problem + "connection - Timeout"},
			[]string{noneHere, "Cert fault  " + problem + "connection - Timeout", next + hostCA, "What to do  let everybody reach the replicas at port 443 of tele.example.com (or 80), then run 'tctl acme retry'"},
		},
		"the authority finds no record": {
			&api.WebCertificate{Source: api.CertificateACME, State: api.CertificateFailing, Names: names, LastError: problem + "dns - NXDOMAIN"},
			[]string{noneHere, "Cert fault  " + problem + "dns - NXDOMAIN", next + hostCA, "What to do  see that the public DNS leads tele.example.com to the replicas, then run 'tctl acme retry'"},
		},
		"the directory can't be read": {
			&api.WebCertificate{Source: api.CertificateACME, State: api.CertificateFailing, Names: names, LastError: "read the ACME directory https://ca.example.com/dir: x509: certificate signed by unknown authority"},
			[]string{
				noneHere, "Cert fault  read the ACME directory https://ca.example.com/dir: x509: certificate signed by unknown authority", next + hostCA,
				"What to do  see that the replicas reach that address, that --acme-uri is right, and that --acme-ca-file has the CA that signs for it if the machine doesn't know it; then run 'tctl acme retry'",
			},
		},
		"too many orders": {
			&api.WebCertificate{Source: api.CertificateACME, State: api.CertificateFailing, Names: names, LastError: problem + "rateLimited - too many"},
			[]string{noneHere, "Cert fault  " + problem + "rateLimited - too many", next + hostCA, "What to do  wait: the authority has had too many orders, and says no to more of them"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, l := range certificateState(c.is, now) {
				got = append(got, l[0]+strings.Repeat(" ", labels-len(l[0]))+l[1])
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// R1: a cluster whose own name leads nowhere is as well as the name that users type.
func TestStatusTellsNamesApart(t *testing.T) {
	now := time.Date(2036, 1, 2, 3, 4, 5, 0, time.UTC)
	all := []api.WebCertificate{
		{Source: api.CertificateACME, State: api.CertificateValid, Names: []string{"web.example.com"}, Issuer: "R11", NotAfter: now.AddDate(0, 2, 0)},
		{Source: api.CertificateACME, State: api.CertificateNone, Names: []string{"tele.example.com"}, Directory: "https://acme.example.com/dir", LastError: "does not\nresolve"},
	}
	want := [][2]string{
		{"Certificate", "valid until 2036-03-02, signed by R11"},
		{"  beside it", `tele.example.com: none yet: the first TLS connection for tele.example.com orders it, from https://acme.example.com/dir; does not\nresolve`},
	}
	if d := cmp.Diff(want, certificateStates(&api.Status{Certificate: &all[0], Certificates: all}, now)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(want[:1], certificateStates(&api.Status{Certificate: &all[0]}, now)); d != "" {
		t.Error(d)
	}
}
