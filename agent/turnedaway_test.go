package agent

import (
	"crypto/tls"
	"errors"
	"net"
	"testing"
)

// A replica with too many at its door breaks the handshake off; that is told from
// one that does not like our certificate, and from a server that is not ours.
func TestTurnedAwayAtTheDoor(t *testing.T) {
	ca := newAuthority(t, "host")
	for name, tt := range map[string]struct {
		serve func(net.Conn)
		want  bool
	}{
		"too many handshakes": {func(c net.Conn) {
			_ = tls.Server(c, &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { //nolint:gosec // never used
				return nil, errors.New("too many")
			}}).Handshake()
		}, true},
		"too many connections": {func(c net.Conn) { _, _ = c.Read(make([]byte, 4096)) }, true},
		"no such protocol": {func(c net.Conn) {
			_ = tls.Server(c, &tls.Config{NextProtos: []string{"h2"}, Certificates: []tls.Certificate{ca.host(t, "x")}}).Handshake() //nolint:gosec // a test
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			near, far := net.Pipe()
			done := make(chan struct{})
			go func() {
				defer close(done)
				tt.serve(far)
				_ = far.Close()
			}()
			err := tls.Client(near, &tls.Config{ServerName: "x", NextProtos: []string{"y"}, InsecureSkipVerify: true}).Handshake() //nolint:gosec // a test
			_ = near.Close()
			<-done
			if got := turnedAway(&handshakeError{err}); got != tt.want {
				t.Errorf("%v: turned away: %t, want %t", err, got, tt.want)
			}
		})
	}
	if turnedAway(errors.New("no route to host")) {
		t.Error("a failure before the handshake is no refusal at the door")
	}
}
