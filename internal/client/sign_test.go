package client_test

import (
	"crypto/tls"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/client"
)

func TestSignMakesAKeyThatFitsTheCertificate(t *testing.T) {
	srv := start(t)
	cl := client.NewUnix(srv.Socket, "test")
	defer cl.Close()
	resp, creds, err := cl.Sign(t.Context(), "alice", 25*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tls.X509KeyPair(creds.CertPEM, creds.KeyPEM); err != nil {
		t.Error(err)
	}
	if left := time.Until(creds.NotAfter).Round(time.Minute); left != 25*time.Hour || resp.Username != "alice" || len(creds.HostCAs) == 0 {
		t.Errorf("%s, %+v", left, resp)
	}
	if _, _, err := cl.Sign(t.Context(), "nobody", 0); !api.IsCode(err, api.CodeNotFound) {
		t.Error(err)
	}
}
