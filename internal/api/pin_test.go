package api

import (
	"crypto/x509"
	"strings"
	"testing"
)

func TestParsePin(t *testing.T) {
	pin := Pin(&x509.Certificate{RawSubjectPublicKeyInfo: []byte("key")})
	if want := "sha256:2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683"; pin != want {
		t.Errorf("%s, want %s", pin, want)
	}
	for in, want := range map[string]string{
		pin: pin, " SHA256:" + strings.Repeat("aB", 32) + "\n": "sha256:" + strings.Repeat("ab", 32),
		"": "", "sha256:": "", strings.Repeat("00", 32): "", pin + "0": "", "sha256:" + strings.Repeat("xx", 32): "",
	} {
		if got, err := ParsePin(in); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
}
