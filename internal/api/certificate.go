package api

import "time"

// Sources of the certificate that the web name shows.
const (
	CertificateFile   = "file"    // --cert-file
	CertificateACME   = "acme"    // --acme
	CertificateHostCA = "host_ca" // neither: the cluster's own
)

// States of a certificate by ACME.
const (
	CertificateValid    = "valid"    // there is one; it may be renewed meanwhile
	CertificateNone     = "none"     // nobody has asked for the name yet: the first TLS handshake orders
	CertificateOrdering = "ordering" // a replica is at it
	CertificateFailing  = "failing"  // the last attempt failed: LastError, NextTry
	CertificateExpired  = "expired"
)

// WebCertificate says what the web name shows, as the replica asked knows it. Of ACME,
// attempts and failures are the cluster's: every replica says the same.
type WebCertificate struct {
	Source   string    `json:"source"`
	State    string    `json:"state"` // of a file or the host CA's: valid or expired
	Names    []string  `json:"names,omitempty"`
	Issuer   string    `json:"issuer,omitempty"` // common name of who signed it
	NotAfter time.Time `json:"not_after,omitzero"`

	Directory   string    `json:"directory,omitempty"`    // URL of the ACME server (RFC 8555 section 7.1.1)
	RenewAfter  time.Time `json:"renew_after,omitzero"`   // when a replica will renew it, by ARI (RFC 9773) or a third of its life before the end
	OrderedBy   string    `json:"ordered_by,omitempty"`   // server id of who orders now, or did last
	LastError   string    `json:"last_error,omitempty"`   // of the last attempt; "" after a success
	LastErrorAt time.Time `json:"last_error_at,omitzero"` // of it
	Refused     bool      `json:"refused,omitempty"`      // it is why the authority was not asked, and says what to do
	Failures    int       `json:"failures,omitempty"`     // in a row
	NextTry     time.Time `json:"next_try,omitzero"`      // not before this; zero: at the next handshake
}

// PathACMERetry is for who has mended what kept the certificate away and won't wait until
// the cluster tries again: POST ACMERetryRequest: ACMERetryResponse, after up to 45 s.
const PathACMERetry = "/v1/acme/retry"

// ACMERetryRequest asks for an order now, however often that has failed.
type ACMERetryRequest struct {
	Name string `json:"name,omitempty"` // "": the first of Status.Certificates
}

// ACMERetryResponse says what became of it; an order that failed, or that the preflight
// refused, is an error.
type ACMERetryResponse struct {
	Outcome     string         `json:"outcome"`
	Certificate WebCertificate `json:"certificate"` // of the name, as it is now
}

// Outcomes of an ACMERetryRequest.
const (
	ACMERetryIssued   = "issued"   // there is a new one
	ACMERetryNotDue   = "not_due"  // there is one that is valid and not due for renewal: nothing was ordered
	ACMERetryOrdering = "ordering" // it takes longer
)

// MaxSignTTL bounds what a SignRequest may ask for: a session is a record of the store,
// and one that nobody remembers should end.
const MaxSignTTL = 365 * 24 * time.Hour

// SignRequest asks for a certificate for a user without a login, as CI needs one:
// POST PathSign. Who asks on an admin socket may; others need the verb impersonate on the
// kind user.
type SignRequest struct {
	User      string   `json:"user"`
	TLSPubKey []byte   `json:"tls_pub_key"`  // as in LoginRequest
	TTL       Duration `json:"ttl,omitzero"` // 0: 12 h; MaxSignTTL at most; cut by the roles' max_session_ttl, where one sets it, and by nothing else
}
