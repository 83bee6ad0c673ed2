package auth

import (
	"crypto/subtle"
	"encoding/base32"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/pquerna/otp"
	"github.com/pquerna/otp/hotp"

	"github.com/sallyport-dev/sallyport/fsm"
)

// The parameters of RFC 6238 that every authenticator app knows.
const (
	totpPeriod      = 30 // seconds
	totpDigits      = 6
	totpSkew        = 1  // steps before and after, for clocks that are off
	totpSecretBytes = 20 // the size of a SHA-1 (RFC 4226, section 4)
)

// totpFactor is the stored half of an authenticator app.
type totpFactor struct {
	Sealed []byte `json:"sealed"` // the secret, in base32
	// LastStep is that of the last code taken: it and those before are worth nothing,
	// so that a code counts once on all replicas (RFC 6238, section 5.2).
	LastStep int64 `json:"last_step"`
}

// newTOTPSecret makes a secret, in base32 without padding.
func newTOTPSecret(rand io.Reader) (string, error) {
	buf := make([]byte, totpSecretBytes)
	if _, err := io.ReadFull(rand, buf); err != nil {
		return "", fmt.Errorf("no randomness: %w", err)
	}
	return base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(buf), nil
}

// totpURI is what the QR code says (the key URI format of authenticator apps).
// Parameters that are every app's default are left out: the code stays small.
func totpURI(issuer, user, secret string) string {
	u := url.URL{Scheme: "otpauth", Host: "totp", Path: "/" + issuer + ":" + user}
	// Spaces must be %20: some apps show a plus as it is.
	u.RawQuery = strings.ReplaceAll(url.Values{"secret": {secret}, "issuer": {issuer}}.Encode(), "+", "%20")
	return u.String()
}

// cleanCode takes the spaces out of a code as people type it; false if it is none.
func cleanCode(typed string) (string, bool) {
	if len(typed) > 4*totpDigits {
		return "", false
	}
	code := strings.ReplaceAll(typed, " ", "")
	if len(code) != totpDigits {
		return "", false
	}
	for i := range len(code) {
		if code[i] < '0' || code[i] > '9' {
			return "", false
		}
	}
	return code, true
}

// matchTOTP gives the step of a code; false if it is of no step around now. All
// steps are compared, whichever is the one.
func matchTOTP(secret, typed string, now time.Time) (step int64, ok bool) {
	code, ok := cleanCode(typed)
	if !ok {
		return 0, false
	}
	ok = false
	current := now.Unix() / totpPeriod
	for s := current - totpSkew; s <= current+totpSkew; s++ {
		if s < 0 {
			continue
		}
		want, err := hotp.GenerateCodeCustom(secret, uint64(s), hotp.ValidateOpts{Digits: otp.DigitsSix, Algorithm: otp.AlgorithmSHA1})
		if err == nil && subtle.ConstantTimeCompare([]byte(want), []byte(code)) == 1 {
			step, ok = s, true
		}
	}
	return step, ok
}

// totpRecordKey is what a secret is sealed for: the user's record.
func totpRecordKey(user string) string { return factorRecs.Key(user) + "/totp" }

func (f *Factors) openTOTP(v fsm.View, user string, t *totpFactor) (string, error) {
	ring, err := f.keys.ring(v)
	if err != nil {
		return "", err
	}
	plain, err := ring.Open(totpRecordKey(user), t.Sealed)
	return string(plain), err
}

func (f *Factors) sealTOTP(v fsm.View, user, secret string) ([]byte, error) {
	ring, err := f.keys.ring(v)
	if err != nil {
		return nil, err
	}
	return ring.Seal(totpRecordKey(user), []byte(secret))
}
